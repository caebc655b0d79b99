//! Members find each other through a node that holds no key, keep their addresses, and come back without it.

use std::time::Duration;

use anyhow::{Result, ensure};
use meshhold_tests::{Lab, Node, Settings, run, wait};

/// Until a link that was lost without a word is given up, and its node is dialed again.
const NOTICED: Duration = Duration::from_secs(90);

struct Trio {
    rendezvous: Node,
    a: Node,
    b: Node,
}

/// `a` and `b` share a key and know only `rendezvous`, which has none.
fn trio(lab: &Lab) -> Result<Trio> {
    let mut rendezvous = Node::new(lab.host("r")?, Settings::default())?;
    let mut a = Node::new(lab.host("a")?, Settings::knowing(&[&rendezvous])?)?;
    let mut b = Node::new(lab.host("b")?, Settings::knowing(&[&rendezvous])?)?;
    let key = a.mint(&[])?;
    b.join(&key, &[])?;
    rendezvous.start_and_wait()?;
    a.start_and_wait()?;
    b.start_and_wait()?;
    a.wait_peer_up(&b)?;
    b.wait_peer_up(&a)?;
    Ok(Trio { rendezvous, a, b })
}

#[test]
fn members_meet_through_a_keyless_node() -> Result<()> {
    run("rendezvous", |lab| {
        let trio = trio(lab)?;
        let networks = trio.rendezvous.status()?.networks;
        ensure!(networks.is_empty(), "the rendezvous is no member: {networks:?}");
        Ok(())
    })
}

#[test]
fn addresses_survive_restart_and_reinstall() -> Result<()> {
    run("restart", |lab| {
        let mut trio = trio(lab)?;
        let (id, addresses) = (trio.a.id()?, trio.a.addresses()?);
        trio.a.stop()?;
        trio.a.start_and_wait()?;
        ensure!(trio.a.addresses()? == addresses, "after a restart");
        trio.a.kill()?;
        // A reinstall keeps the data folder and writes the configuration anew.
        trio.a.configure(Settings::knowing(&[&trio.rendezvous])?)?;
        trio.a.start_and_wait()?;
        ensure!(trio.a.id()? == id && trio.a.addresses()? == addresses, "after a reinstall");
        trio.b.wait_peer_up(&trio.a)?;
        Ok(())
    })
}

#[test]
fn members_meet_again_without_their_bootstrap_node() -> Result<()> {
    run("offline", |lab| {
        let mut trio = trio(lab)?;
        let (a_addresses, b_addresses) = (trio.a.addresses()?, trio.b.addresses()?);
        for node in [&mut trio.a, &mut trio.b, &mut trio.rendezvous] {
            node.stop()?;
        }
        trio.a.start_and_wait()?;
        ensure!(trio.a.addresses()? == a_addresses, "alone and offline");
        trio.b.start_and_wait()?;
        trio.b.wait_peer_up(&trio.a)?;
        ensure!(trio.b.addresses()? == b_addresses);
        Ok(())
    })
}

#[test]
fn the_network_stays_whole_without_its_bootstrap_node() -> Result<()> {
    run("whole", |lab| {
        let mut rendezvous = Node::new(lab.host("r")?, Settings::default())?;
        rendezvous.start_and_wait()?;
        let mut members = Vec::new();
        for name in ["a", "b", "c", "d"] {
            members.push(Node::new(lab.host(name)?, Settings::knowing(&[&rendezvous])?)?);
        }
        let mut key = None;
        for member in &mut members {
            match &key {
                None => key = Some(member.mint(&[])?),
                Some(key) => member.join(key, &[])?,
            }
            member.start_and_wait()?;
        }
        all_reach_all(&members)?;
        rendezvous.kill()?;
        for turn in 0..members.len() {
            members[turn].stop()?;
            members[turn].start_and_wait()?;
            all_reach_all(&members)?;
        }
        Ok(())
    })
}

fn all_reach_all(members: &[Node]) -> Result<()> {
    for from in members {
        for to in members.iter().filter(|to| to.host.name != from.host.name) {
            from.wait_peer_up(to)?;
        }
    }
    Ok(())
}

#[test]
fn a_bootstrap_name_is_resolved_anew() -> Result<()> {
    run("renamed", |lab| {
        const NAME: &str = "rendezvous.test";
        let mut rendezvous = Node::new(lab.host("r")?, Settings::default())?;
        let id = rendezvous.id()?;
        let host = lab.host("a")?;
        let hosts = host.directory().join("hosts");
        std::fs::write(&hosts, format!("{} {NAME}\n", rendezvous.host.ipv4))?;
        host.run("mount", &["--bind", &hosts.to_string_lossy(), "/etc/hosts"])?;
        let bootstrap = vec![format!("/dns4/{NAME}/udp/7777/quic-v1/p2p/{id}")];
        let mut a = Node::new(host, Settings { bootstrap, ..Settings::default() })?;
        rendezvous.start_and_wait()?;
        a.start_and_wait()?;
        wait::until_true(NOTICED, "a link by name", || linked(&a, "10.90.0.1:7777"))?;
        rendezvous.kill()?;
        let namespace = rendezvous.host.namespace();
        namespace.ip("-4 address flush dev eth0")?;
        namespace.ip("address add 10.90.0.99/24 dev eth0")?;
        rendezvous.start_and_wait()?;
        ensure!(!linked(&a, "10.90.0.99:7777")?, "the name still says the old address");
        std::fs::write(&hosts, format!("10.90.0.99 {NAME}\n"))?;
        wait::until_true(NOTICED, "a link by the name's new address", || linked(&a, "10.90.0.99:7777"))
    })
}

/// Whether the daemon said that it has a link to that address.
fn linked(node: &Node, remote: &str) -> Result<bool> {
    Ok(node.log()?.lines().any(|line| line.contains("link up") && line.contains(remote)))
}
