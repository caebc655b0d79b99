//! Who is in one network, seen from one node, and which block each member holds.
//!
//! Owns the collision rule: of two claims to one block the older holds it, ties go to the lower node id, and
//! the loser takes the block of its next attempt. The rule needs nothing but the two claims, so all nodes that
//! know the same records agree, after partitions and merges too. Must not know links, packets or files.
//!
//! Clocks enter: a newcomer whose clock is slow by an hour can displace a node that has claimed its block for less
//! than an hour. Records from further ahead are refused ([`crate::record::SKEW`]).
//!
//! A member could back-date a claim to take another's block. Members are trusted not to (they hold the same
//! key); the alternative, first seen wins, gives every node another answer and never converges.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rand_core::CryptoRngCore;
use serde::{Deserialize, Serialize};

use crate::address::Block;
use crate::identity::{Identity, NodeId};
use crate::key::{Ipv4Range, NetworkKeys};
use crate::record::{Envelope, LIFETIME, MAX_ENDPOINTS, RecordBody, RecordError};

/// Most peers of a network. A known one is never given up for a new one.
pub const MAX_PEERS: usize = 4096;
/// Blocks that are tried in a row before the range counts as full.
const MAX_ATTEMPTS: u32 = 4096;

/// What of a membership survives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MembershipState {
    /// Attempt that our block comes from.
    pub attempt: u32,
    /// Since when we claim it (Unix seconds); 0 before the first record.
    pub claimed_at: u64,
    /// Version of our newest record.
    pub version: u64,
}

/// Another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its node id.
    pub node: NodeId,
    /// Its display name.
    pub name: String,
    /// Its own IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its own IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Its addresses.
    pub block: Block,
    /// UDP addresses to try.
    pub endpoints: Vec<SocketAddr>,
    /// Until when its record counts (Unix seconds).
    pub expires: u64,
    claimed_at: u64,
    version: u64,
}

/// What a record changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing: known already, or older than what is known.
    Nothing,
    /// The peer is new or says something else than before.
    Peer(NodeId),
    /// An older claim holds our block: we took the next, and our addresses changed.
    OwnAddressMoved,
}

/// The members of one network.
#[derive(Debug)]
pub struct Membership {
    keys: NetworkKeys,
    range: Ipv4Range,
    node: NodeId,
    name: String,
    own: Block,
    state: MembershipState,
    published: Option<RecordBody>,
    peers: BTreeMap<NodeId, Peer>,
    /// Who holds its block; made anew at the first look after a change.
    holders: OnceCell<BTreeSet<NodeId>>,
}

impl Membership {
    /// The membership of `node`, alone at first. `state` is what [`Membership::state`] gave before.
    pub fn new(
        keys: NetworkKeys,
        range: Ipv4Range,
        node: NodeId,
        name: String,
        state: MembershipState,
    ) -> Self {
        let own = Block::derive(&keys, range, node, state.attempt);
        Self {
            keys,
            range,
            node,
            name,
            own,
            state,
            published: None,
            peers: BTreeMap::new(),
            holders: OnceCell::new(),
        }
    }

    /// What to remember over a restart.
    pub fn state(&self) -> MembershipState {
        self.state.clone()
    }

    /// Own IPv4 address.
    pub fn own4(&self) -> Ipv4Addr {
        self.own.node4()
    }

    /// Own IPv6 address.
    pub fn own6(&self) -> Ipv6Addr {
        self.own.node6()
    }

    /// How many times our address had to make way.
    pub fn attempt(&self) -> u32 {
        self.state.attempt
    }

    /// The peers that hold their block, by ascending node id. Who lost its block is left out until it moves.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        let holders = self.holders.get_or_init(|| self.find_holders());
        self.peers.values().filter(|peer| holders.contains(&peer.node))
    }

    /// Takes a record from an envelope.
    pub fn handle_envelope(&mut self, now: u64, envelope: &Envelope) -> Result<Change, RecordError> {
        self.handle_record(now, RecordBody::open(&self.keys, envelope)?)
    }

    /// Takes an authentic record. `now` in Unix seconds.
    pub fn handle_record(&mut self, now: u64, body: RecordBody) -> Result<Change, RecordError> {
        body.check_time(now)?;
        if body.node == self.node {
            // Our own words from before the state was lost: go on above them.
            self.state.version = self.state.version.max(body.version);
            return Ok(Change::Nothing);
        }
        match self.peers.get(&body.node) {
            Some(known) if known.version >= body.version => return Ok(Change::Nothing),
            None if self.peers.len() >= MAX_PEERS => return Err(RecordError::Full),
            _ => {}
        }
        let node = body.node;
        let peer = self.peer(body);
        self.peers.insert(node, peer);
        self.holders.take();
        Ok(if self.make_way(now) { Change::OwnAddressMoved } else { Change::Peer(node) })
    }

    /// Forgets peers whose record has expired. True if there was one.
    pub fn expire(&mut self, now: u64) -> bool {
        let before = self.peers.len();
        self.peers.retain(|_, peer| peer.expires > now);
        self.holders.take();
        self.peers.len() != before
    }

    /// Our own record, sealed: a new version when it says something new or half of its life is over.
    ///
    /// # Errors
    /// Only when the record is too large to seal.
    pub fn own_envelope(
        &mut self,
        now: u64,
        identity: &Identity,
        endpoints: &[SocketAddr],
        rng: &mut impl CryptoRngCore,
    ) -> Result<Option<Envelope>, RecordError> {
        match self.own_record(now, endpoints) {
            Some(body) => body.seal(&self.keys, identity, rng).map(Some),
            None => Ok(None),
        }
    }

    /// Our own record where there is something new to say.
    pub fn own_record(&mut self, now: u64, endpoints: &[SocketAddr]) -> Option<RecordBody> {
        let endpoints: Vec<_> = endpoints.iter().take(MAX_ENDPOINTS).copied().collect();
        let fresh = self.published.as_ref().is_some_and(|last| {
            last.attempt == self.state.attempt
                && last.endpoints == endpoints
                && last.version >= self.state.version
                && last.expires > now + LIFETIME / 2
        });
        if fresh {
            return None;
        }
        if self.state.claimed_at == 0 {
            self.state.claimed_at = now;
        }
        self.state.version = now.max(self.state.version + 1);
        let body = RecordBody {
            node: self.node,
            name: self.name.clone(),
            attempt: self.state.attempt,
            claimed_at: self.state.claimed_at,
            endpoints,
            version: self.state.version,
            expires: now + LIFETIME,
        };
        self.published = Some(body.clone());
        Some(body)
    }

    fn peer(&self, body: RecordBody) -> Peer {
        let block = Block::derive(&self.keys, self.range, body.node, body.attempt);
        Peer {
            node: body.node,
            name: body.name,
            ipv4: block.node4(),
            ipv6: block.node6(),
            block,
            endpoints: body.endpoints,
            expires: body.expires,
            claimed_at: body.claimed_at,
            version: body.version,
        }
    }

    /// Takes the next block that no better claim holds. A range with more members than blocks has none left.
    fn make_way(&mut self, now: u64) -> bool {
        let is_held =
            |own: &Block, claim| self.peers.values().any(|p| p.block.collides(own) && p.claim() < claim);
        if !is_held(&self.own, self.claim(now)) {
            return false;
        }
        let mut attempt = self.state.attempt;
        for _ in 0..MAX_ATTEMPTS {
            attempt = attempt.wrapping_add(1);
            let own = Block::derive(&self.keys, self.range, self.node, attempt);
            if !is_held(&own, (now, self.node)) {
                self.state.attempt = attempt;
                self.state.claimed_at = now;
                self.own = own;
                return true;
            }
        }
        false
    }

    fn claim(&self, now: u64) -> (u64, NodeId) {
        let since = if self.state.claimed_at == 0 { now } else { self.state.claimed_at };
        (since, self.node)
    }

    fn find_holders(&self) -> BTreeSet<NodeId> {
        let mut best4: BTreeMap<Ipv4Addr, (u64, NodeId)> = BTreeMap::new();
        let mut best6: BTreeMap<Ipv6Addr, (u64, NodeId)> = BTreeMap::new();
        for peer in self.peers.values() {
            let claim = peer.claim();
            best4.entry(peer.block.base4).and_modify(|best| *best = claim.min(*best)).or_insert(claim);
            best6.entry(peer.block.base6).and_modify(|best| *best = claim.min(*best)).or_insert(claim);
        }
        let is_best = |peer: &&Peer| {
            let claim = Some(peer.claim());
            best4.get(&peer.block.base4).copied() == claim && best6.get(&peer.block.base6).copied() == claim
        };
        let holders = self.peers.values().filter(is_best).filter(|peer| !peer.block.collides(&self.own));
        holders.map(|peer| peer.node).collect()
    }
}

impl Peer {
    /// Orders claims: the smaller holds the block.
    fn claim(&self) -> (u64, NodeId) {
        (self.claimed_at, self.node)
    }
}
