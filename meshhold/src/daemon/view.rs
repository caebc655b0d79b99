//! What the packet path must hold, computed whole from what the daemon knows.
//!
//! Owns the translation of memberships and circuits into [`Policy`] and [`Table`], both in the addresses that this host
//! sees. Must not know how either is applied.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use meshhold_core::scope::{PortRule, Protocol};
use meshhold_core::session::Session;

use super::callers::{Callers, PeerKey, caller4, caller6};
use super::network::Network;
use crate::datapath::policy::{NetworkPolicy, PeerPolicy, Policy, PortRange};
use crate::datapath::table::{OwnNetwork, PeerRoute, Table, TransmitPath};

/// The sessions of one peer's circuit.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// All that may still receive, oldest first.
    pub(super) receiving: Vec<Arc<Session>>,
    /// Local index of the one that sends.
    pub(super) sending: Option<u32>,
    /// Where its datagrams go.
    pub(super) remote: Option<SocketAddr>,
}

impl Sessions {
    fn transmit(&self) -> Option<TransmitPath> {
        let sending = self.sending?;
        let session = self.receiving.iter().find(|s| s.local_index == sending)?;
        Some(TransmitPath { session: Arc::clone(session), remote: self.remote? })
    }
}

/// The policy of all networks. `listen` is this node's own UDP port: no scope opens it.
pub(super) fn policy(networks: &BTreeMap<u16, Network>, callers: &mut Callers, listen: u16) -> Policy {
    Policy { networks: networks.values().map(|network| network_policy(network, callers, listen)).collect() }
}

fn network_policy(network: &Network, callers: &mut Callers, listen: u16) -> NetworkPolicy {
    let peers = network.members.peers().filter_map(|peer| {
        let index = callers.number((network.id, peer.node))?;
        Some(PeerPolicy {
            index,
            ipv4: network.shown(peer.ipv4),
            ipv6: peer.ipv6,
            caller4: caller4(index),
            caller6: caller6(index),
        })
    });
    NetworkPolicy {
        index: network.index,
        range: (network.shown_range().base, network.range.prefix),
        prefix6: (network.keys.prefix6, 32),
        own4: network.own4(),
        own6: network.members.own6(),
        peers: peers.collect(),
        scope: network.scope.rules().iter().flat_map(|rule| open_ports(rule, listen)).collect(),
    }
}

/// The ports of a rule, less the UDP port that carries the mesh itself: a mesh inside the mesh would go in circles,
/// and the node's own management is nobody's service.
fn open_ports(rule: &PortRule, listen: u16) -> Vec<PortRange> {
    let protocol = rule.protocol.number();
    let range = |first, last| PortRange { protocol, first, last };
    if rule.protocol != Protocol::Udp || !(rule.first..=rule.last).contains(&listen) {
        return vec![range(rule.first, rule.last)];
    }
    let below = (rule.first < listen).then(|| range(rule.first, listen - 1));
    let above = (rule.last > listen).then(|| range(listen + 1, rule.last));
    below.into_iter().chain(above).collect()
}

/// The routing table of the workers. `enforce` is set where they enforce the policy themselves.
pub(super) fn table(
    networks: &BTreeMap<u16, Network>,
    callers: &mut Callers,
    circuits: &BTreeMap<PeerKey, Sessions>,
    enforce: Option<Arc<Policy>>,
) -> Table {
    let mut peers = Vec::new();
    let mut sessions = Vec::new();
    for network in networks.values() {
        for peer in network.members.peers() {
            let key = (network.id, peer.node);
            let Some(index) = callers.number(key) else { continue };
            let circuit = circuits.get(&key);
            sessions.extend(circuit.iter().flat_map(|c| &c.receiving).map(|s| (index, Arc::clone(s))));
            peers.push(PeerRoute {
                index,
                network: network.index,
                block4: (network.shown(peer.block.base4), 28),
                net6: (peer.block.base6, 64),
                view: network.local_view(),
                transmit: circuit.and_then(Sessions::transmit),
            });
        }
    }
    Table::new(networks.values().map(own_network).collect(), peers, sessions, enforce)
}

fn own_network(network: &Network) -> OwnNetwork {
    OwnNetwork {
        index: network.index,
        range: (network.shown_range().base, network.range.prefix),
        prefix6: (network.keys.prefix6, 32),
        own4: network.own4(),
        own6: network.members.own6(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_scope_opens_the_node_s_own_udp_port() {
        let open = |rule: &str, listen| {
            let ranges = open_ports(&rule.parse().unwrap(), listen);
            ranges.iter().map(|range| (range.first, range.last)).collect::<Vec<_>>()
        };
        assert!(open("udp:7777", 7777).is_empty());
        assert_eq!(open("udp:1-65535", 7777), [(1, 7776), (7778, 65535)]);
        assert_eq!(open("udp:7777-7778", 7777), [(7778, 7778)]);
        assert_eq!(open("udp:1-65535", 65535), [(1, 65534)]);
        assert_eq!(open("udp:5353", 7777), [(5353, 5353)]);
        assert_eq!(open("tcp:7777", 7777), [(7777, 7777)], "only UDP is the node's own");
    }
}
