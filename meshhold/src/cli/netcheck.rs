//! `netcheck` and `meshlan status --paths`: what this node sees of the world, and which way its circuits go.
//!
//! Must not know how anything was found out.

use super::ask;
use super::output::{Outcome, printable, table};
use super::time::ago;
use crate::config::Config;
use crate::control::api::{Netcheck, PathKind, PeerPaths, PortMapping, Request, Response, TriedPath};
use crate::discover::mapping::is_public;
use meshhold_core::reflexive::Nat;
use std::fmt::Write;
use std::net::IpAddr;

/// Prints what the daemon sees.
pub(super) fn run(config: &Config, json: bool) -> anyhow::Result<Outcome> {
    match ask(config, &Request::Netcheck)? {
        Response::Netcheck(seen) if json => Ok(Outcome::json(&seen)),
        Response::Netcheck(seen) => Ok(Outcome::text(render(&seen))),
        _ => anyhow::bail!("the daemon's answer isn't a netcheck; restart it with this version"),
    }
}

/// Prints every peer's paths.
pub(super) fn paths(config: &Config, json: bool) -> anyhow::Result<Outcome> {
    match ask(config, &Request::Paths)? {
        Response::Paths(peers) if json => Ok(Outcome::json(&peers)),
        Response::Paths(peers) if peers.is_empty() => Ok(Outcome::text("no circuit is up".to_owned())
            .advise("a circuit is made with the first packet to a peer")),
        Response::Paths(peers) => Ok(Outcome::text(peers.iter().map(peer).collect::<Vec<_>>().join("\n"))),
        _ => anyhow::bail!("the daemon's answer isn't a list of paths; restart it with this version"),
    }
}

fn render(seen: &Netcheck) -> String {
    let udp = match seen.udp {
        None => "unknown: no bootstrap peer and no member to try it with",
        Some(true) => "works",
        Some(false) => "no answer from anybody: blocked, or all others are down",
    };
    let nat = match seen.nat {
        Nat::Unknown => "unknown: fewer than two links tell",
        Nat::None => "none: others see an address of this host",
        Nat::Cone => "one mapping for all: others can be told where to send to",
        Nat::Symmetric => "a mapping for each destination: relays where the other end has this too",
    };
    let mut text = format!("udp: {udp}\nnat: {nat}\n");
    for address in &seen.mapped {
        let _ = writeln!(text, "seen at: {address}");
    }
    let mapping = seen.port_mapping.as_ref();
    let mapping = mapping.map_or("none".to_owned(), mapped);
    let _ = writeln!(text, "port mapping: {mapping}");
    for relay in &seen.relays {
        let _ = writeln!(text, "relay: {} {:.1} ms", relay.node_id, relay.rtt_ms);
    }
    if seen.relays.is_empty() {
        text.push_str("relay: none\n");
    }
    let mtu = seen.path_mtu.map_or("no circuit is up".to_owned(), |mtu| format!("{mtu} bytes inside"));
    let _ = writeln!(text, "path MTU: {mtu}");
    text
}

fn mapped(mapping: &PortMapping) -> String {
    let PortMapping { protocol, external } = mapping;
    let hint = match external.ip() {
        IpAddr::V4(ip) if !is_public(ip) => {
            ", which is no address of the Internet: there is another NAT behind that router; others aren't told"
        }
        _ => "",
    };
    format!("{external} by {protocol}{hint}")
}

fn peer(of: &PeerPaths) -> String {
    let mut text = format!("{} {}\n", printable(&of.peer.name), of.peer.node_id);
    let rows: Vec<_> = of
        .decisions
        .iter()
        .map(|decision| {
            vec![format!("  {}", ago(decision.since)), decision.to_string(), decision.reason.clone()]
        })
        .collect();
    text.push_str(&table(&rows));
    text.push_str("  tried:\n");
    text.push_str(&table(&of.tried.iter().map(tried).collect::<Vec<_>>()));
    text
}

fn tried(path: &TriedPath) -> Vec<String> {
    let way = match path.kind {
        PathKind::Direct => path.remote.to_string(),
        PathKind::Relay => format!("{} relays, the first at {}", path.via.len(), path.remote),
    };
    let rtt = path.rtt_ms.map_or("no answer".to_owned(), |rtt| format!("{rtt:.1} ms"));
    vec![format!("    {way}"), rtt, format!("{} of {} probes", path.answered, path.sent)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_that_leads_nowhere_is_shown_with_the_reason() {
        let shown = |external: &str| {
            mapped(&PortMapping { protocol: "upnp".to_owned(), external: external.parse().unwrap() })
        };
        assert_eq!(shown("11.90.0.3:7777"), "11.90.0.3:7777 by upnp");
        assert!(
            shown("10.0.0.5:7777").starts_with("10.0.0.5:7777 by upnp, which is no address of the Internet")
        );
    }
}
