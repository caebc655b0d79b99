//! Rows about those who manage the machine's network beside us: ufw, firewalld, networkd, NetworkManager.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::calm::{self, ONCE};
use super::stage::Stage;

const STARTED: Duration = Duration::from_secs(120);

pub(super) fn ufw(stage: &mut Stage) -> Result<String> {
    let outcome = mended(stage, "ufw --force enable");
    stage.guest.run("ufw --force reset; ufw --force disable; nft flush ruleset")?;
    outcome
}

pub(super) fn firewalld(stage: &mut Stage) -> Result<String> {
    let outcome = mended(stage, "systemctl start firewalld && firewall-cmd --state");
    stage.guest.run("systemctl stop firewalld")?;
    outcome
}

/// Starts a firewall, does all that doctor then says, and looks whether a member that knows nothing any more gets in.
fn mended(stage: &mut Stage, start: &str) -> Result<String> {
    stage.guest.run(start)?;
    let remedies = firewall_remedies(stage)?;
    ensure!(!remedies.is_empty(), "doctor sees nothing of the firewall");
    for remedy in &remedies {
        stage.guest.run(remedy).with_context(|| format!("doctor's remedy `{remedy}` fails"))?;
    }
    let left = firewall_remedies(stage)?;
    ensure!(left.is_empty(), "doctor still wants: {}", left.join("; "));
    stage.sessions = None;
    stage.nas.stop()?;
    stage.nas.start_and_wait()?;
    calm::works(stage)?;
    // The machine's own restart must not depend on what conntrack remembers either.
    stage.guest.run("systemctl restart meshhold")?;
    calm::works(stage)?;
    Ok(format!("doctor's remedies work: {}", remedies.join("; ")))
}

fn firewall_remedies(stage: &mut Stage) -> Result<Vec<String>> {
    // Exit code 1 says that something is wrong.
    let printed = stage.guest.ask("meshhold doctor --json")?.output;
    let findings: Vec<Value> =
        serde_json::from_str(&printed).with_context(|| format!("no findings: {printed}"))?;
    let firewall =
        findings.iter().filter(|finding| finding["check"] == "firewall" && finding["severity"] != "ok");
    Ok(firewall.filter_map(|finding| finding["remedy"].as_str().map(str::to_owned)).collect())
}

/// Images for clouds and installers let networkd ask for an address on every interface that there is. It must not take ours
/// for one of these, nor a boot wait for it to get one.
pub(super) fn catch_all(stage: &mut Stage) -> Result<String> {
    const FILE: &str = "/etc/systemd/network/90-all.network";
    let seen = calm::undisturbed(stage, ONCE, |stage| {
        stage.guest.run(&format!("printf '[Match]\\nName=*\\n[Network]\\nDHCP=yes\\n' > {FILE}"))?;
        stage.guest.run("systemctl restart systemd-networkd && systemctl restart meshhold")?;
        stage.guest.run("/usr/lib/systemd/systemd-networkd-wait-online --timeout=90").map(drop)
    });
    let state = stage.guest.run("networkctl list mesh0 --no-legend --no-pager")?;
    stage.guest.run(&format!("rm {FILE} && systemctl restart systemd-networkd"))?;
    ensure!(state.contains("unmanaged"), "networkd manages the interface: {state}");
    Ok(format!("{}, wait-online is content", seen?))
}

pub(super) fn network_manager(stage: &mut Stage) -> Result<String> {
    let seen = calm::undisturbed(stage, ONCE, |stage| {
        stage.guest.run("systemctl disable --quiet --now systemd-networkd.socket systemd-networkd")?;
        stage.guest.run("systemctl enable --quiet --now NetworkManager")?;
        stage.guest.wait(STARTED, "nmcli -t -f DEVICE,STATE device | grep -qx eth0:connected").map(drop)
    })?;
    let state = stage.guest.run("nmcli -t -f DEVICE,STATE device | grep ^mesh0:")?;
    ensure!(
        state.contains("unmanaged") || state.contains("externally"),
        "NetworkManager took the interface: {state}"
    );
    Ok(format!("{seen}, {}", state.trim()))
}
