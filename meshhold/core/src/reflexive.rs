//! Where others see this node, and what that says about the NAT in between (RFC 4787 section 4).
//!
//! Owns the reports of the links' far ends. One of them may lie or share our side of the NAT, so an address counts for the
//! world only when two agree. Must not know how reports come.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use crate::identity::NodeId;
use crate::path::{Mapping, is_usable};

/// Most reports that are kept.
const MAX_REPORTS: usize = 64;

/// What stands between this node and the Internet, as far as IPv4 shows, or else IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nat {
    /// Fewer than two nodes have told.
    Unknown,
    /// Others see an address of this host.
    None,
    /// All see the same other address: endpoint-independent mapping.
    Cone,
    /// Each sees another port or address: no one can be told where to send to.
    Symmetric,
}

/// What the far ends of our links see.
#[derive(Debug, Default)]
pub struct Reflexive(BTreeMap<NodeId, SocketAddr>);

impl Reflexive {
    /// `from` sees us at `address`.
    pub fn report(&mut self, from: NodeId, address: SocketAddr) {
        let known = self.0.contains_key(&from) || self.0.len() < MAX_REPORTS;
        if known && is_usable(&address) {
            self.0.insert(from, address);
        }
    }

    /// The link to `from` is gone.
    pub fn gone(&mut self, from: NodeId) {
        self.0.remove(&from);
    }

    /// Every address that somebody sees, the most often seen first.
    pub fn all(&self) -> Vec<SocketAddr> {
        let mut counts: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        self.0.values().for_each(|address| *counts.entry(*address).or_default() += 1);
        let mut all: Vec<_> = counts.into_iter().collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all.into_iter().map(|(address, _)| address).collect()
    }

    /// The addresses that two or more see.
    pub fn agreed(&self) -> Vec<SocketAddr> {
        let seen = |address: &SocketAddr| self.0.values().filter(|other| *other == address).count();
        self.all().into_iter().filter(|address| seen(address) > 1).collect()
    }

    /// How IPv4 datagrams of the shared port are mapped, as far as two agree. Who is on our side of the NAT doesn't count.
    pub fn mapping(&self, own: &[IpAddr]) -> Mapping {
        let ipv4 = |address: &SocketAddr| match address {
            SocketAddr::V4(address) => Some(*address),
            SocketAddr::V6(_) => None,
        };
        let seen: Vec<SocketAddrV4> = self.0.values().filter_map(ipv4).collect();
        let outside = |address: &&SocketAddrV4| !own.contains(&IpAddr::V4(*address.ip()));
        let mapped: Vec<&SocketAddrV4> = seen.iter().filter(outside).collect();
        let mapped = if mapped.is_empty() { seen.iter().collect() } else { mapped };
        let Some((first, others)) = mapped.split_first().filter(|(_, others)| !others.is_empty()) else {
            return Mapping::Unknown;
        };
        if others.iter().all(|other| other == first) {
            Mapping::Stable(**first)
        } else if others.iter().all(|other| other.ip() == first.ip()) {
            Mapping::Drawn(*first.ip())
        } else {
            Mapping::Unknown
        }
    }

    /// The kind of NAT, given this host's own addresses.
    pub fn nat(&self, own: &[IpAddr]) -> Nat {
        let of = |ipv4: bool| self.0.values().filter(move |address| address.is_ipv4() == ipv4);
        let family = [true, false].into_iter().find(|ipv4| of(*ipv4).count() > 1);
        let Some(ipv4) = family else { return Nat::Unknown };
        let Some(first) = of(ipv4).next() else { return Nat::Unknown };
        if of(ipv4).all(|address| own.contains(&address.ip())) {
            Nat::None
        } else if of(ipv4).all(|address| address == first) {
            Nat::Cone
        } else {
            Nat::Symmetric
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reflexive(seen: &[&str]) -> Reflexive {
        let mut reflexive = Reflexive::default();
        for (number, address) in (0u8..).zip(seen) {
            reflexive.report(NodeId([number; 32]), address.parse().unwrap());
        }
        reflexive
    }

    #[test]
    fn the_kind_of_nat_follows_from_what_two_see() {
        let own: Vec<IpAddr> = vec!["192.168.1.2".parse().unwrap(), "2001:db8::2".parse().unwrap()];
        for (seen, nat) in [
            (&["198.51.100.1:40000"][..], Nat::Unknown),
            (&["198.51.100.1:40000", "[2001:db8::2]:7777"], Nat::Unknown),
            (&["192.168.1.2:7777", "192.168.1.2:7777"], Nat::None),
            (&["198.51.100.1:40000", "198.51.100.1:40000"], Nat::Cone),
            (&["198.51.100.1:40000", "198.51.100.1:40001"], Nat::Symmetric),
            (&["198.51.100.1:40000", "198.51.100.1:40000", "198.51.100.2:40000"], Nat::Symmetric),
            (&["[2001:db8::2]:7777", "[2001:db8::2]:7777"], Nat::None),
        ] {
            assert_eq!(reflexive(seen).nat(&own), nat, "{seen:?}");
        }
    }

    #[test]
    fn a_mapping_is_what_two_outside_agree_on() {
        let own: Vec<IpAddr> = vec!["192.168.1.2".parse().unwrap()];
        let stable = Mapping::Stable("198.51.100.1:40000".parse().unwrap());
        let drawn = Mapping::Drawn("198.51.100.1".parse().unwrap());
        for (seen, mapping) in [
            (&["198.51.100.1:40000"][..], Mapping::Unknown),
            (&["198.51.100.1:40000", "198.51.100.1:40000"], stable),
            (&["198.51.100.1:40000", "192.168.1.2:7777", "198.51.100.1:40000"], stable),
            (&["198.51.100.1:40000", "192.168.1.2:7777"], Mapping::Unknown),
            (&["198.51.100.1:40000", "198.51.100.1:40001"], drawn),
            (&["198.51.100.1:40000", "198.51.100.2:40000"], Mapping::Unknown),
            (&["[2001:db8::2]:7777", "[2001:db8::2]:7777"], Mapping::Unknown),
            (&["192.168.1.2:7777", "192.168.1.2:7777"], Mapping::Stable("192.168.1.2:7777".parse().unwrap())),
        ] {
            assert_eq!(reflexive(seen).mapping(&own), mapping, "{seen:?}");
        }
    }

    #[test]
    fn one_source_alone_is_not_believed_and_reserved_addresses_never_are() {
        let mut seen = reflexive(&["198.51.100.1:1", "198.51.100.1:2", "198.51.100.1:2", "127.0.0.1:7777"]);
        assert_eq!(seen.agreed(), ["198.51.100.1:2".parse().unwrap()]);
        assert_eq!(seen.all(), ["198.51.100.1:2".parse().unwrap(), "198.51.100.1:1".parse().unwrap()]);
        seen.gone(NodeId([1; 32]));
        assert!(seen.agreed().is_empty());
    }

    #[test]
    fn reports_are_bounded() {
        let mut seen = Reflexive::default();
        for number in 0..200u16 {
            let [a, b] = number.to_be_bytes();
            let mut id = [a; 32];
            id[1] = b;
            seen.report(NodeId(id), ([198, 51, 100, 1], 1000 + number).into());
        }
        assert_eq!(seen.all().len(), MAX_REPORTS);
    }
}
