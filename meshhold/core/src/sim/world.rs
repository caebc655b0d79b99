//! The simulated network: virtual time, nodes with wrong clocks, partitions and lossy anti-entropy rounds.
//!
//! Owns what happens between memberships. Must not know what has to hold in the end: see `checks`.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::identity::NodeId;
use crate::key::{Ipv4Range, MeshKey, NetworkKeys};
use crate::membership::{Change, Membership, MembershipState, Said};
use crate::record::RecordBody;

/// Seconds of virtual time between two rounds.
pub(super) const ROUND: u64 = 600;
/// Partners of a node in a round.
const FANOUT: usize = 3;

/// How badly the network behaves, in percent.
#[derive(Clone, Copy)]
pub(super) struct Weather {
    pub(super) loss: u32,
    pub(super) duplicate: u32,
    pub(super) delay: u32,
    pub(super) restart: u32,
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) membership: Membership,
    /// What its clock is ahead of true time, in seconds.
    skew: i64,
    pub(super) group: usize,
    pub(super) up: bool,
    /// First listens for a round, then speaks.
    listens: bool,
    records: BTreeMap<NodeId, RecordBody>,
}

pub(super) struct World {
    pub(super) rng: StdRng,
    pub(super) now: u64,
    keys: NetworkKeys,
    range: Ipv4Range,
    pub(super) nodes: Vec<Node>,
    late: Vec<(usize, RecordBody)>,
    /// How often a node had to move.
    pub(super) moves: usize,
}

impl World {
    pub(super) fn new(seed: u64, range: Ipv4Range, count: usize, max_skew: i64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let keys = NetworkKeys::derive(&MeshKey::mint(range, [7; 32], &mut rng));
        let nodes = (0..count)
            .map(|_| {
                let id = NodeId(rng.r#gen());
                let state = MembershipState::default();
                Node {
                    id,
                    membership: Membership::new(keys.clone(), range, id, String::new(), state),
                    skew: rng.gen_range(-max_skew..=max_skew),
                    group: 0,
                    up: false,
                    listens: rng.r#gen(),
                    records: BTreeMap::new(),
                }
            })
            .collect();
        Self { rng, now: 1_800_000_000, keys, range, nodes, late: Vec::new(), moves: 0 }
    }

    /// One round: restarts, own records, exchanges, then everything arrives in any order.
    pub(super) fn round(&mut self, weather: Weather) {
        self.now += ROUND;
        for index in 0..self.nodes.len() {
            if self.percent(weather.restart) {
                self.restart(index);
            }
            self.nodes[index].speak(self.now);
        }
        let mut mail = std::mem::take(&mut self.late);
        for from in 0..self.nodes.len() {
            for to in self.partners(from) {
                self.send(from, to, weather, &mut mail);
                self.send(to, from, weather, &mut mail);
            }
        }
        mail.shuffle(&mut self.rng);
        for (to, body) in mail {
            if self.percent(weather.delay) {
                self.late.push((to, body));
            } else if self.nodes[to].up {
                self.moves += usize::from(self.nodes[to].receive(self.now, body));
            }
        }
    }

    /// Splits the network into `groups` at random; 1 heals it.
    pub(super) fn partition(&mut self, groups: usize) {
        for node in &mut self.nodes {
            node.group = self.rng.gen_range(0..groups);
        }
    }

    fn percent(&mut self, chance: u32) -> bool {
        self.rng.gen_range(0..100) < chance
    }

    fn partners(&mut self, from: usize) -> Vec<usize> {
        let Node { up, group, .. } = self.nodes[from];
        let near = |index: &usize| {
            let other = &self.nodes[*index];
            up && *index != from && other.up && other.group == group
        };
        let all: Vec<_> = (0..self.nodes.len()).filter(near).collect();
        all.choose_multiple(&mut self.rng, FANOUT).copied().collect()
    }

    /// Sends what the other lacks, and some of what it has.
    fn send(&mut self, from: usize, to: usize, weather: Weather, mail: &mut Vec<(usize, RecordBody)>) {
        for body in self.nodes[from].records.values() {
            let known = self.nodes[to].records.get(&body.node).is_some_and(|b| b.version >= body.version);
            let copies = u32::from(!known) + u32::from(self.rng.gen_range(0..100) < weather.duplicate);
            for _ in 0..copies {
                if self.rng.gen_range(0..100) >= weather.loss {
                    mail.push((to, body.clone()));
                }
            }
        }
    }

    /// All is forgotten but the state.
    fn restart(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let state = node.membership.state();
        node.membership = Membership::new(self.keys.clone(), self.range, node.id, String::new(), state);
        node.records.clear();
    }
}

impl Node {
    fn clock(&self, now: u64) -> u64 {
        now.saturating_add_signed(self.skew)
    }

    fn speak(&mut self, now: u64) {
        if !self.up || std::mem::take(&mut self.listens) {
            return;
        }
        let clock = self.clock(now);
        self.membership.expire(clock);
        self.records.retain(|_, body| body.expires > clock);
        if let Some(body) = self.membership.own_record(clock, Said::default()) {
            self.records.insert(self.id, body);
        }
    }

    /// True if the node had to move. What the membership refuses isn't passed on.
    fn receive(&mut self, now: u64, body: RecordBody) -> bool {
        let Ok(change) = self.membership.handle_record(self.clock(now), body.clone()) else { return false };
        let known = self.records.get(&body.node).is_some_and(|b| b.version >= body.version);
        if !known && body.node != self.id {
            self.records.insert(body.node, body);
        }
        change == Change::OwnAddressMoved
    }
}
