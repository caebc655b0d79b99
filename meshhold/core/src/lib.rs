//! The MeshHold protocol as pure state machines.
//!
//! Nothing here opens a socket, reads a clock, starts a thread or draws a random number: time comes in
//! as `now`, randomness as a generator, effects go out as values. See `docs/architecture.md`.
#![forbid(unsafe_code)]

pub mod address;
pub mod circuit;
mod claims;
pub mod cookie;
pub mod device;
pub mod gossip;
pub mod handshake;
pub mod identity;
pub mod key;
pub mod limiter;
pub mod membership;
pub mod multiaddr;
pub mod name;
pub mod path;
pub mod record;
pub mod reflexive;
pub mod relay;
pub mod replay;
pub mod scope;
pub mod session;
#[cfg(test)]
mod sim;
pub mod wire;
