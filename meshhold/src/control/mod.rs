//! The control API: what the daemon answers to the command line.
//!
//! JSON lines over a Unix socket: one request, one reply a line. [`api`] is the vocabulary, [`client`] the
//! command line's side, [`server`] the daemon's.

pub mod api;
pub mod client;
pub mod server;

/// Longer requests are refused (bytes, with the line end).
pub const MAX_REQUEST: usize = 64 << 10;
