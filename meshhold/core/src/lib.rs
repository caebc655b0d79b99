//! The MeshHold protocol as pure state machines.
//!
//! Nothing here opens a socket, reads a clock, starts a thread or draws a random number: time comes in
//! as `now`, randomness as a generator, effects go out as values. See `docs/architecture.md`.
#![forbid(unsafe_code)]

pub mod session;
pub mod wire;
