//! Nodes of one LAN find each other with no bootstrap peer, and nobody else learns that they do.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use meshhold_tests::capture::{self, Capture};
use meshhold_tests::{Lab, Node, Settings, run, wait};

/// From the start of the second node.
const FOUND: Duration = Duration::from_secs(3);
const READY: Duration = Duration::from_secs(20);
/// For how long others may try.
const WATCH: Duration = Duration::from_secs(5);
const PORT: u16 = 7776;
/// Growth of the resident memory under a flood, in KiB.
const GROWTH_KIB: u64 = 8 * 1024;
/// Chance alone doesn't repeat so many bytes in a few thousand.
const REPEATED: usize = 5;

fn announcing() -> Settings {
    Settings { lan_discovery: true, ..Settings::default() }
}

/// Two members that know no address; neither is started.
fn members(lab: &Lab) -> Result<(Node, Node)> {
    let a = Node::new(lab.host("a")?, announcing())?;
    let b = Node::new(lab.host("b")?, announcing())?;
    b.join(&a.mint(&[])?, &[])?;
    Ok((a, b))
}

/// Starts `second` and yields the time until each lists the other.
fn meet(first: &Node, second: &mut Node) -> Result<Duration> {
    let (first_id, second_id) = (first.id()?, second.id()?);
    let started = Instant::now();
    second.start()?;
    wait::until_true(READY, "two members of a LAN know each other", || {
        let known = |node: &Node, id: &str| Ok::<_, anyhow::Error>(node.status()?.peer(id).is_some());
        Ok(known(second, &first_id)? && known(first, &second_id)?)
    })?;
    Ok(started.elapsed())
}

/// Whether the daemon of `node` said that it has a link to `id`.
fn linked(node: &Node, id: &str) -> Result<bool> {
    Ok(node.log()?.lines().any(|line| line.contains("link up") && line.contains(id)))
}

#[test]
fn members_of_a_lan_meet_without_a_bootstrap_peer() -> Result<()> {
    for without in ["-4", "-6"] {
        run(&format!("lan{without}"), |lab| {
            let (mut a, mut b) = members(lab)?;
            for node in [&a, &b] {
                node.host.namespace().ip(&format!("{without} address flush dev eth0"))?;
            }
            a.start_and_wait()?;
            let took = meet(&a, &mut b)?;
            println!("without {without}: known to each other {took:?} after the start of the second");
            ensure!(took <= FOUND, "{took:?}");
            b.wait_peer_up(&a).map(drop)
        })?;
    }
    Ok(())
}

#[test]
fn a_member_that_is_plugged_in_later_is_found() -> Result<()> {
    run("plugged", |lab| {
        let (mut a, mut b) = members(lab)?;
        b.host.namespace().ip("link set eth0 down")?;
        a.start_and_wait()?;
        b.start_and_wait()?;
        let id = a.id()?;
        ensure!(b.status()?.peer(&id).is_none(), "there is no way to it yet");
        b.host.namespace().ip("link set eth0 up")?;
        let plugged = Instant::now();
        wait::until_true(READY, "found", || Ok(b.status()?.peer(&id).is_some()))?;
        println!("found {:?} after the cable", plugged.elapsed());
        Ok(())
    })
}

#[test]
fn a_stranger_on_the_lan_learns_nothing() -> Result<()> {
    run("sealed", |lab| {
        let (mut a, mut b) = members(lab)?;
        let mut stranger = Node::new(lab.host("stranger")?, announcing())?;
        stranger.mint(&[])?;
        stranger.start_and_wait()?;
        let wire = Capture::start(stranger.host.namespace(), lab.directory(), "wire")?;
        a.start_and_wait()?;
        meet(&a, &mut b)?;
        let ids = [a.id()?, b.id()?];
        wait::never(WATCH, "a stranger is linked to a member", || {
            Ok(linked(&stranger, &ids[0])? || linked(&stranger, &ids[1])?)
        })?;
        ensure!(linked(&b, &ids[0])?, "while members are linked to each other");
        let packets = wire.finish()?;
        let announced: Vec<_> = packets.iter().filter_map(|packet| announcement(packet)).collect();
        let sources: BTreeSet<_> = packets
            .iter()
            .filter(|packet| announcement(packet).is_some())
            .filter_map(|packet| capture::source(packet))
            .collect();
        println!("{} announcements from {sources:?}", announced.len());
        for host in [&a.host, &b.host] {
            ensure!(sources.contains(&host.ipv4.into()) && sources.contains(&host.ipv6.into()));
        }
        let sizes: BTreeSet<_> = announced.iter().map(|payload| payload.len()).collect();
        ensure!(sizes.len() == 1, "sizes tell them apart: {sizes:?}");
        let mut seen = BTreeSet::new();
        let repeated =
            announced.iter().flat_map(|payload| payload.windows(REPEATED)).find(|part| !seen.insert(*part));
        ensure!(repeated.is_none(), "{repeated:?} was there twice");
        Ok(())
    })
}

/// Content of a UDP datagram to the port of announcements.
fn announcement(packet: &[u8]) -> Option<&[u8]> {
    let header = match packet.first()? >> 4 {
        4 if packet.get(9) == Some(&17) => 20,
        6 if packet.get(6) == Some(&17) => 40,
        _ => return None,
    };
    let port = packet.get(header + 2..header + 4)?;
    (port == PORT.to_be_bytes()).then(|| packet.get(header + 8..))?
}

#[test]
fn holders_of_a_swarm_key_meet_without_a_network() -> Result<()> {
    run("swarm", |lab| {
        let bare = Node::new(lab.host("keys")?, Settings::default())?;
        let [ours, others] = [bare.meshhold(&["keygen"])?, bare.meshhold(&["keygen"])?];
        let holding = |key: &str| Settings { swarm_key: Some(key.to_owned()), ..announcing() };
        let mut a = Node::new(lab.host("a")?, holding(&ours))?;
        let mut b = Node::new(lab.host("b")?, holding(&ours))?;
        let mut other = Node::new(lab.host("other")?, holding(&others))?;
        let (a_id, other_id) = (a.id()?, other.id()?);
        other.start_and_wait()?;
        a.start_and_wait()?;
        let started = Instant::now();
        b.start()?;
        wait::until_true(READY, "two holders are linked", || linked(&b, &a_id))?;
        println!("linked {:?} after the start of the second", started.elapsed());
        wait::never(WATCH, "linked to a holder of another key", || {
            Ok(linked(&a, &other_id)? || linked(&b, &other_id)?)
        })
    })
}

#[test]
fn a_flood_of_junk_costs_nothing_lasting() -> Result<()> {
    run("flood", |lab| {
        let (mut a, mut b) = members(lab)?;
        let attacker = lab.host("attacker")?;
        a.start_and_wait()?;
        let (pid, before) = (a.pid()?, a.resident_kib()?);
        for target in [a.host.ipv4.to_string(), a.host.ipv6.to_string()] {
            attacker.tool(&["flood", &target, &PORT.to_string()])?;
        }
        let took = meet(&a, &mut b)?;
        let grown = a.resident_kib()?.saturating_sub(before);
        println!("known {took:?} after the start, after a flood; {grown} KiB more");
        ensure!(a.is_alive()? && a.pid()? == pid && grown < GROWTH_KIB, "{grown} KiB more");
        ensure!(took <= FOUND, "{took:?}");
        Ok(())
    })
}
