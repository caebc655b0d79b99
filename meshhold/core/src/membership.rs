//! Who is in one network, seen from one node, and which block each member holds.
//!
//! Owns the collision rule: of two claims to one block the older holds it, ties go to the lower node id, and
//! the loser takes the block of its next attempt. The rule needs nothing but the two claims, so all nodes that
//! know the same records agree, after partitions and merges too. Must not know links, packets or files.
//!
//! A member could back-date a claim to take another's block. Members are trusted not to (they hold the same
//! key); the alternative, first seen wins, gives every node another answer and never converges. A clock that was wrong does so
//! without malice: a claim from before [`FIRST_CLAIM`] yields to all others, and the owner of a membership lets it claim by a
//! clock that can be right only.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rand_core::CryptoRngCore;
use serde::{Deserialize, Serialize};

use crate::address::Block;
use crate::claims::{Claim, Claims};
use crate::device::Device;
use crate::identity::{Identity, NodeId};
use crate::key::{Ipv4Range, NetworkKeys};
use crate::record::{Envelope, LIFETIME, MAX_ENDPOINTS, MAX_RELAYS, RecordBody, RecordError, SKEW};

/// 2026-01-01 in Unix seconds. No program claimed anything before, so an older claim was made by a clock that was wrong.
pub const FIRST_CLAIM: u64 = 1_767_225_600;
/// Most peers of a network. A known one is never given up for a new one.
pub const MAX_PEERS: usize = 4096;
/// Most blocks tried in a row: a full range has none to find.
const MAX_TRIES: u32 = 4096;

/// What of a membership survives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MembershipState {
    /// Attempt that our block comes from.
    pub attempt: u32,
    /// Since when we claim it (Unix seconds); 0 before the first record.
    pub claimed_at: u64,
    /// Version of our newest record.
    pub version: u64,
}

/// Another member. There may be thousands, so nothing here has room to grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its node id.
    pub node: NodeId,
    /// Its display name.
    pub name: Box<str>,
    /// Its own IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its own IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Its addresses.
    pub block: Block,
    /// UDP addresses to try.
    pub endpoints: Box<[SocketAddr]>,
    /// LAN devices that it fronts.
    pub devices: Box<[Device]>,
    /// Relays that it has links to.
    pub relays: Box<[(NodeId, SocketAddr)]>,
    /// Until when its record counts (Unix seconds).
    pub expires: u64,
    /// Its mesh interface has no IPv6.
    pub without_ipv6: bool,
    claimed_at: u64,
    version: u64,
    /// No other peer has a better claim to its block.
    holds: bool,
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

/// What a node says about itself, besides name and claim.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said<'a> {
    /// UDP addresses to try, the best first.
    pub endpoints: &'a [SocketAddr],
    /// LAN devices that it fronts.
    pub devices: &'a [Device],
    /// Relays that it has links to, the nearest first.
    pub relays: &'a [(NodeId, SocketAddr)],
    /// Its mesh interface has no IPv6.
    pub without_ipv6: bool,
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
    /// In boxes of their own: the places of a map are a third empty.
    peers: BTreeMap<NodeId, Box<Peer>>,
    claims: Claims,
}

impl Membership {
    /// The membership of `node`, alone at first. `state` is what [`Membership::state`] gave before; a claim in it that can't
    /// be true is given up, and the block is claimed anew.
    pub fn new(
        keys: NetworkKeys,
        range: Ipv4Range,
        node: NodeId,
        name: String,
        mut state: MembershipState,
    ) -> Self {
        if state.claimed_at < FIRST_CLAIM {
            state.claimed_at = 0;
        }
        let own = Block::derive(&keys, range, node, state.attempt);
        let (peers, claims) = (BTreeMap::new(), Claims::default());
        Self { keys, range, node, name, own, state, published: None, peers, claims }
    }

    /// What to remember over a restart.
    pub fn state(&self) -> MembershipState {
        self.state.clone()
    }

    /// Our block.
    pub fn block(&self) -> Block {
        self.own
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
        self.peers.values().map(Box::as_ref).filter(|peer| peer.holds && !self.own.collides(&peer.block))
    }

    /// Whether there is a record of `node`.
    pub fn knows(&self, node: NodeId) -> bool {
        self.peers.contains_key(&node)
    }

    /// Whether our block was claimed by a record of ours, now or in an earlier life.
    pub fn has_claim(&self) -> bool {
        self.state.claimed_at != 0
    }

    /// Our clock was set: what was said by it before is to be said anew.
    pub fn say_again(&mut self) {
        self.published = None;
    }

    /// Takes a record from an envelope.
    pub fn handle_envelope(&mut self, now: u64, envelope: &Envelope) -> Result<Change, RecordError> {
        self.handle_record(now, RecordBody::open(&self.keys, envelope)?)
    }

    /// Takes an authentic record. `now` in Unix seconds.
    pub fn handle_record(&mut self, now: u64, body: RecordBody) -> Result<Change, RecordError> {
        if body.node == self.node {
            // Our own words from before the state was lost, or from when our clock was wrong: go on above them.
            self.state.version = self.state.version.max(body.version);
            return Ok(Change::Nothing);
        }
        body.check_time(now)?;
        match self.peers.get(&body.node) {
            Some(known) if known.version >= body.version => return Ok(Change::Nothing),
            None if self.peers.len() >= MAX_PEERS => return Err(RecordError::Full),
            _ => {}
        }
        let peer = self.peer(body);
        let node = peer.node;
        self.forget(node);
        self.claims.insert(peer.block, peer.claim());
        let block = peer.block;
        self.peers.insert(node, Box::new(peer));
        self.settle(block);
        Ok(if self.make_way(now) { Change::OwnAddressMoved } else { Change::Peer(node) })
    }

    /// Forgets peers whose record has expired. True if there was one.
    pub fn expire(&mut self, now: u64) -> bool {
        let expired: Vec<_> =
            self.peers.values().filter(|peer| peer.expires <= now).map(|peer| peer.node).collect();
        expired.iter().for_each(|node| self.forget(*node));
        !expired.is_empty()
    }

    /// Our own record, sealed: a new version when it says something new or half of its life is over.
    ///
    /// # Errors
    /// Only when the record is too large to seal.
    pub fn own_envelope(
        &mut self,
        now: u64,
        identity: &Identity,
        said: Said<'_>,
        rng: &mut impl CryptoRngCore,
    ) -> Result<Option<Envelope>, RecordError> {
        match self.own_record(now, said) {
            Some(body) => body.seal(&self.keys, identity, rng).map(Some),
            None => Ok(None),
        }
    }

    /// Our own record where there is something new to say.
    pub fn own_record(&mut self, now: u64, said: Said<'_>) -> Option<RecordBody> {
        let endpoints: Vec<_> = said.endpoints.iter().take(MAX_ENDPOINTS).copied().collect();
        let fresh = self.published.as_ref().is_some_and(|last| {
            last.attempt == self.state.attempt
                && last.endpoints == endpoints
                && last.devices == said.devices
                && last.relays == said.relays
                && last.without_ipv6 == said.without_ipv6
                && last.version >= self.state.version
                && (now + LIFETIME / 2 + 1..=now + LIFETIME).contains(&last.expires)
        });
        if fresh {
            return None;
        }
        // A clock that was ahead made a claim that everybody refuses.
        if !self.has_claim() || self.state.claimed_at > now + SKEW {
            self.state.claimed_at = now;
        }
        self.state.version = now.max(self.state.version.saturating_add(1));
        let body = RecordBody {
            node: self.node,
            name: self.name.clone(),
            attempt: self.state.attempt,
            claimed_at: self.state.claimed_at,
            endpoints,
            devices: said.devices.to_vec(),
            relays: said.relays.iter().take(MAX_RELAYS).copied().collect(),
            version: self.state.version,
            expires: now + LIFETIME,
            without_ipv6: said.without_ipv6,
        };
        self.published = Some(body.clone());
        Some(body)
    }

    fn peer(&self, body: RecordBody) -> Peer {
        let block = Block::derive(&self.keys, self.range, body.node, body.attempt);
        Peer {
            node: body.node,
            name: body.name.into(),
            ipv4: block.node4(),
            ipv6: block.node6(),
            block,
            endpoints: body.endpoints.into(),
            devices: body.devices.into(),
            relays: body.relays.into(),
            expires: body.expires,
            without_ipv6: body.without_ipv6,
            claimed_at: body.claimed_at,
            version: body.version,
            holds: true,
        }
    }

    /// Takes the next block nobody claims when a better claim holds ours. Stays where there is none to be found:
    /// moving anyway would make the surplus members of a full range answer each other's moves for ever.
    fn make_way(&mut self, now: u64) -> bool {
        if !self.claims.beaten(self.own, self.claim()) {
            return false;
        }
        for tries in 1..=MAX_TRIES {
            let attempt = self.state.attempt.wrapping_add(tries);
            let block = Block::derive(&self.keys, self.range, self.node, attempt);
            if self.claims.free(block) {
                self.own = block;
                self.state.attempt = attempt;
                if self.has_claim() {
                    self.state.claimed_at = now;
                }
                return true;
            }
        }
        false
    }

    /// Who has never published a claim yields to all: its clock may be behind that of an established node.
    fn claim(&self) -> Claim {
        (credible(self.state.claimed_at), self.node)
    }

    fn forget(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.remove(&node) {
            self.claims.remove(peer.block, peer.claim());
            self.settle(peer.block);
        }
    }

    /// Says anew of each peer that claims any of the block whether it holds its own.
    fn settle(&mut self, block: Block) {
        for (_, node) in self.claims.on(block) {
            if let Some(peer) = self.peers.get_mut(&node) {
                peer.holds = !self.claims.beaten(peer.block, peer.claim());
            }
        }
    }
}

impl Peer {
    /// Orders claims: the smaller holds the block.
    fn claim(&self) -> Claim {
        (credible(self.claimed_at), self.node)
    }
}

/// Since when a claim counts: one that was never made, or by a clock that was wrong, is younger than all others.
fn credible(claimed_at: u64) -> u64 {
    if claimed_at < FIRST_CLAIM { u64::MAX } else { claimed_at }
}

#[cfg(test)]
mod tests;
