//! Whether users notice: what is done to the machine while sessions run through the mesh and datagrams go to mesh addresses.
//!
//! Owns what must hold afterwards. Must not know what is done.

use std::net::IpAddr;

use anyhow::{Result, bail, ensure};
use meshhold_tests::wait;
use serde_json::Value;

use super::stage::Stage;
use super::traffic::{Pauses, Watch};

/// Packets on the wire that are shown.
const SHOWN: usize = 3;

/// Does `act` while there is traffic. Holds where not one packet with a mesh address was on the wire, both sessions went on,
/// no pause was too long, services on both loopbacks answer, and no warning is left.
pub(super) fn undisturbed(stage: &mut Stage, act: impl FnOnce(&mut Stage) -> Result<()>) -> Result<String> {
    let watch = Watch::start(stage, &stage.outsider)?;
    stage.with_sessions()?;
    let Some(sessions) = stage.sessions.take() else { bail!("no sessions") };
    let mark = sessions.mark(&mut stage.guest)?;
    act(stage)?;
    let mut faults = Vec::new();
    let pauses = sessions.pauses(&mut stage.guest, mark, stage.pace.broken);
    let figures = match pauses {
        Ok(Pauses { inward, outward }) => {
            // Only sessions that live are of use to the next row.
            stage.sessions = Some(sessions);
            if inward.max(outward) > stage.pace.pause {
                faults.push(format!("a session stood still for {:.1} s", inward.max(outward)));
            }
            format!("pauses {inward:.1} s in, {outward:.1} s out")
        }
        Err(error) => {
            faults.push(format!("{error:#}"));
            "a session broken".to_owned()
        }
    };
    faults.extend(works(stage).err().map(|error| format!("{error:#}")));
    let leaked = watch.seen()?;
    if !leaked.is_empty() {
        let first: Vec<&str> = leaked.iter().take(SHOWN).map(String::as_str).collect();
        faults.insert(0, format!("{} packets in the open, such as: {}", leaked.len(), first.join("; ")));
    }
    ensure!(faults.is_empty(), "{}; {figures}", faults.join("; ").replace('\n', " "));
    Ok(format!("0 in the open, {figures}"))
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
