//! A neighbour on the underlay LAN can't reach a mesh address through another interface of the node.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use meshhold_tests::capture::{self, Capture};
use meshhold_tests::{Host, Node, run, scenario, service, wait};

const PORT: u16 = 80;

#[test]
fn new_connections_from_the_lan_get_no_reply() -> Result<()> {
    run("lan-new", |lab| {
        let (a, b) = scenario::pair(lab, &["tcp:80"])?;
        let neighbour = lab.host("neighbour")?;
        let _server = service::echo(&a.host, "tcp", "::".parse()?, PORT)?;
        for address in a.both_addresses()? {
            route_through(&neighbour, &a, address)?;
            b.host.tool(&["await", &address.to_string(), "80", "5000"])?;
            // The way to the node and its service is open; only the mesh address is guarded.
            let underlay = underlay_of(&a, address);
            neighbour.tool(&["ask", "tcp", &underlay.to_string(), "80"])?;
            let wire = Capture::start(
                neighbour.namespace(),
                neighbour.directory(),
                &format!("wire-{}", wire_name(address)),
            )?;
            for port in ["80", "81"] {
                let source = if address.is_ipv4() { "0.0.0.0" } else { "::" };
                let answer = neighbour.tool(&["spoof", source, "0", &address.to_string(), port])?;
                ensure!(answer.trim() == "Silent", "{address} port {port} answered: {answer}");
            }
            ensure!(
                !neighbour.succeeds("ping", &["-n", "-c2", "-W1", &address.to_string()])?,
                "ping {address}"
            );
            let replies =
                wire.finish()?.iter().filter(|packet| capture::source(packet) == Some(address)).count();
            ensure!(replies == 0, "{replies} packets came from {address}");
        }
        Ok(())
    })
}

/// The steps of CVE-2019-14899: a neighbour that guesses an established connection learns nothing from the node.
#[test]
fn established_connections_cannot_be_probed_from_the_lan() -> Result<()> {
    run("lan-established", |lab| {
        let (a, b) = scenario::pair(lab, &["tcp:80"])?;
        let neighbour = lab.host("neighbour")?;
        let _server = service::echo(&a.host, "tcp", "::".parse()?, PORT)?;
        for (server, client) in a.both_addresses()?.into_iter().zip(b.both_addresses()?) {
            let name = wire_name(server);
            let flow = b.host.spawn_tool(&format!("flow-{name}"), &["flow", &server.to_string(), "80"])?;
            let beats = |more: usize| {
                let seen = flow.log()?.matches("beat").count();
                wait::until_true(std::time::Duration::from_secs(5), "the flow beats", || {
                    Ok(flow.log()?.matches("beat").count() >= seen + more)
                })
            };
            beats(5)?;
            let log = flow.log()?;
            let port =
                log.lines().find_map(|line| line.strip_prefix("port ")).context("the flow has a port")?;
            route_through(&neighbour, &a, server)?;
            let bits = if client.is_ipv4() { "32" } else { "128 nodad" };
            neighbour.namespace().ip(&format!("address add {client}/{bits} dev eth0"))?;
            let wire = Capture::start(lab.lan(), lab.directory(), &format!("wire-{name}"))?;
            for guess in [port, "1"] {
                let answer =
                    neighbour.tool(&["spoof", &client.to_string(), guess, &server.to_string(), "80"])?;
                ensure!(answer.trim() == "Silent", "from port {guess}: {answer}");
            }
            let replies =
                wire.finish()?.iter().filter(|packet| capture::source(packet) == Some(server)).count();
            ensure!(replies == 0, "{replies} packets of {server} on the LAN");
            beats(5)?;
        }
        Ok(())
    })
}

/// Sends packets for `address` to the node's underlay interface, whatever ARP would say to the neighbour's sources.
fn route_through(neighbour: &Host, node: &Node, address: IpAddr) -> Result<()> {
    let via = underlay_of(node, address);
    let hardware = node.host.run("cat", &["/sys/class/net/eth0/address"])?;
    let namespace = neighbour.namespace();
    namespace.ip(&format!("neigh replace {via} lladdr {} dev eth0 nud permanent", hardware.trim()))?;
    namespace.ip(&format!("route replace {address} via {via} dev eth0")).map(drop)
}

fn underlay_of(node: &Node, like: IpAddr) -> IpAddr {
    if like.is_ipv4() { node.host.ipv4.into() } else { node.host.ipv6.into() }
}

fn wire_name(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}
