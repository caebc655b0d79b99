//! Which caller addresses stand for a peer on this node.
//!
//! Owns the assignment and keeps it stable over restarts, so that logs and bans of local services stay
//! true. Must not know how the addresses are put on packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use meshhold_common::{Address, address::sum};
use meshhold_core::identity::NodeId;
use meshhold_core::key::NetworkId;
use serde::{Deserialize, Serialize, Serializer};

/// 127.64.0.0/10.
const FIRST: u32 = 0x7f40_0000;
/// Prefix length of what one daemon has of it: several of one host share the rest.
const PIECE: u8 = 12;
const PIECES: u32 = 4;

/// One peer of one network on this node.
pub(super) type PeerKey = (NetworkId, NodeId);

/// The addresses that a peer's flows run between, as this host sees them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// The peer's and our own; `None` while the network's range is unusable here.
    pub(super) ipv4: Option<[Ipv4Addr; 2]>,
    /// The peer's and our own.
    pub(super) ipv6: [Ipv6Addr; 2],
}

/// Loopback addresses that stand for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Caller {
    /// For its IPv4 flows; unspecified as long as there can't be any.
    pub(super) ipv4: Ipv4Addr,
    /// For its IPv6 flows at services without IPv6.
    pub(super) ipv6: Ipv4Addr,
}

impl Caller {
    /// Number of the peer on this node, unique over all networks.
    pub(super) fn number(self) -> u32 {
        self.ipv6.to_bits() - FIRST
    }
}

/// The addresses given out so far.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(from = "Vec<Assignment>")]
pub(super) struct Callers {
    /// Number of the piece that they are out of.
    piece: u32,
    known: BTreeMap<PeerKey, Caller>,
    used: BTreeSet<Ipv4Addr>,
}

/// How one assignment is kept on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Assignment {
    network: NetworkId,
    node: NodeId,
    #[serde(default = "unassigned")]
    ipv4: Ipv4Addr,
    #[serde(default = "unassigned")]
    ipv6: Ipv4Addr,
}

const fn unassigned() -> Ipv4Addr {
    Ipv4Addr::UNSPECIFIED
}

impl Callers {
    /// What stands for the peer, the same for as long as the peer is known; `None` when all addresses are taken.
    pub(super) fn caller(&mut self, peer: PeerKey, ends: &Ends) -> Option<Caller> {
        let mut caller = match self.known.get(&peer) {
            Some(caller) => *caller,
            None => {
                let ends = ends.ipv6.map(|end| Address::v6(end.octets()));
                Caller { ipv4: unassigned(), ipv6: self.choose(&ends)? }
            }
        };
        if let Some(ends) = ends.ipv4.filter(|_| caller.ipv4.is_unspecified()) {
            let chosen = self.choose(&ends.map(|end| Address::v4(end.octets())));
            caller.ipv4 = chosen.unwrap_or(caller.ipv4);
        }
        self.known.insert(peer, caller);
        Some(caller)
    }

    /// The peer's number, if it has one.
    pub(super) fn number(&self, peer: PeerKey) -> Option<u32> {
        self.known.get(&peer).map(|caller| caller.number())
    }

    /// The addresses that are given out: base and prefix length.
    pub(super) fn piece(&self) -> (Ipv4Addr, u8) {
        (base(self.piece), PIECE)
    }

    /// Keeps to a piece that shares no address with those `taken` by other daemons of this host: the one so far, else the
    /// first. False where there is none.
    pub(super) fn settle(&mut self, taken: &[(Ipv4Addr, u8)]) -> bool {
        let is_free = |piece: &u32| taken.iter().all(|other| !shares(*piece, *other));
        let Some(piece) = [self.piece].into_iter().chain(0..PIECES).find(is_free) else { return false };
        if piece != self.piece {
            *self = Self { piece, ..Self::default() };
        }
        true
    }

    /// Forgets the peers for which `keep` is false.
    pub(super) fn retain(&mut self, keep: impl Fn(&PeerKey) -> bool) {
        self.known.retain(|peer, _| keep(peer));
        self.used = self.known.values().flat_map(|caller| [caller.ipv4, caller.ipv6]).collect();
    }

    /// Takes a free address: one that, with 127.0.0.1, has the sum of the ends, if there is one. Then no checksum changes
    /// where packets get these addresses for those (as in RFC 6296 section 3.1), and the kernel programs are spared a
    /// helper that costs more than the rest of them.
    fn choose(&mut self, [one, other]: &[Address; 2]) -> Option<Ipv4Addr> {
        /// Zero of a ones' complement sum.
        const ZERO: u32 = 0xffff;
        /// Sum of 127.0.0.1.
        const LOCALHOST: u32 = 0x7f00 + 0x0001;
        let wanted = u32::from(u16::from_be(sum([one, other]))) + 2 * ZERO - LOCALHOST;
        let (first, last) = bounds(self.piece);
        let neutral = (first >> 16..=last >> 16).map(|upper| (upper << 16) | ((wanted - upper) % ZERO));
        let mut candidates = neutral.chain(first..=last).map(Ipv4Addr::from_bits);
        candidates.find(|candidate| self.used.insert(*candidate))
    }
}

fn base(piece: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(bounds(piece).0)
}

/// First and last address of a piece.
fn bounds(piece: u32) -> (u32, u32) {
    let size = 1 << (32 - PIECE);
    let first = FIRST + piece * size;
    (first, first + size - 1)
}

fn shares(piece: u32, (other, prefix): (Ipv4Addr, u8)) -> bool {
    let differing = base(piece).to_bits() ^ other.to_bits();
    differing.leading_zeros() >= u32::from(prefix.min(PIECE))
}

/// The piece that an address is out of.
fn piece_of(address: Ipv4Addr) -> Option<u32> {
    (0..PIECES).find(|piece| (bounds(*piece).0..=bounds(*piece).1).contains(&address.to_bits()))
}

impl From<Vec<Assignment>> for Callers {
    /// All come out of the piece of the first that is out of any.
    fn from(list: Vec<Assignment>) -> Self {
        let piece = list.iter().find_map(|assignment| piece_of(assignment.ipv6)).unwrap_or_default();
        let mut callers = Self { piece, ..Self::default() };
        for Assignment { network, node, ipv4, ipv6 } in list {
            let mut take =
                |address: Ipv4Addr| piece_of(address) == Some(piece) && callers.used.insert(address);
            if take(ipv6) {
                let ipv4 = if take(ipv4) { ipv4 } else { unassigned() };
                callers.known.insert((network, node), Caller { ipv4, ipv6 });
            }
        }
        callers
    }
}

impl Serialize for Callers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            self.known.iter().map(|(&(network, node), &Caller { ipv4, ipv6 })| Assignment {
                network,
                node,
                ipv4,
                ipv6,
            }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> PeerKey {
        (NetworkId([1; 16]), NodeId([n; 32]))
    }

    fn ends(n: u8) -> Ends {
        let ipv4 = |n| Ipv4Addr::new(100, 77, n, 0xd7);
        let ipv6 = |n| Ipv6Addr::from([0xfd, 0x77, n, 0xff, 0xee, n, 0, 1, 2, 3, 4, 5, 6, 7, 8, n]);
        Ends { ipv4: Some([ipv4(n), ipv4(200)]), ipv6: [ipv6(n), ipv6(200)] }
    }

    /// As the state file brings them back.
    fn restarted(callers: &Callers) -> Callers {
        serde_json::from_str(&serde_json::to_string(callers).unwrap()).unwrap()
    }

    #[test]
    fn addresses_are_stable_and_distinct() {
        let mut callers = Callers::default();
        let first = callers.caller(peer(1), &ends(1)).unwrap();
        let second = callers.caller(peer(2), &ends(2)).unwrap();
        let all = BTreeSet::from([first.ipv4, first.ipv6, second.ipv4, second.ipv6]);
        assert_eq!(all.len(), 4);
        assert_ne!(first.number(), second.number());
        let mut kept = restarted(&callers);
        // Another address of ours changes nothing: bans would miss their target.
        assert_eq!(kept.caller(peer(2), &ends(9)), Some(second));
        assert_eq!(kept.number(peer(1)), Some(first.number()));
    }

    /// As the classifier asks.
    fn beside_localhost(caller: Ipv4Addr) -> u16 {
        sum([&Address::v4(caller.octets()), &Address::v4(Address::LOOPBACK4)])
    }

    #[test]
    fn no_checksum_changes_with_the_addresses() {
        let mut callers = Callers::default();
        // A piece has 16 addresses that do for each of the three.
        for n in 1..=45 {
            // All ask for the same addresses, so each gets another one that does as well.
            let Ends { ipv4: Some(four), ipv6: six } = ends(n % 3) else { panic!() };
            let caller = callers.caller(peer(n), &ends(n % 3)).unwrap();
            assert!([caller.ipv4, caller.ipv6].iter().all(|address| piece_of(*address) == Some(0)));
            let [one, other] = four.map(|end| Address::v4(end.octets()));
            assert_eq!(beside_localhost(caller.ipv4), sum([&one, &other]), "{caller:?}");
            let [one, other] = six.map(|end| Address::v6(end.octets()));
            assert_eq!(beside_localhost(caller.ipv6), sum([&one, &other]), "{caller:?}");
        }
    }

    #[test]
    fn daemons_of_one_host_take_different_pieces_and_keep_them() {
        let mut first = Callers::default();
        let before = first.caller(peer(1), &ends(1)).unwrap();
        assert!(first.settle(&[]));
        assert_eq!(first.caller(peer(1), &ends(1)), Some(before));
        let mut second = Callers::default();
        second.caller(peer(1), &ends(1)).unwrap();
        assert!(second.settle(&[first.piece()]));
        let moved = second.caller(peer(1), &ends(1)).unwrap();
        assert_eq!(moved.ipv4.octets()[..2], [127, 80]);
        let mut again = restarted(&second);
        assert!(again.settle(&[]));
        assert_eq!((again.piece(), again.caller(peer(1), &ends(1))), (second.piece(), Some(moved)));
        assert!(!second.settle(&[(Ipv4Addr::new(127, 64, 0, 0), 10)]), "a daemon of before has all");
    }

    #[test]
    fn where_no_neutral_address_is_left_another_serves() {
        let mut callers = Callers::default();
        let addresses: BTreeSet<_> =
            (0..100).map(|_| callers.choose(&[Address::v4([7; 4]); 2]).unwrap()).collect();
        assert_eq!(addresses.len(), 100);
    }

    #[test]
    fn ipv4_gets_its_address_when_it_can_be_used() {
        let mut callers = Callers::default();
        let early = callers.caller(peer(1), &Ends { ipv4: None, ..ends(1) }).unwrap();
        assert!(early.ipv4.is_unspecified());
        let mut callers = restarted(&callers);
        let late = callers.caller(peer(1), &ends(1)).unwrap();
        assert_eq!(late.ipv6, early.ipv6);
        assert!(!late.ipv4.is_unspecified());
    }

    #[test]
    fn a_forgotten_address_is_given_out_again() {
        let mut callers = Callers::default();
        let first = callers.caller(peer(1), &ends(1));
        callers.retain(|_| false);
        assert_eq!(callers.caller(peer(2), &ends(1)), first);
    }

    #[test]
    fn a_file_of_before_names_no_addresses() {
        let mut callers = Callers::default();
        callers.caller(peer(1), &ends(1)).unwrap();
        let mut file = serde_json::to_value(&callers).unwrap();
        let entry = file[0].as_object_mut().unwrap();
        assert!(entry.remove("ipv4").is_some() && entry.remove("ipv6").is_some());
        entry.insert("number".to_owned(), 7.into());
        let mut read: Callers = serde_json::from_value(file).unwrap();
        assert_eq!(read.number(peer(1)), None);
        assert!(read.caller(peer(1), &ends(1)).is_some());
    }

    #[test]
    fn what_the_file_says_is_checked() {
        let assignment = |n, ipv4, ipv6| Assignment { network: peer(n).0, node: peer(n).1, ipv4, ipv6 };
        let [one, two] = [1, 2].map(|n| Ipv4Addr::new(127, 64, 0, n));
        let outside = Ipv4Addr::new(127, 0, 0, 1);
        let list = vec![assignment(1, one, two), assignment(2, one, two), assignment(3, two, outside)];
        let callers = Callers::from(list);
        assert_eq!(callers.known, BTreeMap::from([(peer(1), Caller { ipv4: one, ipv6: two })]));
    }
}
