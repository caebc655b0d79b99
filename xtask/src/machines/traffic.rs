//! What goes on while something happens to the machine: an ssh session each way, datagrams to mesh addresses, an outsider who
//! knocks, and somebody who looks at the wire.
//!
//! Owns how these are measured. Must not know what happens.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::lab::Host;
use meshhold_tests::process::Process;
use meshhold_tests::wait;

use super::guest::Guest;
use super::stage::Stage;

/// Lines that show that a session goes on; it prints five a second.
const SOME: usize = 8;
const START: Duration = Duration::from_secs(180);
/// What the sessions print.
const BEATS: &str = "while echo beat; do sleep 0.2; done";
/// The lines of the session from the machine, in the machine.
const OUTWARD_LOG: &str = "/run/lab-outward";

/// Sessions, one from the outside to the machine by IPv4 and one from the machine by IPv6.
#[derive(Debug)]
pub(super) struct Sessions {
    inward: Process,
}

/// Where each session stood at some moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    inward: usize,
    outward: usize,
}

/// The longest pause of each session, in seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pauses {
    pub(super) inward: f64,
    pub(super) outward: f64,
}

impl Sessions {
    pub(super) fn start(stage: &mut Stage) -> Result<Self> {
        let (machine, nas) = (stage.machine_addresses[0], stage.nas_addresses[1]);
        let stamp = stage.script("stamp.py");
        let options = stage.sshd.options();
        let call = format!("ssh {options} root@{machine} '{BEATS}' | python3 {stamp}");
        let inward = stage.nas.host.spawn("inward", "sh", &["-c", &call])?;
        let options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";
        let call = format!(
            "ssh {options} root@{nas} \"{BEATS}\" | python3 /usr/local/lib/lab/stamp.py > {OUTWARD_LOG}"
        );
        let unit = "systemctl stop lab-outward 2>/dev/null; systemctl reset-failed lab-outward 2>/dev/null";
        stage.guest.run(&format!("{unit}; systemd-run -q --unit=lab-outward sh -c '{call}'"))?;
        let sessions = Self { inward };
        sessions
            .go_on(&mut stage.guest, Mark { inward: 0, outward: 0 }, START)
            .context("the sessions start")?;
        Ok(sessions)
    }

    pub(super) fn mark(&self, guest: &mut Guest) -> Result<Mark> {
        Ok(Mark { inward: self.inward()?.len(), outward: outward(guest)?.len() })
    }

    /// Waits until both have gone on after `mark`.
    pub(super) fn go_on(&self, guest: &mut Guest, mark: Mark, limit: Duration) -> Result<()> {
        wait::until_true(limit, "the session to the machine goes on", || {
            ensure!(!self.inward.log()?.contains("end"), "it has ended: {}", self.inward.log()?);
            Ok(self.inward()?.len() >= mark.inward + SOME)
        })?;
        wait::until_true(limit, "the session from the machine goes on", || {
            Ok(outward(guest)?.len() >= mark.outward + SOME)
        })
    }

    /// The longest pauses after `mark`, once both have gone on from now; an error where one stands still for `broken`.
    pub(super) fn pauses(&self, guest: &mut Guest, mark: Mark, broken: Duration) -> Result<Pauses> {
        let now = self.mark(guest)?;
        self.go_on(guest, now, broken)?;
        Ok(Pauses {
            inward: longest(&self.inward()?, mark.inward),
            outward: longest(&outward(guest)?, mark.outward),
        })
    }

    fn inward(&self) -> Result<Vec<f64>> {
        Ok(beats(&self.inward.log()?))
    }
}

fn outward(guest: &mut Guest) -> Result<Vec<f64>> {
    Ok(beats(&guest.run(&format!("cat {OUTWARD_LOG} || true"))?))
}

/// When each line came, in seconds.
fn beats(log: &str) -> Vec<f64> {
    // The last line may be half written.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter_map(|line| line.strip_prefix("beat ")?.parse().ok()).collect()
}

/// The longest pause that ended after the line of that number.
fn longest(beats: &[f64], from: usize) -> f64 {
    let late = beats.get(from.saturating_sub(1)..).unwrap_or_default();
    late.iter().zip(late.iter().skip(1)).map(|(one, next)| next - one).fold(0.0, f64::max)
}

/// Looks at the machine's cable for packets from or to mesh addresses, in the open, that somebody else didn't send there.
#[derive(Debug)]
pub(super) struct Watch {
    process: Process,
}

impl Watch {
    /// Everything after the return is seen; `outsider` may knock.
    pub(super) fn start(stage: &Stage, outsider: &Host) -> Result<Self> {
        let filter = format!(
            "(net 198.18.0.0/15 or net fd12::/16 or net 127.0.0.0/8) and not src host {} and not src host {}",
            outsider.ipv4, outsider.ipv6
        );
        let mut command = stage.lab.lan().command("tcpdump");
        command.args(["-l", "-n", "--immediate-mode", "-i", stage.cable_end(), &filter]);
        let log = stage.lab.directory().join("wire.log");
        let mut process = stage.lab.lan().spawn(command, "wire", &log)?;
        wait::until_true(Duration::from_secs(10), "tcpdump looks at the wire", || {
            ensure!(process.is_running()?, "tcpdump: {}", process.log()?);
            Ok(process.log()?.contains("listening on"))
        })?;
        Ok(Self { process })
    }

    /// What was seen so far, a line a packet.
    pub(super) fn seen(&self) -> Result<Vec<String>> {
        Ok(self.process.log()?.lines().filter(|line| line.contains(" IP")).map(str::to_owned).collect())
    }
}

/// An outsider's attempts to reach the machine's mesh addresses over the LAN.
pub(super) fn knock(outsider: &Host, script: &Path, stage: &Stage) -> Result<Vec<Process>> {
    let script = script.to_string_lossy();
    let addresses = stage.machine_addresses.map(|address| address.to_string());
    let start = |(number, address): (usize, &String)| {
        outsider.spawn(&format!("knock-{number}"), "python3", &[&script, address, "22"])
    };
    addresses.iter().enumerate().map(start).collect()
}

/// The scripts that run on either side, in the lab's folder.
pub(super) fn scripts(folder: &Path) -> Result<PathBuf> {
    const SCRIPTS: [(&str, &str); 3] = [
        ("talk.py", include_str!("guest/talk.py")),
        ("stamp.py", include_str!("guest/stamp.py")),
        ("knock.py", include_str!("guest/knock.py")),
    ];
    let folder = folder.join("scripts");
    std::fs::create_dir_all(&folder)?;
    for (name, content) in SCRIPTS {
        std::fs::write(folder.join(name), content)?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pause_after_a_line_is_found() {
        let beats = beats("beat 1.000\nbeat 9.000\nbeat 9.200\nbeat 10.700\nbeat 10.9");
        assert_eq!(beats, [1.0, 9.0, 9.2, 10.7]);
        assert!((longest(&beats, 2) - 1.5).abs() < 1e-9);
        assert!((longest(&beats, 1) - 8.0).abs() < 1e-9);
        assert!(longest(&beats, 9).abs() < 1e-9);
    }
}
