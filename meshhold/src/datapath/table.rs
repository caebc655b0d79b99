//! The immutable picture that workers route by: own networks, peers and their sessions. All addresses are those that
//! this host sees; where members write others, the peer has a local view.
//!
//! Owns the address index. Replaced whole, never changed; must not know how packets are sealed or sent.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use meshhold_core::path::{Path, Sizes};
use meshhold_core::session::Session;

use super::policy::Policy;
use super::relay::{Hop, Leg};
use super::renumber::LocalView;

/// Prefix length of an IPv4 block's index entry: blocks are made of /28s.
const SLICE4: u8 = 28;
/// Most /28 slices that one peer's block may span; more than any real block.
const MAX_SLICES: u32 = 256;

/// One network of this node.
#[derive(Clone, Debug)]
pub struct OwnNetwork {
    /// Small number of the network on this node, as in [`Policy`].
    pub index: u16,
    /// IPv4 range: base address and prefix length.
    pub range: (Ipv4Addr, u8),
    /// IPv6 prefix and its length.
    pub prefix6: (Ipv6Addr, u8),
    /// Own IPv4 address; `None` while the range is unusable here.
    pub own4: Option<Ipv4Addr>,
    /// Own IPv6 address.
    pub own6: Ipv6Addr,
    /// Addresses of LAN devices that this node forwards, with the largest packets that reach them, in bytes.
    pub devices: Vec<(IpAddr, u16)>,
}

/// How packets to one peer are sealed and where they go.
#[derive(Clone, Debug)]
pub struct TransmitPath {
    /// Session to seal with.
    pub session: Arc<Session>,
    /// Where its datagrams go.
    pub path: Path,
    /// Which inner packets the path carries.
    pub sizes: Sizes,
}

/// One peer: what it owns and how to reach it.
#[derive(Clone, Debug)]
pub struct PeerRoute {
    /// Number of the peer on this node, unique over all networks.
    pub index: u32,
    /// [`OwnNetwork::index`] of the network it is a member of.
    pub network: u16,
    /// IPv4 block: base address and prefix length.
    pub block4: (Ipv4Addr, u8),
    /// IPv6 net: base address and prefix length.
    pub net6: (Ipv6Addr, u8),
    /// `Some` where members write other IPv4 addresses than this host.
    pub view: Option<LocalView>,
    /// Its mesh interface has no IPv6: see [`Self::is_deaf`].
    pub without_ipv6: bool,
    /// `None` while no session may be sent on.
    pub transmit: Option<TransmitPath>,
}

/// Who owns an address.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    /// This peer.
    Peer(&'a PeerRoute),
    /// Nobody, though a network's range holds it.
    Nobody,
    /// It is in no network.
    Outside,
}

/// Everything a worker needs to route, seal and open.
#[derive(Debug, Default)]
pub struct Table {
    /// Own networks.
    pub networks: Vec<OwnNetwork>,
    /// Peers, by ascending index.
    pub peers: Vec<PeerRoute>,
    /// Sessions that may be received on: peer index and session.
    pub sessions: Vec<(u32, Arc<Session>)>,
    /// `Some` where the workers enforce it, because no eBPF program does.
    pub policy: Option<Arc<Policy>>,
    /// By which labels others reach this node, and the paths back to them.
    pub doors: HashMap<Hop, Path>,
    /// What this node relays and no kernel program does.
    pub legs: Vec<Leg>,
    /// /28 number and position in `peers`, sorted.
    slices4: Vec<(u32, usize)>,
    /// Upper 64 bits and position in `peers`, sorted.
    nets6: Vec<(u64, usize)>,
}

impl Table {
    /// Builds the index over what is given.
    pub fn new(
        networks: Vec<OwnNetwork>,
        mut peers: Vec<PeerRoute>,
        sessions: Vec<(u32, Arc<Session>)>,
        policy: Option<Arc<Policy>>,
    ) -> Self {
        peers.sort_by_key(|peer| peer.index);
        let mut slices4: Vec<_> = peers
            .iter()
            .enumerate()
            .flat_map(|(at, peer)| slices(peer.block4).map(move |slice| (slice, at)))
            .collect();
        let mut nets6: Vec<_> = peers.iter().enumerate().map(|(at, peer)| (upper(peer.net6.0), at)).collect();
        slices4.sort_unstable();
        nets6.sort_unstable();
        Self { networks, peers, sessions, policy, slices4, nets6, ..Self::default() }
    }

    /// Who owns `address`. Where two peers claim it, the one with the lower index.
    pub fn owner(&self, address: IpAddr) -> Owner<'_> {
        let found = match address {
            IpAddr::V4(ip) => find(&self.slices4, slice(ip)),
            IpAddr::V6(ip) => find(&self.nets6, upper(ip)),
        };
        match found.and_then(|at| self.peers.get(at)) {
            Some(peer) if peer.owns(address) => Owner::Peer(peer),
            _ if self.networks.iter().any(|network| network.holds(address)) => Owner::Nobody,
            _ => Owner::Outside,
        }
    }

    /// The peer with this index.
    pub fn peer(&self, index: u32) -> Option<&PeerRoute> {
        let at = self.peers.binary_search_by_key(&index, |peer| peer.index).ok()?;
        self.peers.get(at)
    }

    /// The network with this index.
    pub fn network(&self, index: u16) -> Option<&OwnNetwork> {
        self.networks.iter().find(|network| network.index == index)
    }

    /// Whether this node forwards LAN devices.
    pub fn has_devices(&self) -> bool {
        self.networks.iter().any(|network| !network.devices.is_empty())
    }

    /// The largest packet that reaches the LAN device of ours at `address`, in bytes; `None` where it is none.
    pub fn device_mtu(&self, index: u16, address: IpAddr) -> Option<u16> {
        self.network(index)?.device_mtu(address)
    }

    /// Whether `address` is this node's own, or that of a LAN device of ours, in network `index`.
    pub fn is_own(&self, index: u16, address: IpAddr) -> bool {
        self.network(index).is_some_and(|network| network.is_own(address))
    }
}

impl OwnNetwork {
    fn is_own(&self, address: IpAddr) -> bool {
        let own = match address {
            IpAddr::V4(ip) => self.own4 == Some(ip),
            IpAddr::V6(ip) => self.own6 == ip,
        };
        own || self.device_mtu(address).is_some()
    }

    fn device_mtu(&self, address: IpAddr) -> Option<u16> {
        self.devices.iter().find(|(device, _)| *device == address).map(|(_, mtu)| *mtu)
    }

    fn holds(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(ip) => holds4(self.range, ip),
            IpAddr::V6(ip) => holds6(self.prefix6, ip),
        }
    }
}

impl PeerRoute {
    /// Whether nobody answers pings there: the address is the peer's own, of a family that it doesn't have. (TCP and UDP it
    /// translates.)
    pub fn is_deaf(&self, address: IpAddr) -> bool {
        self.without_ipv6 && address == IpAddr::V6(Ipv6Addr::from_bits(self.net6.0.to_bits() | 1))
    }

    /// Whether `address` lies in this peer's blocks: the test for a spoofed source.
    pub fn owns(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(ip) => holds4(self.block4, ip),
            IpAddr::V6(ip) => holds6(self.net6, ip),
        }
    }
}

fn find<K: Ord + Copy>(index: &[(K, usize)], key: K) -> Option<usize> {
    let at = index.partition_point(|entry| entry.0 < key);
    index.get(at).filter(|entry| entry.0 == key).map(|entry| entry.1)
}

fn slice(ip: Ipv4Addr) -> u32 {
    ip.to_bits() >> (32 - SLICE4)
}

fn slices((base, prefix): (Ipv4Addr, u8)) -> impl Iterator<Item = u32> {
    let count = 1u32.checked_shl(u32::from(SLICE4.saturating_sub(prefix))).unwrap_or(MAX_SLICES);
    (0..count.min(MAX_SLICES)).map(move |n| slice(base).saturating_add(n))
}

fn upper(ip: Ipv6Addr) -> u64 {
    (ip.to_bits() >> 64) as u64
}

fn holds4((base, prefix): (Ipv4Addr, u8), ip: Ipv4Addr) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    base.to_bits() & mask == ip.to_bits() & mask
}

fn holds6((base, prefix): (Ipv6Addr, u8), ip: Ipv6Addr) -> bool {
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
    base.to_bits() & mask == ip.to_bits() & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(index: u32, block4: &str, prefix: u8, net6: &str) -> PeerRoute {
        let (block4, net6) = ((block4.parse().unwrap(), prefix), (net6.parse().unwrap(), 64));
        PeerRoute { index, network: 0, block4, net6, view: None, without_ipv6: false, transmit: None }
    }

    fn table() -> Table {
        let network = OwnNetwork {
            index: 0,
            range: ("198.18.0.0".parse().unwrap(), 18),
            prefix6: ("fd12:1234::".parse().unwrap(), 32),
            own4: Some("198.18.0.17".parse().unwrap()),
            own6: "fd12:1234:0:1::1".parse().unwrap(),
            devices: vec![("198.18.0.18".parse().unwrap(), 1280)],
        };
        let peers = vec![
            peer(9, "198.18.4.0", 26, "fd12:1234:0:9::"),
            peer(3, "198.18.1.16", 28, "fd12:1234:0:3::"),
            peer(5, "198.18.1.32", 30, "fd12:1234:0:5::"),
        ];
        Table::new(vec![network], peers, vec![], None)
    }

    #[test]
    fn every_address_has_the_owner_of_its_block() {
        let cases = [
            ("198.18.1.15", "nobody"),
            ("198.18.1.16", "3"),
            ("198.18.1.31", "3"),
            ("198.18.1.33", "5"),
            ("198.18.1.36", "nobody"),
            ("198.18.4.0", "9"),
            ("198.18.4.63", "9"),
            ("198.18.4.64", "nobody"),
            ("198.18.64.0", "outside"),
            ("192.0.2.1", "outside"),
            ("fd12:1234:0:3::1", "3"),
            ("fd12:1234:0:3:ffff::", "3"),
            ("fd12:1234:0:4::1", "nobody"),
            ("fd12:1235:0:3::1", "outside"),
        ];
        let table = table();
        for (address, want) in cases {
            let got = match table.owner(address.parse().unwrap()) {
                Owner::Peer(peer) => peer.index.to_string(),
                Owner::Nobody => "nobody".into(),
                Owner::Outside => "outside".into(),
            };
            assert_eq!(got, want, "{address}");
        }
    }

    #[test]
    fn peers_and_own_addresses_are_found() {
        let table = table();
        assert!(table.peer(3).is_some() && table.peer(4).is_none());
        assert!(table.is_own(0, "198.18.0.17".parse().unwrap()));
        assert!(table.is_own(0, "fd12:1234:0:1::1".parse().unwrap()));
        assert!(table.is_own(0, "198.18.0.18".parse().unwrap()), "a device of ours");
        assert!(!table.is_own(0, "198.18.0.19".parse().unwrap()));
        assert!(!table.is_own(1, "198.18.0.17".parse().unwrap()));
    }
}
