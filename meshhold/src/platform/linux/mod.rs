//! Linux: the mesh interface's addresses and routes, what the host's network looks like, and what the
//! process may do.
//!
//! Owns every rtnetlink request, sysctl and mount of the daemon; all of them act in the network namespace
//! that the process runs in. Must not know keys, circuits, maps or programs.
//!
//! What survives a `kill -9`: the mesh interface vanishes with its file descriptor, and with it its
//! addresses, its routes and its sysctls. A rule and one `unreachable` route a mesh range stay, on purpose:
//! packets for mesh addresses are refused at once instead of leaving by the default route in the clear.
//! The next start ([`cleanup::stale`]) or a reboot removes them.

pub mod bpffs;
pub mod candidates;
pub mod caps;
pub mod cleanup;
pub mod conflicts;
pub mod echo;
pub mod error;
pub mod families;
pub mod kernel_word;
pub mod links;
mod list;
pub mod listeners;
pub mod memory;
pub mod names;
pub mod net;
pub mod processors;
pub mod reserved;
mod routes;
pub mod sched;
pub mod sys;
pub mod sys_net;
mod sysctl;
pub mod tc;
pub mod watch;
pub mod ways;

#[cfg(test)]
mod test_ns;
#[cfg(test)]
mod tests;

pub use error::NetError;
pub use net::{InterfaceSetup, Net, NetworkAddresses};
