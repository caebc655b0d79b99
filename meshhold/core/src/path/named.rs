//! How often addresses are probed that a peer has only named: a few times, then ever more rarely, until something authenticated
//! comes from there.
//!
//! Owns the counts, by peer and by address; they outlive circuits. Must not know what a probe is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::budget::Budget;
use crate::identity::NodeId;

/// For all that one peer names.
const PER_PEER: (Duration, u32) = (Duration::from_millis(125), 144);
/// Probes of an address before the first rest: three rounds.
const FIRST: u32 = 18;
/// Probes between two rests: a round.
const AGAIN: u32 = 6;
const SHORTEST_REST: Duration = Duration::from_secs(4);
const LONGEST_REST: Duration = Duration::from_secs(128);
/// Where no path is known to work, an address is probed as often in any case.
const IN_DOUBT: Duration = Duration::from_secs(1);
/// Most peers, and addresses of one, that are remembered; who was probed longest ago makes room.
const MAX_PEERS: usize = 256;
const MAX_ADDRESSES: usize = 64;

#[derive(Debug)]
struct Address {
    left: u32,
    rest: Duration,
    last: Instant,
}

impl Address {
    fn take(&mut self, now: Instant, doubt: bool) -> bool {
        let quiet = now.saturating_duration_since(self.last);
        if self.left == 0 && quiet >= self.rest {
            (self.left, self.rest) = (AGAIN, (self.rest * 2).min(LONGEST_REST));
        }
        let allowed = self.left > 0 || (doubt && quiet >= IN_DOUBT);
        if allowed {
            (self.left, self.last) = (self.left.saturating_sub(1), now);
        }
        allowed
    }
}

#[derive(Debug)]
struct Peer {
    budget: Budget,
    addresses: BTreeMap<SocketAddr, Address>,
    last: Instant,
}

/// What was probed because somebody named it.
#[derive(Debug, Default)]
pub(super) struct Named(BTreeMap<NodeId, Peer>);

impl Named {
    /// Whether a probe may go to what `peer` names; `doubt`: no path to it is known to work.
    pub(super) fn take(&mut self, now: Instant, peer: NodeId, address: SocketAddr, doubt: bool) -> bool {
        make_room(&mut self.0, &peer, MAX_PEERS, |peer| peer.last);
        let new = || Peer { budget: Budget::new(PER_PEER), addresses: BTreeMap::new(), last: now };
        let peer = self.0.entry(peer).or_insert_with(new);
        peer.last = now;
        make_room(&mut peer.addresses, &address, MAX_ADDRESSES, |address| address.last);
        let new = || Address { left: FIRST, rest: SHORTEST_REST, last: now };
        peer.addresses.entry(address).or_insert_with(new).take(now, doubt) && peer.budget.take(now)
    }

    /// Something authenticated came from there.
    pub(super) fn heard(&mut self, peer: NodeId, address: SocketAddr) {
        if let Some(peer) = self.0.get_mut(&peer) {
            peer.addresses.remove(&address);
        }
    }

    /// This host is somewhere else: what didn't answer may do so now.
    pub(super) fn forgive(&mut self) {
        self.0.values_mut().for_each(|peer| peer.addresses.clear());
    }
}

fn make_room<K: Ord + Copy, V>(map: &mut BTreeMap<K, V>, key: &K, most: usize, last: impl Fn(&V) -> Instant) {
    if map.len() < most || map.contains_key(key) {
        return;
    }
    if let Some(oldest) = map.iter().min_by_key(|(_, value)| last(value)).map(|(key, _)| *key) {
        map.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId([1; 32]);

    fn address(number: u16) -> SocketAddr {
        ([192, 0, 2, 1], number).into()
    }

    /// Probes of one address in `seconds`, asked for every 100 ms.
    fn probes(named: &mut Named, start: Instant, seconds: u64, doubt: bool) -> usize {
        let times = (0..seconds * 10).map(|tenth| start + Duration::from_millis(tenth * 100));
        times.filter(|now| named.take(*now, PEER, address(1), doubt)).count()
    }

    #[test]
    fn an_address_that_is_silent_is_probed_ever_more_rarely() {
        let (mut named, start) = (Named::default(), Instant::now());
        assert_eq!(probes(&mut named, start, 3, false), 18);
        // After 4, 8, 16, 32, 64, 128, 128 and 128 s.
        let more = probes(&mut named, start + Duration::from_secs(3), 600, false);
        assert!((6 * 6..=9 * 6).contains(&more), "{more}");
        named.heard(PEER, address(1));
        assert_eq!(probes(&mut named, start + Duration::from_secs(603), 3, false), 18);
    }

    #[test]
    fn where_nothing_works_it_is_once_a_second() {
        let (mut named, start) = (Named::default(), Instant::now());
        let all = probes(&mut named, start, 60, true);
        assert!((60..100).contains(&all), "{all}");
    }

    #[test]
    fn a_peer_s_addresses_have_a_budget_together_and_no_other_peer_pays() {
        let (mut named, start) = (Named::default(), Instant::now());
        let fresh = (1..2000).filter(|number| named.take(start, PEER, address(*number), true)).count();
        assert_eq!(fresh, 144);
        assert!(named.take(start, NodeId([2; 32]), address(1), false));
        let later = start + Duration::from_secs(1);
        let more = (1..2000).filter(|number| named.take(later, PEER, address(*number), true)).count();
        assert_eq!(more, 8);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut named, start) = (Named::default(), Instant::now());
        for number in 0..1000_u16 {
            let mut node = [0; 32];
            node[..2].copy_from_slice(&number.to_be_bytes());
            named.take(start, NodeId(node), address(1), false);
            named.take(start, PEER, address(number), false);
        }
        assert_eq!(named.0.len(), MAX_PEERS);
        assert!(named.0.values().all(|peer| peer.addresses.len() <= MAX_ADDRESSES));
    }
}
