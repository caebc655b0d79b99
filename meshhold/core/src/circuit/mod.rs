//! The circuits of one node: handshakes, retries, rekeying, ends.
//!
//! The loop contract: after any `handle_*`, [`Circuits::connect`] or report, take [`Circuits::poll_output`] until it
//! is empty, then sleep until [`Circuits::poll_timeout`] and call [`Circuits::handle_timeout`]. Must not know
//! sockets, workers or records.
//!
//! Strangers get no answer at all: an initiation counts only with a `mac1` that takes the network key.

mod counts;
mod frame;
mod initiate;
mod peer;
mod respond;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_core::RngCore;

pub use counts::Handshakes;
pub use peer::{GIVE_UP_AFTER, KEEPALIVE_AFTER, REJECT_AFTER, REKEY_AFTER, Traffic, UNANSWERED_AFTER};

use crate::cookie::{CookieJar, MacKeys};
use crate::handshake::Outcome;
use crate::handshake::random::SeededRng;
use crate::identity::{Identity, NodeId};
use crate::key::NetworkId;
use crate::limiter::Limiter;
use crate::path::Path;
use crate::session::{Cipher, Secret, Session};
use crate::wire::{LANE_BITS, MAX_LANES, TYPE_COOKIE, TYPE_INITIATION, TYPE_RESPONSE};
use peer::{Live, Peer};

/// How closely the time of handshakes is remembered.
const STEP: Duration = Duration::from_secs(600);
/// Most peers with state.
const MAX_PEERS: usize = 8192;
/// Most outputs that wait; handshakes beyond are dropped and retried.
const MAX_OUTPUTS: usize = 16_384;

type PeerKey = (NetworkId, NodeId);

/// What the owner of the circuits is to do.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram from the shared port.
    Transmit {
        /// Where to.
        to: Path,
        /// All of it.
        datagram: Vec<u8>,
    },
    /// Receive on a new session.
    Install {
        /// The network.
        network: NetworkId,
        /// The peer.
        peer: NodeId,
        /// Keys and indices.
        session: Arc<Session>,
        /// Where its datagrams go.
        remote: Path,
        /// It may be sent on at once.
        transmit: bool,
    },
    /// Send on this session from now on.
    Use {
        /// Of the session.
        local_index: u32,
    },
    /// The session has ended: forget its keys.
    Retire {
        /// Of the session.
        local_index: u32,
    },
    /// The peer is at another address now.
    Move {
        /// Of one of its sessions.
        local_index: u32,
        /// The address.
        remote: Path,
    },
    /// Send an empty data datagram.
    Keepalive {
        /// Of the session to send it on.
        local_index: u32,
    },
    /// The first session with the peer can be used.
    Up {
        /// The network.
        network: NetworkId,
        /// The peer.
        peer: NodeId,
    },
    /// There is no session with the peer any more, or none came about.
    Down {
        /// The network.
        network: NetworkId,
        /// The peer.
        peer: NodeId,
        /// Why.
        reason: &'static str,
    },
}

/// State of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitState {
    /// A handshake is under way and nothing can be sent yet.
    Connecting,
    /// There is a session.
    Connected,
}

/// One circuit as it is now.
#[derive(Clone, Debug)]
pub struct CircuitStatus {
    /// The network.
    pub network: NetworkId,
    /// The peer.
    pub peer: NodeId,
    /// Its state.
    pub state: CircuitState,
    /// Where datagrams go.
    pub remote: Option<Path>,
    /// Something is known of where the peer may be, so handshakes are sent.
    pub is_tried: bool,
    /// Round trip of the last handshake that we began.
    pub rtt: Option<Duration>,
    /// Cipher of the sending session.
    pub cipher: Option<Cipher>,
    /// Local index of the sending session.
    pub local_index: Option<u32>,
    /// How far the peer's clock was ahead of ours when it last began a handshake with us, in seconds.
    pub ahead: Option<i64>,
}

#[derive(Debug)]
struct Network {
    psk: Secret,
    /// For messages to us.
    inbound: MacKeys,
}

/// The circuits of one node.
pub struct Circuits {
    identity: Identity,
    node: NodeId,
    lanes: u8,
    offers: Vec<(Cipher, u32)>,
    swarm_key: Option<Secret>,
    rng: SeededRng,
    wall_start: Duration,
    started: Option<Instant>,
    last_time: [u8; 12],
    networks: BTreeMap<NetworkId, Network>,
    peers: BTreeMap<PeerKey, Peer>,
    indices: BTreeMap<u32, PeerKey>,
    outputs: VecDeque<Output>,
    limiter: Limiter,
    cookies: CookieJar,
    load: respond::Load,
    counts: Handshakes,
}

impl Circuits {
    /// No circuit yet. `lanes` is the number of this node's workers, `offers` its ciphers with the speeds it
    /// measured (MB/s), `wall_start` the time since the Unix epoch at the first call that brings a `now`.
    pub fn new(
        identity: Identity,
        lanes: u8,
        offers: Vec<(Cipher, u32)>,
        rng_seed: [u8; 32],
        wall_start: Duration,
    ) -> Self {
        let mut rng = SeededRng::new(rng_seed);
        Self {
            node: identity.node_id(),
            identity,
            lanes: lanes.clamp(1, MAX_LANES),
            offers,
            swarm_key: None,
            cookies: CookieJar::new(&mut rng),
            rng,
            wall_start,
            started: None,
            last_time: [0; 12],
            networks: BTreeMap::new(),
            peers: BTreeMap::new(),
            indices: BTreeMap::new(),
            outputs: VecDeque::new(),
            limiter: Limiter::default(),
            load: respond::Load::default(),
            counts: Handshakes::default(),
        }
    }

    /// Mixes the swarm key into `mac1`: nodes without it get no answer. To be set before networks are added.
    pub fn set_swarm_key(&mut self, swarm_key: Option<[u8; 32]>) {
        self.swarm_key = swarm_key.map(Secret);
    }

    /// Takes part in a network.
    pub fn add_network(&mut self, id: NetworkId, psk: Secret) {
        let inbound = MacKeys::new(&psk, self.swarm_key.as_ref(), self.node);
        self.networks.insert(id, Network { psk, inbound });
    }

    /// Leaves a network: all its circuits end at once.
    pub fn remove_network(&mut self, now: Instant, id: NetworkId) {
        let peers: Vec<NodeId> =
            self.peers.keys().filter(|(network, _)| *network == id).map(|key| key.1).collect();
        for peer in peers {
            self.close(now, id, peer);
        }
        self.networks.remove(&id);
    }

    /// Brings a circuit up, or gives a handshake under way new endpoints to try.
    pub fn connect(&mut self, now: Instant, network: NetworkId, peer: NodeId, endpoints: &[Path]) {
        let possible = peer != self.node && peer.noise_public().is_some();
        if !possible || !self.networks.contains_key(&network) || !self.has_room((network, peer)) {
            return;
        }
        let entry = self.peers.entry((network, peer)).or_insert_with(|| Peer::new(now));
        entry.endpoints = endpoints.iter().take(peer::MAX_ENDPOINTS).copied().collect();
        if entry.sending.is_none() && entry.attempts.is_none() {
            self.renew(now, (network, peer));
        }
    }

    /// A handshake under way tries one more path at once.
    pub fn try_path(&mut self, network: NetworkId, peer: NodeId, path: Path) {
        let Some(entry) = self.peers.get_mut(&(network, peer)) else { return };
        if !entry.endpoints.contains(&path) {
            entry.endpoints.insert(0, path);
            entry.endpoints.truncate(peer::MAX_ENDPOINTS);
        }
        if let Some(pending) = &entry.pending {
            let datagram = pending.datagram.clone();
            self.push(Output::Transmit { to: path, datagram });
        }
    }

    /// Takes a handshake datagram. Anything wrong is dropped without an answer.
    pub fn handle_datagram(&mut self, now: Instant, from: Path, datagram: &[u8]) {
        match datagram.first() {
            Some(&TYPE_INITIATION) => self.on_initiation(now, from, datagram),
            Some(&TYPE_RESPONSE) => self.on_response(now, from, datagram),
            Some(&TYPE_COOKIE) => self.on_cookie(now, datagram),
            _ => {}
        }
    }

    /// The first authenticated datagram arrived on a session.
    pub fn confirmed(&mut self, _now: Instant, local_index: u32) {
        let Some((key, peer)) = self.owner(local_index) else { return };
        let Some(session) = peer.session(local_index) else { return };
        if std::mem::replace(&mut session.confirmed, true) || session.initiator {
            return;
        }
        let (created, remote) = (session.created, session.remote);
        if peer.current().is_some_and(|current| current.created > created) {
            return;
        }
        let first = peer.sending.replace(local_index).is_none();
        peer.attempts = None;
        let moved = peer.remote.replace(remote) != Some(remote);
        let pending = peer.pending.take();
        self.forget_index(pending.map(|p| p.local_index));
        self.push(Output::Use { local_index });
        if moved {
            self.push(Output::Move { local_index, remote });
        }
        if first {
            self.push(Output::Up { network: key.0, peer: key.1 });
        }
    }

    /// Nothing is heard on the circuit: sets it up anew, while the old session may still be right.
    pub fn refresh(&mut self, now: Instant, network: NetworkId, peer: NodeId) {
        let Some(entry) = self.peers.get_mut(&(network, peer)) else { return };
        if entry.attempts.is_none() && entry.sending.is_some() {
            entry.unanswered_since.get_or_insert(now);
            self.renew(now, (network, peer));
        }
    }

    /// The circuit's datagrams go by another path from now on.
    pub fn use_path(&mut self, network: NetworkId, peer: NodeId, path: Path) {
        let Some(entry) = self.peers.get_mut(&(network, peer)) else { return };
        let Some(local_index) = entry.sending else { return };
        if entry.remote.replace(path) != Some(path) {
            self.push(Output::Move { local_index, remote: path });
        }
    }

    /// Totals of a session so far, to be told about once a second.
    pub fn activity(&mut self, now: Instant, local_index: u32, total: Traffic) {
        let Some((key, peer)) = self.owner(local_index) else { return };
        peer.account(now, local_index, total);
        if peer.attempts.is_none() && peer.wants_rekey(now) {
            self.renew(now, key);
        }
    }

    /// A lane of the session has used up its counters: renew it at once.
    pub fn exhausted(&mut self, now: Instant, local_index: u32) {
        let Some((key, peer)) = self.owner(local_index) else { return };
        if peer.sending == Some(local_index) && peer.attempts.is_none() {
            self.renew(now, key);
        }
    }

    /// Ends a circuit.
    pub fn close(&mut self, _now: Instant, network: NetworkId, peer: NodeId) {
        self.drop_peer((network, peer), "closed");
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What became of handshakes so far.
    pub fn handshakes(&self) -> Handshakes {
        self.counts
    }

    /// All circuits.
    pub fn status(&self) -> impl Iterator<Item = CircuitStatus> {
        let shown = self.peers.iter().filter(|(_, peer)| peer.sending.is_some() || peer.attempts.is_some());
        shown.map(|(&(network, node), peer)| CircuitStatus {
            network,
            peer: node,
            state: if peer.sending.is_some() { CircuitState::Connected } else { CircuitState::Connecting },
            remote: peer.remote,
            is_tried: peer.remote.is_some() || !peer.endpoints.is_empty(),
            rtt: peer.rtt,
            cipher: peer.current().map(|session| session.cipher),
            local_index: peer.sending,
            ahead: peer.ahead,
        })
    }

    fn push(&mut self, output: Output) {
        let droppable = matches!(output, Output::Transmit { .. } | Output::Keepalive { .. });
        if !droppable || self.outputs.len() < MAX_OUTPUTS {
            self.outputs.push_back(output);
        }
    }

    fn owner(&mut self, local_index: u32) -> Option<(PeerKey, &mut Peer)> {
        let key = *self.indices.get(&local_index)?;
        Some((key, self.peers.get_mut(&key)?))
    }

    /// A receiver index that nobody uses, with the lane bits zero.
    fn draw_index(&mut self, key: PeerKey) -> u32 {
        loop {
            let index = self.rng.next_u32() & !((1 << LANE_BITS) - 1);
            if index != 0 && !self.indices.contains_key(&index) {
                self.indices.insert(index, key);
                return index;
            }
        }
    }

    fn forget_index(&mut self, index: Option<u32>) {
        if let Some(index) = index {
            self.indices.remove(&index);
        }
    }

    /// Room for one more peer; where there is none, one without a circuit makes way.
    fn has_room(&mut self, key: PeerKey) -> bool {
        if self.peers.len() < MAX_PEERS || self.peers.contains_key(&key) {
            return true;
        }
        let idle = self.peers.iter().find(|(_, peer)| peer.sessions.is_empty() && peer.attempts.is_none());
        let idle = idle.map(|(key, _)| *key);
        idle.is_some_and(|idle| self.peers.remove(&idle).is_some())
    }

    /// The host slept or its clock was set: `wall` is the time since the Unix epoch at `now`.
    pub fn set_wall(&mut self, now: Instant, wall: Duration) {
        self.started = Some(now);
        self.wall_start = wall;
    }

    /// What was told in handshakes so far is before this time since the Unix epoch, in whole steps of `STEP`: worth keeping, and
    /// rarely another.
    pub fn told_before(&self) -> Duration {
        let steps = decode_time(self.last_time).as_secs() / STEP.as_secs();
        STEP * u32::try_from(steps).unwrap_or(u32::MAX).saturating_add(u32::from(steps > 0))
    }

    /// Goes on after what [`Circuits::told_before`] gave in an earlier life, where our clock went back since: peers would take our
    /// handshakes for replays.
    pub fn go_on_after(&mut self, before: Duration) {
        if self.wall_start + STEP < before {
            self.last_time = encode_time(before);
        }
    }

    fn wall(&mut self, now: Instant) -> Duration {
        let started = *self.started.get_or_insert(now);
        self.wall_start + now.saturating_duration_since(started)
    }

    /// Wall-clock time of `now`, growing with each call.
    fn next_time(&mut self, now: Instant) -> [u8; 12] {
        let mut time = encode_time(self.wall(now));
        if time <= self.last_time {
            time = encode_time(decode_time(self.last_time) + Duration::from_nanos(1));
        }
        self.last_time = time;
        time
    }

    fn install(&mut self, now: Instant, key: PeerKey, live: Live, session: Session) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let (local_index, transmit, from) = (live.local_index, live.initiator, live.remote);
        // One to come at most: it must not push out the one that the peer still sends on.
        let unconfirmed = peer.sessions.iter().filter(|s| !s.confirmed && !transmit);
        let mut old: Vec<u32> = unconfirmed.map(|s| s.local_index).collect();
        peer.sessions.push(live);
        // Until it's confirmed, an initiation may have been carried here by anyone.
        let keeps = !transmit && peer.sending.is_some();
        let remote = peer.remote.filter(|_| keeps).unwrap_or(from);
        peer.remote = Some(remote);
        peer.unanswered_since = None;
        peer.used_at = now;
        let mut first = false;
        if transmit {
            first = peer.sending.replace(local_index).is_none();
            peer.attempts = None;
        }
        // The one in use, the one before and the one to come.
        let surplus = peer.sessions.len().saturating_sub(3 + old.len());
        let spare = peer.sessions.iter().filter(|s| s.confirmed).map(|s| s.local_index);
        let spare: Vec<u32> = spare.filter(|i| Some(*i) != peer.sending).take(surplus).collect();
        old.extend(spare);
        let (network, node) = key;
        self.push(Output::Install { network, peer: node, session: Arc::new(session), remote, transmit });
        for index in old {
            self.retire(key, index);
        }
        if transmit {
            // Tells the responder that its answer arrived, and so that it may send.
            self.push(Output::Keepalive { local_index });
        }
        if first {
            self.push(Output::Up { network, peer: node });
        }
    }

    fn retire(&mut self, key: PeerKey, local_index: u32) {
        self.indices.remove(&local_index);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.sessions.retain(|s| s.local_index != local_index);
            if peer.sending == Some(local_index) {
                peer.sending = None;
            }
        }
        self.push(Output::Retire { local_index });
    }

    fn drop_peer(&mut self, key: PeerKey, reason: &'static str) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let sessions: Vec<u32> = peer.sessions.iter().map(|s| s.local_index).collect();
        let pending = peer.pending.take().map(|p| p.local_index);
        let was_there = peer.attempts.take().is_some() || peer.sending.is_some();
        peer.owes_since = None;
        peer.unanswered_since = None;
        self.forget_index(pending);
        for index in sessions {
            self.retire(key, index);
        }
        if was_there {
            self.push(Output::Down { network: key.0, peer: key.1, reason });
        }
    }
}

fn session(outcome: Outcome, initiator: bool, local_index: u32, remote_index: u32) -> Session {
    let Outcome { to_responder, to_initiator, accept } = outcome;
    let (send, recv) = if initiator { (to_responder, to_initiator) } else { (to_initiator, to_responder) };
    Session { local_index, remote_index, lanes: accept.lanes, cipher: accept.cipher, send, recv }
}

fn encode_time(wall: Duration) -> [u8; 12] {
    let mut time = [0; 12];
    let (seconds, nanos) = time.split_at_mut(8);
    seconds.copy_from_slice(&wall.as_secs().to_be_bytes());
    nanos.copy_from_slice(&wall.subsec_nanos().to_be_bytes());
    time
}

fn decode_time(time: [u8; 12]) -> Duration {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = time;
    Duration::from_secs(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
        .saturating_add(Duration::from_nanos(u32::from_be_bytes([i, j, k, l]).into()))
}
