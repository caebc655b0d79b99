//! Programs that measure the others by test runs: never loaded by the daemon.
//!
//! A test run repeats a program on one and the same packet. So there are variants that make each packet a new one
//! beforehand, or undo the rewriting afterwards, and each has a variant that does only that, to be subtracted.
#![no_std]
#![no_main]

use aya_ebpf::{
    btf_maps::{Array, HashMap},
    macros::{btf_map, classifier},
    programs::TcContext,
};
use meshhold_common::{
    Packet,
    maps::{Flow, FlowKey},
};
use meshhold_ebpf::{DROP, NEXT, host::Skb, mesh_egress, mesh_ingress};

/// What the reference program looks flows up in.
#[btf_map]
pub static REFERENCE: HashMap<FlowKey, Flow, 65_536> = HashMap::new();

/// The first forty bytes of the packet that is being repeated.
#[btf_map]
pub static ORIGINAL: Array<[u8; 40], 1> = Array::new();

/// The cost of being run at all.
#[classifier]
pub fn empty(_: TcContext) -> i32 {
    NEXT
}

/// The unit: the headers, read as the other programs read them, and one lookup of the flow key in a hash map.
#[classifier]
pub fn reference(ctx: TcContext) -> i32 {
    let Some(key) = flow_key(&ctx) else { return DROP };
    // SAFETY: only the presence of the entry matters.
    if unsafe { REFERENCE.get(&key) }.is_some() { NEXT } else { DROP }
}

#[classifier]
pub fn ingress(ctx: TcContext) -> i32 {
    mesh_ingress(&ctx)
}

#[classifier]
pub fn egress(ctx: TcContext) -> i32 {
    mesh_egress(&ctx)
}

/// Each packet with another source port.
#[classifier]
pub fn ingress_next(ctx: TcContext) -> i32 {
    count_port(&ctx, 0);
    mesh_ingress(&ctx)
}

/// Each packet with another destination port.
#[classifier]
pub fn ingress_scan(ctx: TcContext) -> i32 {
    count_port(&ctx, 2);
    mesh_ingress(&ctx)
}

/// Each packet with another source port.
#[classifier]
pub fn egress_next(ctx: TcContext) -> i32 {
    count_port(&ctx, 0);
    mesh_egress(&ctx)
}

#[classifier]
pub fn only_next(ctx: TcContext) -> i32 {
    count_port(&ctx, 0);
    NEXT
}

/// IPv4, put back to what it was.
#[classifier]
pub fn ingress_back(ctx: TcContext) -> i32 {
    mesh_ingress(&ctx);
    put_back(&ctx)
}

/// IPv4, put back to what it was.
#[classifier]
pub fn egress_back(ctx: TcContext) -> i32 {
    mesh_egress(&ctx);
    put_back(&ctx)
}

/// IPv4, put back to what it was, each packet with another source port.
#[classifier]
pub fn ingress_next_back(ctx: TcContext) -> i32 {
    count_port(&ctx, 0);
    mesh_ingress(&ctx);
    put_back(&ctx)
}

#[classifier]
pub fn only_back(ctx: TcContext) -> i32 {
    put_back(&ctx)
}

#[classifier]
pub fn only_next_back(ctx: TcContext) -> i32 {
    count_port(&ctx, 0);
    put_back(&ctx)
}

/// An IPv6 request of a loopback-delivered flow, then, on what that became, its answer, and so on. Inlined, as the
/// daemon's programs are: a call more costs some 5 ns where the kernel guards returns (`spec_rstack_overflow`).
#[classifier]
#[inline(always)]
pub fn there_and_back(ctx: TcContext) -> i32 {
    let six = ctx.load::<u8>(0).is_ok_and(|first| first >> 4 == 6);
    let result = if six { mesh_ingress(&ctx) } else { mesh_egress(&ctx) };
    turn(&ctx);
    result
}

#[classifier]
pub fn only_turn(ctx: TcContext) -> i32 {
    let _ = ctx.load::<u8>(0);
    turn(&ctx);
    NEXT
}

#[inline(always)]
fn flow_key(ctx: &TcContext) -> Option<FlowKey> {
    let mut packet = Packet::default();
    packet.parse_network(&Skb(ctx)).ok()?;
    packet.parse_transport(&Skb(ctx)).ok()?;
    let Packet { source, destination, source_port, destination_port, protocol, .. } = packet;
    Some(FlowKey::new(destination, source, destination_port, source_port, protocol))
}

/// Adds one to the port that lies this far into the transport header.
#[inline(always)]
fn count_port(ctx: &TcContext, offset: usize) {
    let Some([first, ..]) = at::<[u8; 20]>(ctx, 0) else { return };
    let port: Option<&mut u16> = if *first >> 4 == 4 { at(ctx, 20 + offset) } else { at(ctx, 40 + offset) };
    let Some(port) = port else { return };
    *port = u16::from_be(*port).wrapping_add(1).to_be();
}

#[inline(always)]
fn put_back(ctx: &TcContext) -> i32 {
    let Some(original) = ORIGINAL.get(0) else { return DROP };
    // SAFETY: user space wrote it before the run.
    let Some(target) = at::<[u32; 5]>(ctx, 0) else { return DROP };
    let words: *const [u32; 5] = core::ptr::from_ref(original).cast();
    // SAFETY: array values are aligned to eight bytes and forty long.
    let words = unsafe { &*words };
    // The transport's checksum goes astray; nothing here looks at it.
    let [_, _, sum, source, destination] = *words;
    let [_, _, new_sum, new_source, new_destination] = target;
    (*new_sum, *new_source, *new_destination) = (sum, source, destination);
    NEXT
}

/// Swaps addresses and ports.
#[inline(always)]
fn turn(ctx: &TcContext) {
    let Some([first, ..]) = at::<[u8; 20]>(ctx, 0) else { return };
    if *first >> 4 == 4 {
        let Some([.., source, destination, ports]) = at::<[u32; 6]>(ctx, 0) else { return };
        core::mem::swap(source, destination);
        *ports = ports.rotate_left(16);
    } else {
        let Some(words) = at::<[u32; 11]>(ctx, 0) else { return };
        let [_, _, a, b, c, d, e, f, g, h, ports] = words;
        core::mem::swap(a, e);
        core::mem::swap(b, f);
        core::mem::swap(c, g);
        core::mem::swap(d, h);
        *ports = ports.rotate_left(16);
    }
}

/// The packet's bytes at an offset.
#[inline(always)]
fn at<T>(ctx: &TcContext, offset: usize) -> Option<&mut T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: inside the packet, as the verifier checks; test runs align packets to four bytes.
    Some(unsafe { &mut *(start as *mut T) })
}

/// As in the daemon's programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
