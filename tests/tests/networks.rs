//! One node in two networks: addresses, scopes and members stay apart.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use meshhold_tests::lab::labtool;
use meshhold_tests::status::Network;
use meshhold_tests::{Node, Settings, run, service, wait};

#[test]
fn two_networks_stay_apart() -> Result<()> {
    run("two-networks", |lab| {
        let mut a = Node::new(lab.host("a")?, Settings::default())?;
        let mut b = Node::new(lab.host("b")?, Settings::knowing(&[&a])?)?;
        let mut c = Node::new(lab.host("c")?, Settings::knowing(&[&a])?)?;
        b.join(&a.mint(&["tcp:80"])?, &[])?;
        c.join(&a.mint(&["tcp:81"])?, &[])?;
        for node in [&mut a, &mut b, &mut c] {
            node.start_and_wait()?;
        }
        let _servers = [
            service::echo(&a.host, "tcp", Ipv4Addr::LOCALHOST.into(), 80)?,
            service::echo(&a.host, "tcp", Ipv4Addr::LOCALHOST.into(), 81)?,
        ];
        let (with_b, with_c) = (shared(&a, &b)?, shared(&a, &c)?);
        ensure!(with_b.id != with_c.id && with_b.range != with_c.range, "{with_b:?} {with_c:?}");
        for (caller, own, foreign, open, closed) in
            [(&b, &with_b, &with_c, "80", "81"), (&c, &with_c, &with_b, "81", "80")]
        {
            for address in addresses(own)? {
                caller.host.tool(&["await", &address, open, "5000"])?;
                ensure!(!reaches(caller, &address, closed)?, "{closed} is open in the other network only");
            }
            for address in addresses(foreign)? {
                ensure!(
                    !reaches(caller, &address, open)? && !reaches(caller, &address, closed)?,
                    "{address}"
                );
            }
        }
        Ok(())
    })
}

/// The network of `a` in which `peer` is listed.
fn shared(a: &Node, peer: &Node) -> Result<Network> {
    let id = peer.id()?;
    wait::until(std::time::Duration::from_secs(20), "the peer is listed", || {
        let networks = a.status()?.networks;
        Ok(networks.into_iter().find(|network| network.peers.iter().any(|peer| peer.node_id == id)))
    })
}

fn addresses(network: &Network) -> Result<[String; 2]> {
    Ok([network.ipv4.context("no IPv4 address")?.into(), IpAddr::from(network.ipv6)]
        .map(|ip: IpAddr| ip.to_string()))
}

fn reaches(caller: &Node, address: &str, port: &str) -> Result<bool> {
    caller.host.succeeds(&labtool()?, &["await", address, port, "500"])
}
