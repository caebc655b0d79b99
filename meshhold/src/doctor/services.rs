//! Ports that a scope opens and where nothing answers, or nothing that the mesh reaches.
//!
//! Must not know firewalls.

use super::Finding;
use super::delivery::Incoming;
use super::firewall::Service;
use crate::control::api::{DatapathMode, Status};
use crate::platform::linux::listeners::{self, Listener};
use std::net::{IpAddr, Ipv4Addr};

const CHECK: &str = "services";
/// Stands for all caller addresses.
const CALLER: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 1);

/// An entry of a network's port scope.
#[derive(Debug)]
pub(super) struct Open {
    network: String,
    /// This node's addresses in it.
    own: Vec<IpAddr>,
    rule: String,
    protocol: &'static str,
    ports: (u16, u16),
}

/// All that the port scopes open.
pub(super) fn open(status: &Status) -> Vec<Open> {
    let of = |network: &crate::control::api::NetworkStatus| {
        let own: Vec<IpAddr> =
            network.ipv4.map(IpAddr::V4).into_iter().chain(network.ipv6.map(IpAddr::V6)).collect();
        let name = network.name.clone();
        let rules = network.scope.clone().into_iter();
        rules.filter_map(move |rule| {
            let (protocol, ports) = rule.split_once(':')?;
            let protocol = if protocol == "tcp" { "tcp" } else { "udp" };
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let ports = (first.parse().ok()?, last.parse().ok()?);
            Some(Open { network: name.clone(), own: own.clone(), rule, protocol, ports })
        })
    };
    status.networks.iter().flat_map(of).collect()
}

/// One packet of each entry and family stands for all: to the first port on which something waits.
pub(super) fn packets(open: &[Open], status: &Status) -> Vec<Service> {
    let waiting = listeners::all();
    let peers = status.networks.iter().flat_map(|network| &network.peers);
    let known: Vec<IpAddr> = peers
        .flat_map(|peer| peer.ipv4.map(IpAddr::V4).into_iter().chain(peer.ipv6.map(IpAddr::V6)))
        .collect();
    let caller = (status.datapath.mode == DatapathMode::Ebpf).then_some(CALLER);
    let of = |one: &Open| {
        let here = waiting.iter().filter(|listener| one.has(listener));
        let port = here.clone().map(|listener| listener.port).next().unwrap_or(one.ports.0);
        let bound: Vec<IpAddr> =
            here.filter(|listener| listener.port == port).map(|listener| listener.address).collect();
        let arrival = |own: &IpAddr| {
            let source = known.iter().copied().find(|peer| peer.is_ipv4() == own.is_ipv4()).unwrap_or(*own);
            Incoming { source, destination: *own, caller, udp: one.protocol == "udp" }.arrival(&bound)
        };
        let mut arrivals: Vec<_> = one.own.iter().map(arrival).collect();
        arrivals.dedup();
        Service { protocol: one.protocol, port, rule: one.rule.clone(), arrivals }
    };
    open.iter().map(of).collect()
}

/// Entries without a service that the mesh reaches.
pub(super) fn unreached(open: &[Open]) -> Vec<Finding> {
    let waiting = listeners::all();
    open.iter().flat_map(|one| one.judge(&waiting)).collect()
}

impl Open {
    fn judge(&self, waiting: &[Listener]) -> Vec<Finding> {
        let here: Vec<&Listener> = waiting.iter().filter(|one| self.has(one)).collect();
        if here.is_empty() {
            let summary = format!("port {} is open in '{}' and nothing waits there", self.rule, self.network);
            let remedy = "start the service, or close the port with `meshhold mgmt-keys edit`";
            return vec![Finding::warning(CHECK, summary, remedy)];
        }
        let mut beside: Vec<&Listener> =
            here.iter().copied().filter(|one| !self.reaches(one.address)).collect();
        beside.retain(|one| !here.iter().any(|other| other.port == one.port && self.reaches(other.address)));
        beside.dedup_by_key(|one| one.port);
        beside.into_iter().map(|one| self.beside(one)).collect()
    }

    fn has(&self, one: &Listener) -> bool {
        one.protocol == self.protocol && (self.ports.0..=self.ports.1).contains(&one.port)
    }

    fn reaches(&self, ip: IpAddr) -> bool {
        ip.is_unspecified() || ip.is_loopback() || self.own.contains(&ip.to_canonical())
    }

    fn beside(&self, one: &Listener) -> Finding {
        let program = one.program.as_deref().unwrap_or("the service");
        let (port, address) = (one.port, one.address);
        let summary = format!(
            "port {} is open in '{}', but {program} waits on {address} only",
            self.rule, self.network
        );
        Finding::error(
            CHECK,
            summary,
            format!("let {program} listen on 127.0.0.1:{port}, or on all addresses"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_elsewhere_is_named_in_ranges_too() {
        let own = vec!["198.18.0.1".parse().unwrap()];
        let (network, rule) = ("Home".to_owned(), "tcp:5000-5010".to_owned());
        let open = Open { network, own, rule, protocol: "tcp", ports: (5000, 5010) };
        let listener = |port, address: &str| Listener {
            protocol: "tcp",
            port,
            address: address.parse().unwrap(),
            program: Some("nas".to_owned()),
        };
        for (waiting, found) in [
            (vec![], 1),
            (vec![listener(5001, "127.0.0.1")], 0),
            (vec![listener(5001, "198.18.0.1")], 0),
            (vec![listener(5001, "192.168.1.2")], 1),
            (vec![listener(5001, "192.168.1.2"), listener(5001, "::1")], 0),
            (vec![listener(5001, "192.168.1.2"), listener(5002, "0.0.0.0")], 1),
            (vec![listener(4999, "0.0.0.0")], 1),
        ] {
            assert_eq!(open.judge(&waiting).len(), found, "{waiting:?}");
        }
    }
}
