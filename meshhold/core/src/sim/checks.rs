//! What has to hold in a healed network.
//!
//! Owns the invariants. Must not change the world it looks at.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::world::World;
use crate::identity::NodeId;

type Own = (Ipv4Addr, Ipv6Addr);

fn truth(world: &World) -> BTreeMap<NodeId, Own> {
    world.nodes.iter().map(|n| (n.id, (n.membership.own4(), n.membership.own6()))).collect()
}

/// Whether every node sees all others where they are, and no two share an address.
pub(super) fn converged(world: &World) -> bool {
    let truth = truth(world);
    let distinct4: BTreeSet<_> = truth.values().map(|own| own.0).collect();
    let distinct6: BTreeSet<_> = truth.values().map(|own| own.1).collect();
    distinct4.len() == truth.len()
        && distinct6.len() == truth.len()
        && world.nodes.iter().all(|node| {
            node.membership.peers().count() == truth.len() - 1
                && node.membership.peers().all(|peer| truth.get(&peer.node) == Some(&(peer.ipv4, peer.ipv6)))
        })
}

/// What must stay and what must not, noted when the network heals.
pub(super) struct Claimed {
    /// Holders whose claim no clock within `max_skew` can undercut any more.
    established: Vec<(NodeId, Own)>,
    /// Pairs that claim the same block.
    pub(super) collisions: usize,
}

impl Claimed {
    pub(super) fn note(world: &World, max_skew: u64) -> Self {
        let mut blocks = BTreeMap::<Ipv4Addr, Vec<_>>::new();
        for node in &world.nodes {
            let claim = (node.membership.state().claimed_at, node.id);
            let own = (node.membership.own4(), node.membership.own6());
            blocks.entry(own.0).or_default().push((claim, own));
        }
        let collisions = blocks.values().map(|on| on.len() * (on.len() - 1) / 2).sum();
        let oldest = blocks.values().filter_map(|on| on.iter().min());
        let established = oldest
            .filter(|((since, _), _)| *since != 0 && *since + max_skew < world.now)
            .map(|((_, id), own)| (*id, *own))
            .collect();
        Self { established, collisions }
    }

    /// The established nodes that lost their address all the same.
    pub(super) fn displaced(&self, world: &World) -> Vec<NodeId> {
        let truth = truth(world);
        let lost = self.established.iter().filter(|(id, own)| truth.get(id) != Some(own));
        lost.map(|(id, _)| *id).collect()
    }

    pub(super) fn established(&self) -> usize {
        self.established.len()
    }
}
