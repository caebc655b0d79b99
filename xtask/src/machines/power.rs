//! Rows about the machine going off and coming back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::calm;
use super::stage::Stage;
use super::traffic::Watch;

/// Within which the unit is up by the machine's own clock: it doesn't wait for a network.
const UNIT_UP: f64 = 60.0;
const ONCE_PLUGGED: Duration = Duration::from_secs(30);

pub(super) fn reboot(stage: &mut Stage) -> Result<String> {
    stage.guest.run("systemctl enable --quiet lab-talk")?;
    come_back(stage, "systemctl reboot")
}

/// Right after a command has answered: what it changed is on the disk.
pub(super) fn cut(stage: &mut Stage) -> Result<String> {
    stage.guest.run("systemctl enable --quiet lab-talk && sync")?;
    stage.guest.run(
        "meshhold mgmt-keys add --name Late --caps mesh-route --never-expires --allow tcp:1 > /dev/null",
    )?;
    let seen = come_back(stage, "power cut");
    let list = stage.guest.run("meshhold mgmt-keys list --json")?;
    let keys: Vec<Value> = serde_json::from_str(&list).with_context(|| format!("no list: {list}"))?;
    let late = keys.iter().find(|key| key["name"] == "Late").and_then(|key| key["id"].as_str());
    let late = late.context("a key that was added before the power was cut is lost")?;
    stage.guest.run(&format!("meshhold mgmt-keys rm {late}"))?;
    seen
}

/// With a program that sends to mesh addresses from the first moment of the boot on.
fn come_back(stage: &mut Stage, how: &str) -> Result<String> {
    let watch = Watch::start(stage, &stage.outsider)?;
    stage.reboot(how)?;
    let mesh = stage.wait_mesh()?;
    let after = unit_up_after(stage)?;
    let (before, now) = (stage.machine_addresses, stage.own_addresses()?);
    ensure!(before == now, "other addresses than before: {now:?} for {before:?}");
    calm::works(stage)?;
    silent(&watch)?;
    let failed = stage.guest.run("systemctl list-units --failed --plain --no-legend")?;
    ensure!(!failed.contains("meshhold"), "failed units: {failed}");
    Ok(format!(
        "0 in the open, unit up {after:.1} s after the system's start, mesh {:.1} s after the end of its boot",
        mesh.as_secs_f64()
    ))
}

pub(super) fn offline(stage: &mut Stage) -> Result<String> {
    stage.guest.run("systemctl enable --quiet lab-talk")?;
    let watch = Watch::start(stage, &stage.outsider)?;
    stage.cable(false)?;
    let booted = stage.reboot("systemctl reboot");
    let after = booted.and_then(|_| unit_up_after(stage));
    stage.cable(true)?;
    let (after, mesh) = (after?, stage.wait_mesh()?);
    calm::works(stage)?;
    silent(&watch)?;
    ensure!(mesh < ONCE_PLUGGED, "the mesh came {:.1} s after the cable", mesh.as_secs_f64());
    Ok(format!(
        "0 in the open, unit up {after:.1} s after the system's start, mesh {:.1} s after the cable",
        mesh.as_secs_f64()
    ))
}

/// Seconds between the start of user space's first process and the unit's being up, less than which a network would take.
fn unit_up_after(stage: &mut Stage) -> Result<f64> {
    let ask = |what: &str, unit: &str| format!("systemctl show --property {what} --value {unit}");
    let up = stage.guest.run(&ask("ActiveEnterTimestampMonotonic", "meshhold"))?;
    let user_space = stage.guest.run(&ask("UserspaceTimestampMonotonic", ""))?;
    let (up, user_space): (f64, f64) = (up.trim().parse()?, user_space.trim().parse()?);
    ensure!(up > 0.0, "the unit is not up");
    let after = (up - user_space) / 1e6;
    ensure!(
        after < UNIT_UP,
        "the unit was up {after:.1} s after the system's start: does it wait for something?"
    );
    Ok(after)
}

fn silent(watch: &Watch) -> Result<()> {
    let seen = watch.seen()?;
    ensure!(
        seen.is_empty(),
        "{} packets in the open, the first: {}",
        seen.len(),
        seen.first().map_or("", |line| line)
    );
    Ok(())
}
