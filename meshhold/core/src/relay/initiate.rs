//! The initiator's part: asking for relayed paths to a peer.
//!
//! Owns the requests, those that stand too. Must not know when a relayed path is wanted, or what goes over it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand_core::RngCore;

use super::{MAX_HOPS, Message, Output, Refusal, Relays};
use crate::identity::NodeId;
use crate::path::{Path, PeerKey};

/// Paths to one peer that are asked for or stand at the same time.
const AT_ONCE: usize = 2;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Labels drawn for one path.
const DRAWS: u32 = 3;

/// A path that we asked for.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) peer: PeerKey,
    /// The relays and the peer.
    pub(super) hops: Vec<NodeId>,
    pub(super) forth: u32,
    pub(super) back: u32,
    draws: u32,
    /// `None` once the path stands.
    deadline: Option<Instant>,
}

impl Request {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(super) fn relays(&self) -> &[NodeId] {
        self.hops.split_last().map_or(&[], |(_, relays)| relays)
    }
}

impl Relays {
    /// Asks for paths to `peer`, which has links to `relays`; up to two more than stand already, over other relays than these.
    /// With `anew` the ones that stand don't count: they are in doubt.
    pub fn want(&mut self, now: Instant, peer: PeerKey, relays: &[NodeId], anew: bool) {
        let used: Vec<Vec<NodeId>> =
            self.requests.values().filter(|r| r.peer == peer).map(|r| r.relays().to_vec()).collect();
        let pending = |request: &&Request| request.peer == peer && (request.deadline.is_some() || !anew);
        let room = AT_ONCE.saturating_sub(self.requests.values().filter(pending).count());
        let ways = self.ways_to(peer.1, relays);
        let fresh: Vec<_> = ways.into_iter().filter(|way| !used.contains(way)).take(room).collect();
        for way in fresh {
            let hops = way.into_iter().chain([peer.1]).collect();
            self.open(now, peer, hops, DRAWS);
        }
    }

    /// Gives up all paths to `peer` that we asked for.
    pub fn close(&mut self, peer: PeerKey) {
        let ids: Vec<u64> = self.requests.iter().filter(|(_, r)| r.peer == peer).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(request) = self.requests.remove(&id) else { continue };
            if let Some(first) = request.hops.first() {
                self.send(*first, Message::Close { id });
            }
            self.push(Output::Changed);
        }
    }

    fn open(&mut self, now: Instant, peer: PeerKey, hops: Vec<NodeId>, draws: u32) {
        let Some((first, rest)) = hops.split_first() else { return };
        debug_assert!(hops.len() <= MAX_HOPS + 1);
        let (id, forth, back) = (self.draw_id(), self.rng.next_u32(), self.rng.next_u32());
        let (from, to) = (vec![self.own], rest.to_vec());
        self.send(*first, Message::Open { id, forth, back, from, to });
        let deadline = Some(now + PATIENCE);
        self.requests.insert(id, Request { peer, hops, forth, back, draws, deadline });
        self.push(Output::Changed);
    }

    pub(super) fn request_opened(&mut self, from: NodeId, id: u64) -> bool {
        let Some(request) = self.requests.get_mut(&id).filter(|r| r.hops.first() == Some(&from)) else {
            return false;
        };
        request.deadline = None;
        let (peer, forth) = (request.peer, request.forth);
        if let Some(link) = self.links.get(&from) {
            let path = Path::relayed(link.address, forth);
            self.push(Output::Ready { peer, path });
        }
        true
    }

    pub(super) fn request_refused(
        &mut self,
        now: Instant,
        from: NodeId,
        id: u64,
        (by, refusal): (NodeId, Refusal),
    ) -> bool {
        if self.requests.get(&id).is_none_or(|r| r.hops.first() != Some(&from)) {
            return false;
        }
        let Some(request) = self.requests.remove(&id) else { return true };
        if refusal == Refusal::Taken && request.draws > 1 {
            self.open(now, request.peer, request.hops, request.draws - 1);
            return true;
        }
        self.push(Output::Changed);
        self.push(Output::Failed { peer: request.peer, reason: format!("relay {by} {refusal}") });
        true
    }

    pub(super) fn request_closed(&mut self, from: NodeId, id: u64) -> bool {
        if self.requests.get(&id).is_none_or(|r| r.hops.first() != Some(&from)) {
            return false;
        }
        let Some(request) = self.requests.remove(&id) else { return true };
        if let Some(link) = self.links.get(&from) {
            let path = Path::relayed(link.address, request.forth);
            self.push(Output::Gone { path });
        }
        self.push(Output::Changed);
        true
    }

    pub(super) fn end_requests(&mut self, node: NodeId, address: SocketAddr) {
        let over = self.requests.iter().filter(|(_, request)| request.hops.first() == Some(&node));
        let over: Vec<u64> = over.map(|(id, _)| *id).collect();
        for request in over.iter().filter_map(|id| self.requests.remove(id)).collect::<Vec<_>>() {
            self.push(Output::Gone { path: Path::relayed(address, request.forth) });
        }
    }

    pub(super) fn give_up_requests(&mut self, now: Instant) {
        let late = self.requests.iter().filter(|(_, request)| request.deadline.is_some_and(|at| at <= now));
        let late: Vec<u64> = late.map(|(id, _)| *id).collect();
        for id in late {
            let Some(first) = self.requests.get(&id).and_then(|r| r.hops.first().copied()) else { continue };
            self.send(first, Message::Close { id });
            self.request_refused(now, first, id, (first, Refusal::Silent));
        }
    }
}
