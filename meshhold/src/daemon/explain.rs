//! Why a packet would pass or be dropped: the rules' own answer, and what stands around it.
//!
//! Owns the question's way through policy, table and sockets, in the order that a packet takes. Changes nothing: the
//! programs asked are loaded for the question. Must not know how rules decide.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use meshhold_common::Reason;
use meshhold_core::membership::Peer;
use meshhold_core::scope::Protocol;

use super::Daemon;
use super::network::Network;
use super::status::path;
use super::view;
use crate::control::api::{DropsReply, ExplainRequest, Explanation, PeerName, Traffic, Verdict};
use crate::datapath::ebpf::{ETHERTYPE, ETHERTYPE_AT, EbpfDatapath, Program};
use crate::datapath::policy::Policy;
use crate::datapath::probe::{self, Kind};
use crate::datapath::userspace::Rules;
use crate::platform::linux::listeners;

/// One packet to be asked about.
struct Case<'a> {
    kind: Kind,
    network: &'a Network,
    peer: Option<&'a Peer>,
    source: IpAddr,
    destination: IpAddr,
    incoming: bool,
}

impl Daemon {
    /// Answers `meshlan explain`.
    pub(super) fn explain(&mut self, request: &ExplainRequest) -> anyhow::Result<Explanation> {
        let kind = match (request.traffic, request.port) {
            (Traffic::Icmp, _) => Kind::Icmp,
            (Traffic::Tcp, Some(port)) => Kind::Tcp(port),
            (Traffic::Udp, Some(port)) => Kind::Udp(port),
            _ => bail!("which port? write ADDRESS:PORT, for instance 198.18.3.17:22"),
        };
        let listen = self.config.node.listen.port();
        let policy = view::policy(&self.networks, &mut self.callers, &self.gateway, listen);
        let destination = self.resolve(&request.to)?;
        let Some(case) = self.case(kind, destination, request.from.as_deref())? else {
            return Ok(Explanation::dropped(Reason::NotMesh.as_str()));
        };
        let reason = judge(policy, self.lan.has_kernel(), &case)?;
        Ok(self.explanation(&case, reason))
    }

    /// The address that a name, an address or a node id means.
    pub(super) fn resolve(&self, text: &str) -> anyhow::Result<IpAddr> {
        let of_node = || {
            let peer = |network: &Network| {
                let found = network.members.peers().find(|peer| peer.node.to_string() == text)?;
                Some(network.own4().map_or(IpAddr::V6(found.ipv6), |_| IpAddr::V4(network.shown(found.ipv4))))
            };
            self.networks.values().find_map(peer)
        };
        self.names.resolve(text).or_else(of_node).with_context(|| {
            format!(
                "'{text}' is neither an IP address nor a name or node id of this mesh; `meshhold meshlan status` shows them"
            )
        })
    }

    /// Drops after the first `seen` ones, with the names of the peers that had a hand in them.
    pub(super) fn drops(&self, seen: u64) -> DropsReply {
        let (mut drops, told) = self.recent.after(seen);
        for drop in &mut drops {
            drop.peer = self.name_of(drop.from.ip()).or_else(|| self.name_of(drop.to.ip()));
        }
        DropsReply { drops, seen: told, counters: self.lan.counters() }
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        let network = self.networks.values().find(|network| network.holds(address))?;
        let owns = |peer: &&Peer| network.is_of(&network.shown_block(peer.block), address);
        network.members.peers().find(owns).map(|peer| peer.name.clone())
    }

    /// From whom to whom; `None` where no network holds the address.
    fn case(&self, kind: Kind, destination: IpAddr, from: Option<&str>) -> anyhow::Result<Option<Case<'_>>> {
        let Some(network) = self.networks.values().find(|network| network.holds(destination)) else {
            return Ok(None);
        };
        let block = network.own_block();
        let own = if destination.is_ipv4() { IpAddr::V4(block.node4()) } else { IpAddr::V6(block.node6()) };
        if network.is_of(&block, destination) {
            let peer = caller(network, from)?;
            let source = if destination.is_ipv4() {
                IpAddr::V4(network.shown(peer.ipv4))
            } else {
                IpAddr::V6(peer.ipv6)
            };
            return Ok(Some(Case { kind, network, peer: Some(peer), source, destination, incoming: true }));
        }
        ensure!(
            from.is_none(),
            "{destination} is not this node's; ask about it on the node that owns it, or without --from"
        );
        let peer =
            network.members.peers().find(|peer| network.is_of(&network.shown_block(peer.block), destination));
        Ok(Some(Case { kind, network, peer, source: own, destination, incoming: false }))
    }

    fn explanation(&self, case: &Case<'_>, reason: Reason) -> Explanation {
        let nobody = !case.incoming && case.peer.is_none() && reason.is_pass();
        let reason = if nobody { Reason::NoOwner } else { reason };
        let circuit = self.circuits.machine.status();
        let wanted = case.peer.map(|peer| (case.network.id, peer.node));
        let path = circuit.filter(|c| Some((c.network, c.peer)) == wanted).find_map(|c| path(&c));
        Explanation {
            verdict: if reason.is_pass() { Verdict::Pass } else { Verdict::Drop },
            reason: reason.as_str().to_owned(),
            scope_entry: case.incoming.then(|| scope_entry(case)).flatten(),
            listener: case.incoming.then(|| listener(case)).flatten(),
            peer: case.peer.map(|peer| PeerName { node_id: peer.node.to_string(), name: peer.name.clone() }),
            path,
        }
    }
}

/// The peer named `from`, by name, node id or address; any peer where nobody is named: they are all judged alike.
fn caller<'a>(network: &'a Network, from: Option<&str>) -> anyhow::Result<&'a Peer> {
    let Some(from) = from else {
        return network.members.peers().next().with_context(|| {
            format!("network '{}' has no other member yet, so nobody can send this", network.name)
        });
    };
    let address: Option<IpAddr> = from.parse().ok();
    let is = |peer: &&Peer| {
        peer.name.eq_ignore_ascii_case(from)
            || peer.node.to_string() == from
            || address.is_some_and(|address| network.is_of(&network.shown_block(peer.block), address))
    };
    network.members.peers().find(is).with_context(|| {
        format!("no member '{from}' in network '{}'; name it as `meshhold meshlan status` does", network.name)
    })
}

fn judge(policy: Policy, kernel: bool, case: &Case<'_>) -> anyhow::Result<Reason> {
    let (policy, source) = if kernel { testable(policy, case) } else { (policy, case.source) };
    let packet = probe::packet(case.kind, source, case.destination).context("two families in one packet")?;
    if !kernel {
        let rules = Rules::new(Arc::new(policy), None, 0);
        return Ok(if case.incoming { rules.ingress(&packet, 0) } else { rules.egress(&packet, 0) });
    }
    let mut programs = EbpfDatapath::open(None)?;
    programs.apply(&policy)?;
    let way: &[Program] =
        if case.incoming { &[Program::DeviceIngress, Program::Ingress] } else { &[Program::Egress] };
    programs.judge(way, &packet)?.context("no program takes this packet")
}

/// A test run changes the family of a packet only where two bytes of its source have a certain value: so an IPv6 caller is
/// given an address that has, in the packet and in the rules alike.
fn testable(mut policy: Policy, case: &Case<'_>) -> (Policy, IpAddr) {
    let (IpAddr::V6(real), true) = (case.source, case.incoming) else { return (policy, case.source) };
    let mut octets = real.octets();
    if let Some(bytes) = octets.get_mut(ETHERTYPE_AT..ETHERTYPE_AT + ETHERTYPE.len()) {
        bytes.copy_from_slice(&ETHERTYPE);
    }
    let stand_in = Ipv6Addr::from(octets);
    for peer in policy.networks.iter_mut().flat_map(|network| &mut network.peers) {
        if peer.ipv6 == real {
            peer.ipv6 = stand_in;
        }
    }
    (policy, IpAddr::V6(stand_in))
}

fn scope_entry(case: &Case<'_>) -> Option<String> {
    let (protocol, port) = match case.kind {
        Kind::Tcp(port) => (Protocol::Tcp, port),
        Kind::Udp(port) => (Protocol::Udp, port),
        Kind::Icmp => return None,
    };
    let rules = case.network.scope.rules().iter();
    let found =
        rules.filter(|rule| rule.protocol == protocol).find(|rule| (rule.first..=rule.last).contains(&port));
    found.map(ToString::to_string)
}

/// What waits on the port, as far as a packet for this node would reach it; a device's services are not ours to see.
fn listener(case: &Case<'_>) -> Option<String> {
    let (tcp, port) = match case.kind {
        Kind::Tcp(port) => (true, port),
        Kind::Udp(port) => (false, port),
        Kind::Icmp => return None,
    };
    let block = case.network.own_block();
    let own: [IpAddr; 2] = [block.node4().into(), block.node6().into()];
    if !own.contains(&case.destination) {
        return None;
    }
    let reached = |ip: IpAddr| {
        let loopback = ip == IpAddr::from([127, 0, 0, 1]) || ip == IpAddr::V6(Ipv6Addr::LOCALHOST);
        ip.is_unspecified() || loopback || ip == case.destination
    };
    let found: Vec<_> = listeners::on_port(tcp, port).into_iter().filter(|at| reached(at.ip())).collect();
    // The exact bind first, then the one on all addresses.
    let best = found.iter().find(|at| at.ip() == case.destination).or_else(|| found.first());
    best.map(ToString::to_string)
}
