//! Nodes outside the network get no circuit, and see nothing of its names and addresses.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::capture::{self, Capture};
use meshhold_tests::{Node, Settings, run, service, wait};

const NAMES: [&str; 2] = ["canary-alpha", "canary-beta"];
/// For how long strangers may try.
const WATCH: Duration = Duration::from_secs(5);

#[test]
fn strangers_get_no_circuit_and_no_names() -> Result<()> {
    run("stranger", |lab| {
        let [first, second] =
            NAMES.map(|name| Settings { name: Some(name.to_owned()), ..Settings::default() });
        let mut a = Node::new(lab.host("a")?, first)?;
        let known = Settings::knowing(&[&a])?;
        let mut b = Node::new(lab.host("b")?, Settings { bootstrap: known.bootstrap.clone(), ..second })?;
        let mut keyless = Node::new(lab.host("keyless")?, known.clone())?;
        let mut other = Node::new(lab.host("other")?, known)?;
        b.join(&a.mint(&["tcp:7"])?, &[])?;
        other.mint(&["tcp:7"])?;
        let captures = [&keyless, &other]
            .map(|node| Capture::start(node.host.namespace(), node.host.directory(), "wire"));
        let inside = Capture::start(a.host.namespace(), a.host.directory(), "wire")?;
        for node in [&mut a, &mut keyless, &mut other, &mut b] {
            node.start_and_wait()?;
        }
        b.wait_peer_up(&a)?;
        let _server = service::echo(&a.host, "tcp", "127.0.0.1".parse()?, 7)?;
        b.host.tool(&["ask", "tcp", &a.addresses()?.0.to_string(), "7"])?;
        let members = [a.id()?, b.id()?];
        wait::never(WATCH, "a stranger lists a member", || {
            let lists = |node: &Node| {
                Ok::<_, anyhow::Error>(
                    members.iter().any(|id| node.status().is_ok_and(|s| s.peer(id).is_some())),
                )
            };
            Ok(lists(&keyless)? || lists(&other)?)
        })?;
        let outsider = other.id()?;
        ensure!(a.status()?.peer(&outsider).is_none(), "a lists the holder of another key");
        let needles = needles(&a, &b)?;
        let seen_inside = inside.finish()?;
        ensure!(capture::contains(&seen_inside, &needles[2]), "the search finds an address where it is");
        for (capture, node) in captures.into_iter().zip([&keyless, &other]) {
            let packets = capture?.finish()?;
            ensure!(packets.len() > 10, "{} saw only {} packets", node.host.name, packets.len());
            let leak = needles.iter().find(|needle| capture::contains(&packets, needle));
            ensure!(leak.is_none(), "{} saw {leak:?}", node.host.name);
        }
        Ok(())
    })
}

/// Names and addresses of the members, as bytes.
fn needles(a: &Node, b: &Node) -> Result<Vec<Vec<u8>>> {
    let mut needles: Vec<Vec<u8>> = NAMES.map(|name| name.as_bytes().to_vec()).into();
    for node in [a, b] {
        let (ipv4, ipv6) = node.addresses().context("a member has addresses")?;
        needles.push(ipv4.octets().to_vec());
        needles.push(ipv6.octets().to_vec());
    }
    Ok(needles)
}
