//! Who claims which block among the peers, ordered so that the first claim to an address is the one that holds.
//!
//! Owns the index of claims. Must not know whose membership it serves or where claims come from.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::address::Block;
use crate::identity::NodeId;

/// Since when (Unix seconds) and by whom: the smaller claim holds the block.
pub(crate) type Claim = (u64, NodeId);

const LOWEST: NodeId = NodeId([0; 32]);
const HIGHEST: NodeId = NodeId([u8::MAX; 32]);

/// All claims of the peers, by address.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    v4: BTreeSet<(Ipv4Addr, Claim)>,
    v6: BTreeSet<(Ipv6Addr, Claim)>,
}

impl Claims {
    pub(crate) fn insert(&mut self, block: Block, claim: Claim) {
        self.v4.insert((block.base4, claim));
        self.v6.insert((block.base6, claim));
    }

    pub(crate) fn remove(&mut self, block: Block, claim: Claim) {
        self.v4.remove(&(block.base4, claim));
        self.v6.remove(&(block.base6, claim));
    }

    /// The nodes that claim an address of the block.
    pub(crate) fn on(&self, block: Block) -> impl Iterator<Item = Claim> {
        let (low, high) = ((0, LOWEST), (u64::MAX, HIGHEST));
        let v4 = self.v4.range((block.base4, low)..=(block.base4, high)).map(|(_, claim)| *claim);
        v4.chain(self.v6.range((block.base6, low)..=(block.base6, high)).map(|(_, claim)| *claim))
    }

    /// Whether a better claim than `claim` is on the block.
    pub(crate) fn beaten(&self, block: Block, claim: Claim) -> bool {
        self.on(block).any(|other| other < claim)
    }

    /// Whether nobody claims any of the block.
    pub(crate) fn free(&self, block: Block) -> bool {
        self.on(block).next().is_none()
    }
}
