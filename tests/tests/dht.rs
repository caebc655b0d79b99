//! Members that know nobody meet in a DHT, which learns neither who they are nor of which network.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meshhold_tests::capture::{self, Capture};
use meshhold_tests::process::Process;
use meshhold_tests::{Host, Lab, Node, Settings, run, wait};

/// From the start of the second node to its first answered ping.
const MET: Duration = Duration::from_secs(10);
const READY: Duration = Duration::from_secs(20);
/// For how long nodes may try that must not meet.
const WATCH: Duration = Duration::from_secs(3);
const DHT_NODES: &str = "10";
const LINK_PORT: u16 = 7777;
/// Length of a bencoded value.
const VALUE: &[u8] = b"1:v936:";

/// A DHT on a host of its own; yields the addresses to begin with.
fn serve(lab: &Lab) -> Result<(Host, Process, Vec<String>)> {
    let host = lab.host("dht")?;
    let address = host.ipv4.to_string();
    let process = host.spawn_tool("dht", &["dht", &address, DHT_NODES])?;
    wait::until_true(READY, "the DHT runs", || Ok(process.log()?.contains("serving dht")))?;
    let log = process.log()?;
    let nodes = log.lines().filter_map(|line| line.strip_prefix("node ")).map(str::to_owned).collect();
    Ok((host, process, nodes))
}

fn settings(name: &str, dht: bool, bootstrap: &[String]) -> Settings {
    let name = Some(name.to_owned());
    Settings {
        name,
        dht,
        dht_bootstrap: bootstrap.to_vec(),
        log: Some("meshhold=debug"),
        ..Settings::default()
    }
}

/// UDP datagrams from `source` to `target`.
fn datagrams(packets: &[Vec<u8>], source: Ipv4Addr, target: Ipv4Addr) -> usize {
    let between = |packet: &&Vec<u8>| {
        capture::source(packet) == Some(source.into())
            && packet.get(9) == Some(&17)
            && packet.get(16..20) == Some(&target.octets())
    };
    packets.iter().filter(between).count()
}

/// The 32 bytes of a node id: the second half of the identity on disk.
fn raw(node: &Node) -> Result<Vec<u8>> {
    let identity = std::fs::read(node.data_dir().join("identity"))?;
    Ok(identity.get(32..64).context("no node id in the identity")?.to_vec())
}

/// What an entry says in the clear: who, and where.
fn canaries(node: &Node, name: &str) -> Result<Vec<Vec<u8>>> {
    let id = node.id()?;
    let endpoint = [&[0xff, 0xff], node.host.ipv4.octets().as_slice(), &LINK_PORT.to_be_bytes()].concat();
    Ok(vec![name.as_bytes().to_vec(), id.as_bytes().to_vec(), raw(node)?, endpoint])
}

#[test]
fn members_meet_in_the_dht_and_it_learns_nothing() -> Result<()> {
    run("dht", |lab| {
        let (host, _dht, bootstrap) = serve(lab)?;
        let names = ["canary-alpha", "canary-beta"];
        let mut a = Node::new(lab.host("a")?, settings(names[0], false, &bootstrap))?;
        let mut b = Node::new(lab.host("b")?, settings(names[1], false, &bootstrap))?;
        let mut stranger = Node::new(lab.host("stranger")?, settings("stranger", true, &bootstrap))?;
        b.join(&a.mint(&[])?, &[])?;
        stranger.mint(&[])?;
        let (a_id, b_id) = (a.id()?, b.id()?);

        let silent = Capture::on(&host, "silent")?;
        a.start_and_wait()?;
        b.start_and_wait()?;
        wait::never(WATCH, "found without the DHT", || Ok(a.status()?.peer(&b_id).is_some()))?;
        a.stop()?;
        b.stop()?;
        let packets = silent.finish()?;
        for node in [&a, &b] {
            let sent = datagrams(&packets, node.host.ipv4, host.ipv4);
            ensure!(sent == 0, "{sent} datagrams of {} to the DHT while it is off", node.host.name);
        }

        let wire = Capture::on(&host, "wire")?;
        a.configure(settings(names[0], true, &bootstrap))?;
        b.configure(settings(names[1], true, &bootstrap))?;
        a.start_and_wait()?;
        let started = Instant::now();
        b.start()?;
        wait::until_true(READY, "known to each other", || {
            Ok(b.status()?.peer(&a_id).is_some() && a.status()?.peer(&b_id).is_some())
        })?;
        let known = started.elapsed();
        b.wait_peer_up(&a)?;
        let took = started.elapsed();
        println!("known {known:?}, answered {took:?} after the start of the second");
        ensure!(took <= MET, "{took:?}");

        let wrote = |node: &Node| Ok::<_, anyhow::Error>(node.log()?.contains("written to the DHT"));
        stranger.start_and_wait()?;
        wait::until_true(READY, "the stranger looks into the DHT, where the others are", || {
            Ok(wrote(&stranger)? && stranger.log()?.contains("looked into the DHT"))
        })?;
        let log = stranger.log()?;
        ensure!(!log.contains("found in the DHT") && !log.contains("link up"), "the stranger found somebody");
        ensure!(
            b.log()?.contains("found in the DHT") || a.log()?.contains("found in the DHT"),
            "how did they meet?"
        );

        let packets = wire.finish()?;
        for node in [&a, &b] {
            let sent = datagrams(&packets, node.host.ipv4, host.ipv4);
            println!("{sent} datagrams of {} to the DHT", node.host.name);
            ensure!(sent > 0 && wrote(node)?, "{} didn't write", node.host.name);
        }
        let values: BTreeSet<_> = packets
            .iter()
            .filter(|packet| capture::has(packet, VALUE))
            .filter_map(|p| capture::source(p))
            .collect();
        ensure!(values.contains(&a.host.ipv4.into()), "values were seen from {values:?} only");
        for (node, name) in [(&a, names[0]), (&b, names[1])] {
            for canary in canaries(node, name)? {
                ensure!(!capture::contains(&packets, &canary), "{} shows {canary:?}", node.host.name);
            }
        }
        Ok(())
    })
}
