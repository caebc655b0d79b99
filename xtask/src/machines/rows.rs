//! The rows: what is done to a machine, in the order in which they are tried.

use std::time::Duration;

use anyhow::Result;

use super::calm::{self, ONCE, Plan};
use super::stage::Stage;
use super::{cages, neighbours, power, unit};

/// One thing that is tried.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) situation: &'static str,
    pub(super) trial: Trial,
    /// It wants a machine that can be switched off.
    pub(super) emulated: bool,
}

/// How.
pub(super) enum Trial {
    /// A command in the machine, while there is traffic that mustn't notice, and for how many seconds it takes the way away.
    Command(&'static str, f64),
    /// Whatever this does; yields what was seen.
    Act(fn(&mut Stage) -> Result<String>),
}

const fn command(name: &'static str, situation: &'static str, command: &'static str) -> Row {
    Row { name, situation, trial: Trial::Command(command, 0.0), emulated: false }
}

const fn act(name: &'static str, situation: &'static str, act: fn(&mut Stage) -> Result<String>) -> Row {
    Row { name, situation, trial: Trial::Act(act), emulated: false }
}

const CRASH: &str = "kill -s KILL $(systemctl show --property MainPID --value meshhold); \
    until systemctl is-active --quiet meshhold; do sleep 0.2; done";
const STOP: &str = "systemctl stop meshhold && sleep 3 && systemctl start meshhold";
const RELOAD: &str =
    "touch /etc/systemd/network/10-lan.network && networkctl reload && networkctl reconfigure eth0";
const UPGRADED_SYSTEMD: &str =
    "systemctl daemon-reexec && systemctl restart systemd-networkd systemd-resolved systemd-journald";
const RULES: &str = "for family in -4 -6; do ip $family rule | sed -nE 's/^(51[0-9]{2}):.*/\\1/p' | \
    while read -r at; do ip $family rule delete priority $at; done; done";
const ROUTES: &str = "for family in -4 -6; do ip $family route flush dev mesh0; \
    ip $family route show table all type unreachable | while read -r route; do ip $family route delete $route; done; done; true";

const fn away(name: &'static str, situation: &'static str, line: &'static str, seconds: f64) -> Row {
    Row { trial: Trial::Command(line, seconds), ..command(name, situation, line) }
}

const fn boot(name: &'static str, situation: &'static str, trial: fn(&mut Stage) -> Result<String>) -> Row {
    Row { emulated: true, ..act(name, situation, trial) }
}

/// All rows, as they follow each other on one machine.
pub(super) const ROWS: &[Row] = &[
    act("unit", "the package is installed, systemd has looked at the unit", unit::verified),
    command("nothing", "nothing happens for 5 s", "sleep 5"),
    command("restart", "systemctl restart meshhold", "systemctl restart meshhold"),
    away("stop", "stopped, 3 s later started", STOP, 3.0),
    command("crash", "SIGKILL; systemd starts it again", CRASH),
    act("upgrade", "dpkg installs another build, and the first again", unit::upgraded),
    act("by mesh", "dpkg run over ssh through the mesh", unit::upgraded_by_mesh),
    command("networkd", "systemctl restart systemd-networkd", "systemctl restart systemd-networkd"),
    command("networkctl", "networkctl reload and reconfigure", RELOAD),
    act(
        "catch-all",
        "networkd asks for addresses on all interfaces, and the boot waits for them",
        neighbours::catch_all,
    ),
    command("resolved", "systemctl restart systemd-resolved", "systemctl restart systemd-resolved"),
    command("systemd", "systemd and its daemons restarted, as by their upgrade", UPGRADED_SYSTEMD),
    command("flush", "nft flush ruleset", "nft flush ruleset"),
    command("rules", "somebody deletes our routing rules", RULES),
    command("routes", "somebody flushes the interface's and all unreachable routes", ROUTES),
    command("addresses", "somebody flushes the interface's addresses", "ip address flush dev mesh0"),
    command("down", "somebody sets the interface down", "ip link set mesh0 down"),
    command("deleted", "somebody deletes the interface", "ip link delete mesh0"),
    act("cable", "the cable is pulled for 5 s", |stage| {
        calm::undisturbed(stage, Plan { away: 5.0, ..ONCE }, |stage| {
            stage.cable(false)?;
            std::thread::sleep(Duration::from_secs(5));
            stage.cable(true)
        })
    }),
    act("cages", "daemons in containers and namespaces of the same machine", cages::harmless),
    act("second", "a second daemon with an own interface comes and goes", cages::second),
    act("ufw", "ufw denies all; what doctor says is done", neighbours::ufw),
    act("firewalld", "firewalld denies all; what doctor says is done", neighbours::firewalld),
    boot("reboot", "systemctl reboot", power::reboot),
    boot("power", "the power is cut", power::cut),
    boot("offline", "boot without a cable, plugged in later", power::offline),
    act("NetworkManager", "NetworkManager takes over from networkd", neighbours::network_manager),
    command("NM restart", "systemctl restart NetworkManager", "systemctl restart NetworkManager"),
    command("NM reapply", "nmcli device reapply eth0", "nmcli device reapply eth0"),
    away("NM off", "nmcli networking off, on", "nmcli networking off && sleep 2 && nmcli networking on", 2.0),
    act("cleanup", "meshhold cleanup after a stop leaves nothing", unit::cleaned),
    act("purge", "the package is purged", unit::purged),
];
