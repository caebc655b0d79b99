//! Whether users notice: what is done to the machine while sessions run through the mesh and datagrams go to mesh addresses.
//!
//! Owns what must hold afterwards. Must not know what is done.

use std::net::IpAddr;

use anyhow::{Result, bail, ensure};
use meshhold_tests::wait;
use serde_json::Value;

use super::stage::Stage;
use super::traffic::{Pauses, Sessions, Watch};

/// Packets on the wire that are shown.
const SHOWN: usize = 3;

/// How something is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// So many times.
    pub(super) rounds: u32,
    /// Seconds for which it takes the way itself away each time: TCP then waits as long again, and a half.
    pub(super) away: f64,
}

/// Once, and nothing is taken away.
pub(super) const ONCE: Plan = Plan { rounds: 1, away: 0.0 };

/// Does `act` as planned while there is traffic. Holds where not one packet with a mesh address was on the wire, both
/// sessions went on, no pause was too long, services on both loopbacks answer, and no warning is left.
pub(super) fn undisturbed(
    stage: &mut Stage,
    plan: Plan,
    mut act: impl FnMut(&mut Stage) -> Result<()>,
) -> Result<String> {
    let watch = Watch::start(stage, &stage.outsider)?;
    stage.with_sessions()?;
    let Some(sessions) = stage.sessions.take() else { bail!("no sessions") };
    let (mut faults, mut pauses) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        match round(stage, &sessions, &mut act) {
            Ok(found) => pauses.push(found),
            Err(error) => {
                faults.push(format!("{error:#}"));
                break;
            }
        }
    }
    if faults.is_empty() {
        // Only sessions that live are of use to the next row.
        stage.sessions = Some(sessions);
    }
    let longest = pauses.iter().map(|one| one.inward.max(one.outward)).fold(0.0, f64::max);
    if longest > stage.pace.pause + 2.5 * plan.away {
        faults.push(format!("a session stood still for {longest:.1} s"));
    }
    faults.extend(works(stage).err().map(|error| format!("{error:#}")));
    let leaked = watch.seen()?;
    if !leaked.is_empty() {
        let first: Vec<&str> = leaked.iter().take(SHOWN).map(String::as_str).collect();
        faults.insert(0, format!("{} packets in the open, such as: {}", leaked.len(), first.join("; ")));
    }
    let figures = figures(&pauses);
    ensure!(faults.is_empty(), "{}; {figures}", faults.join("; ").replace('\n', " "));
    Ok(format!("0 in the open, {figures}"))
}

fn round(
    stage: &mut Stage,
    sessions: &Sessions,
    act: &mut impl FnMut(&mut Stage) -> Result<()>,
) -> Result<Pauses> {
    let mark = sessions.mark(&mut stage.guest)?;
    act(stage)?;
    sessions.pauses(&mut stage.guest, mark, stage.pace.broken)
}

/// `pauses 0.4 s in, 0.6 s out`, or medians and the longest of several rounds.
fn figures(pauses: &[Pauses]) -> String {
    let [inward, outward] = [|one: &Pauses| one.inward, |one: &Pauses| one.outward].map(|of| {
        let mut all: Vec<f64> = pauses.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        (all.get(all.len() / 2).copied().unwrap_or_default(), all.last().copied().unwrap_or_default())
    });
    match pauses.len() {
        0 => "a session broken".to_owned(),
        1 => format!("pauses {:.1} s in, {:.1} s out", inward.1, outward.1),
        rounds => format!(
            "{rounds} rounds, pauses (median, longest) {:.1}, {:.1} s in, {:.1}, {:.1} s out",
            inward.0, inward.1, outward.0, outward.1
        ),
    }
}

/// Pings both ways, services on both loopbacks by both families, names, and nothing that is warned of.
pub(super) fn works(stage: &mut Stage) -> Result<()> {
    let settled = stage.pace.settled;
    stage.wait_mesh()?;
    let [ipv4, ipv6] = stage.machine_addresses;
    for (address, port) in [(ipv4, 8000), (ipv6, 8000), (ipv6, 8001)] {
        wait::until_true(settled, &format!("the service behind {address} port {port} answers"), || {
            fetches(stage, address, port)
        })?;
    }
    stage.guest.wait(settled, "getent ahosts nas.mesh | grep -q ^198")?;
    wait::until_true(settled, "the machine warns of nothing", || {
        let warnings = warnings(stage)?;
        ensure!(warnings.is_empty(), "{}", warnings.join("; "));
        Ok(true)
    })
}

fn fetches(stage: &Stage, address: IpAddr, port: u16) -> Result<bool> {
    let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
    let options = ["--silent", "--show-error", "--globoff", "--max-time", "5", "--output", "/dev/null"];
    stage.nas.host.run("curl", &[&options[..], &[&format!("http://{host}:{port}/stamp.py")]].concat())?;
    Ok(true)
}

/// What `status` warns of.
fn warnings(stage: &mut Stage) -> Result<Vec<String>> {
    let status: Value = serde_json::from_str(&stage.guest.run("meshhold meshlan status --json")?)?;
    let warnings = status["warnings"].as_array().cloned().unwrap_or_default();
    Ok(warnings.iter().filter_map(|warning| warning.as_str().map(str::to_owned)).collect())
}
