//! Enforcement in the workers, where no eBPF program does it: the shared classifier over plain collections.
//!
//! Owns the tables behind [`Host`]. Decides nothing itself. There is no loopback delivery here: services must listen
//! on the mesh address or on all addresses.

mod memory;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use meshhold_common::classify::Caller;
use meshhold_common::maps::{FLOW_SECONDS, FlowKey, MAX_FLOWS, MAX_FRAGMENTS, RETIRED_SECONDS};
use meshhold_common::packet::TCP;
use meshhold_common::{
    Address, Delivery, Host, Packet, Peer, Reason, Renewal, classify_egress, classify_ingress,
};

use self::memory::Memory;
use super::policy::{NetworkPolicy, Policy, PortRange};

/// Seconds that the fragments of one datagram have to arrive, Linux' default (`ipfrag_time`).
const FRAGMENT_SECONDS: u32 = 30;

/// Flows and fragments under way; shared by the workers and kept over policy changes.
#[derive(Debug)]
pub struct State {
    flows: Memory,
    fragments: Memory,
}

impl Default for State {
    fn default() -> Self {
        Self { flows: Memory::new(MAX_FLOWS as usize), fragments: Memory::new(MAX_FRAGMENTS as usize) }
    }
}

/// One [`Policy`], indexed for the classifier.
#[derive(Debug)]
pub struct Rules {
    policy: Arc<Policy>,
    own: HashMap<Address, u32>,
    peers: HashMap<Address, u32>,
    /// Port ranges that were open before, by network, and until when they count as retired.
    retired: Vec<(u32, PortRange, u32)>,
    state: Arc<State>,
}

impl Rules {
    /// Indexes `policy` at second `now`. `before` are the rules that it replaces.
    pub fn new(policy: Arc<Policy>, before: Option<&Self>, now: u32) -> Self {
        let mut own = HashMap::new();
        let mut peers = HashMap::new();
        for network in &policy.networks {
            let index = u32::from(network.index);
            own.extend(network.own4.map(|ip| (address(ip.into()), index)));
            own.insert(address(network.own6.into()), index);
            for peer in &network.peers {
                peers.insert(address(peer.ipv4.into()), index);
                peers.insert(address(peer.ipv6.into()), index);
            }
        }
        let state = before.map_or_else(Arc::default, |rules| rules.state.clone());
        let retired = before.map(|rules| rules.retire(now)).unwrap_or_default();
        Self { policy, own, peers, retired, state }
    }

    /// Whether these are the rules of this very policy.
    pub fn enforces(&self, policy: &Arc<Policy>) -> bool {
        Arc::ptr_eq(&self.policy, policy)
    }

    /// Verdict over a packet from the mesh, at second `now` of any steady clock.
    pub fn ingress(&self, packet: &[u8], now: u32) -> Reason {
        classify_ingress(&packet, &mut View { rules: self, now }, &mut Packet::default()).reason
    }

    /// Verdict over a packet from this node.
    pub fn egress(&self, packet: &[u8], now: u32) -> Reason {
        classify_egress(&packet, &mut View { rules: self, now }, &mut Packet::default()).reason
    }

    /// What was open in these rules, for the ones that follow.
    fn retire(&self, now: u32) -> Vec<(u32, PortRange, u32)> {
        let open = self.policy.networks.iter().flat_map(|network| {
            network.scope.iter().map(move |range| (u32::from(network.index), *range, now + RETIRED_SECONDS))
        });
        let mut retired: Vec<_> = open.collect();
        for old in self.retired.iter().filter(|(_, _, until)| *until > now) {
            if !retired.iter().any(|(network, range, _)| (*network, *range) == (old.0, old.1)) {
                retired.push(*old);
            }
        }
        retired
    }

    fn network(&self, index: u32) -> Option<&NetworkPolicy> {
        self.policy.networks.iter().find(|network| u32::from(network.index) == index)
    }
}

/// The classifier's view of the rules at one moment.
struct View<'a> {
    rules: &'a Rules,
    now: u32,
}

impl Host for View<'_> {
    fn own(&mut self, address: &Address) -> Option<u32> {
        self.rules.own.get(address).copied()
    }

    fn range(&mut self, address: &Address) -> Option<u32> {
        let holds = |network: &&NetworkPolicy| in_range(network, address);
        self.rules.policy.networks.iter().find(holds).map(|network| u32::from(network.index))
    }

    fn peer(&mut self, address: &Address) -> Option<Peer> {
        self.rules.peers.get(address).map(|network| Peer { network: *network, caller: [0; 4] })
    }

    fn caller(&mut self, _: [u8; 4]) -> Option<Caller> {
        None
    }

    fn is_open(&mut self, network: u32, protocol: u8, port: u16) -> bool {
        let network = self.rules.network(network);
        network.is_some_and(|network| network.scope.iter().any(|range| covers(range, protocol, port)))
    }

    fn is_retired(&mut self, network: u32, protocol: u8, port: u16) -> bool {
        self.rules.retired.iter().any(|(index, range, until)| {
            *index == network && *until > self.now && covers(range, protocol, port)
        })
    }

    fn flow(&mut self, key: &FlowKey, renewal: Renewal) -> bool {
        let lifetime = if key.protocol == TCP { u32::MAX } else { FLOW_SECONDS };
        self.rules.state.flows.find(key, self.now, lifetime, renewal)
    }

    fn open_flow(&mut self, key: &FlowKey) {
        self.rules.state.flows.keep(key, self.now);
    }

    fn fragment(&mut self, packet: &Packet) -> Option<Delivery> {
        let key = packet.fragment_key();
        let known = self.rules.state.fragments.find(&key, self.now, FRAGMENT_SECONDS, Renewal::No);
        known.then_some(Delivery::Native)
    }

    fn keep_fragment(&mut self, packet: &Packet, _: Delivery) {
        self.rules.state.fragments.keep(&packet.fragment_key(), self.now);
    }

    fn delivery(&mut self, _: &Packet, _: &Peer) -> Delivery {
        Delivery::Native
    }
}

fn covers(range: &PortRange, protocol: u8, port: u16) -> bool {
    range.protocol == protocol && (range.first..=range.last).contains(&port)
}

fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => Address::v4(ip.octets()),
        IpAddr::V6(ip) => Address::v6(ip.octets()),
    }
}

fn in_range(network: &NetworkPolicy, address: &Address) -> bool {
    if address.is_v4() {
        let (base, prefix) = network.range;
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        return Ipv4Addr::from(address.octets4()).to_bits() & mask == base.to_bits() & mask;
    }
    let (base, prefix) = network.prefix6;
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
    Ipv6Addr::from(address.bytes).to_bits() & mask == base.to_bits() & mask
}

#[cfg(test)]
mod tests;
