//! Finds out which local socket an allowed packet is for, and so how to deliver it.
//!
//! Every looked-up socket is released in [`find`], the one place that holds a reference.

use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_sock, bpf_sock_tuple},
    helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
    programs::TcContext,
};
use meshhold_common::{
    Address, Delivery, Packet, Peer,
    packet::{TCP, UDP},
};

use crate::maps;

/// `TCP_LISTEN` of the kernel.
const LISTEN: u32 = 10;
/// `BPF_F_CURRENT_NETNS`.
const THIS_NAMESPACE: u64 = u64::MAX;
/// `bpf_sock_tuple` for IPv4; the kernel tells the family by the size.
#[repr(C)]
struct Tuple4 {
    source: [u8; 4],
    destination: [u8; 4],
    source_port: [u8; 2],
    destination_port: [u8; 2],
}

/// `bpf_sock_tuple` for IPv6.
#[repr(C)]
struct Tuple6 {
    source: [u8; 16],
    destination: [u8; 16],
    source_port: [u8; 2],
    destination_port: [u8; 2],
}

/// What a lookup found, copied out of the socket. (No `Option` around it: its tag can end up as a comparison with the
/// socket's pointer, which the verifier refuses.)
#[derive(Default)]
struct Found {
    /// Local IPv4 address in memory order; 0 where unbound.
    local4: u32,
    /// Remote IPv4 address in memory order; 0 where unconnected.
    remote4: u32,
    /// 0 where there is no socket.
    state: u32,
}

impl Found {
    #[inline(always)]
    const fn is_some(&self) -> bool {
        self.state != 0
    }

    /// A connection, or something on the way to or from one.
    #[inline(always)]
    const fn is_connection(&self) -> bool {
        self.state != 0 && self.state != LISTEN
    }
}

/// Decides between the mesh address, `127.0.0.1` and `::1`.
#[inline(always)]
pub fn delivery(ctx: &TcContext, packet: &Packet, peer: &Peer) -> Delivery {
    let native = match (packet.version, packet.protocol) {
        _ if u32::from_ne_bytes(peer.caller) == 0 => true,
        (4, TCP) => return tcp4(ctx, packet, peer),
        (4, UDP) => return udp4(ctx, packet, peer),
        (6, _) if !packet.is_plain() => true,
        (6, TCP | UDP) if is_without_ipv6(packet) => false,
        (6, TCP) => return tcp6(ctx, packet, peer),
        (6, UDP) => return udp6(ctx, packet, peer),
        _ => true,
    };
    if native { Delivery::Native } else { Delivery::Loopback }
}

/// What listens on `::` hears IPv4 as well; nothing else here does.
#[inline(always)]
fn is_without_ipv6(packet: &Packet) -> bool {
    // SAFETY: the entry is read at once; the loader replaces values, it never reuses them for another type.
    unsafe { maps::OWN.get(&packet.destination) }.is_some_and(|own| own.is_without_ipv6())
}

#[inline(always)]
fn tcp4(ctx: &TcContext, packet: &Packet, peer: &Peer) -> Delivery {
    let own = u32::from_ne_bytes(packet.destination.octets4());
    // A connection that this node opened from a port in its scope knows the peer by its mesh address.
    let found = lookup::<TCP, _>(ctx, &real4(packet));
    if found.is_connection() {
        return Delivery::Native;
    }
    // For a new connection only listeners matter, and those don't care who calls.
    if packet.is_syn() && found.local4 != own {
        return Delivery::Loopback;
    }
    let found = lookup::<TCP, _>(ctx, &Tuple4 { source: peer.caller, ..real4(packet) });
    if found.local4 != own || (found.state == LISTEN && has_loopback_connection(ctx, packet, peer)) {
        return Delivery::Loopback;
    }
    Delivery::Caller
}

#[inline(always)]
fn udp4(ctx: &TcContext, packet: &Packet, peer: &Peer) -> Delivery {
    let own = u32::from_ne_bytes(packet.destination.octets4());
    let found = lookup::<UDP, _>(ctx, &real4(packet));
    if found.local4 == own && found.remote4 != 0 {
        return Delivery::Native;
    }
    let bound = lookup::<UDP, _>(ctx, &Tuple4 { source: peer.caller, ..real4(packet) });
    if bound.local4 == own {
        return Delivery::Caller;
    }
    if bound.is_some() || is_served_on_loopback(ctx, packet, peer) {
        Delivery::Loopback
    } else {
        Delivery::Native
    }
}

/// Where nobody takes a datagram, the kernel's "port unreachable" has to be about the mesh addresses.
#[inline(always)]
fn is_served_on_loopback(ctx: &TcContext, packet: &Packet, peer: &Peer) -> bool {
    lookup::<UDP, _>(ctx, &on_loopback(packet, peer)).is_some()
}

#[inline(always)]
fn tcp6(ctx: &TcContext, packet: &Packet, peer: &Peer) -> Delivery {
    let found = lookup::<TCP, _>(ctx, &real6(packet));
    if found.is_connection() {
        return Delivery::Native;
    }
    // A connection stays on its way even if another listener appeared since.
    if has_loopback_connection(ctx, packet, peer) {
        return Delivery::Loopback;
    }
    // For a new connection only listeners matter: what waits on all addresses takes it without a second look.
    if packet.is_syn() && found.is_some() {
        return Delivery::Native;
    }
    let on_loopback = lookup::<TCP, _>(ctx, &on_loopback6(packet));
    if on_loopback.is_connection() {
        return Delivery::Loopback6;
    }
    if found.is_some() {
        return Delivery::Native;
    }
    if on_loopback.is_some() { Delivery::Loopback6 } else { Delivery::Loopback }
}

#[inline(always)]
fn udp6(ctx: &TcContext, packet: &Packet, peer: &Peer) -> Delivery {
    if lookup::<UDP, _>(ctx, &real6(packet)).is_some() {
        return Delivery::Native;
    }
    if lookup::<UDP, _>(ctx, &on_loopback6(packet)).is_some() {
        return Delivery::Loopback6;
    }
    if is_served_on_loopback(ctx, packet, peer) { Delivery::Loopback } else { Delivery::Native }
}

/// True for a connection between the caller address and `127.0.0.1` on the packet's ports.
#[inline(always)]
fn has_loopback_connection(ctx: &TcContext, packet: &Packet, peer: &Peer) -> bool {
    lookup::<TCP, _>(ctx, &on_loopback(packet, peer)).is_connection()
}

/// The packet as a service on `127.0.0.1` would see it.
#[inline(always)]
fn on_loopback(packet: &Packet, peer: &Peer) -> Tuple4 {
    Tuple4 {
        source: peer.caller,
        destination: Address::LOOPBACK4,
        source_port: packet.source_port.to_be_bytes(),
        destination_port: packet.destination_port.to_be_bytes(),
    }
}

/// The packet as a service on `::1` would see it. (`bpf_sk_assign` would hand it over untouched, but beside a NAT chain
/// and connection tracking the kernel forgets that: `nf_nat_ipv6_local_in` takes the listener, whose remote port is 0, for
/// the wrong socket.)
#[inline(always)]
fn on_loopback6(packet: &Packet) -> Tuple6 {
    Tuple6 { destination: Address::LOOPBACK6.bytes, ..real6(packet) }
}

#[inline(always)]
fn real4(packet: &Packet) -> Tuple4 {
    Tuple4 {
        source: packet.source.octets4(),
        destination: packet.destination.octets4(),
        source_port: packet.source_port.to_be_bytes(),
        destination_port: packet.destination_port.to_be_bytes(),
    }
}

#[inline(always)]
fn real6(packet: &Packet) -> Tuple6 {
    Tuple6 {
        source: packet.source.bytes,
        destination: packet.destination.bytes,
        source_port: packet.source_port.to_be_bytes(),
        destination_port: packet.destination_port.to_be_bytes(),
    }
}

#[inline(always)]
fn lookup<const PROTOCOL: u8, T>(ctx: &TcContext, tuple: &T) -> Found {
    find::<PROTOCOL, _, _>(ctx, tuple, |socket| {
        // SAFETY: `find` passes a live socket.
        unsafe { Found { local4: (*socket).src_ip4, remote4: (*socket).dst_ip4, state: (*socket).state } }
    })
}

/// The default of `R` where there is no socket.
#[inline(always)]
fn find<const PROTOCOL: u8, T, R: Default>(
    ctx: &TcContext,
    tuple: &T,
    read: impl FnOnce(*mut bpf_sock) -> R,
) -> R {
    let pointer = core::ptr::from_ref(tuple).cast_mut().cast::<bpf_sock_tuple>();
    let size = size_of::<T>() as u32;
    // SAFETY: the tuple outlives the call and is only read; the size names its family.
    let socket = unsafe {
        if PROTOCOL == TCP {
            bpf_skc_lookup_tcp(ctx.as_ptr(), pointer, size, THIS_NAMESPACE, 0)
        } else {
            bpf_sk_lookup_udp(ctx.as_ptr(), pointer, size, THIS_NAMESPACE, 0)
        }
    };
    if socket.is_null() {
        return R::default();
    }
    let result = read(socket);
    // SAFETY: the lookup returned a reference, and this is the only release of it.
    unsafe { bpf_sk_release(socket.cast()) };
    result
}
