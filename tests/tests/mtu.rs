//! Paths that carry less than the usual, and don't say so: packets are fitted to what gets through.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::nat::{Inner6, Kind};
use meshhold_tests::{Node, Settings, path, run, service, wait};

const PATIENCE: Duration = Duration::from_secs(20);
/// What the site's cable carries, and what is left inside: less IPv4, UDP, header and tag.
const NARROW: u16 = 1_380;
const INSIDE: u16 = NARROW - 20 - 8 - 32;

/// What members are told of paths inside the mesh doesn't arrive.
const DEAF: &str = "table inet deaf { chain in { type filter hook input priority 0
    icmp type destination-unreachable drop
    icmpv6 type packet-too-big drop
}
}";

/// `netcheck`'s path MTU.
fn path_mtu(node: &Node) -> Result<u16> {
    let seen: serde_json::Value = serde_json::from_str(&node.meshhold(&["netcheck", "--json"])?)?;
    let mtu = seen["path_mtu"].as_u64().context("no circuit is up")?;
    Ok(u16::try_from(mtu)?)
}

#[test]
fn a_narrow_path_that_tells_nobody_is_measured_and_used() -> Result<()> {
    run("narrow", |lab| {
        let relays = path::relays(lab)?;
        let known = Settings::knowing(&[&relays[0], &relays[1]])?;
        let (host, router) = lab.behind_nat(Kind::FullCone, Inner6::Off, "a")?;
        let router = router.context("no router")?;
        let mut a = Node::new(host, known.clone())?;
        let mut b = Node::new(lab.host("b")?, known)?;
        b.join(&a.mint(&["tcp:5201"])?, &["tcp:5201"])?;
        a.start_and_wait()?;
        b.start_and_wait()?;
        a.wait_peer_up(&b)?;
        b.wait_peer_up(&a)?;
        let servers = [&a, &b].map(|node| service::iperf(&node.host, "127.0.0.1", 5201));
        let [Ok(_first), Ok(_second)] = servers else { anyhow::bail!("no iperf3") };
        wait::until_true(PATIENCE, "the whole MTU fits at first", || Ok(path_mtu(&a)? == 1420))?;
        // Both ends of the cable drop what is longer, and the router may not tell; nor are the hosts told of anything inside.
        let [_, _, number, _] = a.host.ipv4.octets();
        router.host.run("nft", &["table ip mute { chain out { type filter hook output priority 0; icmp type destination-unreachable drop;\n }\n }"])?;
        router.host.namespace().ip(&format!("link set lan{number} mtu {NARROW}"))?;
        // A veth pair asks only what crosses singly for its length.
        a.host.run("ethtool", &["-K", "eth0", "tso", "off", "gso", "off", "tx-udp-segmentation", "off"])?;
        for node in [&a, &b] {
            node.host.run("nft", &[DEAF])?;
        }
        let transfers = |seconds| -> Result<()> {
            for (from, to) in [(&a, &b), (&b, &a)] {
                for address in to.both_addresses()? {
                    let moved = service::transfer(&from.host, address, 5201, seconds, &[])?;
                    let (name, mbits, mss) = (&from.host.name, moved.mbits, moved.mss);
                    println!(
                        "figure: {name} to {address} over a narrow path: {mbits:.0} Mbit/s by {mss} bytes"
                    );
                    ensure!(mbits > 1.0, "hardly anything gets through: {moved:?}");
                    let headers = if address.is_ipv4() { 40 } else { 60 };
                    ensure!(
                        seconds > 1 || mss + headers <= u64::from(INSIDE) + 4,
                        "it began with {mss} bytes"
                    );
                }
            }
            Ok(())
        };
        transfers(3)?;
        let mut least = INSIDE;
        for (node, other) in [(&a, &b), (&b, &a)] {
            let address = other.addresses()?.0.to_string();
            // A veth pair lets a VLAN tag's 4 bytes more pass; the search is exact to 8.
            let mtu = wait::until(PATIENCE, "a path MTU that fits is found", || {
                node.host.succeeds("ping", &["-n", "-c1", "-W1", &address])?;
                let mtu = path_mtu(node)?;
                ensure!((INSIDE - 8..=INSIDE + 4).contains(&mtu), "{} found {mtu}", node.host.name);
                Ok(Some(mtu))
            })?;
            println!("figure: {} found {mtu} bytes, {INSIDE} fit", node.host.name);
            least = least.min(mtu);
        }
        // Connections begin with segments that fit, though nobody was told.
        transfers(1)?;
        for node in [&a, &b] {
            node.host.run("nft", &["delete", "table", "inet", "deaf"])?;
        }
        // Whoever sends more is told, and not too little.
        let address = b.addresses()?.0.to_string();
        let ping =
            |size: &str| a.host.succeeds("ping", &["-n", "-c1", "-W2", "-M", "do", "-s", size, &address]);
        let told = wait::until(PATIENCE, "the host is told", || {
            ensure!(!ping("1390")?, "what doesn't fit passed");
            let route = a.host.namespace().ip(&format!("-o route get {address}"))?;
            let told = route.split_once(" mtu ").and_then(|(_, rest)| rest.split_whitespace().next());
            Ok(told.map(str::parse::<u16>).transpose()?)
        })?;
        println!("figure: the host was told {told} bytes");
        ensure!((least..=INSIDE + 4).contains(&told), "{told} bytes were told, {least} fit");
        ensure!(ping(&(least - 28).to_string())?, "what fits");
        Ok(())
    })
}
