//! Paths: where the datagrams of a circuit go, which are tried, which is taken and why.
//!
//! Owns what a path is, and the choice among the paths of every connected peer: probes inside the circuit, direct before
//! relayed, a quick look when an active circuit falls silent. Must not know how a relayed path is set up, sockets or sessions.
//!
//! The loop contract is that of [`crate::circuit`]: after any call take [`Paths::poll_output`] until it is empty, sleep
//! until [`Paths::poll_timeout`], call [`Paths::handle_timeout`].

mod birthday;
mod budget;
mod local;
mod mtu;
mod named;
mod peer;
pub mod probe;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use rand_core::RngCore;

use crate::circuit::Traffic;
use crate::handshake::random::SeededRng;
use crate::identity::NodeId;
use crate::key::NetworkId;
use birthday::Birthday;
pub use birthday::Mapping;
use budget::Budget;
pub use mtu::Sizes;
use named::Named;
use peer::Peer;
pub use peer::{Decision, Trial};
use probe::{MAX_CANDIDATES, Message};

/// Probes that may be sent: 200 at once, 200 a second.
const PROBES: (Duration, u32) = (Duration::from_millis(5), 200);

/// A peer in one network.
pub type PeerKey = (NetworkId, NodeId);

/// Straight to an address, or to a relay that knows the datagrams by a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// The peer's address, or that of the first relay.
    pub remote: SocketAddr,
    /// `Some` through relays.
    pub label: Option<u32>,
    /// The own port that it leaves from; 0 is the one that all share.
    pub local_port: u16,
    /// The own address that it leaves from, which is the one that the peer sends to; `None` leaves it to the system.
    pub local: Option<IpAddr>,
}

impl Path {
    /// Through relays, the first of which is at `remote`.
    pub fn relayed(remote: SocketAddr, label: u32) -> Self {
        Self { remote, label: Some(label), local_port: 0, local: None }
    }

    /// The same, from an own address, or from whichever the system chooses.
    pub fn from_address(self, local: Option<IpAddr>) -> Self {
        Self { local, ..self }
    }

    /// Whether `other` is this path, or one of those that this is while the system chooses the own address.
    pub fn covers(&self, other: Self) -> bool {
        *self == other || *self == other.from_address(None)
    }

    /// The same, from an own port that is not the shared one.
    pub fn from_port(self, local_port: u16) -> Self {
        Self { local_port, ..self }
    }

    /// Whether nobody forwards.
    pub fn is_direct(&self) -> bool {
        self.label.is_none()
    }
}

impl From<SocketAddr> for Path {
    fn from(remote: SocketAddr) -> Self {
        Self { remote, label: None, local_port: 0, local: None }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.label {
            None if self.local_port != 0 => write!(f, "{} from port {}", self.remote, self.local_port)?,
            None => self.remote.fmt(f)?,
            Some(label) => write!(f, "{} by label {label:08x}", self.remote)?,
        }
        self.local.map_or(Ok(()), |local| write!(f, " from {local}"))
    }
}

/// What the owner of the paths is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a control message on the circuit's sending session.
    Send {
        /// The circuit.
        peer: PeerKey,
        /// By this path, whatever the circuit uses.
        path: Path,
        /// The message.
        message: Message,
        /// To be padded to this length.
        size: usize,
    },
    /// Nothing answers by any path: the session itself may be dead.
    Renew {
        /// The circuit.
        peer: PeerKey,
    },
    /// Send an empty datagram by the path in use: the peer follows to where it comes from.
    Show {
        /// The circuit.
        peer: PeerKey,
    },
    /// A path carries longer or shorter packets than before.
    Resized {
        /// The circuit.
        peer: PeerKey,
    },
    /// Let the circuit's datagrams go by this path.
    Use {
        /// The circuit.
        peer: PeerKey,
        /// The path.
        path: Path,
    },
    /// The present path is doubtful: relayed ones are wanted.
    WantRelay {
        /// The circuit.
        peer: PeerKey,
    },
    /// Open that many own ports more, and send something from each to an address.
    Gather {
        /// The address.
        to: SocketAddrV4,
        /// How many.
        count: u32,
    },
    /// Of the ports that were gathered this one is used: circuits' datagrams go by it, both ways.
    Keep {
        /// The own port.
        local_port: u16,
    },
    /// Close all that were gathered and not kept.
    Scatter,
    /// Close a port that was kept.
    Leave {
        /// The own port.
        local_port: u16,
    },
}

/// The paths of all connected peers.
pub struct Paths {
    peers: BTreeMap<PeerKey, Peer>,
    own: Vec<SocketAddr>,
    /// Own addresses that answers don't come back to: of interfaces that are down.
    dead: BTreeSet<IpAddr>,
    mtu: u16,
    outputs: VecDeque<Output>,
    budget: Budget,
    named: Named,
    birthday: Birthday,
    rng: SeededRng,
}

impl Paths {
    /// No peer yet. `mtu`: the longest inner packet that paths have to carry, in bytes.
    pub fn new(mtu: u16, rng_seed: [u8; 32]) -> Self {
        let (peers, own, outputs) = (BTreeMap::new(), Vec::new(), VecDeque::new());
        let (budget, named, birthday) = (Budget::new(PROBES), Named::default(), Birthday::default());
        let dead = BTreeSet::new();
        Self { peers, own, dead, outputs, mtu, budget, named, birthday, rng: SeededRng::new(rng_seed) }
    }

    /// Where this node may be reached, the best first: what peers are told.
    pub fn set_own(&mut self, mut own: Vec<SocketAddr>) {
        own.retain(is_usable);
        own.truncate(MAX_CANDIDATES);
        self.own = own;
    }

    /// A circuit's datagrams go by `path` now: it has just come up, or a handshake was answered there.
    pub fn taken(&mut self, now: Instant, key: PeerKey, path: Path, endpoints: &[SocketAddr]) {
        let path = self.alive(path);
        let peer = self.peers.entry(key).or_insert_with(|| Peer::new(self.mtu, now));
        if peer.current.is_some_and(|current| current.covers(path)) {
            return self.with(now, key, |peer, now| peer.pin(now, path));
        }
        let first = peer.current.is_none();
        peer.take(now, path, "a handshake was answered here".to_owned());
        peer.add(now, endpoints.iter().copied().filter(is_usable).map(Path::from));
        if first {
            self.punch(now, key);
        }
    }

    /// There is no circuit with the peer any more.
    pub fn down(&mut self, now: Instant, key: PeerKey) {
        self.peers.remove(&key);
        self.sweep_ports(now);
    }

    /// A relayed path was set up for the peer.
    pub fn opened(&mut self, now: Instant, key: PeerKey, path: Path) {
        self.with(now, key, |peer, now| peer.add(now, [path]));
    }

    /// A relayed path is gone.
    pub fn closed(&mut self, now: Instant, path: Path) {
        let users: Vec<PeerKey> =
            self.peers.iter().filter(|(_, peer)| peer.knows(path)).map(|(key, _)| *key).collect();
        for key in users {
            self.with(now, key, |peer, now| peer.forget(now, path));
        }
    }

    /// An authenticated datagram came by another path than the circuit's own.
    pub fn arrived(&mut self, now: Instant, key: PeerKey, from: Path) {
        let from = self.alive(from);
        if self.admits(key, from) {
            self.named.heard(key.1, from.remote);
            self.with(now, key, |peer, now| peer.arrived(now, from));
        }
    }

    /// A relay of `path` says that no more than `carries` bytes of UDP payload get through.
    pub fn too_big(&mut self, now: Instant, path: Path, carries: u16) {
        let users = self.peers.iter().filter(|(_, peer)| peer.current == Some(path));
        let users: Vec<PeerKey> = users.map(|(key, _)| *key).collect();
        for key in users {
            self.with(now, key, |peer, now| peer.too_big(now, carries));
        }
    }

    /// A control message of the peer.
    pub fn message(&mut self, now: Instant, key: PeerKey, from: Path, message: &Message) {
        let from = self.alive(from);
        if !self.admits(key, from) {
            return;
        }
        if from.is_direct() {
            self.named.heard(key.1, from.remote);
        }
        match message {
            Message::Ping { id } => {
                let message = Message::Pong { id: *id, seen: from.remote };
                self.outputs.push_back(Output::Send { peer: key, path: from, message, size: 0 });
                self.with(now, key, |peer, now| peer.heard(now, from));
            }
            Message::Pong { id, .. } => self.with(now, key, |peer, now| peer.answered(now, *id, from)),
            Message::Candidates { endpoints } => {
                let paths = endpoints.iter().copied().filter(is_usable).map(Path::from);
                self.with(now, key, |peer, now| {
                    peer.add(now, paths);
                    peer.try_all(now);
                });
            }
            Message::Mapping(theirs) => self.heard_mapping(key, *theirs),
            Message::Knock { address } => self.knocked(now, key, *address),
        }
    }

    /// Totals of the circuit's sending session so far.
    pub fn traffic(&mut self, now: Instant, key: PeerKey, total: Traffic) {
        self.with(now, key, |peer, now| peer.account(now, total));
    }

    /// Addresses or routes of this host changed, or it slept: everything is looked at again.
    pub fn shaken(&mut self, now: Instant) {
        let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
        self.birthday.forget_failures();
        self.named.forgive();
        for key in keys {
            self.outputs.push_back(Output::Show { peer: key });
            self.with(now, key, Peer::shaken);
            self.punch(now, key);
        }
    }

    /// This node may be reached at an address more or less than before: peers hear of it, and both ends try everything.
    pub fn told_anew(&mut self, now: Instant) {
        let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
        keys.into_iter().for_each(|key| self.punch(now, key));
    }

    /// The own addresses that paths leave from, or would if they could.
    pub fn own_addresses(&self) -> BTreeSet<IpAddr> {
        self.peers.values().flat_map(Peer::own_addresses).chain(self.dead.iter().copied()).collect()
    }

    /// `live` are the addresses of this host's interfaces that are up. No path leaves from another from now on, though the host
    /// may take in what is still sent there.
    pub fn live_addresses(&mut self, now: Instant, live: &BTreeSet<IpAddr>) {
        self.dead = self.own_addresses().difference(live).copied().collect();
        for lost in self.dead.clone() {
            self.own_address_lost(now, lost);
        }
    }

    fn alive(&self, path: Path) -> Path {
        let is_dead = path.local.is_some_and(|local| self.dead.contains(&local));
        if is_dead { path.from_address(None) } else { path }
    }

    /// This host has that address no more, or nothing gets out from it: paths that left from there leave it to the system.
    pub fn own_address_lost(&mut self, now: Instant, local: IpAddr) {
        let users: Vec<PeerKey> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.own_addresses().any(|own| own == local))
            .map(|(key, _)| *key)
            .collect();
        for key in users {
            self.with(now, key, |peer, now| peer.own_address_lost(now, local));
        }
    }

    /// Whether any circuit was used a moment ago, so that its traffic is worth a look several times a second.
    pub fn is_active(&self, now: Instant) -> bool {
        self.peers.values().any(|peer| peer.is_active(now))
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers.values().filter_map(Peer::next).chain(self.next_birthday()).min()
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due = self.peers.iter().filter(|(_, peer)| peer.next().is_some_and(|at| at <= now));
        let due: Vec<PeerKey> = due.map(|(key, _)| *key).collect();
        for key in due {
            self.with(now, key, Peer::look);
        }
        self.birthday_due(now);
    }

    /// Which inner packets the peer's path carries.
    pub fn sizes(&self, key: PeerKey) -> Option<Sizes> {
        self.peers.get(&key)?.sizes()
    }

    /// Path, since when, and why.
    pub fn current(&self, key: PeerKey) -> Option<&Decision> {
        self.peers.get(&key)?.decisions.back()
    }

    /// Round-trip time of the path in use, by its probes.
    pub fn rtt(&self, key: PeerKey) -> Option<Duration> {
        let peer = self.peers.get(&key)?;
        peer.trials.iter().find(|trial| Some(trial.path) == peer.current)?.rtt
    }

    /// What was decided lately, oldest first, and all that is tried.
    pub fn report(&self, key: PeerKey) -> Option<(Vec<Decision>, Vec<Trial>)> {
        let peer = self.peers.get(&key)?;
        Some((peer.decisions.iter().cloned().collect(), peer.trials.clone()))
    }

    /// Tells the peer where we are, and tries all paths, as it will when it hears that.
    fn punch(&mut self, now: Instant, key: PeerKey) {
        let endpoints = self.own.clone();
        let Some(path) = self.peers.get(&key).and_then(|peer| peer.current) else { return };
        let message = Message::Candidates { endpoints };
        self.outputs.push_back(Output::Send { peer: key, path, message, size: 0 });
        self.tell_mapping(key);
        self.with(now, key, Peer::try_all);
    }

    /// Changes a peer and does what follows from it.
    fn with(&mut self, now: Instant, key: PeerKey, change: impl FnOnce(&mut Peer, Instant)) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let before = (peer.current, peer.sizes());
        change(peer, now);
        while let Some(at) = peer.due(now) {
            let named = peer.only_named(at);
            if named.is_some_and(|(address, doubt)| !self.named.take(now, key.1, address, doubt)) {
                peer.skip(at);
                continue;
            }
            if !self.budget.take(now) {
                peer.postpone(at, now + Duration::from_millis(50));
                continue;
            }
            let id = self.rng.next_u32();
            if let Some(path) = peer.sent(at, id, now) {
                let message = Message::Ping { id };
                self.outputs.push_back(Output::Send { peer: key, path, message, size: 0 });
            }
        }
        if let Some((path, size)) = peer.mtu_due(now)
            && self.budget.take(now)
        {
            let (id, peer_key) = (self.rng.next_u32(), key);
            peer.mtu_sent(now, id, size);
            let (message, size) = (Message::Ping { id }, size.into());
            self.outputs.push_back(Output::Send { peer: peer_key, path, message, size });
        }
        if std::mem::take(&mut peer.wants_show) {
            self.outputs.push_back(Output::Show { peer: key });
        }
        if std::mem::take(&mut peer.wants_renewal) {
            self.outputs.push_back(Output::Renew { peer: key });
        }
        if std::mem::take(&mut peer.wants_relay) {
            self.outputs.push_back(Output::WantRelay { peer: key });
        }
        let punch = std::mem::take(&mut peer.wants_punch);
        let after = (peer.current, peer.sizes());
        if let Some(path) = after.0.filter(|path| before.0 != Some(*path)) {
            self.outputs.push_back(Output::Use { peer: key, path });
        } else if after.1 != before.1 {
            self.outputs.push_back(Output::Resized { peer: key });
        }
        self.settle_birthday(now, key);
        if punch {
            self.punch(now, key);
        }
    }
}

/// Whether a node could be reached there at all (RFC 6890).
pub fn is_usable(address: &SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let reserved = match ip {
        IpAddr::V4(ip) => {
            ip.is_link_local() || ip.is_broadcast() || ip.octets()[0] >= 240 || ip.octets()[0] == 0
        }
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    };
    address.port() != 0 && !reserved && !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified()
}
