//! Paths that carry less than the usual, and don't say so: packets are fitted to what gets through.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::nat::{Inner6, Kind};
use meshhold_tests::{Node, Settings, path, run, service, wait};

const PATIENCE: Duration = Duration::from_secs(20);
/// What the site's cable carries, and what is left inside: less IPv4, UDP, header and tag.
const NARROW: u16 = 1_380;
const INSIDE: u16 = NARROW - 20 - 8 - 32;

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
        // Both ends of the cable drop what is longer, and the router may not tell.
        let [_, _, number, _] = a.host.ipv4.octets();
        router.host.run("nft", &["table ip mute { chain out { type filter hook output priority 0; icmp type destination-unreachable drop;\n }\n }"])?;
        router.host.namespace().ip(&format!("link set lan{number} mtu {NARROW}"))?;
        for (from, to) in [(&a, &b), (&b, &a)] {
            for address in to.both_addresses()? {
                let moved = service::transfer(&from.host, address, 5201, 4, &[])?;
                println!(
                    "figure: {} to {address} over a narrow path: {:.0} Mbit/s",
                    from.host.name, moved.mbits
                );
                ensure!(moved.mbits > 1.0, "hardly anything gets through: {moved:?}");
            }
        }
        let mut least = INSIDE;
        for (node, other) in [(&a, &b), (&b, &a)] {
            let address = other.addresses()?.0.to_string();
            // A veth pair lets a VLAN tag's 4 bytes more pass. Where probes were lost in the transfers' queue, less is found,
            // and never less than 1280.
            let mtu = wait::until(PATIENCE, "a path MTU that fits is found", || {
                node.host.succeeds("ping", &["-n", "-c1", "-W1", &address])?;
                Ok(Some(path_mtu(node)?).filter(|mtu| (1280..=INSIDE + 4).contains(mtu)))
            })?;
            println!("figure: {} found {mtu} bytes, {INSIDE} fit", node.host.name);
            least = least.min(mtu);
        }
        // Whoever sends more is told.
        let address = b.addresses()?.0.to_string();
        let whole = (least - 8 - 28).to_string();
        // The host remembers for ten minutes what it was told while a path was not measured yet: less than fits now.
        a.host.namespace().ip("route flush cache")?;
        // Between two paths of which one is not yet measured a single echo may be lost.
        wait::until_true(PATIENCE, "what fits passes", || {
            a.host.succeeds("ping", &["-n", "-c1", "-W2", "-M", "do", "-s", &whole, &address])
        })?;
        ensure!(
            !a.host.succeeds("ping", &["-n", "-c1", "-W2", "-M", "do", "-s", "1390", &address])?,
            "what doesn't"
        );
        Ok(())
    })
}
