//! The virtual network of the membership simulation.
//!
//! Time is a Unix second that every node sees with its own error. Records travel as whole sets, as the digests of
//! real links make them do in the end.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

use crate::address::Block;
use crate::identity::NodeId;
use crate::key::{Ipv4Range, MeshKey, NetworkKeys};
use crate::membership::{Change, Membership};
use crate::record::{RecordBody, SKEW};
use crate::session::Secret;

const NODES: usize = 50;
const FIRST_HALF: usize = 25;
const START: u64 = 1_800_000_000;
/// Rounds within which all views must have become equal.
const LIMIT: usize = 60;
/// Longer than clocks can differ: after this a claim is older than any that a newcomer can make.
const LONG: u64 = 3 * SKEW;

/// What a run saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// Addresses that had to move.
    pub(super) collisions: u64,
    /// Established nodes whose block a newcomer claimed.
    pub(super) attacked: u64,
    /// Most rounds of gossip until all agreed.
    pub(super) rounds: usize,
}

impl Figures {
    pub(super) fn add(&mut self, other: &Self) {
        self.collisions += other.collisions;
        self.attacked += other.attacked;
        self.rounds = self.rounds.max(other.rounds);
    }
}

struct Node {
    id: NodeId,
    members: Membership,
    records: BTreeMap<NodeId, RecordBody>,
    /// Seconds that its clock is wrong by.
    error: i64,
}

pub(super) struct World {
    seed: u64,
    rng: StdRng,
    keys: NetworkKeys,
    range: Ipv4Range,
    now: u64,
    nodes: Vec<Node>,
    /// Partition of each node.
    side: Vec<u8>,
    established: Vec<(NodeId, Block)>,
    figures: Figures,
}

impl World {
    /// The first half of the nodes, all starting at once, in a range of 64 blocks.
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let range = Ipv4Range::new([10, 77, 0, 0].into(), 22).unwrap();
        let key = MeshKey { range, secret: Secret(rng.r#gen()), owner: [0; 32] };
        let mut world = Self {
            seed,
            rng,
            keys: NetworkKeys::derive(&key),
            range,
            now: START,
            nodes: Vec::new(),
            side: vec![0; NODES],
            established: Vec::new(),
            figures: Figures::default(),
        };
        (0..FIRST_HALF).for_each(|_| world.join());
        world
    }

    fn join(&mut self) {
        let id = NodeId(self.rng.r#gen());
        let members = Membership::new(self.keys.clone(), self.range, id, "node".into(), Default::default());
        let error = self.rng.gen_range(-(SKEW as i64) / 2..=SKEW as i64 / 2);
        self.nodes.push(Node { id, members, records: BTreeMap::new(), error });
    }

    /// Gossips without trouble until all views are equal.
    pub(super) fn settle(&mut self, what: &str) {
        self.side.fill(0);
        for round in 0..LIMIT {
            self.round(0.0);
            if self.agrees() {
                self.figures.rounds = self.figures.rounds.max(round + 1);
                return self.check_unique();
            }
        }
        panic!("seed {}: {what} has not converged in {LIMIT} rounds", self.seed);
    }

    /// From now on the nodes that are there have a right to their blocks.
    pub(super) fn establish(&mut self) {
        self.now += LONG;
        self.established = self.nodes.iter().map(|node| (node.id, self.block(node))).collect();
    }

    /// The second half joins while the network is split, messages get lost and nodes restart.
    pub(super) fn trouble(&mut self) {
        let mut waiting = NODES - FIRST_HALF;
        for _ in 0..30 {
            if waiting > 0 && self.rng.gen_bool(0.9) {
                self.join();
                self.note_attack();
                waiting -= 1;
            }
            if self.rng.gen_bool(0.2) {
                let sides = self.rng.gen_range(1..=4);
                self.side.iter_mut().for_each(|side| *side = self.rng.gen_range(0..sides));
            }
            if self.rng.gen_bool(0.3) {
                self.restart();
            }
            let loss = self.rng.gen_range(0.0..0.7);
            self.round(loss);
        }
        (0..waiting).for_each(|_| self.join());
    }

    /// No newcomer has taken an established node's block.
    pub(super) fn check_established(&self) {
        for (id, block) in &self.established {
            let node = self.nodes.iter().find(|node| node.id == *id).unwrap();
            assert_eq!(self.block(node), *block, "seed {}: {id} lost its block to a newcomer", self.seed);
        }
    }

    pub(super) fn figures(self) -> Figures {
        self.figures
    }

    /// Every node publishes and then hears all that three others know.
    fn round(&mut self, loss: f64) {
        self.now += self.rng.gen_range(1..20);
        for at in 0..self.nodes.len() {
            self.publish(at);
        }
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.shuffle(&mut self.rng);
        for to in order {
            for _ in 0..3 {
                let from = self.rng.gen_range(0..self.nodes.len());
                if from != to && self.side[from] == self.side[to] {
                    self.tell(from, to, loss);
                }
            }
        }
    }

    fn publish(&mut self, at: usize) {
        let now = self.clock(at);
        let node = &mut self.nodes[at];
        if let Some(record) = node.members.own_record(now, &[]) {
            node.records.insert(node.id, record);
        }
    }

    /// In random order, some lost and some twice.
    fn tell(&mut self, from: usize, to: usize, loss: f64) {
        let known = &self.nodes[to].records;
        let is_news =
            |record: &&RecordBody| known.get(&record.node).is_none_or(|old| old.version < record.version);
        let mut records: Vec<RecordBody> =
            self.nodes[from].records.values().filter(is_news).cloned().collect();
        records.shuffle(&mut self.rng);
        for record in records {
            let times = if self.rng.gen_bool(loss) { 0 } else { self.rng.gen_range(1..=2) };
            (0..times).for_each(|_| self.hear(to, &record));
        }
    }

    fn hear(&mut self, at: usize, record: &RecordBody) {
        let now = self.clock(at);
        let node = &mut self.nodes[at];
        let change = node.members.handle_record(now, record.clone());
        match change.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed)) {
            Change::OwnAddressMoved => self.figures.collisions += 1,
            Change::Nothing => return,
            Change::Peer(_) => {}
        }
        node.records.insert(record.node, record.clone());
    }

    /// A node forgets everything but its state.
    fn restart(&mut self) {
        let at = self.rng.gen_range(0..self.nodes.len());
        let node = &mut self.nodes[at];
        let state = node.members.state();
        node.members = Membership::new(self.keys.clone(), self.range, node.id, "node".into(), state);
        node.records.clear();
    }

    fn note_attack(&mut self) {
        let Some(newcomer) = self.nodes.last() else { return };
        let first = Block::derive(&self.keys, self.range, newcomer.id, 0);
        if self.established.iter().any(|(_, block)| block.collides(&first)) {
            self.figures.attacked += 1;
        }
    }

    fn clock(&self, at: usize) -> u64 {
        self.now.saturating_add_signed(self.nodes[at].error)
    }

    fn block(&self, node: &Node) -> Block {
        Block::derive(&self.keys, self.range, node.id, node.members.attempt())
    }

    /// Every node sees every other, at the block that the other believes to hold.
    fn agrees(&self) -> bool {
        let truth: BTreeMap<NodeId, Block> =
            self.nodes.iter().map(|node| (node.id, self.block(node))).collect();
        self.nodes.iter().all(|node| {
            let mut seen: BTreeMap<NodeId, Block> =
                node.members.peers().map(|peer| (peer.node, peer.block)).collect();
            seen.insert(node.id, self.block(node));
            seen == truth
        })
    }

    fn check_unique(&self) {
        for (at, node) in self.nodes.iter().enumerate() {
            for other in self.nodes.iter().skip(at + 1) {
                assert!(!self.block(node).collides(&self.block(other)), "seed {}: shared block", self.seed);
            }
        }
    }
}
