//! What peers cost that are known and idle: a pair of nodes with one active circuit, with and without them.
//!
//! The idle peers exist on paper only (`benchtool members`): their records wait in the node's state file as if it had
//! known them before a restart, and are checked like any others.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use meshhold_tests::process::output_with_input;
use meshhold_tests::{Node, Settings, wait};

use super::super::figures::Sample;
use super::super::site::{Site, Tunnel, Underlay};
use super::super::transfer::{self, Load, transfer};
use super::super::{machine, own, ping};

/// A network has at most 4096 peers, so it takes several.
const RANGES: [&str; 3] = ["100.64.0.0/12", "100.80.0.0/12", "100.96.0.0/12"];
const OPEN: [&str; 1] = ["tcp:1-65535"];
const KNOWN_LIMIT: Duration = Duration::from_secs(120);
/// Until what came with the start has been digested, saved and told to the other node.
const SETTLE: Duration = Duration::from_secs(12);
const IDLE: Duration = Duration::from_secs(10);
const PINGS: (u32, f64) = (300, 0.005);

/// A node that knows `count` idle peers, and another that it talks to.
pub(super) fn measure(count: usize, seconds: u32) -> Result<Sample> {
    let site = Site::new(Underlay::Veth)?;
    taken(&site, count, seconds).with_context(|| site.logs())
}

fn taken(site: &Site, count: usize, seconds: u32) -> Result<Sample> {
    let mut a = Node::new(site.a.clone(), Settings::default())?;
    let keys = RANGES.map(|range| a.mint_in(range, &OPEN));
    let keys: Vec<String> = keys.into_iter().collect::<Result<_>>()?;
    let state = output_with_input(
        std::process::Command::new(own::tool()?).args(["members", &count.to_string()]),
        &keys.join("\n"),
    )?;
    a.remember(&state)?;
    let mut b = Node::new(site.b.clone(), Settings::knowing(&[&a])?)?;
    b.join(keys.first().context("no key")?, &OPEN)?;
    let begun = Instant::now();
    a.start_and_wait()?;
    let mut sample = Sample::new();
    wait::until_true(KNOWN_LIMIT, &format!("the node knows {count} peers"), || Ok(known(&a)? >= count))?;
    sample.insert("known_after_s", begun.elapsed().as_secs_f64());
    b.start_and_wait()?;
    a.wait_peer_up(&b)?;
    let address = Some(b.addresses()?.0.into());
    let tunnel = Tunnel { address, nodes: vec![a, b], ..Tunnel::default() };
    std::thread::sleep(SETTLE);
    idle(&tunnel, &mut sample)?;
    active(site, &tunnel, seconds, &mut sample)?;
    Ok(sample)
}

fn known(node: &Node) -> Result<usize> {
    Ok(node.status()?.networks.iter().map(|network| network.peers.len()).sum())
}

/// Memory, processor time and how long the status takes while nothing happens.
fn idle(tunnel: &Tunnel, sample: &mut Sample) -> Result<()> {
    let node = tunnel.nodes.first().context("no node")?;
    let pid = [node.pid()?];
    sample.insert("rss_mib", machine::resident(&pid)?);
    sample.insert("rss_peak_mib", machine::peak(node.pid()?)?);
    let before = machine::own_time(&pid)?;
    std::thread::sleep(IDLE);
    let share = (machine::own_time(&pid)? - before) / IDLE.as_secs_f64();
    sample.insert("idle_cpu_pct", share * 100.0);
    let begun = Instant::now();
    sample.insert("known", known(node)? as f64);
    sample.insert("status_ms", begun.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// Round trips and one TCP stream over the active circuit.
fn active(site: &Site, tunnel: &Tunnel, seconds: u32, sample: &mut Sample) -> Result<()> {
    let address = tunnel.wait_up(site)?;
    let trips = ping::ping(&site.a, address, PINGS.0, PINGS.1)?;
    sample.extend([("ping_p50_us", trips.p50), ("ping_p99_us", trips.p99)]);
    let _server = transfer::server(site)?;
    let load = Load { seconds, options: &[], wrapper: &[] };
    let done = transfer(site, address, &tunnel.pids()?, load)?;
    sample.extend([("tcp1_gbps", done.gbps), ("tcp1_cpu", done.busy / done.gigabytes)]);
    sample.insert("stolen_pct", done.stolen);
    Ok(())
}
