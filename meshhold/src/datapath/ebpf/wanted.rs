//! What the kernel tables should hold for a policy: a pure translation.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use meshhold_common::{
    Address,
    maps::{
        CallerEntry, CallerKey, MAX_NETWORKS, MAX_PEERS, Own, PORT_WORDS, PeerEntry, Range, WITHOUT_IPV6,
        port_bit,
    },
    nat::DeviceEntry,
    packet::{TCP, UDP},
};

use super::{EbpfError, barrier::Prefix};
use crate::datapath::policy::{DevicePolicy, NetworkPolicy, PeerPolicy, Policy};

/// Bits added to an IPv4 prefix length in the common address form.
const MAPPED_BITS: u32 = 96;
/// Value of a caller address that is not assigned.
const NO_CALLER: [u8; 4] = [0; 4];

/// Bitmap of open ports.
pub(super) type Bits = Box<[u64; PORT_WORDS]>;

/// The tables, by key.
#[derive(Default, PartialEq)]
pub(super) struct Wanted {
    pub(super) own: BTreeMap<Address, Own>,
    pub(super) ranges: BTreeMap<(u32, Address), Range>,
    /// What must not leave by other interfaces.
    pub(super) barred: BTreeSet<Prefix>,
    pub(super) peers: BTreeMap<Address, PeerEntry>,
    pub(super) callers: BTreeMap<CallerKey, CallerEntry>,
    pub(super) devices: BTreeMap<Address, DeviceEntry>,
    /// Interfaces behind which there are devices, by index.
    pub(super) lans: BTreeMap<u32, String>,
    /// By network index; TCP, then UDP.
    pub(super) scopes: BTreeMap<u32, [Bits; 2]>,
}

impl Wanted {
    pub(super) fn from_policy(policy: &Policy) -> Result<Self, EbpfError> {
        let mut wanted = Self::default();
        for network in &policy.networks {
            let index = u32::from(network.index);
            if index >= MAX_NETWORKS {
                let count = policy.networks.len().max(index as usize + 1);
                return Err(EbpfError::TooMany { what: "networks", count, limit: MAX_NETWORKS });
            }
            wanted.add_network(index, network);
        }
        let count = wanted.peers.len() / 2;
        if count > MAX_PEERS as usize {
            return Err(EbpfError::TooMany { what: "peers", count, limit: MAX_PEERS });
        }
        Ok(wanted)
    }

    fn add_network(&mut self, index: u32, network: &NetworkPolicy) {
        let own = Own { network: index };
        let (base4, bits4) = network.range;
        let (base6, bits6) = network.prefix6;
        let range = Range { network: index };
        self.ranges.insert((u32::from(bits4) + MAPPED_BITS, Address::v4(base4.octets())), range);
        self.ranges.insert((u32::from(bits6), Address::v6(base6.octets())), range);
        self.barred.insert((u32::from(bits6), Address::v6(base6.octets())));
        // A range that couldn't be had is somebody else's here.
        if network.own4.is_some() {
            self.barred.insert((u32::from(bits4) + MAPPED_BITS, Address::v4(base4.octets())));
        }
        let mark = if network.without_ipv6 { WITHOUT_IPV6 } else { 0 };
        self.own.insert(Address::v6(network.own6.octets()), Own { network: index | mark });
        if let Some(own4) = network.own4 {
            self.own.insert(Address::v4(own4.octets()), own);
        }
        for peer in &network.peers {
            self.add_peer(index, network, peer);
        }
        network.devices.iter().for_each(|device| self.add_device(index, device));
        self.scopes.insert(index, [port_bits(network, TCP), port_bits(network, UDP)]);
    }

    fn add_device(&mut self, network: u32, device: &DevicePolicy) {
        if let Some(way) = &device.way {
            self.lans.insert(way.interface, way.name.clone());
        }
        let faces = [device.ipv4.map(IpAddr::V4), Some(IpAddr::V6(device.ipv6))];
        for (at, address) in faces.into_iter().enumerate() {
            let Some(address) = address else { continue };
            let way = device.way.as_ref();
            let entry = DeviceEntry {
                target: common(device.target),
                source: way.map(|way| common(way.source)).unwrap_or_default(),
                network,
                interface: way.map_or(0, |way| way.interface),
                segment: way.and_then(|way| way.segments.get(at)).copied().unwrap_or_default(),
            };
            self.devices.insert(common(address), entry);
        }
    }

    fn add_peer(&mut self, index: u32, network: &NetworkPolicy, peer: &PeerPolicy) {
        let own4 = network.own4.map(|own| Address::v4(own.octets()));
        let own6 = Some(Address::v6(network.own6.octets()));
        let faces = [
            (Address::v4(peer.ipv4.octets()), own4, peer.caller4.octets()),
            (Address::v6(peer.ipv6.octets()), own6, peer.caller6.octets()),
        ];
        for (address, own, caller) in faces {
            self.peers.insert(address, PeerEntry { index: peer.index, network: index, caller });
            if let (Some(own), true) = (own, caller != NO_CALLER) {
                let entry = CallerEntry { peer: address, own, network: index };
                self.callers.insert(CallerKey { octets: caller }, entry);
            }
        }
    }
}

/// Either family in the common form.
fn common(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(ip) => Address::v4(ip.octets()),
        IpAddr::V6(ip) => Address::v6(ip.octets()),
    }
}

fn port_bits(network: &NetworkPolicy, protocol: u8) -> Bits {
    let mut bits = Box::new([0; PORT_WORDS]);
    for range in network.scope.iter().filter(|range| range.protocol == protocol) {
        for port in range.first..=range.last {
            let (word, bit) = port_bit(port);
            if let Some(word) = bits.get_mut(word) {
                *word |= bit;
            }
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::datapath::policy::PortRange;

    fn network() -> NetworkPolicy {
        NetworkPolicy {
            index: 3,
            range: (Ipv4Addr::new(198, 18, 0, 0), 18),
            prefix6: ("fd12:1::".parse().unwrap(), 32),
            own4: None,
            own6: "fd12:1::1".parse().unwrap(),
            without_ipv6: false,
            scope: vec![
                PortRange { protocol: TCP, first: 65_535, last: 65_535 },
                PortRange { protocol: TCP, first: 60, last: 70 },
            ],
            peers: vec![PeerPolicy {
                index: 9,
                ipv4: Ipv4Addr::new(198, 18, 0, 17),
                ipv6: "fd12:1::2".parse::<Ipv6Addr>().unwrap(),
                caller4: Ipv4Addr::new(127, 64, 0, 1),
                caller6: Ipv4Addr::new(127, 96, 0, 1),
            }],
            devices: Vec::new(),
        }
    }

    #[test]
    fn ports_reach_their_own_bits_only() {
        let wanted = Wanted::from_policy(&Policy { networks: vec![network()] }).unwrap();
        let [tcp, udp] = &wanted.scopes[&3];
        let open: Vec<u16> =
            (0..=u16::MAX).filter(|port| tcp[port_bit(*port).0] & port_bit(*port).1 != 0).collect();
        assert_eq!(open, (60..=70).chain([65_535]).collect::<Vec<u16>>());
        assert!(udp.iter().all(|word| *word == 0));
    }

    #[test]
    fn without_an_own_ipv4_address_no_caller_leads_to_ipv4() {
        let wanted = Wanted::from_policy(&Policy { networks: vec![network()] }).unwrap();
        assert_eq!(wanted.own.len(), 1);
        assert!(wanted.callers.values().all(|caller| !caller.peer.is_v4()));
        assert_eq!(wanted.callers.len(), 1);
    }

    #[test]
    fn more_networks_than_the_tables_hold_are_refused() {
        let network = NetworkPolicy { index: MAX_NETWORKS as u16, ..network() };
        assert!(matches!(
            Wanted::from_policy(&Policy { networks: vec![network] }),
            Err(EbpfError::TooMany { what: "networks", .. })
        ));
    }
}
