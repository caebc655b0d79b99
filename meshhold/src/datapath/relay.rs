//! What this node relays, as the daemon hands it to the kernel program and to the workers: one leg for each direction of each
//! circuit that passes through.
//!
//! Owns the shape only; each host keeps budgets and counters of its own. Must not know links or who asked.

use std::net::SocketAddr;

/// By what a relay knows a datagram: where it came from, and its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// Address and port of the previous hop; an IPv4 one is never shown as IPv6.
    pub remote: SocketAddr,
    /// The same along the whole path.
    pub label: u32,
}

/// Where a relay sends what it knows by a [`Hop`], and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// What is forwarded.
    pub from: Hop,
    /// Address and port of the next hop.
    pub to: SocketAddr,
    /// Most bytes of UDP payload a second of this leg.
    pub rate: u64,
    /// Number of the node that asked for it.
    pub source: u32,
    /// Most bytes a second of all legs of that node.
    pub source_rate: u64,
}

/// What a relay did for one leg since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegTraffic {
    /// Datagrams forwarded.
    pub packets: u64,
    /// Their UDP payload in bytes.
    pub bytes: u64,
    /// Datagrams beyond a budget.
    pub over_rate: u64,
    /// Datagrams that may make no further hop.
    pub expired: u64,
}
