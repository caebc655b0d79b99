//! From key and node id to addresses: the node's /28 block and its IPv6 /64.
//!
//! Owns the address hash and the block arithmetic. Must not know who else claims a block.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::identity::NodeId;
use crate::key::{Ipv4Range, NetworkKeys};

/// Prefix length of a block.
pub const BLOCK_PREFIX: u8 = 28;
/// Addresses in a block: the node is the first after the base, its devices the next 13.
const BLOCK_SIZE: u32 = 1 << (32 - BLOCK_PREFIX);

/// The addresses that one node owns in one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// Base of the IPv4 /28.
    pub base4: Ipv4Addr,
    /// Base of the IPv6 /64.
    pub base6: Ipv6Addr,
}

impl Block {
    /// The block of `node` at its `attempt`: `hash mod blocks` for IPv4, 32 other bits of the hash for IPv6.
    ///
    /// Blocks tile the range from its base. Node and device addresses are base+1 to base+14, so neither the
    /// range's first nor its last address is ever one of them.
    pub fn derive(keys: &NetworkKeys, range: Ipv4Range, node: NodeId, attempt: u32) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&keys.address.0);
        hasher.update(&node.0).update(&attempt.to_be_bytes());
        let hash = *hasher.finalize().as_bytes();
        let [a, b, c, d, e, f, g, h, ..] = hash;
        let blocks = range.size() / BLOCK_SIZE;
        let index = u32::from_be_bytes([a, b, c, d]) % blocks.max(1);
        let suffix = u128::from(u32::from_be_bytes([e, f, g, h])) << 64;
        Self {
            base4: Ipv4Addr::from(u32::from(range.base) + index * BLOCK_SIZE),
            base6: Ipv6Addr::from(u128::from(keys.prefix6) | suffix),
        }
    }

    /// The node's own IPv4 address.
    pub fn node4(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base4) + 1)
    }

    /// The node's own IPv6 address.
    pub fn node6(&self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.base6) + 1)
    }

    /// The IPv4 address of the device in `slot`, below [`crate::device::MAX_DEVICES`].
    pub fn device4(&self, slot: u8) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base4) + 2 + u32::from(slot))
    }

    /// The IPv6 address of the device in `slot`.
    pub fn device6(&self, slot: u8) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.base6) + 2 + u128::from(slot))
    }

    /// Whether the two share an address of either family.
    pub fn collides(&self, other: &Self) -> bool {
        self.base4 == other.base4 || self.base6 == other.base6
    }
}
