//! What must get through this host's rules: the node's own datagrams, and the packets of services as the host sees them.
//!
//! Must not know how rules are written.

use super::rules::{Hook, Packet};
use crate::doctor::delivery::Arrival;
use std::net::IpAddr;

/// What must get through.
#[derive(Debug)]
pub(in crate::doctor) struct Wanted<'a> {
    /// The node's own UDP port.
    pub(in crate::doctor) port: u16,
    /// The mesh interface.
    pub(in crate::doctor) interface: &'a str,
    /// What scopes open.
    pub(in crate::doctor) open: Vec<Service>,
}

/// A port that a scope opens.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Service {
    /// `tcp` or `udp`.
    pub(in crate::doctor) protocol: &'static str,
    /// The port.
    pub(in crate::doctor) port: u16,
    /// As the scope has it.
    pub(in crate::doctor) rule: String,
    /// How packets for it stand before the host.
    pub(in crate::doctor) arrivals: Vec<Arrival>,
}

/// Why a packet must get through: what lets it in depends on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A datagram for the node's own port.
    Node(u16),
    /// A datagram from it.
    NodeOut(u16),
    /// From the mesh to this host.
    In,
    /// Likewise, by the loopback interface.
    ByLoopback,
    /// From this host into the mesh.
    Out,
}

/// One packet that must get through, and in words.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) what: String,
    pub(super) packet: Packet<'a>,
    pub(super) purpose: Purpose,
}

/// All of them.
pub(super) fn questions<'a>(wanted: &Wanted<'a>) -> Vec<Question<'a>> {
    let node = node(wanted.port, wanted.interface);
    let services = wanted.open.iter().flat_map(|one| service(one, wanted.interface));
    node.into_iter().chain(services).collect()
}

fn node(port: u16, mesh: &str) -> Vec<Question<'_>> {
    let of = |family| {
        let packet = Packet {
            family,
            protocol: "udp",
            ports: (None, Some(port)),
            ends: None,
            state: "new",
            interface: None,
            mesh,
            hook: Hook::Input,
        };
        let incoming = Question { what: format!("udp port {port}"), packet, purpose: Purpose::Node(port) };
        let outgoing = Question {
            what: format!("what this node sends from udp port {port}"),
            packet: Packet { ports: (Some(port), Some(port)), hook: Hook::Output, ..packet },
            purpose: Purpose::NodeOut(port),
        };
        [incoming, outgoing]
    };
    ["ipv4", "ipv6"].into_iter().flat_map(of).collect()
}

fn service<'a>(service: &Service, mesh: &'a str) -> Vec<Question<'a>> {
    let Service { protocol, port, rule, arrivals } = service;
    let of = |arrival: &Arrival| {
        let what = format!(
            "{rule}, which a port scope opens, where it comes in by {mesh} (as {} to {})",
            arrival.source, arrival.destination
        );
        let answer = format!("what the service at {rule} answers by {mesh}");
        [
            arriving(what, protocol, Some(*port), *arrival, mesh),
            leaving(answer, protocol, *port, *arrival, mesh),
        ]
    };
    arrivals.iter().flat_map(of).collect()
}

/// A packet from the mesh to this host.
pub(super) fn arriving<'a>(
    what: String,
    protocol: &'static str,
    port: Option<u16>,
    arrival: Arrival,
    mesh: &'a str,
) -> Question<'a> {
    let by_loopback = arrival.is_by_loopback();
    let packet = Packet {
        family: family(arrival.destination),
        protocol,
        ports: (None, port),
        ends: Some((arrival.source, arrival.destination)),
        state: "new",
        interface: Some(if by_loopback { "lo" } else { mesh }),
        mesh,
        hook: Hook::Input,
    };
    Question { what, packet, purpose: if by_loopback { Purpose::ByLoopback } else { Purpose::In } }
}

/// The answer to it.
fn leaving<'a>(
    what: String,
    protocol: &'static str,
    port: u16,
    arrival: Arrival,
    mesh: &'a str,
) -> Question<'a> {
    let answer = Arrival { source: arrival.destination, destination: arrival.source };
    let question = opening(what, protocol, None, answer, mesh);
    let packet = Packet { ports: (Some(port), None), state: "established", ..question.packet };
    Question { packet, ..question }
}

/// A packet from this host into the mesh, the first of its flow.
pub(super) fn opening<'a>(
    what: String,
    protocol: &'static str,
    port: Option<u16>,
    ends: Arrival,
    mesh: &'a str,
) -> Question<'a> {
    let packet = Packet {
        family: family(ends.destination),
        protocol,
        ports: (None, port),
        ends: Some((ends.source, ends.destination)),
        state: "new",
        interface: Some(mesh),
        mesh,
        hook: Hook::Output,
    };
    Question { what, packet, purpose: Purpose::Out }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}
