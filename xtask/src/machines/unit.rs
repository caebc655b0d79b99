//! Rows about the unit and the package that brings it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::calm::{self, ONCE};
use super::stage::Stage;

/// `systemd-analyze security` counts 0 (nothing open) to 10.
const EXPOSURE: f64 = 3.0;
/// An upgrade by a session through the mesh takes no longer than this.
const BY_MESH: Duration = Duration::from_secs(180);
/// What must be gone after a clean-up: interface, rules, routes, pins, names, addresses of callers.
const TRACES: &str = "ip -o link show mesh0; ip rule | grep -E '^51[0-9]{2}:'; ip -6 rule | grep -E '^51[0-9]{2}:'; \
    ip route show table all | grep -E '198\\.1[89]|127\\.64\\.'; ip -6 route show table all | grep fd12; \
    find /sys/fs/bpf/meshhold -type f; resolvectl domain | grep mesh; bpftool net show | grep -i -E 'mesh|guard'; true";

pub(super) fn verified(stage: &mut Stage) -> Result<String> {
    let said = stage.guest.run("systemd-analyze verify /usr/lib/systemd/system/meshhold.service")?;
    ensure!(said.trim().is_empty(), "systemd-analyze verify: {said}");
    let said = stage.guest.run("systemd-analyze security --no-pager meshhold.service | tail -1")?;
    let exposure = said.split_whitespace().filter_map(|word| word.parse::<f64>().ok()).next();
    let exposure = exposure.with_context(|| format!("no exposure: {said}"))?;
    ensure!(exposure <= EXPOSURE, "systemd-analyze security: {said}");
    let wants = stage.guest.run("systemctl show --property Type,WatchdogUSec,After,Wants meshhold")?;
    ensure!(!wants.contains("network-online.target"), "the unit waits for a network: {wants}");
    ensure!(wants.contains("Type=notify"), "others can't tell when it is up: {wants}");
    let modes = stage.guest.run("stat -c '%a %n' /var/lib/meshhold /run/meshhold")?;
    ensure!(modes.lines().all(|line| line.starts_with("700 ")), "open to others: {modes}");
    calm::works(stage)?;
    Ok(format!("verified, exposure {exposure}, notifies, waits for no network"))
}

pub(super) fn upgraded(stage: &mut Stage) -> Result<String> {
    let install = |build: &'static str| {
        move |stage: &mut Stage| {
            stage
                .guest
                .run(&format!("dpkg --force-confold --force-downgrade -i /mnt/lab/{build}.deb"))
                .map(drop)
        }
    };
    let running = "readlink /proc/$(systemctl show --property MainPID --value meshhold)/exe";
    let there = calm::undisturbed(stage, ONCE, install("other"))?;
    let program = stage.guest.run(running)?;
    ensure!(program.trim() == "/usr/bin/meshhold", "what runs is still {program}");
    let back = calm::undisturbed(stage, ONCE, install("first"))?;
    Ok(format!("{there}; back: {back}"))
}

/// As most people do it: over ssh through the mesh that is being upgraded. What runs must come to its end and say so.
pub(super) fn upgraded_by_mesh(stage: &mut Stage) -> Result<String> {
    let (options, address) = (stage.sshd.options(), stage.machine_addresses[0]);
    let install = format!(
        "ssh {options} root@{address} 'dpkg --force-confold -i /mnt/lab/other.deb && echo installed' 2>&1"
    );
    let mut by_mesh = stage.nas.host.spawn("by-mesh", "sh", &["-c", &install])?;
    let ended = by_mesh.wait(BY_MESH);
    let said = by_mesh.log()?;
    ensure!(ended?.success() && said.contains("installed"), "the session ended without a result: {said}");
    let state =
        stage.guest.run("dpkg-query --show --showformat '${db:Status-Status} ${Version}' meshhold")?;
    ensure!(state.starts_with("installed "), "dpkg left the package {state}");
    calm::works(stage)?;
    Ok(format!("dpkg came to its end, {state}"))
}

pub(super) fn cleaned(stage: &mut Stage) -> Result<String> {
    stage.sessions = None;
    stage.guest.run("systemctl stop lab-talk meshhold && meshhold cleanup")?;
    no_trace(stage)?;
    stage.guest.run("systemctl start meshhold")?;
    calm::works(stage)?;
    Ok("nothing left, and a start has all again".to_owned())
}

pub(super) fn purged(stage: &mut Stage) -> Result<String> {
    stage.guest.run("systemctl stop lab-talk; dpkg --purge meshhold")?;
    no_trace(stage)?;
    let files =
        stage.guest.run("ls -d /var/lib/meshhold /etc/meshhold /usr/bin/meshhold 2>/dev/null; true")?;
    ensure!(files.trim().is_empty(), "left: {files}");
    Ok("nothing left".to_owned())
}

fn no_trace(stage: &mut Stage) -> Result<()> {
    let left = stage.guest.run(TRACES)?;
    let left: Vec<&str> = left
        .lines()
        .filter(|line| !line.contains("does not exist") && !line.contains("No such file"))
        .collect();
    ensure!(left.is_empty(), "left: {}", left.join("; "));
    Ok(())
}
