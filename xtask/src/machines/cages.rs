//! Rows about daemons in containers and namespaces on a machine that has one already: they must touch nothing of it.

use anyhow::{Result, ensure};

use super::calm::{self, ONCE};
use super::stage::Stage;

/// What a daemon elsewhere must leave as it is.
const HOST: &str = "ip rule; ip -6 rule; ip route show table local; ip -o address show dev mesh0; resolvectl dns; resolvectl domain; \
    cat /proc/sys/net/ipv4/conf/mesh0/route_localnet; find /sys/fs/bpf/meshhold/mesh0 | sort";
/// Words before the daemon, and what the cage is.
const CAGES: [(&str, &str); 6] = [
    (
        "nspawn with a private network",
        "systemd-nspawn -q --pipe -D / --volatile=yes --private-network --register=no",
    ),
    ("nspawn on the host's network", "systemd-nspawn -q --pipe -D / --volatile=yes --register=no"),
    (
        "nspawn with users of its own",
        "systemd-nspawn -q --pipe -D / --volatile=yes --private-users=pick --private-network --register=no",
    ),
    ("a user and network namespace", "unshare -Urn"),
    ("a named network namespace", "ip netns exec cage"),
    ("an ordinary user", "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all"),
];

pub(super) fn harmless(stage: &mut Stage) -> Result<String> {
    stage.guest.run("ip netns add cage 2>/dev/null; ip -n cage link set lo up")?;
    let before = stage.guest.run(HOST)?;
    let mut faults = Vec::new();
    for (number, (cage, words)) in CAGES.into_iter().enumerate() {
        let said = stage.guest.ask(&format!("{words} sh -c '{}'", daemon(number)))?.output;
        if said.contains("panicked") || !said.contains("meshhold") && !said.contains("running") {
            faults.push(format!("{cage}: {}", said.trim().replace('\n', " ")));
        }
        let after = stage.guest.run(HOST)?;
        if let Some(difference) = difference(&before, &after) {
            faults.push(format!("{cage}: the host has changed: {difference}"));
        }
    }
    faults.extend(calm::works(stage).err().map(|error| format!("{error:#}")));
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(format!("{} cages, the host's routes, rules and names as before", CAGES.len()))
}

/// A daemon of its own for six seconds, in folders that the cage can write.
fn daemon(number: usize) -> String {
    let (folder, port) = (format!("/tmp/cage-{number}"), 7800 + number);
    let config = format!(
        "node: {{name: cage-{number}, data_dir: {folder}/data, listen: \"[::]:{port}\"}}\\napi: {{listen_addr: off}}\\nmeshlan: {{interface: cage{number}}}\\n"
    );
    format!(
        "export PATH=/usr/bin:/usr/sbin; mkdir -p {folder}; printf \"{}\" > {folder}/config.yaml; \
         meshhold mgmt-keys add --config {folder}/config.yaml --name Cage --caps mesh-route --never-expires --allow tcp:8000 > /dev/null; \
         timeout 6 meshhold daemon --config {folder}/config.yaml 2>&1 | cut -c1-300",
        config.replace('"', "\\\"")
    )
}

/// The first line that only one of two texts has.
fn difference(before: &str, after: &str) -> Option<String> {
    let only = |one: &str, other: &str| {
        one.lines().find(|line| !other.lines().any(|same| same == *line)).map(str::to_owned)
    };
    only(before, after)
        .map(|line| format!("gone: {line}"))
        .or_else(|| only(after, before).map(|line| format!("new: {line}")))
}

pub(super) fn second(stage: &mut Stage) -> Result<String> {
    calm::undisturbed(stage, ONCE, |stage| {
        let said = stage.guest.ask(&daemon(9))?.output;
        ensure!(!said.contains("panicked"), "{said}");
        Ok(())
    })
}
