//! Keys come, change, go and end while the daemon runs, and other networks notice nothing.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meshhold_tests::ask::dig;
use meshhold_tests::flow::Flow;
use meshhold_tests::lab::labtool;
use meshhold_tests::status::Network;
use meshhold_tests::{Node, Settings, run, service, wait};

const PATIENCE: Duration = Duration::from_secs(20);
const RANGE: &str = "10.77.64.0/18";
/// How long anything of a removed network may stay.
const GONE: Duration = Duration::from_secs(1);
/// How long the other network's flow may pause, in milliseconds.
const LONGEST_PAUSE: u64 = 1000;

/// Addresses, routes and rules of the host, and how many entries the kernel's tables have.
const COLLECT: &str = "ip -o addr show dev mesh0 | sed 's/valid_lft.*//'; ip route show table all; ip -6 route show table all; \
    ip rule show; ip -6 rule show; for map in OWN RANGES PEERS CALLERS; do \
    pin=$(find /sys/fs/bpf -iname $map | head -1); echo $map $(bpftool map dump pinned $pin | grep -c '\"key\":'); done";

#[test]
fn keys_come_and_go_without_disturbing_others() -> Result<()> {
    run("live-keys", |lab| {
        let mut a = Node::new(lab.host("a")?, Settings::default())?;
        let mut b = Node::new(lab.host("b")?, Settings::knowing(&[&a])?)?;
        let mut c = Node::new(lab.host("c")?, Settings::knowing(&[&a])?)?;
        a.join(&b.mint_in(RANGE, &["tcp:80"])?, &[])?;
        for node in [&mut a, &mut b, &mut c] {
            node.start_and_wait()?;
        }
        a.wait_peer_up(&b)?;
        let any = Ipv4Addr::UNSPECIFIED.into();
        let _servers = [service::echo(&b.host, "tcp", any, 80)?, service::echo(&a.host, "tcp", any, 81)?];
        let target = b.addresses()?.0.to_string();
        let mut flow = Flow::start(&a.host, &target, "80")?;
        let before = collect(&a)?;
        ensure!(before.contains("OWN 2") && before.contains("PEERS 2"), "{before}");

        let key = c.mint_in(RANGE, &[])?;
        a.join(&key, &[])?;
        joined(&a, &c)?;
        ensure!(collect(&a)? != before, "a second network leaves traces");
        // Where `c` sees it: at `a` the range collides with the other network's.
        let address = c.wait_known(&a)?.ipv4.context("no IPv4 address")?;
        ensure!(!reaches(&c, address.into())?, "nothing is open yet");
        a.meshhold(&["mgmt-keys", "edit", &a.key_id(1)?, "--allow", "tcp:81"])?;
        ensure!(reaches(&c, address.into())?, "an edit opens a port");
        removed(&a, &before)?;
        ensure!(!reaches(&c, address.into())?, "a removed network is closed");

        ends_by_itself(&a, &c, &key, &before)?;
        let pause = flow.longest_pause()?;
        println!("figure: the other network's flow paused for at most {pause} ms");
        ensure!(pause < LONGEST_PAUSE, "the flow stood still for {pause} ms");
        Ok(())
    })
}

/// Removes the second key; everything of its network goes at once.
fn removed(a: &Node, before: &str) -> Result<()> {
    let id = a.key_id(1)?;
    let name = || dig(a, &["+short", "c.mesh", "A"]);
    ensure!(!name()?.is_empty(), "its member has a name");
    let start = Instant::now();
    a.meshhold(&["mgmt-keys", "rm", &id])?;
    wait::until_true(GONE, "nothing of the network is left", || {
        Ok(collect(a)? == before && name()?.is_empty())
    })?;
    println!("figure: a removed network was gone after {:?}, the command included", start.elapsed());
    ensure!(start.elapsed() < GONE, "{:?}", start.elapsed());
    ensure!(a.status()?.networks.len() == 1, "the circuits are shown no more");
    Ok(())
}

/// Joins for a few seconds.
fn ends_by_itself(a: &Node, c: &Node, key: &str, before: &str) -> Result<()> {
    let add = ["mgmt-keys", "add", "--name", "Guest", "--expires-in", "6s", "--key", "-"];
    a.meshhold_with_input(&add, key)?;
    let end = Instant::now() + Duration::from_secs(6);
    let network = joined(a, c)?;
    ensure!(network.warnings.iter().any(|text| text.contains("this key ends in")), "{:?}", network.warnings);
    wait::until_true(PATIENCE, "the key ends", || Ok(a.status()?.networks.len() == 1))?;
    wait::until_true(GONE, "nothing of the network is left", || Ok(collect(a)? == before))?;
    let late = Instant::now().saturating_duration_since(end);
    println!("figure: a network was gone {late:?} after the end of its key");
    ensure!(late < Duration::from_secs(2), "{late:?}");
    ensure!(a.log()?.matches("this key ends in").count() == 1, "told once: {}", a.log()?);
    Ok(())
}

/// The network of `a` with `peer` in it, once that answers.
fn joined(a: &Node, peer: &Node) -> Result<Network> {
    let id = peer.id()?;
    let network = wait::until(PATIENCE, "the peer is listed", || {
        let networks = a.status()?.networks;
        Ok(networks.into_iter().find(|network| network.peers.iter().any(|peer| peer.node_id == id)))
    })?;
    let address = network.peers.first().and_then(|peer| peer.ipv4).context("no IPv4 address")?.to_string();
    wait::until_true(PATIENCE, "the peer answers", || {
        a.host.succeeds("ping", &["-n", "-c1", "-W1", &address])
    })?;
    Ok(network)
}

fn reaches(from: &Node, address: IpAddr) -> Result<bool> {
    from.host.succeeds(&labtool()?, &["await", &address.to_string(), "81", "500"])
}

fn collect(node: &Node) -> Result<String> {
    node.host.run("sh", &["-c", COLLECT])
}
