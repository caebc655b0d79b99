//! The parts of the relay and of the far end: passages for others, and doors through which others reach us.
//!
//! Owns who may have a passage. A passage ends with its links or when either side closes it. Must not know budgets of bytes:
//! those belong to whoever forwards.

use std::net::SocketAddr;
use std::time::Instant;

use super::{Forwarded, MAX_HOPS, Message, Output, Refusal, Relays};
use crate::identity::NodeId;
use crate::path::Path;

/// Most paths that end here over one relay.
const MAX_DOORS_PER_RELAY: usize = 4096;

/// A circuit that passes through this node.
#[derive(Debug)]
pub(super) struct Passage {
    /// Who asked, and its id for this.
    pub(super) before: (NodeId, u64),
    pub(super) after: NodeId,
    pub(super) forth: u32,
    pub(super) back: u32,
}

/// A path that another node set up to reach us.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) forth: u32,
    pub(super) back: u32,
    /// The initiator and all relays.
    pub(super) from: Vec<NodeId>,
}

impl Relays {
    pub(super) fn on_open(
        &mut self,
        before: NodeId,
        id: u64,
        labels: [u32; 2],
        passed: Vec<NodeId>,
        to: Vec<NodeId>,
    ) {
        let outcome = match to.split_first() {
            None => self.open_door(before, id, labels, passed),
            Some((after, rest)) => self.open_passage((before, id), *after, labels, passed, rest),
        };
        if let Err(refusal) = outcome {
            self.send(before, Message::Refused { id, by: self.own, refusal });
        }
    }

    fn open_door(
        &mut self,
        relay: NodeId,
        id: u64,
        [forth, back]: [u32; 2],
        from: Vec<NodeId>,
    ) -> Result<(), Refusal> {
        if !is_sound(&from, self.own) || from.last() != Some(&relay) {
            return Err(Refusal::BadPath);
        }
        if self.is_taken(relay, forth) {
            return Err(Refusal::Taken);
        }
        if self.doors.range((relay, 0)..=(relay, u64::MAX)).count() >= MAX_DOORS_PER_RELAY {
            return Err(Refusal::Full);
        }
        self.doors.insert((relay, id), Door { forth, back, from });
        // Datagrams may follow the answer closely.
        self.push(Output::Changed);
        self.send(relay, Message::Opened { id });
        Ok(())
    }

    fn open_passage(
        &mut self,
        before: (NodeId, u64),
        after: NodeId,
        [forth, back]: [u32; 2],
        mut passed: Vec<NodeId>,
        rest: &[NodeId],
    ) -> Result<(), Refusal> {
        self.judge(before.0, after, [forth, back], &passed, rest)?;
        let id = self.draw_id();
        passed.push(self.own);
        self.passages.insert(id, Passage { before, after, forth, back });
        self.push(Output::Changed);
        self.send(after, Message::Open { id, forth, back, from: passed, to: rest.to_vec() });
        Ok(())
    }

    fn judge(
        &self,
        before: NodeId,
        after: NodeId,
        labels: [u32; 2],
        passed: &[NodeId],
        rest: &[NodeId],
    ) -> Result<(), Refusal> {
        if !self.limits.enabled {
            return Err(Refusal::NoRelay);
        }
        let ahead = std::iter::once(&after).chain(rest);
        let loops = ahead.clone().any(|node| passed.contains(node) || *node == self.own);
        if loops || !is_sound(passed, self.own) || passed.last() != Some(&before) {
            return Err(Refusal::BadPath);
        }
        if passed.len() + ahead.count() > MAX_HOPS + 1 {
            return Err(Refusal::BadPath);
        }
        if !self.links.contains_key(&after) {
            return Err(Refusal::NoLink);
        }
        let ours = self.passages.values().filter(|passage| passage.before.0 == before).count();
        if self.passages.len() >= self.limits.circuits || ours >= self.limits.circuits_per_source {
            return Err(Refusal::Full);
        }
        let [forth, back] = labels;
        if self.is_taken(before, forth) || self.is_taken(after, back) {
            return Err(Refusal::Taken);
        }
        Ok(())
    }

    /// Whether what `node` sends behind this label goes somewhere already: on by a passage, or to us. That it goes to one place
    /// only rules out loops that are made of several paths without any: where a path ends, no other one goes on.
    fn is_taken(&self, node: NodeId, label: u32) -> bool {
        let passes = self.passages.values().any(|passage| {
            (passage.before.0, passage.forth) == (node, label)
                || (passage.after, passage.back) == (node, label)
        });
        let mut doors = self.doors.range((node, 0)..=(node, u64::MAX));
        let mut ours = self.requests.values().filter(|request| request.hops.first() == Some(&node));
        passes || doors.any(|(_, door)| door.forth == label) || ours.any(|request| request.back == label)
    }

    pub(super) fn forwarded(&self, passage: &Passage) -> Vec<Forwarded> {
        let before = self.links.get(&passage.before.0).map(|link| link.address);
        let after = self.links.get(&passage.after).map(|link| link.address);
        let (Some(before), Some(after)) = (before, after) else { return Vec::new() };
        let source = passage.before.0;
        vec![
            Forwarded { from: before, label: passage.forth, to: after, source },
            Forwarded { from: after, label: passage.back, to: before, source },
        ]
    }

    pub(super) fn on_opened(&mut self, from: NodeId, id: u64) {
        if self.request_opened(from, id) {
            return;
        }
        if let Some(passage) = self.passages.get(&id).filter(|passage| passage.after == from) {
            let (before, id) = passage.before;
            self.send(before, Message::Opened { id });
        }
    }

    pub(super) fn on_refused(&mut self, now: Instant, from: NodeId, id: u64, by: NodeId, refusal: Refusal) {
        if self.request_refused(now, from, id, (by, refusal)) {
            return;
        }
        if let Some((before, id)) = self.end_passage(from, id) {
            self.send(before, Message::Refused { id, by, refusal });
        }
    }

    /// Ids of both directions meet here: those that we drew, and those that the far end drew.
    pub(super) fn on_close(&mut self, from: NodeId, id: u64) {
        if let Some(door) = self.doors.remove(&(from, id)) {
            self.close_door(from, door.back);
            return;
        }
        let theirs =
            self.passages.iter().find(|(_, passage)| passage.before == (from, id)).map(|(own, _)| *own);
        if let Some(own) = theirs
            && let Some(passage) = self.passages.remove(&own)
        {
            self.push(Output::Changed);
            self.send(passage.after, Message::Close { id: own });
        }
    }

    /// The far end of a path that we asked or stand for is gone.
    pub(super) fn on_lost(&mut self, from: NodeId, id: u64) {
        if self.request_closed(from, id) {
            return;
        }
        if let Some((before, id)) = self.end_passage(from, id) {
            self.send(before, Message::Lost { id });
        }
    }

    /// Ends a passage that we asked `after` for.
    fn end_passage(&mut self, after: NodeId, id: u64) -> Option<(NodeId, u64)> {
        let passage = self.passages.get(&id).filter(|passage| passage.after == after)?;
        let before = passage.before;
        self.passages.remove(&id);
        self.push(Output::Changed);
        Some(before)
    }

    fn close_door(&mut self, relay: NodeId, back: u32) {
        self.push(Output::Changed);
        if let Some(link) = self.links.get(&relay) {
            let path = Path::relayed(link.address, back);
            self.push(Output::Gone { path });
        }
    }

    pub(super) fn end_passages(&mut self, node: NodeId) {
        let hit = self.passages.iter().filter(|(_, p)| p.before.0 == node || p.after == node);
        let hit: Vec<u64> = hit.map(|(id, _)| *id).collect();
        for id in hit {
            let Some(passage) = self.passages.remove(&id) else { continue };
            let (before, theirs) = passage.before;
            if before == node {
                self.send(passage.after, Message::Close { id });
            } else {
                self.send(before, Message::Lost { id: theirs });
            }
        }
    }

    pub(super) fn end_doors(&mut self, relay: NodeId, address: SocketAddr) {
        let over: Vec<_> = self.doors.range((relay, 0)..=(relay, u64::MAX)).map(|(key, _)| *key).collect();
        for door in over.iter().filter_map(|key| self.doors.remove(key)).collect::<Vec<_>>() {
            self.push(Output::Gone { path: Path::relayed(address, door.back) });
        }
    }

    /// Paths through a link whose far end moved: the old ones are gone, those that we asked for stand at the new address.
    pub(super) fn readdress(&mut self, node: NodeId, before: SocketAddr, after: SocketAddr) {
        let theirs = self.doors.range((node, 0)..=(node, u64::MAX)).map(|(_, door)| (None, door.back));
        let ours = self.requests.values().filter(|request| request.hops.first() == Some(&node));
        let ours = ours.filter(|request| request.deadline().is_none());
        let both: Vec<_> = theirs.chain(ours.map(|request| (Some(request.peer), request.forth))).collect();
        for (peer, label) in both {
            self.push(Output::Gone { path: Path::relayed(before, label) });
            if let Some(peer) = peer {
                self.push(Output::Ready { peer, path: Path::relayed(after, label) });
            }
        }
    }
}

/// No node twice, and not this one.
fn is_sound(passed: &[NodeId], own: NodeId) -> bool {
    let mut seen = std::collections::BTreeSet::from([own]);
    !passed.is_empty() && passed.len() <= MAX_HOPS + 1 && passed.iter().all(|node| seen.insert(*node))
}
