//! The classifier's tables in memory: the other host of the same source.

use std::collections::{BTreeMap, BTreeSet};

use meshhold::datapath::{
    ebpf::Program,
    policy::{NetworkPolicy, Policy},
};
use meshhold_common::{
    Action, Address, Delivery, Host, Packet, Peer, Place, Reason, Renewal, Stamp,
    classify::Caller,
    classify_egress, classify_ingress,
    maps::{CACHE_BITS, FlowKey, FragmentKey},
};

/// Tables of a policy, with no socket listening anywhere and no flow ageing.
pub(crate) struct Memory {
    policy: Policy,
    flows: BTreeSet<FlowKey>,
    fragments: BTreeMap<FragmentKey, Delivery>,
    lookups: Lookups,
    /// Empty where decisions aren't kept.
    places: Vec<Place>,
}

#[derive(Default)]
struct Lookups {
    own: BTreeMap<Address, u32>,
    peers: BTreeMap<Address, (u32, [u8; 4])>,
    callers: BTreeMap<[u8; 4], (Address, Address, u32)>,
}

impl Memory {
    pub(crate) fn new(policy: &Policy) -> Self {
        let mut lookups = Lookups::default();
        for network in &policy.networks {
            lookups.add(network);
        }
        Self {
            policy: policy.clone(),
            flows: BTreeSet::new(),
            fragments: BTreeMap::new(),
            lookups,
            places: Vec::new(),
        }
    }

    /// Keeps decisions, for ever.
    pub(crate) fn keeping(self) -> Self {
        Self { places: vec![Place::default(); 1 << CACHE_BITS], ..self }
    }

    /// How many are kept.
    pub(crate) fn kept(&self) -> usize {
        self.places.iter().filter(|place| **place != Place::default()).count()
    }

    pub(crate) fn run(&mut self, program: Program, packet: &[u8]) -> (Reason, Action) {
        match program {
            Program::Egress => self.egress(packet),
            _ => self.ingress(packet),
        }
    }

    pub(crate) fn ingress(&mut self, packet: &[u8]) -> (Reason, Action) {
        let verdict = classify_ingress(&packet, self, &mut Packet::default());
        (verdict.reason, verdict.action)
    }

    pub(crate) fn egress(&mut self, packet: &[u8]) -> (Reason, Action) {
        let verdict = classify_egress(&packet, self, &mut Packet::default());
        (verdict.reason, verdict.action)
    }
}

impl Lookups {
    fn add(&mut self, network: &NetworkPolicy) {
        let index = u32::from(network.index);
        let own4 = Address::v4(network.own4.unwrap().octets());
        let own6 = Address::v6(network.own6.octets());
        self.own.extend([(own4, index), (own6, index)]);
        for peer in &network.peers {
            let (four, six) = (Address::v4(peer.ipv4.octets()), Address::v6(peer.ipv6.octets()));
            let (caller4, caller6) = (peer.caller4.octets(), peer.caller6.octets());
            self.peers.extend([(four, (index, caller4)), (six, (index, caller6))]);
            self.callers.extend([(caller4, (four, own4, index)), (caller6, (six, own6, index))]);
        }
    }
}

fn holds(prefix: &[u8], bits: u8, address: &[u8]) -> bool {
    (0..usize::from(bits)).all(|bit| (prefix[bit / 8] ^ address[bit / 8]) & (0x80 >> (bit % 8)) == 0)
}

impl Host for Memory {
    fn own(&mut self, address: &Address) -> Option<u32> {
        self.lookups.own.get(address).copied()
    }

    fn range(&mut self, address: &Address) -> Option<u32> {
        let hit = self.policy.networks.iter().find(|network| {
            let (base4, bits4) = network.range;
            let (base6, bits6) = network.prefix6;
            if address.is_v4() {
                holds(&base4.octets(), bits4, &address.octets4())
            } else {
                holds(&base6.octets(), bits6, &address.bytes)
            }
        });
        hit.map(|network| u32::from(network.index))
    }

    fn peer(&mut self, address: &Address) -> Option<Peer> {
        self.lookups.peers.get(address).map(|(network, caller)| Peer { network: *network, caller: *caller })
    }

    fn caller(&mut self, address: [u8; 4]) -> Option<Caller> {
        let (peer, own, network) = *self.lookups.callers.get(&address)?;
        Some(Caller { peer, own, network })
    }

    fn is_open(&mut self, network: u32, protocol: u8, port: u16) -> bool {
        let network = self.policy.networks.iter().find(|known| u32::from(known.index) == network);
        network.is_some_and(|network| {
            network
                .scope
                .iter()
                .any(|range| range.protocol == protocol && (range.first..=range.last).contains(&port))
        })
    }

    fn is_retired(&mut self, _: u32, _: u8, _: u16) -> bool {
        false
    }

    fn flow(&mut self, key: &FlowKey, _: Renewal) -> bool {
        self.flows.contains(key)
    }

    fn open_flow(&mut self, key: &FlowKey) {
        self.flows.insert(*key);
    }

    fn fragment(&mut self, packet: &Packet) -> Option<Delivery> {
        self.fragments.get(&packet.fragment_key()).copied()
    }

    fn keep_fragment(&mut self, packet: &Packet, delivery: Delivery) {
        self.fragments.insert(packet.fragment_key(), delivery);
    }

    fn stamp(&mut self) -> Stamp {
        Stamp { policy: 1, tick: 1 }
    }

    fn place(&mut self, index: u32) -> Option<&mut Place> {
        self.places.get_mut(index as usize)
    }

    fn delivery(&mut self, packet: &Packet, _peer: &Peer) -> Delivery {
        if packet.is_plain() || packet.version == 4 { Delivery::Loopback } else { Delivery::Native }
    }
}
