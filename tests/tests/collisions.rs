//! Eight nodes in a range of sixteen blocks, in two halves that don't see each other and then do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use meshhold_tests::flow::Flow;
use meshhold_tests::process::Process;
use meshhold_tests::{Lab, Node, Settings, run, service, wait};

/// Sixteen blocks, the least that a network may have.
const RANGE: &str = "10.77.9.0/24";
const HALF: usize = 4;
const PATIENCE: Duration = Duration::from_secs(20);
/// How long after healing each block may have two owners.
const SETTLED: Duration = Duration::from_secs(10);
/// So long that the second half has become slow in asking for the first.
const PARTED: Duration = Duration::from_secs(40);
/// Keys that are tried for one by which the halves collide; each does with 73 %.
const KEYS: usize = 12;
/// How long a flow of unmoved nodes may pause, in milliseconds.
const LONGEST_PAUSE: u64 = 1000;

/// Node id and IPv4 address of each node.
type Owners = BTreeMap<String, Ipv4Addr>;

#[test]
fn two_halves_that_claim_the_same_blocks_agree_when_they_meet() -> Result<()> {
    run("collisions", |lab| {
        let (older, younger) = halves(lab)?;
        let parted = Instant::now();
        let (old, young) = colliding(&older, &younger)?;
        let taken: BTreeSet<_> = old.values().collect();
        let (losers, stayers): (Vec<_>, Vec<_>) = younger
            .iter()
            .partition(|node| young.values().any(|ip| owns(node, &young, ip) && taken.contains(ip)));
        println!("figure: {} of {HALF} blocks are claimed in both halves", losers.len());
        let mut flows = vec![flow(&older[0], &older[1])?];
        if let [first, second, ..] = stayers.as_slice() {
            flows.push(flow(first, second)?);
        }

        wait::until_true(2 * PARTED, "the halves were parted for long", || Ok(parted.elapsed() >= PARTED))?;
        heal(lab)?;
        let start = Instant::now();
        let all: Vec<&Node> = older.iter().chain(&younger).collect();
        let owners = wait::until(PATIENCE, "each block has one owner", || agreed(&all))?;
        println!("figure: one owner each {:?} after healing", start.elapsed());
        ensure!(start.elapsed() <= SETTLED, "{:?}", start.elapsed());
        ensure!(old.iter().all(|(id, ip)| owners.get(id) == Some(ip)), "older ones stay: {old:?} {owners:?}");
        for node in &stayers {
            let id = node.id()?;
            ensure!(young.get(&id) == owners.get(&id), "who collides with nobody stays");
        }
        for node in &losers {
            let id = node.id()?;
            ensure!(young.get(&id) != owners.get(&id), "who collides moves");
            let address = owners.get(&id).context("a loser has an address")?.to_string();
            wait::until_true(PATIENCE, "a moved node answers", || {
                older[0].host.succeeds("ping", &["-n", "-c1", "-W1", &address])
            })?;
        }
        for (flow, _server) in &mut flows {
            let pause = flow.longest_pause()?;
            println!("figure: a flow of unmoved nodes paused for at most {pause} ms");
            ensure!(pause < LONGEST_PAUSE, "{pause} ms");
        }
        Ok(())
    })
}

/// Two halves on bridges of their own, running, without any key. All know the first node; the second half knows its own
/// first one too.
fn halves(lab: &Lab) -> Result<(Vec<Node>, Vec<Node>)> {
    let mut nodes: Vec<Node> = Vec::new();
    lab.lan().ip("link add br1 type bridge mcast_snooping 0")?;
    lab.lan().ip("link set br1 up")?;
    for number in 0..2 * HALF {
        let host = lab.host(&format!("n{number}"))?;
        let known: Vec<&Node> = [0, HALF].iter().filter_map(|at| nodes.get(*at)).collect();
        if number >= HALF {
            lab.lan().ip(&format!("link set p{} master br1", number + 1))?;
        }
        let mut node = Node::new(host, Settings::knowing(&known)?)?;
        node.start_and_wait()?;
        nodes.push(node);
    }
    let younger = nodes.split_off(HALF);
    Ok((nodes, younger))
}

/// Gives all nodes a key by which the halves have a block in common, and yields who claims what.
fn colliding(older: &[Node], younger: &[Node]) -> Result<(Owners, Owners)> {
    for _ in 0..KEYS {
        let (first, rest) = older.split_first().context("a half has nodes")?;
        let key = first.mint_in(RANGE, &["tcp:80"])?;
        join(rest, &key)?;
        let old = wait::until(PATIENCE, "the first half agrees", || agreed(&references(older)))?;
        let second = unix_second()?;
        wait::until_true(PATIENCE, "claims of the other half are younger", || Ok(unix_second()? > second))?;
        join(younger, &key)?;
        let young = wait::until(PATIENCE, "the second half agrees", || agreed(&references(younger)))?;
        if young.values().any(|address| old.values().any(|other| other == address)) {
            return Ok((old, young));
        }
        for node in older.iter().chain(younger) {
            node.meshhold(&["mgmt-keys", "rm", &node.key_id(0)?])?;
        }
    }
    bail!("no key of {KEYS} made the halves collide")
}

fn join(nodes: &[Node], key: &str) -> Result<()> {
    nodes.iter().try_for_each(|node| node.join(key, &["tcp:80"]))
}

/// Everyone's address, once all of `nodes` list exactly each other, and at the addresses that these have.
fn agreed(nodes: &[&Node]) -> Result<Option<Owners>> {
    let (mut owners, mut seen) = (Owners::new(), Vec::new());
    for node in nodes {
        let network = node.network()?;
        owners.insert(node.id()?, network.ipv4.context("no IPv4 address")?);
        seen.push(network.peers);
    }
    let distinct = owners.values().collect::<BTreeSet<_>>().len() == nodes.len();
    let right = seen.iter().all(|peers| {
        peers.len() + 1 == nodes.len()
            && peers.iter().all(|peer| peer.ipv4.is_some() && peer.ipv4 == owners.get(&peer.node_id).copied())
    });
    Ok((distinct && right).then_some(owners))
}

fn owns(node: &Node, owners: &Owners, address: &Ipv4Addr) -> bool {
    node.id().is_ok_and(|id| owners.get(&id) == Some(address))
}

/// Connects the two bridges.
fn heal(lab: &Lab) -> Result<()> {
    lab.lan().ip("link add between0 type veth peer name between1")?;
    for (end, bridge) in [("between0", "br0"), ("between1", "br1")] {
        lab.lan().ip(&format!("link set {end} master {bridge} up"))?;
    }
    Ok(())
}

/// A running connection from one node to another, and the service at its end.
fn flow(from: &Node, to: &Node) -> Result<(Flow, Process)> {
    let server = service::echo(&to.host, "tcp", Ipv4Addr::UNSPECIFIED.into(), 80)?;
    let address = to.network()?.ipv4.context("no IPv4 address")?.to_string();
    Ok((Flow::start(&from.host, &address, "80")?, server))
}

fn references(nodes: &[Node]) -> Vec<&Node> {
    nodes.iter().collect()
}

fn unix_second() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}
