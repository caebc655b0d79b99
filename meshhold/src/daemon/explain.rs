//! Why a packet would pass or be dropped: the rules' own answer, and what stands around it.
//!
//! Owns the question's way through policy, table and sockets, in the order that a packet takes. Changes nothing: the
//! programs asked are loaded for the question. Must not know how rules decide.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use meshhold_common::Reason;
use meshhold_core::membership::Peer;
use meshhold_core::scope::Protocol;

use super::Daemon;
use super::network::Network;
use super::view;
use crate::control::api::{DropsReply, ExplainRequest, Explanation, PeerName, Traffic, Verdict};
use crate::datapath::policy::Policy;
use crate::datapath::probe::{self, Kind, Packet, Way};
use crate::datapath::userspace::Rules;
use crate::datapath::workers::offload::header::{Layout, UDP};
use crate::doctor::delivery::Incoming;
use crate::doctor::onward::Passing;
use crate::platform::linux::listeners;

/// One packet to be asked about, and what is known of its ends.
struct Case<'a> {
    packet: Packet,
    network: Option<&'a Network>,
    peer: Option<&'a Peer>,
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
        let destination = self.resolve(&request.to)?;
        if request.from.is_none()
            && kind == Kind::Icmp
            && let Some(answer) = self.lonely_device(destination)
        {
            return Ok(answer);
        }
        let policy = self.policy();
        let Some(case) = self.case(kind, destination, request.from.as_deref())? else {
            return Ok(Explanation::dropped(Reason::NotMesh.as_str()));
        };
        self.answer(policy, &case)
    }

    /// What there is to say of a device of ours that no member could send anything to yet.
    fn lonely_device(&self, address: IpAddr) -> Option<Explanation> {
        let network = self.networks.values().find(|network| network.holds(address))?;
        let own_device = self.gateway.target(&network.own_block(), address)?;
        let alone = network.members.peers().next().is_none();
        let (verdict, reason) = (Verdict::Pass, Reason::PassForward.as_str().to_owned());
        alone.then(|| Explanation { verdict, reason, own_device: Some(own_device), ..Explanation::default() })
    }

    /// Answers `meshlan explain packet`.
    pub(super) fn explain_packet(&mut self, bytes: Vec<u8>, at: Option<Way>) -> anyhow::Result<Explanation> {
        let policy = self.policy();
        let mut packet = Packet { way: Way::In, bytes };
        let owner = |address: Option<IpAddr>| {
            let address = address?;
            self.networks.values().find(|network| network.is_of(&network.own_block(), address))
        };
        let ours = owner(packet.source()).is_some() || packet.source().is_some_and(|ip| ip.is_loopback());
        packet.way = at.unwrap_or(if ours { Way::Out } else { Way::In });
        let (own, other) = match packet.way {
            Way::Out => (packet.source(), packet.destination()),
            Way::In | Way::Lan => (packet.destination(), packet.source()),
        };
        let network = owner(own);
        let peer = network.zip(other).and_then(|(network, address)| of(network, address));
        self.answer(policy, &Case { packet, network, peer })
    }

    /// What the enforcers are told.
    pub(super) fn policy(&mut self) -> Policy {
        let web = self.config.api.listen_addr.map(|address| address.port());
        let web_for = self.config.api.mesh_access.as_deref().filter(|_| self.control.web);
        let own = view::OwnPorts { listen: self.config.node.listen.port(), web, web_for };
        view::policy(&self.networks, &mut self.callers, &self.gateway, own, self.families.without_ipv6())
    }

    fn answer(&self, policy: Policy, case: &Case<'_>) -> anyhow::Result<Explanation> {
        let caller = case.packet.source().and_then(|peer| stand_in(&policy, peer));
        let reason = match self.lan.judge(&policy, &case.packet) {
            Some(reason) => reason?,
            None => in_user_space(policy, &case.packet),
        };
        let reason = reason
            .context("MeshHold has no say in this packet: it holds no mesh address, and goes on untouched")?;
        let mut explanation = self.explanation(case, reason);
        if explanation.verdict == Verdict::Pass {
            explanation.passing = self.passing(case, reason, caller, explanation.listener.is_none());
        }
        Ok(explanation)
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
        DropsReply { drops, seen: told, counters: self.lan.counters(&self.relaying.counters()) }
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        let network = self.networks.values().find(|network| network.holds(address))?;
        of(network, address).map(|peer| peer.name.to_string())
    }

    /// From whom to whom; `None` where no network holds the address.
    fn case(&self, kind: Kind, destination: IpAddr, from: Option<&str>) -> anyhow::Result<Option<Case<'_>>> {
        let Some(network) = self.networks.values().find(|network| network.holds(destination)) else {
            return Ok(None);
        };
        let block = network.own_block();
        let incoming = network.is_of(&block, destination);
        ensure!(
            incoming || from.is_none(),
            "{destination} is not this node's; ask about it on the node that owns it, or without --from"
        );
        let (peer, source) = if incoming {
            let peer = caller(network, from)?;
            (Some(peer), either(destination, network.shown(peer.ipv4), peer.ipv6))
        } else {
            (of(network, destination), either(destination, block.node4(), block.node6()))
        };
        let bytes = probe::packet(kind, source, destination).context("two families in one packet")?;
        let way = if incoming { Way::In } else { Way::Out };
        Ok(Some(Case { packet: Packet { way, bytes }, network: Some(network), peer }))
    }

    fn explanation(&self, case: &Case<'_>, reason: Reason) -> Explanation {
        let Case { packet, network, peer } = case;
        let meant = network.zip(packet.destination()).is_some_and(|(network, to)| network.holds(to));
        let nobody = packet.way == Way::Out && meant && peer.is_none() && reason.is_pass();
        let reason = if nobody { Reason::NoOwner } else { self.without_ipv6(case, reason) };
        let wanted = network.zip(*peer).map(|(network, peer)| (network.id, peer.node));
        let mut circuits = self.circuits.machine.status();
        let circuit = circuits.find(|circuit| Some((circuit.network, circuit.peer)) == wanted);
        let of_us = network.filter(|_| packet.way == Way::In);
        let incoming = of_us.zip(packet.service());
        let own_device = of_us
            .zip(packet.destination())
            .and_then(|(network, to)| self.gateway.target(&network.own_block(), to));
        Explanation {
            verdict: if reason.is_pass() { Verdict::Pass } else { Verdict::Drop },
            reason: reason.as_str().to_owned(),
            scope_entry: incoming.and_then(|(network, service)| scope_entry(network, service)),
            listener: incoming.and_then(|(network, service)| listener(network, packet, service)),
            peer: peer.map(|peer| PeerName { node_id: peer.node.to_string(), name: peer.name.to_string() }),
            nowhere: circuit.as_ref().is_some_and(|circuit| !circuit.is_tried),
            path: circuit.and_then(|circuit| self.path_status(&circuit)),
            host: Vec::new(),
            passing: None,
            own_device,
        }
    }

    /// What is to be asked of the host about a packet that passes: of one for this node itself, or from it.
    fn passing(
        &self,
        case: &Case<'_>,
        reason: Reason,
        caller: Option<Ipv4Addr>,
        unserved: bool,
    ) -> Option<Passing> {
        let Case { packet, network, peer } = case;
        let (source, destination) = (packet.source()?, packet.destination()?);
        let block = network.as_ref()?.own_block();
        let is_own = |address: IpAddr| address == either(address, block.node4(), block.node6());
        let incoming = packet.way == Way::In && is_own(destination);
        let outgoing = packet.way == Way::Out && is_own(source) && peer.is_some();
        if !reason.is_pass() || !(incoming || outgoing) {
            return None;
        }
        let (protocol, port) = words(packet)?;
        let caller = caller.filter(|_| reason == Reason::PassScope && self.lan.has_kernel_programs());
        let waiting = port.map(|port| listeners::on_port(protocol == "tcp", port)).unwrap_or_default();
        let waiting: Vec<IpAddr> = match destination {
            // All becomes IPv4.
            IpAddr::V6(_) if self.families.without_ipv6() => vec![Ipv4Addr::LOCALHOST.into()],
            _ => waiting.iter().map(std::net::SocketAddr::ip).collect(),
        };
        let ends = Incoming { source, destination, caller, udp: protocol == "udp" }.arrival(&waiting);
        let unserved = unserved && reason == Reason::PassScope;
        let mesh = self.config.meshlan.interface.clone();
        Some(Passing { incoming, protocol, port, ends, unserved, mesh })
    }
}

/// The address that stands for a peer at services on loopback.
fn stand_in(policy: &Policy, peer: IpAddr) -> Option<Ipv4Addr> {
    let peers = || policy.networks.iter().flat_map(|network| &network.peers);
    let found = match peer {
        IpAddr::V4(ip) => peers().find(|peer| peer.ipv4 == ip)?.caller4,
        IpAddr::V6(ip) => peers().find(|peer| peer.ipv6 == ip)?.caller6,
    };
    (!found.is_unspecified()).then_some(found)
}

/// Protocol and port as firewalls name them.
fn words(packet: &Packet) -> Option<(&'static str, Option<u16>)> {
    match (packet.service(), Layout::of(&packet.bytes)?.protocol) {
        (Some((UDP, port)), _) => Some(("udp", Some(port))),
        (Some((_, port)), _) => Some(("tcp", Some(port))),
        (None, meshhold_common::packet::ICMP) => Some(("icmp", None)),
        (None, meshhold_common::packet::ICMP6) => Some(("icmpv6", None)),
        _ => None,
    }
}

impl Daemon {
    /// An echo by IPv6 is nothing to a host without: the sender's worker refuses it where it knows, else the kernel here is silent.
    fn without_ipv6(&self, case: &Case<'_>, reason: Reason) -> Reason {
        let Some(IpAddr::V6(to)) = case.packet.destination() else { return reason };
        match (reason, case.peer, case.network) {
            (Reason::PassEgress, Some(peer), _)
                if peer.without_ipv6 && to == peer.ipv6 && is_echo_request6(&case.packet) =>
            {
                Reason::NoOwner
            }
            (Reason::PassIcmpEcho, _, Some(network))
                if self.families.without_ipv6() && to == network.members.own6() =>
            {
                Reason::NotForUs
            }
            _ => reason,
        }
    }
}

fn is_echo_request6(packet: &Packet) -> bool {
    Layout::of(&packet.bytes).is_some_and(|layout| layout.is_echo_request6(&packet.bytes))
}

/// That of the family of `like`.
fn either(like: IpAddr, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> IpAddr {
    if like.is_ipv4() { ipv4.into() } else { ipv6.into() }
}

/// The member that has an address.
fn of(network: &Network, address: IpAddr) -> Option<&Peer> {
    network.members.peers().find(|peer| network.is_of(&network.shown_block(peer.block), address))
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

/// Without kernel programs the workers decide; what they remember of flows is not asked.
fn in_user_space(policy: Policy, packet: &Packet) -> Option<Reason> {
    let rules = Rules::new(Arc::new(policy), None, 0);
    match packet.way {
        Way::In => Some(rules.ingress(&packet.bytes, 0)),
        Way::Out => Some(rules.egress(&packet.bytes, 0)),
        // There is no guard.
        Way::Lan => None,
    }
}

/// The rule that opens a port to members.
fn scope_entry(network: &Network, (protocol, port): (u8, u16)) -> Option<String> {
    let wanted = if protocol == UDP { Protocol::Udp } else { Protocol::Tcp };
    let rules = network.scope.rules().iter().filter(|rule| rule.protocol == wanted);
    rules.filter(|rule| (rule.first..=rule.last).contains(&port)).map(ToString::to_string).next()
}

/// What waits on the port, as far as a packet for this node would reach it; a device's services are not ours to see.
fn listener(network: &Network, packet: &Packet, (protocol, port): (u8, u16)) -> Option<String> {
    let destination = packet.destination()?;
    let block = network.own_block();
    if destination != either(destination, block.node4(), block.node6()) {
        return None;
    }
    let reached = |ip: IpAddr| {
        let loopback = ip == IpAddr::from([127, 0, 0, 1]) || ip == IpAddr::V6(Ipv6Addr::LOCALHOST);
        ip.is_unspecified() || loopback || ip == destination
    };
    let sockets = listeners::on_port(protocol != UDP, port);
    let found: Vec<_> = sockets.into_iter().filter(|at| reached(at.ip())).collect();
    // The exact bind first, then the one on all addresses.
    let best = found.iter().find(|at| at.ip() == destination).or_else(|| found.first());
    best.map(ToString::to_string)
}
