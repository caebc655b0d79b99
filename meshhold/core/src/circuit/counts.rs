//! What became of handshakes, counted since the start.
//!
//! Must not know why a handshake ended as it did.

/// Handshakes of all circuits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// Initiations made by this node; repeated ones count again.
    pub begun: u64,
    /// Ended in a session that this node began.
    pub completed: u64,
    /// Given up after a minute and a half without an answer.
    pub given_up: u64,
    /// Initiations of members that got a response.
    pub answered: u64,
    /// Initiations that got a cookie, for want of time.
    pub cookies: u64,
    /// Initiations beyond what one source may send.
    pub limited: u64,
    /// Initiations with the right network key that led nowhere: replayed, older, damaged, or without a common cipher.
    pub refused: u64,
    /// Initiations of nobody we know.
    pub strange: u64,
}
