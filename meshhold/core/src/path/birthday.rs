//! Many ports at once: one end's NAT draws a port for each destination, the other's admits only who was sent to.
//!
//! The end that draws opens many own ports towards the stable address of the other, which tries ports until one is open: of
//! 64,512 ports 256 are, so 2,048 tries fail once in 3,400 times. Owns when that is done, how fast and how much of it, whoever
//! asks for it. Must not know sockets, nor how a path is proven.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use rand_core::RngCore;
use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::probe::Message;
use super::{Output, Path, Paths, PeerKey, is_usable};
use crate::identity::NodeId;

/// Ports that the drawing end opens.
const OPENED: u32 = 256;
/// Ports that the other tries.
const TRIED: u32 = 2048;
/// What NATs draw from: not the privileged ports.
const DRAWN_FROM: std::ops::RangeInclusive<u16> = 1024..=u16::MAX;
/// Between two steps.
const STEP: Duration = Duration::from_millis(20);
/// Ports opened in a step: 800 a second.
const OPENED_AT_ONCE: u32 = 16;
/// Ports tried in a step: 750 a second.
const TRIED_AT_ONCE: u32 = 15;
/// How long a round may take, with what is still under way at the end.
const ROUND: Duration = Duration::from_secs(6);
/// How long a relayed path is in use before: what opens sooner opens by usual probes.
const PATIENCE: Duration = Duration::from_millis(500);
/// Both kinds of datagrams in the long run, and at once: two rounds, and then 20 a second.
const BUDGET: (Duration, u32) = (Duration::from_millis(50), 2 * TRIED);
/// From the begin of a round to that of the next with the same peer or towards the same address; doubles up to the longest.
const FIRST_REST: Duration = Duration::from_secs(10);
const LONGEST_REST: Duration = Duration::from_secs(3600);
/// By how much the end that asks for a round is later than the other would allow.
const MARGIN: Duration = Duration::from_secs(1);
/// Peers and addresses whose rest is remembered.
const MAX_RESTS: usize = 256;
/// Ports kept for circuits.
const MAX_KEPT: usize = 16;
/// How long a kept port that isn't used any more stays open for stragglers.
pub(super) const SPARE: Duration = Duration::from_secs(30);

/// How a NAT maps the shared port over IPv4, as far as two others agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mapping {
    /// Fewer than two have told, or they don't agree.
    #[default]
    Unknown,
    /// All see it here, whomever it sends to.
    Stable(SocketAddrV4),
    /// At this address, by another port for each destination.
    Drawn(Ipv4Addr),
}

impl Mapping {
    fn address(self) -> Option<Ipv4Addr> {
        match self {
            Self::Unknown => None,
            Self::Stable(address) => Some(*address.ip()),
            Self::Drawn(address) => Some(address),
        }
    }
}

/// What an end does in a round.
#[derive(Debug)]
enum Role {
    /// Opens own ports towards the peer's address.
    Open { to: SocketAddrV4, own: Ipv4Addr, met: Option<u16> },
    /// Tries the ports of the peer's address, each once.
    Try { at: Ipv4Addr, order: Order },
}

#[derive(Debug)]
struct Round {
    key: PeerKey,
    role: Role,
    made: u32,
    next: Instant,
    until: Instant,
}

/// All ports in an order that nobody else knows: every `step`th, from a random one on.
#[derive(Debug)]
struct Order {
    at: u32,
    step: u32,
}

impl Order {
    const COUNT: u32 = (*DRAWN_FROM.end() as u32) - (*DRAWN_FROM.start() as u32) + 1;

    fn new(rng: &mut impl RngCore) -> Self {
        let at = rng.next_u32() % Self::COUNT;
        // 64,512 is made of twos, threes and a seven.
        let step = std::iter::repeat_with(|| rng.next_u32() % Self::COUNT)
            .find(|step| [2, 3, 7].iter().all(|prime| step % prime != 0))
            .unwrap_or(1);
        Self { at, step }
    }

    fn next(&mut self) -> u16 {
        self.at = (self.at + self.step) % Self::COUNT;
        DRAWN_FROM.start() + self.at as u16
    }
}

/// Who has to wait for the next round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Resting {
    Node(NodeId),
    Address(Ipv4Addr),
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Instant,
    pause: Duration,
}

/// The rounds of one node: one at a time.
#[derive(Debug)]
pub(super) struct Birthday {
    mapping: Mapping,
    round: Option<Round>,
    budget: Budget,
    rests: BTreeMap<Resting, Rest>,
    /// Own ports that circuits use.
    kept: BTreeMap<u16, PeerKey>,
}

impl Default for Birthday {
    fn default() -> Self {
        Self {
            mapping: Mapping::Unknown,
            round: None,
            budget: Budget::new(BUDGET),
            rests: BTreeMap::new(),
            kept: BTreeMap::new(),
        }
    }
}

impl Birthday {
    /// This host is somewhere else: what failed before may work now.
    pub(super) fn forget_failures(&mut self) {
        self.rests.clear();
    }

    /// When a round with that peer, towards that address, may begin.
    fn rested(&self, node: NodeId, address: Ipv4Addr) -> Option<Instant> {
        let subjects = [Resting::Node(node), Resting::Address(address)];
        subjects.iter().filter_map(|subject| self.rests.get(subject)).map(|rest| rest.until).max()
    }

    fn rest(&mut self, now: Instant, node: NodeId, address: Ipv4Addr) {
        for subject in [Resting::Node(node), Resting::Address(address)] {
            let pause = self.rests.get(&subject).map_or(FIRST_REST, |rest| rest.pause);
            if self.rests.len() >= MAX_RESTS && !self.rests.contains_key(&subject) {
                let first = self.rests.iter().min_by_key(|(_, rest)| rest.until).map(|(subject, _)| *subject);
                first.map(|subject| self.rests.remove(&subject));
            }
            let rest = Rest { until: now + pause, pause: (pause * 2).min(LONGEST_REST) };
            self.rests.insert(subject, rest);
        }
    }

    /// A round was worth it: the next needn't wait longer than this one's pause.
    fn relent(&mut self, node: NodeId, address: Ipv4Addr) {
        for subject in [Resting::Node(node), Resting::Address(address)] {
            self.rests.entry(subject).and_modify(|rest| rest.pause = FIRST_REST);
        }
    }

    /// Whether the address may lie in front of a NAT that this node's datagrams get to: not reserved, and private only where
    /// this node is seen at a private one itself.
    fn is_reachable(&self, address: SocketAddrV4) -> bool {
        let private =
            |ip: &Ipv4Addr| ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64);
        let own = self.mapping.address();
        is_usable(&address.into()) && own.is_some_and(|own| private(&own) || !private(address.ip()))
    }
}

impl Paths {
    /// How two others see this node's shared port.
    pub fn set_mapping(&mut self, mapping: Mapping) {
        if std::mem::replace(&mut self.birthday.mapping, mapping) != mapping {
            let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
            keys.into_iter().for_each(|key| self.tell_mapping(key));
        }
    }

    /// Tells a peer by relay how this node is mapped.
    pub(super) fn tell_mapping(&mut self, key: PeerKey) {
        let mapping = self.birthday.mapping;
        let relayed = self.peers.get(&key).and_then(|peer| peer.current).filter(|path| !path.is_direct());
        if let Some(path) = relayed.filter(|_| mapping != Mapping::Unknown) {
            let message = Message::Mapping(mapping);
            self.outputs.push_back(Output::Send { peer: key, path, message, size: 0 });
        }
    }

    pub(super) fn heard_mapping(&mut self, key: PeerKey, theirs: Mapping) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.mapping = theirs;
        let relayed = peer.current.is_some_and(|path| !path.is_direct());
        if let (true, Mapping::Drawn(_), Mapping::Drawn(_)) = (relayed, self.birthday.mapping, theirs) {
            peer.remark(
                "both NATs draw a port for each destination, so neither end can be told where to send to",
            );
        }
    }

    /// Whether what came by this path may count: from the shared port, or from one that is kept. The first that the peer of
    /// the round meets is.
    pub(super) fn admits(&mut self, key: PeerKey, from: Path) -> bool {
        if from.local_port == 0 {
            return true;
        }
        if let Some(owner) = self.birthday.kept.get(&from.local_port) {
            return *owner == key;
        }
        let Some(round) = self.birthday.round.as_mut().filter(|round| round.key == key) else { return false };
        let Role::Open { met: met @ None, .. } = &mut round.role else { return false };
        *met = Some(from.local_port);
        self.birthday.kept.insert(from.local_port, key);
        self.outputs.push_back(Output::Keep { local_port: from.local_port });
        true
    }

    /// The peer says that its ports are open.
    pub(super) fn knocked(&mut self, now: Instant, key: PeerKey, at: Ipv4Addr) {
        let Mapping::Stable(_) = self.birthday.mapping else { return };
        let relayed =
            self.peers.get(&key).and_then(|peer| peer.current).is_some_and(|path| !path.is_direct());
        let rested = self.birthday.rested(key.1, at).is_none_or(|until| until <= now);
        let possible = self.birthday.is_reachable(SocketAddrV4::new(at, *DRAWN_FROM.end()));
        if self.birthday.round.is_none() && relayed && rested && possible {
            self.birthday.rest(now, key.1, at);
            let role = Role::Try { at, order: Order::new(&mut self.rng) };
            self.begin_round(now, key, role);
        }
    }

    /// When there is something to do.
    pub(super) fn next_birthday(&self) -> Option<Instant> {
        let step = self.birthday.round.as_ref().map(|round| round.next);
        let round = step.or_else(|| self.candidates().map(|(_, _, at)| at).min());
        let met = self.met();
        let unused = |(port, key): (&u16, &PeerKey)| match met {
            Some(met) if met == *port => None,
            _ => self.peers.get(key)?.leaves_port(*port),
        };
        round.into_iter().chain(self.birthday.kept.iter().filter_map(unused)).min()
    }

    /// Does what is due.
    pub(super) fn birthday_due(&mut self, now: Instant) {
        self.sweep_ports(now);
        if self.birthday.round.is_none() {
            self.open_round(now);
        }
        if self.birthday.round.as_ref().is_some_and(|round| round.next <= now) {
            self.step(now);
        }
    }

    /// After a change of this peer: the round may have got what it wanted.
    pub(super) fn settle_birthday(&mut self, now: Instant, key: PeerKey) {
        let direct = self.peers.get(&key).and_then(|peer| peer.current).is_some_and(|path| path.is_direct());
        if direct && self.birthday.round.as_ref().is_some_and(|round| round.key == key) {
            self.end_round(now, true);
        }
    }

    /// Closes what no path uses any more.
    pub(super) fn sweep_ports(&mut self, now: Instant) {
        if self.birthday.kept.is_empty() {
            return;
        }
        let (met, peers) = (self.met(), &self.peers);
        let is_over = |port: &u16, key: &PeerKey| {
            let Some(peer) = peers.get(key) else { return true };
            Some(*port) != met && peer.leaves_port(*port).is_some_and(|at| at <= now)
        };
        let over = self.birthday.kept.iter().filter(|(port, key)| is_over(port, key));
        let over: BTreeSet<(u16, PeerKey)> = over.map(|(port, key)| (*port, *key)).collect();
        for (local_port, key) in over {
            self.birthday.kept.remove(&local_port);
            self.outputs.push_back(Output::Leave { local_port });
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.forget_port(local_port);
            }
        }
    }

    /// The own port that the peer of the round met.
    fn met(&self) -> Option<u16> {
        match self.birthday.round.as_ref()?.role {
            Role::Open { met, .. } => met,
            Role::Try { .. } => None,
        }
    }

    /// Peers that own ports might be opened towards, where, and when at the earliest.
    fn candidates(&self) -> impl Iterator<Item = (PeerKey, SocketAddrV4, Instant)> {
        let possible =
            matches!(self.birthday.mapping, Mapping::Drawn(_)) && self.birthday.kept.len() < MAX_KEPT;
        let peers = possible.then_some(&self.peers).into_iter().flatten();
        peers.filter_map(|(key, peer)| {
            let Mapping::Stable(to) = peer.mapping else { return None };
            let at = peer.relayed_since()? + PATIENCE;
            let rested = self.birthday.rested(key.1, *to.ip()).map(|until| until + MARGIN);
            self.birthday.is_reachable(to).then(|| (*key, to, rested.map_or(at, |rested| rested.max(at))))
        })
    }

    fn open_round(&mut self, now: Instant) {
        let Mapping::Drawn(own) = self.birthday.mapping else { return };
        let found = self.candidates().find(|(_, _, at)| *at <= now);
        if let Some((key, to, _)) = found {
            self.birthday.rest(now, key.1, *to.ip());
            self.begin_round(now, key, Role::Open { to, own, met: None });
        }
    }

    fn begin_round(&mut self, now: Instant, key: PeerKey, role: Role) {
        self.birthday.round = Some(Round { key, role, made: 0, next: now, until: now + ROUND });
        self.step(now);
    }

    fn step(&mut self, now: Instant) {
        let Some(round) = self.birthday.round.as_mut() else { return };
        let current = self.peers.get(&round.key).and_then(|peer| peer.current);
        let relay = current.filter(|path| !path.is_direct() && now < round.until);
        let Some(relay) = relay else {
            return self.end_round(now, current.is_some_and(|path| path.is_direct()));
        };
        let (limit, at_once) = match round.role {
            Role::Open { .. } => (OPENED, OPENED_AT_ONCE),
            Role::Try { .. } => (TRIED, TRIED_AT_ONCE),
        };
        let wanted = at_once.min(limit - round.made);
        let count = (0..wanted).take_while(|_| self.birthday.budget.take(now)).count() as u32;
        round.made += count;
        // What is still under way has its time.
        round.next = if count < wanted || round.made == limit { round.until } else { now + STEP };
        let (key, made) = (round.key, round.made);
        match &mut round.role {
            Role::Open { to, own, .. } => {
                let (to, address) = (*to, *own);
                self.outputs.push_back(Output::Gather { to, count });
                let message = Message::Knock { address };
                self.outputs.push_back(Output::Send { peer: key, path: relay, message, size: 0 });
                self.note_tried(key, *to.ip(), made);
            }
            Role::Try { at, order } => {
                let at = *at;
                for _ in 0..count {
                    let path = SocketAddr::new(IpAddr::V4(at), order.next()).into();
                    let message = Message::Ping { id: self.rng.next_u32() };
                    self.outputs.push_back(Output::Send { peer: key, path, message, size: 0 });
                }
                self.note_tried(key, at, made);
            }
        }
    }

    fn note_tried(&mut self, key: PeerKey, address: Ipv4Addr, count: u32) {
        self.peers.entry(key).and_modify(|peer| peer.tried = Some((address.into(), count)));
    }

    fn end_round(&mut self, now: Instant, met: bool) {
        let Some(Round { key, role, made, .. }) = self.birthday.round.take() else { return };
        let (address, remark) = match role {
            Role::Open { to, .. } => {
                self.outputs.push_back(Output::Scatter);
                (*to.ip(), format!("{made} ports were opened, and the peer met none of them"))
            }
            Role::Try { at, .. } => {
                (at, format!("{made} ports of the peer's NAT were tried, and none was open"))
            }
        };
        if met {
            self.birthday.relent(key.1, address);
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.tried = None;
            if !met {
                peer.remark(&remark);
            }
        }
        self.sweep_ports(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::random::SeededRng;

    #[test]
    fn every_port_comes_once_and_in_another_order_each_time() {
        let mut rng = SeededRng::new([1; 32]);
        let mut orders = [(); 2].map(|()| {
            let mut order = Order::new(&mut rng);
            (0..Order::COUNT).map(|_| order.next()).collect::<Vec<_>>()
        });
        assert_ne!(orders[0][..100], orders[1][..100]);
        for order in &mut orders {
            order.sort_unstable();
            assert_eq!(*order, DRAWN_FROM.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_peer_and_an_address_wait_longer_each_time_and_what_is_remembered_is_bounded() {
        let (mut birthday, now) = (Birthday::default(), Instant::now());
        let (node, address) = (NodeId([1; 32]), Ipv4Addr::new(192, 0, 2, 1));
        for seconds in [10, 20, 40] {
            birthday.rest(now, node, address);
            assert_eq!(birthday.rested(node, address), Some(now + Duration::from_secs(seconds)));
        }
        assert!(birthday.rested(NodeId([2; 32]), address).is_some(), "another peer names the same address");
        assert!(birthday.rested(node, [192, 0, 2, 2].into()).is_some(), "the peer names another address");
        assert!(birthday.rested(NodeId([2; 32]), [192, 0, 2, 2].into()).is_none());
        for number in 0..1000_u32 {
            let mut other = [9; 32];
            other[..4].copy_from_slice(&number.to_be_bytes());
            birthday.rest(now, NodeId(other), Ipv4Addr::from_bits(number));
        }
        assert!(birthday.rests.len() <= MAX_RESTS);
    }

    #[test]
    fn private_addresses_are_for_who_is_seen_at_one() {
        for (own, address, reachable) in [
            ("198.51.100.1", "203.0.113.7", true),
            ("198.51.100.1", "10.0.0.1", false),
            ("198.51.100.1", "100.64.0.1", false),
            ("10.0.0.2", "10.0.0.1", true),
            ("198.51.100.1", "127.0.0.1", false),
            ("10.0.0.2", "224.0.0.1", false),
        ] {
            let mapping = Mapping::Drawn(own.parse().unwrap());
            let birthday = Birthday { mapping, ..Birthday::default() };
            let address = SocketAddrV4::new(address.parse().unwrap(), 7777);
            assert_eq!(birthday.is_reachable(address), reachable, "{own} to {address}");
        }
    }
}
