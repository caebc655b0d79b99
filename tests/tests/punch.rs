//! Every kind of NAT against every other: direct where it can be, relayed where not, and from the first packet on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meshhold_tests::lab::run_within;
use meshhold_tests::nat::{Inner6, Kind, Router};
use meshhold_tests::{Lab, Node, Settings, wait};

const LIMIT: Duration = Duration::from_secs(240);
const PATIENCE: Duration = Duration::from_secs(30);
/// From the first packet to a direct path.
const DIRECT: Duration = Duration::from_secs(5);

/// What became of one pair.
struct Outcome {
    first_ms: u128,
    kind: String,
    settled_ms: u128,
}

/// A member, and the router that stands before it.
struct Site {
    node: Node,
    _router: Option<Router>,
}

fn sites(lab: &Lab, side: &str, relays: &[&Node], key: Option<&str>) -> Result<Vec<Site>> {
    let mut nodes: Vec<Site> = Vec::new();
    let mut key = key.map(str::to_owned);
    for kind in Kind::ALL {
        let (host, router) = lab.behind_nat(kind, Inner6::Off, &format!("{side}-{}", kind.name()))?;
        let mut node = Node::new(host, Settings::knowing(relays)?)?;
        match &key {
            Some(key) => node.join(key, &["tcp:80"])?,
            None => key = Some(node.mint(&["tcp:80"])?),
        }
        node.start_and_wait()?;
        nodes.push(Site { node, _router: router });
    }
    Ok(nodes)
}

fn try_pair(a: &Node, b: &Node) -> Result<Outcome> {
    let address = b.addresses()?.0.to_string();
    let asked = Instant::now();
    wait::until_true(PATIENCE, "the first echo", || {
        a.host.succeeds("ping", &["-n", "-c1", "-W1", &address])
    })?;
    let first_ms = asked.elapsed().as_millis();
    let id = b.id()?;
    let mut kind = String::new();
    while kind != "direct" && asked.elapsed() < DIRECT {
        a.host.succeeds("ping", &["-n", "-c1", "-W1", &address])?;
        let peer = a.status()?.peer(&id).cloned().context("no peer")?;
        kind = peer.path.map(|path| path.kind).unwrap_or_default();
    }
    let settled_ms = asked.elapsed().as_millis();
    ensure!(a.host.succeeds("ping", &["-n", "-c1", "-W1", &address])?, "usable");
    Ok(Outcome { first_ms, kind, settled_ms })
}

#[test]
fn matrix() -> Result<()> {
    run_within(LIMIT, "nat-matrix", |lab| {
        let mut r1 = Node::new(lab.host("r1")?, Settings::relay())?;
        r1.start_and_wait()?;
        let mut r2 =
            Node::new(lab.host("r2")?, Settings { bootstrap: vec![r1.multiaddr()?], ..Settings::relay() })?;
        r2.start_and_wait()?;
        let first = sites(lab, "a", &[&r1, &r2], None)?;
        let key = first[0].node.meshhold(&["mgmt-keys", "share", &first[0].node.key_id(0)?])?;
        let second = sites(lab, "b", &[&r1, &r2], Some(key.trim()))?;
        for (a, kind) in first.iter().zip(Kind::ALL) {
            for (b, other) in second.iter().zip(Kind::ALL) {
                a.node.wait_known(&b.node)?;
                let Outcome { first_ms, kind: path, settled_ms } = try_pair(&a.node, &b.node)?;
                println!(
                    "figure: {} x {}: first {first_ms} ms, {path} after {settled_ms} ms",
                    kind.name(),
                    other.name()
                );
            }
        }
        Ok(())
    })
}
