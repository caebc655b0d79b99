//! Circuits through relays that hold no key, have no mesh interface and no capability.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meshhold_tests::status::Path;
use meshhold_tests::{Lab, Node, Settings, run, wait};

const PATIENCE: Duration = Duration::from_secs(20);
/// Takes all capabilities from a daemon.
const BARE: [&str; 4] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"];

/// A relay: no key, no interface, no capability.
fn relay(lab: &Lab, name: &str, known: &[&Node]) -> Result<Node> {
    let settings =
        Settings { relay: true, meshlan: Some(false), wrapper: BARE.to_vec(), ..Settings::knowing(known)? };
    let mut relay = Node::new(lab.host(name)?, settings)?;
    relay.start_and_wait()?;
    Ok(relay)
}

/// Two members that each know one relay, and can't reach each other nor the other's relay.
fn members(lab: &Lab, relays: [&Node; 2]) -> Result<(Node, Node)> {
    let [first, last] = relays;
    let mut a = Node::new(lab.host("a")?, Settings::knowing(&[first])?)?;
    let mut b = Node::new(lab.host("b")?, Settings::knowing(&[last])?)?;
    let key = a.mint(&["tcp:80"])?;
    b.join(&key, &["tcp:80"])?;
    part(&a, &b)?;
    if first.host.name != last.host.name {
        part(&a, last)?;
        part(&b, first)?;
    }
    a.start_and_wait()?;
    b.start_and_wait()?;
    Ok((a, b))
}

/// Nothing gets from one host to the other any more.
fn part(a: &Node, b: &Node) -> Result<()> {
    for (here, there) in [(a, b), (b, a)] {
        for address in [there.host.ipv4.to_string(), there.host.ipv6.to_string()] {
            let family = if address.contains(':') { "-6" } else { "-4" };
            here.host.run("ip", &[family, "route", "add", "blackhole", &address])?;
        }
    }
    Ok(())
}

fn path(node: &Node, to: &Node) -> Result<Path> {
    let status = node.status()?;
    let peer = status.peer(&to.id()?).context("no such peer")?;
    peer.path.clone().context("no path")
}

#[test]
fn a_circuit_through_a_relay_without_key_or_capability() -> Result<()> {
    run("relay", |lab| {
        let r = relay(lab, "r", &[])?;
        let (a, b) = members(lab, [&r, &r])?;
        a.wait_known(&b)?;
        let asked = Instant::now();
        a.wait_peer_up(&b)?;
        println!("first answer through the relay after {} ms", asked.elapsed().as_millis());
        b.wait_peer_up(&a)?;
        for (node, other) in [(&a, &b), (&b, &a)] {
            let path = path(node, other)?;
            ensure!(path.kind == "relay" && path.via == [r.id()?], "{path:?}");
        }
        ensure!(r.status()?.networks.is_empty(), "the relay is no member");
        Ok(())
    })
}

#[test]
fn two_relays_in_a_row() -> Result<()> {
    run("relays", |lab| {
        let r1 = relay(lab, "r1", &[])?;
        let r2 = relay(lab, "r2", &[&r1])?;
        let (a, b) = members(lab, [&r1, &r2])?;
        a.wait_peer_up(&b)?;
        let path = wait::until(PATIENCE, "a path", || Ok(path(&a, &b).ok()))?;
        ensure!(path.kind == "relay" && path.via == [r1.id()?, r2.id()?], "{path:?}");
        Ok(())
    })
}
