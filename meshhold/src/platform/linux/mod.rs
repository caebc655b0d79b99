//! Linux: the mesh interface's addresses and routes, what the host's network looks like, and what the
//! process may do.
//!
//! Owns every rtnetlink request, sysctl and mount of the daemon; all of them act in the network namespace
//! that the process runs in. Must not know keys, circuits, maps or programs.
//!
//! What survives the daemon, however it ends: the mesh interface with all that hangs on it, for the next start to go on with
//! ([`leftover`]), and the barrier (`routes`). Packets to mesh addresses wait or are lost, and never leave by the default
//! route in the clear; the next start changes it by difference, and [`cleanup`] or a reboot removes it.

pub mod bpffs;
pub mod candidates;
pub mod caps;
pub mod cleanup;
pub mod conflicts;
pub mod connections;
pub mod echo;
pub mod error;
pub mod families;
pub mod kernel_word;
pub mod leftover;
pub mod limits;
pub mod links;
mod list;
pub mod listeners;
pub mod memory;
pub mod names;
pub mod net;
pub mod notify;
pub mod processors;
pub mod reserved;
pub mod route_word;
mod routes;
pub mod sched;
pub mod suspects;
pub mod sys;
pub mod sys_net;
pub mod sysctl;
pub mod tc;
pub mod watch;
pub mod ways;

#[cfg(test)]
mod test_ns;
#[cfg(test)]
mod tests;

pub use error::NetError;
pub use net::{InterfaceSetup, Net, NetworkAddresses, Outcome, tun_holder};
