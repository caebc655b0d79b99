//! What gossip said over links, counted since the start.
//!
//! Must not know what follows from a message.

use meshhold_core::gossip::Message;

/// Names of the kinds of messages, in the order of the counters.
pub const KINDS: [&str; 5] = ["subscribe", "digest", "want", "push", "summary"];

/// Messages by kind.
pub type ByKind = [u64; KINDS.len()];

/// Gossip of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GossipCounts {
    /// Put on a link.
    pub sent: ByKind,
    /// Taken from a link.
    pub received: ByKind,
    /// Not put on a link, as its queue was full; a digest repairs that.
    pub lost: u64,
    /// Links that were closed because the far end broke the protocol.
    pub violations: u64,
    /// Envelopes held of this node's own networks.
    pub envelopes: u64,
}

/// Counts one message.
pub(super) fn count(counts: &mut ByKind, message: &Message) {
    let kind = match message {
        Message::Subscribe { .. } => 0,
        Message::Digest { .. } => 1,
        Message::Want { .. } => 2,
        Message::Push(_) => 3,
        Message::Summary { .. } => 4,
    };
    if let Some(count) = counts.get_mut(kind) {
        *count += 1;
    }
}
