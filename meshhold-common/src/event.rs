//! The record that the kernel sends for a dropped packet (rate-limited, never for a passed one).

use bytemuck::{Pod, Zeroable};

use crate::Address;

/// Towards this node.
pub const INGRESS: u8 = 0;
/// From this node.
pub const EGRESS: u8 = 1;
/// On another interface, towards this node.
pub const GUARD: u8 = 2;
/// On another interface, from this node.
pub const BARRIER: u8 = 3;

/// One dropped packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Event {
    /// Nanoseconds since boot (`CLOCK_BOOTTIME`).
    pub time: u64,
    /// Source address; zero where the packet ended before it.
    pub source: Address,
    /// Destination address; zero where the packet ended before it.
    pub destination: Address,
    /// A [`crate::Reason`] as number.
    pub reason: u32,
    /// Length in bytes, as the program saw it.
    pub length: u32,
    /// Source port or ICMP type; 0 where there is none.
    pub source_port: u16,
    /// Destination port; 0 where there is none.
    pub destination_port: u16,
    /// IP protocol number; 0 where unknown.
    pub protocol: u8,
    /// [`INGRESS`], [`EGRESS`], [`GUARD`] or [`BARRIER`].
    pub direction: u8,
    /// Always zero.
    pub pad: [u8; 2],
}

impl Event {
    /// From the bytes of a ring record; `None` where the length differs.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytemuck::try_pod_read_unaligned(bytes).ok()
    }
}
