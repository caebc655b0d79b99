//! Which relays can be reached over which: what relays tell their neighbours.
//!
//! Owns the rule of a path vector: a relay tells each neighbour of the relays that it has links to, and of what these told it,
//! never of ways through the neighbour itself. Must not know paths that stand.

use std::time::{Duration, Instant};

use super::{MAX_HOPS, MAX_WAYS, Message, Relays};
use crate::identity::NodeId;

/// Pause before neighbours are told of a change: more may follow.
const SOON: Duration = Duration::from_millis(250);

impl Relays {
    /// The ways to `target` whose last relay is one of `relays`, the best first: fewest relays, then the nearest.
    pub(super) fn ways_to(&self, target: NodeId, relays: &[NodeId]) -> Vec<Vec<NodeId>> {
        let mut found = Vec::new();
        for (node, link) in self.links.iter().filter(|(node, _)| **node != target) {
            let Some(ways) = &link.ways else { continue };
            let here = [Vec::new()];
            for beyond in here.iter().chain(ways) {
                let last = beyond.last().unwrap_or(node);
                let clean = !beyond.contains(&target) && !beyond.contains(&self.own);
                // A record may be older than a link: the nearest relays are asked in any case, after the others.
                let known = relays.contains(last);
                if clean && (known || beyond.is_empty()) {
                    let way: Vec<NodeId> = std::iter::once(*node).chain(beyond.iter().copied()).collect();
                    found.push((!known, way.len(), link.rtt, way));
                }
            }
        }
        found.sort();
        found.into_iter().map(|(_, _, _, way)| way).collect()
    }

    /// Whether a way to this relay is known.
    pub fn reaches(&self, relay: NodeId) -> bool {
        let ends = |link: &super::Link| link.ways.iter().flatten().any(|way| way.last() == Some(&relay));
        self.links.get(&relay).is_some_and(|link| link.ways.is_some()) || self.links.values().any(ends)
    }

    pub(super) fn on_ways(&mut self, now: Instant, from: NodeId, mut ways: Vec<Vec<NodeId>>) {
        ways.retain(|way| (1..MAX_HOPS).contains(&way.len()) && !way.contains(&from));
        ways.truncate(MAX_WAYS);
        let Some(link) = self.links.get_mut(&from) else { return };
        if link.ways.replace(ways.clone()) != Some(ways) {
            self.tell_soon(now);
        }
    }

    pub(super) fn tell_soon(&mut self, now: Instant) {
        self.tell_at.get_or_insert(now + SOON);
    }

    /// Tells all neighbours what they don't know yet.
    pub(super) fn tell(&mut self) {
        self.tell_at = None;
        if !self.limits.enabled {
            return;
        }
        let nodes: Vec<NodeId> = self.links.keys().copied().collect();
        for to in nodes {
            let ways = self.ways_for(to);
            let Some(link) = self.links.get_mut(&to) else { continue };
            if link.told.as_ref() != Some(&ways) {
                link.told = Some(ways.clone());
                self.send(to, Message::Ways(ways));
            }
        }
    }

    fn ways_for(&self, neighbour: NodeId) -> Vec<Vec<NodeId>> {
        let mut ways = Vec::new();
        for (node, link) in self.links.iter().filter(|(node, _)| **node != neighbour) {
            let Some(beyond) = &link.ways else { continue };
            ways.push(vec![*node]);
            let clean = |way: &&Vec<NodeId>| {
                way.len() + 1 < MAX_HOPS && !way.contains(&neighbour) && !way.contains(&self.own)
            };
            let further = beyond.iter().filter(clean);
            ways.extend(further.map(|way| std::iter::once(*node).chain(way.iter().copied()).collect()));
        }
        ways.sort_by_key(Vec::len);
        ways.dedup();
        ways.truncate(MAX_WAYS);
        ways
    }
}
