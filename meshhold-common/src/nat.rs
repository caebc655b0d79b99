//! Flows to LAN devices that share the gateway's own LAN address (NAPT, RFC 3022): keys, states, lifetimes.
//!
//! Owns when a translation ends. Must not know packets or where the tables are kept.

use bytemuck::{Pod, Zeroable};

use crate::{
    Address,
    maps::FlowKey,
    packet::{ICMP, ICMP6, TCP, UDP},
};

/// First of the ports (and echo identifiers) that translated flows leave from; the last is 65,535. The host is asked
/// to keep them free (`ip_local_reserved_ports`).
pub const FIRST_PORT: u16 = 49_152;
/// How many there are, as a power of two.
pub const PORT_BITS: u32 = 14;
/// Most flows through one gateway.
pub const MAX_TRANSLATIONS: u32 = 65_536;
/// Most addresses of devices: 13 devices in 16 networks, two families.
pub const MAX_DEVICES: u32 = 512;

/// The peer's end sent FIN.
pub const PEER_DONE: u8 = 1;
/// The device's end sent FIN.
pub const DEVICE_DONE: u8 = 2;
/// One of them sent RST.
pub const RESET: u8 = 4;
const BOTH_DONE: u8 = PEER_DONE | DEVICE_DONE;
/// Ticks that a closed connection is remembered.
const CLOSED: u32 = 8;
/// The device has answered.
pub const ANSWERED: u8 = 8;

/// A LAN device, found by one of its mesh addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct DeviceEntry {
    /// Where it really is.
    pub target: Address,
    /// The gateway's address towards it.
    pub source: Address,
    /// Index of the network on this node.
    pub network: u32,
    /// Index of the interface that leads to it; 0 where none does now.
    pub interface: u32,
    /// Largest TCP segment that both sides carry, in bytes.
    pub segment: u32,
}

/// A flow as the mesh sees it: `local` is the device's mesh address, `remote` the peer. An echo's identifier stands
/// in `remote_port`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Outward {
    /// Tick of the last packet from the peer.
    pub used: u32,
    /// Port that the flow leaves from.
    pub port: u16,
    /// [`PEER_DONE`], [`RESET`].
    pub state: u8,
    /// Always zero.
    pub pad: u8,
}

/// The same flow as the LAN sees it: `local` is the gateway's LAN address with the port of [`Outward`], `remote` the
/// device.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Inward {
    /// The device's mesh address.
    pub device: Address,
    /// The peer.
    pub peer: Address,
    /// Tick of the last packet from the device.
    pub used: u32,
    /// The peer's port.
    pub peer_port: u16,
    /// [`DEVICE_DONE`], [`RESET`], [`ANSWERED`].
    pub state: u8,
    /// Always zero.
    pub pad: u8,
}

/// An interface behind which devices are.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct LanEntry {
    /// Index of the mesh interface.
    pub mesh: u32,
}

impl Inward {
    /// The key of the [`Outward`] that belongs to this entry under `key`.
    #[inline(always)]
    pub fn outward_key(&self, key: &FlowKey) -> FlowKey {
        let protocol = in_family(key.protocol, &self.device);
        FlowKey::new(self.device, self.peer, key.remote_port, self.peer_port, protocol)
    }
}

/// The key under which the flow's [`Inward`] is found.
#[inline(always)]
pub fn inward_key(flow: &FlowKey, device: &DeviceEntry, port: u16) -> FlowKey {
    let protocol = in_family(flow.protocol, &device.target);
    FlowKey::new(device.source, device.target, port, flow.local_port, protocol)
}

/// ICMP differs between the families.
#[inline(always)]
fn in_family(protocol: u8, address: &Address) -> u8 {
    match protocol {
        TCP | UDP => protocol,
        _ if address.is_v4() => ICMP,
        _ => ICMP6,
    }
}

/// Whether a flow is over at tick `now` (of 2^30 nanoseconds): `used` is the later of both directions' ticks, `state`
/// holds the marks of both.
#[inline(always)]
pub fn is_over(protocol: u8, state: u8, used: u32, now: u32) -> bool {
    age(used, now) > lifetime(protocol, state, CLOSED)
}

/// Whether a flow may lose its port to another one: it is over, or its connection was closed a second ago.
#[inline(always)]
pub fn may_make_room(protocol: u8, state: u8, used: u32, now: u32) -> bool {
    age(used, now) > lifetime(protocol, state, 1)
}

/// Ticks since the last packet; none where that came after `now` was taken.
#[inline(always)]
fn age(used: u32, now: u32) -> u32 {
    let age = now.wrapping_sub(used);
    if age < u32::MAX / 2 { age } else { 0 }
}

/// Ticks that a flow lives without a packet, a closed connection `closed` of them: RFC 5382 (TCP), RFC 4787 (UDP),
/// RFC 5508 (echo) give the minima of the others.
#[inline(always)]
fn lifetime(protocol: u8, state: u8, closed: u32) -> u32 {
    const OPENING: u32 = 240;
    const ESTABLISHED: u32 = 7_440;
    const DATAGRAMS: u32 = 300;
    const ECHO: u32 = 60;
    match protocol {
        TCP if state & RESET != 0 || state & BOTH_DONE == BOTH_DONE => closed,
        TCP if state & ANSWERED == 0 => OPENING,
        TCP => ESTABLISHED,
        UDP => DATAGRAMS,
        _ => ECHO,
    }
}

/// The later of two ticks.
#[inline(always)]
pub fn later(one: u32, other: u32) -> u32 {
    if one.wrapping_sub(other) < u32::MAX / 2 { one } else { other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_connection_ends_soon_and_an_idle_one_late() {
        let over = |state, age: u32| is_over(TCP, state, 100, 100 + age);
        assert!(!over(ANSWERED, 7_000) && over(ANSWERED, 7_441));
        assert!(!over(0, 240) && over(0, 241));
        assert!(!over(ANSWERED | PEER_DONE, 7_000), "half closed is not closed");
        assert!(over(ANSWERED | PEER_DONE | DEVICE_DONE, 9) && over(RESET, 9));
        assert!(!is_over(UDP, 0, u32::MAX - 10, 200), "ticks wrap");
        assert!(!is_over(TCP, RESET, 101, 100), "used since the look at the clock");
        assert!(!may_make_room(TCP, RESET, 99, 100) && may_make_room(TCP, RESET, 98, 100));
        assert!(is_over(1, 0, 0, 61));
        assert_eq!((later(3, u32::MAX), later(u32::MAX, 3), later(7, 5)), (3, 3, 7));
    }
}
