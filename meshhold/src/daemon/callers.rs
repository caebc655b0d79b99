//! Which number and which caller addresses stand for a peer on this node.
//!
//! Owns the assignment and keeps it stable over restarts, so that logs and bans of local services stay
//! true. Must not know how the addresses are put on packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use meshhold_core::identity::NodeId;
use meshhold_core::key::NetworkId;
use serde::{Deserialize, Serialize};

/// First address of 127.64.0.0/10.
const BASE: u32 = 0x7f40_0000;
/// Peers that can have caller addresses at once: two addresses each, the first pair left out.
const CAPACITY: u32 = (1 << 21) - 1;

/// One peer of one network on this node.
pub(super) type PeerKey = (NetworkId, NodeId);

/// The numbers given out so far.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<Assignment>", into = "Vec<Assignment>")]
pub(super) struct Callers {
    numbers: BTreeMap<PeerKey, u32>,
    used: BTreeSet<u32>,
    /// Every number up to this one is taken.
    full: u32,
}

/// How one assignment is kept on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Assignment {
    network: NetworkId,
    node: NodeId,
    number: u32,
}

impl Callers {
    /// The peer's number, the same for as long as the peer is known; `None` when all are taken.
    pub(super) fn number(&mut self, peer: PeerKey) -> Option<u32> {
        if let Some(number) = self.numbers.get(&peer) {
            return Some(*number);
        }
        let free = (self.full + 1..CAPACITY).find(|n| !self.used.contains(n))?;
        self.full = free;
        self.numbers.insert(peer, free);
        self.used.insert(free);
        Some(free)
    }

    /// The peer's number, if it has one.
    pub(super) fn known(&self, peer: PeerKey) -> Option<u32> {
        self.numbers.get(&peer).copied()
    }

    /// Forgets the peers for which `keep` is false.
    pub(super) fn retain(&mut self, keep: impl Fn(&PeerKey) -> bool) {
        self.numbers.retain(|peer, _| keep(peer));
        self.used = self.numbers.values().copied().collect();
        self.full = 0;
    }
}

/// Loopback address that stands for the IPv4 flows of peer `number`.
pub(super) fn caller4(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(BASE | (2 * number))
}

/// Loopback address that stands for the IPv6 flows of peer `number` at services without IPv6.
pub(super) fn caller6(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(BASE | (2 * number + 1))
}

impl From<Vec<Assignment>> for Callers {
    fn from(list: Vec<Assignment>) -> Self {
        let mut callers = Self::default();
        for Assignment { network, node, number } in list {
            if (1..CAPACITY).contains(&number) && callers.used.insert(number) {
                callers.numbers.insert((network, node), number);
            }
        }
        callers
    }
}

impl From<Callers> for Vec<Assignment> {
    fn from(callers: Callers) -> Self {
        callers
            .numbers
            .into_iter()
            .map(|((network, node), number)| Assignment { network, node, number })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> PeerKey {
        (NetworkId([1; 16]), NodeId([n; 32]))
    }

    #[test]
    fn numbers_are_stable_and_distinct() {
        let mut callers = Callers::default();
        let first = callers.number(peer(1));
        let second = callers.number(peer(2));
        assert_ne!(first, second);
        assert_eq!(callers.number(peer(1)), first);
        let kept: Callers = Vec::<Assignment>::from(callers).into();
        assert_eq!(kept.clone().number(peer(2)), second);
    }

    #[test]
    fn a_forgotten_number_is_given_out_again() {
        let mut callers = Callers::default();
        let first = callers.number(peer(1));
        callers.retain(|_| false);
        assert_eq!(callers.number(peer(2)), first);
    }

    #[test]
    fn caller_addresses_stay_inside_their_range() {
        for number in [1, 2, CAPACITY - 1] {
            for address in [caller4(number), caller6(number)] {
                assert_eq!(u32::from(address) >> 22, BASE >> 22);
            }
        }
        assert_eq!(caller4(1), Ipv4Addr::new(127, 64, 0, 2));
    }
}
