//! What was counted, as the API shows it.
//!
//! Owns the stable shapes. Must not know who counts.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A kernel program, and what it costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProgramCost {
    /// Its name.
    pub name: String,
    /// Where it hangs.
    pub hook: String,
    /// How often it ran; 0 while the kernel doesn't count (`kernel.bpf_stats_enabled`).
    pub runs: u64,
    /// Mean time of a run, in nanoseconds.
    pub mean_ns: f64,
    /// Time of all runs together, in nanoseconds.
    #[serde(default)]
    pub run_ns: u64,
}

/// What was counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Figures {
    /// Handshakes of circuits.
    pub handshakes: HandshakeFigures,
    /// How records spread.
    pub gossip: GossipFigures,
    /// Answers of the name server by their code.
    pub dns: BTreeMap<String, u64>,
    /// What the kernel programs cost.
    pub programs: Vec<ProgramCost>,
}

/// Handshakes of circuits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HandshakeFigures {
    /// Initiations sent; repeated ones count again.
    pub begun: u64,
    /// Ended in a session that this node began.
    pub completed: u64,
    /// Given up for want of an answer.
    pub given_up: u64,
    /// Initiations of members that got a response.
    pub answered: u64,
    /// Initiations that got a cookie, under load.
    pub cookies: u64,
    /// Initiations beyond what one source may send.
    pub limited: u64,
    /// Initiations with the network's key that led nowhere: replayed, older, damaged, or without a common cipher.
    pub refused: u64,
    /// Initiations of strangers.
    pub strange: u64,
}

/// How records spread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GossipFigures {
    /// Links now.
    pub links: usize,
    /// Records of this node's networks that it holds now.
    pub envelopes: u64,
    /// Messages sent, by kind.
    pub sent: BTreeMap<String, u64>,
    /// Messages received, by kind.
    pub received: BTreeMap<String, u64>,
    /// Messages that a slow link lost; a digest repairs that.
    pub lost: u64,
    /// Links closed because the far end broke the protocol.
    pub violations: u64,
}
