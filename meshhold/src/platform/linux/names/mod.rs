//! How this host finds names, and what can be told to ask our name server.
//!
//! Owns everything that speaks of the host's resolver: whose systemd-resolved there is, what it is told, which way
//! `/etc` leads, and what programs really get. Must not know networks or records.

mod bus;
mod lookup;
pub mod resolved;
mod trace;
mod way;

pub use lookup::ask;
pub use resolved::{ResolvedError, Settings, Whose};
pub use trace::Trace;
pub use way::{Hindrance, Way};
