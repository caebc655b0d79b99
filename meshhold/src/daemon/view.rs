//! What the packet path must hold, computed whole from what the daemon knows.
//!
//! Owns the translation of memberships and circuits into [`Policy`] and [`Table`], both in the addresses that this host
//! sees. Must not know how either is applied.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use meshhold_core::address::Block;
use meshhold_core::device::Device;
use meshhold_core::membership::Peer;
use meshhold_core::path::{Path, Paths, Sizes};
use meshhold_core::scope::{PortRule, Protocol};
use meshhold_core::session::Session;

use super::callers::{Caller, Callers, Ends, PeerKey};
use super::gateway::Gateway;
use super::network::Network;
use crate::datapath::policy::{DevicePolicy, NetworkPolicy, PeerPolicy, Policy, PortRange};
use crate::datapath::table::{OwnNetwork, PeerRoute, Table, TransmitPath};

/// The sessions of one peer's circuit.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// All that may still receive, oldest first.
    pub(super) receiving: Vec<Arc<Session>>,
    /// Local index of the one that sends.
    pub(super) sending: Option<u32>,
    /// Where its datagrams go.
    pub(super) remote: Option<Path>,
}

impl Sessions {
    fn transmit(&self, sizes: Sizes) -> Option<TransmitPath> {
        let sending = self.sending?;
        let session = self.receiving.iter().find(|s| s.local_index == sending)?;
        Some(TransmitPath { session: Arc::clone(session), path: self.remote?, sizes })
    }
}

/// The ports of this node's own management: no scope opens them.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnPorts<'a> {
    /// UDP, of links and circuits.
    pub(super) listen: u16,
    /// TCP, of the Web UI.
    pub(super) web: Option<u16>,
    /// Name or id of the one network whose members may reach the Web UI all the same.
    pub(super) web_for: Option<&'a str>,
}

/// The policy of all networks.
pub(super) fn policy(
    networks: &BTreeMap<u16, Network>,
    callers: &mut Callers,
    gateway: &Gateway,
    own: OwnPorts<'_>,
    without_ipv6: bool,
) -> Policy {
    let of = |network: &Network| NetworkPolicy {
        devices: gateway.policy(networks, network),
        without_ipv6,
        ..network_policy(network, callers, own)
    };
    Policy { networks: networks.values().map(of).collect() }
}

fn network_policy(network: &Network, callers: &mut Callers, own: OwnPorts<'_>) -> NetworkPolicy {
    let mut peers = Vec::new();
    for peer in network.members.peers() {
        let Some(caller) = caller(network, peer, callers) else { continue };
        let (ipv4, ipv6, index) = (network.shown(peer.ipv4), peer.ipv6, caller.number());
        peers.push(PeerPolicy { index, ipv4, ipv6, caller4: caller.ipv4, caller6: caller.ipv6 });
        let block = network.shown_block(peer.block);
        peers.extend(peer.devices.iter().map(|device| behind(index, block, device)));
    }
    NetworkPolicy {
        index: network.index,
        range: (network.shown_range().base, network.range.prefix),
        prefix6: (network.keys.prefix6, 32),
        own4: network.own4(),
        own6: network.members.own6(),
        without_ipv6: false,
        peers,
        scope: scope(network, own),
        devices: Vec::new(),
    }
}

fn caller(network: &Network, peer: &Peer, callers: &mut Callers) -> Option<Caller> {
    let ipv4 = network.own4().map(|own| [network.shown(peer.ipv4), own]);
    let ends = Ends { ipv4, ipv6: [peer.ipv6, network.members.own6()] };
    callers.caller((network.id, peer.node), &ends)
}

/// A device that a peer fronts: it answers, and never calls.
fn behind(index: u32, block: Block, device: &Device) -> PeerPolicy {
    let none = Ipv4Addr::UNSPECIFIED;
    let (ipv4, ipv6) = (block.device4(device.slot), block.device6(device.slot));
    PeerPolicy { index, ipv4, ipv6, caller4: none, caller6: none }
}

fn scope(network: &Network, own: OwnPorts<'_>) -> Vec<PortRange> {
    let invited =
        own.web_for.is_some_and(|wanted| wanted == network.name || wanted == network.id.to_string());
    let tcp = Protocol::Tcp.number();
    let web = own.web.filter(|_| invited).map(|port| PortRange { protocol: tcp, first: port, last: port });
    network.scope.rules().iter().flat_map(|rule| open_ports(rule, own)).chain(web).collect()
}

/// The ports of a rule, less the UDP port that carries the mesh itself, as a mesh inside the mesh would go in circles, and
/// the Web UI's: the node's own management is nobody's service.
fn open_ports(rule: &PortRule, own: OwnPorts<'_>) -> Vec<PortRange> {
    let protocol = rule.protocol.number();
    let range = |first, last| PortRange { protocol, first, last };
    let closed = match rule.protocol {
        Protocol::Udp => Some(own.listen),
        Protocol::Tcp => own.web,
    };
    let Some(closed) = closed.filter(|port| (rule.first..=rule.last).contains(port)) else {
        return vec![range(rule.first, rule.last)];
    };
    let below = (rule.first < closed).then(|| range(rule.first, closed - 1));
    let above = (rule.last > closed).then(|| range(closed + 1, rule.last));
    below.into_iter().chain(above).collect()
}

/// The routing table of the workers. `enforce` is set where they enforce the policy themselves.
pub(super) fn table(
    networks: &BTreeMap<u16, Network>,
    callers: &mut Callers,
    (circuits, paths): (&BTreeMap<PeerKey, Sessions>, &Paths),
    gateway: &Gateway,
    enforce: Option<Arc<Policy>>,
) -> Table {
    let mut peers = Vec::new();
    let mut sessions = Vec::new();
    for network in networks.values() {
        for peer in network.members.peers() {
            let key = (network.id, peer.node);
            let Some(index) = caller(network, peer, callers).map(Caller::number) else { continue };
            let circuit = circuits.get(&key);
            sessions.extend(circuit.iter().flat_map(|c| &c.receiving).map(|s| (index, Arc::clone(s))));
            peers.push(PeerRoute {
                index,
                network: network.index,
                block4: (network.shown(peer.block.base4), 28),
                net6: (peer.block.base6, 64),
                view: network.local_view(),
                without_ipv6: peer.without_ipv6,
                transmit: circuit
                    .and_then(|circuit| circuit.transmit(paths.sizes(key).unwrap_or(Sizes::ANY))),
            });
        }
    }
    let own = |network| own_network(network, gateway.policy(networks, network));
    let own = networks.values().map(own).collect();
    Table::new(own, peers, sessions, enforce)
}

fn own_network(network: &Network, devices: Vec<DevicePolicy>) -> OwnNetwork {
    let faces = |device: DevicePolicy| {
        let [four, six] = device.way.map_or([u16::MAX; 2], |way| way.mtus);
        let ipv4 = device.ipv4.map(|ip| (IpAddr::V4(ip), four));
        ipv4.into_iter().chain([(IpAddr::V6(device.ipv6), six)])
    };
    OwnNetwork {
        index: network.index,
        range: (network.shown_range().base, network.range.prefix),
        prefix6: (network.keys.prefix6, 32),
        own4: network.own4(),
        own6: network.members.own6(),
        devices: devices.into_iter().flat_map(faces).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_scope_opens_the_node_s_own_ports() {
        let open = |rule: &str, listen| {
            let own = OwnPorts { listen, web: Some(8080), web_for: None };
            let ranges = open_ports(&rule.parse().unwrap(), own);
            ranges.iter().map(|range| (range.first, range.last)).collect::<Vec<_>>()
        };
        assert!(open("udp:7777", 7777).is_empty());
        assert_eq!(open("udp:1-65535", 7777), [(1, 7776), (7778, 65535)]);
        assert_eq!(open("udp:7777-7778", 7777), [(7778, 7778)]);
        assert_eq!(open("udp:1-65535", 65535), [(1, 65534)]);
        assert_eq!(open("udp:5353", 7777), [(5353, 5353)]);
        assert_eq!(open("tcp:7777", 7777), [(7777, 7777)], "TCP is another port");
        assert_eq!(open("tcp:8000-8100", 7777), [(8000, 8079), (8081, 8100)]);
        assert_eq!(open("udp:8080", 7777), [(8080, 8080)]);
    }
}
