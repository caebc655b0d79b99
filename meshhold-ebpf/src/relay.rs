//! The kernel relay: forwards labelled datagrams from one interface of this host to another.
//!
//! An object of its own, with maps of its own: a relay needs no mesh interface. What it does not know or does not
//! understand goes on as if it weren't there, so it may hang beside other programs in any order. Must not look behind
//! the label.
#![no_std]
#![no_main]
// For this target the standard library has no atomic additions, though the kernel has them.
#![allow(internal_features)]
#![feature(core_intrinsics)]

use core::{
    intrinsics::{AtomicOrdering::Relaxed, atomic_cxchg, atomic_xadd},
    mem::{MaybeUninit, offset_of},
};

use aya_ebpf::{
    bindings::{
        BPF_F_MARK_MANGLED_0, BPF_F_NO_PREALLOC, BPF_F_PSEUDO_HDR, bpf_redir_neigh,
        bpf_redir_neigh__bindgen_ty_1,
    },
    btf_maps::{Array, HashMap},
    helpers::generated::{
        bpf_csum_update, bpf_ktime_get_coarse_ns, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh,
        bpf_skb_change_head, bpf_skb_load_bytes, bpf_skb_pull_data,
    },
    macros::{btf_map, classifier},
    programs::TcContext,
};
use meshhold_common::{
    Address, budget,
    relay::{
        HopKey, Labelled, LegEntry, LegState, MAX_LEGS, MAX_OWN, MAX_SEGMENTS, MAX_SOURCES, SourceState,
        WORDS4, WORDS6, checksum, difference, label,
    },
};

/// On to the next program on the interface, and then to the stack.
const NEXT: i32 = -1;
/// Dropped here.
const DROP: i32 = 2;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
const ETHERTYPE_IPV4: u32 = 0x0800_u16.to_be() as u32;
const ETHERTYPE_IPV6: u32 = 0x86dd_u16.to_be() as u32;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// How often a budget is tried that other CPUs change at the same time.
const TRIES: u32 = 4;

/// Entries are allocated as they come.
const SPARSE: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub static RELAY_LEGS: HashMap<HopKey, LegEntry, { MAX_LEGS as usize }, SPARSE> = HashMap::new();

#[btf_map]
pub static RELAY_STATE: Array<LegState, { MAX_LEGS as usize }> = Array::new();

#[btf_map]
pub static RELAY_SOURCES: Array<SourceState, { MAX_SOURCES as usize }> = Array::new();

/// Addresses of this host: what is sent to others only passes by.
#[btf_map]
pub static RELAY_OWN: HashMap<Address, u32, { MAX_OWN as usize }, SPARSE> = HashMap::new();

/// The shared UDP port; set by the loader.
#[unsafe(no_mangle)]
static RELAY_PORT: u16 = 0;

/// On interfaces with Ethernet headers.
#[classifier]
pub fn relay_ethernet(ctx: TcContext) -> i32 {
    relay::<ETHERNET>(&ctx)
}

/// On interfaces without link headers.
#[classifier]
pub fn relay_plain(ctx: TcContext) -> i32 {
    relay::<0>(&ctx)
}

#[inline(always)]
fn relay<const LINK: usize>(ctx: &TcContext) -> i32 {
    // SAFETY: the context is the program's own.
    let skb = unsafe { &*ctx.skb.skb };
    // What bears a VLAN tag comes by once more, on its own interface. Not for this host: seen by a bridge or a capture.
    if skb.vlan_present != 0 || skb.pkt_type != 0 {
        return NEXT;
    }
    // SAFETY: the loader writes it before the program runs, behind the compiler's back.
    let port = unsafe { (&raw const RELAY_PORT).read_volatile() };
    if skb.protocol == ETHERTYPE_IPV4 {
        let Some(words) = headers::<WORDS4>(ctx, LINK) else { return NEXT };
        let Some(datagram) = Labelled::ipv4(words, port, |at| front(ctx, LINK as u32 + at)) else {
            return NEXT;
        };
        return forward::<LINK, true>(ctx, &datagram, port);
    }
    if skb.protocol == ETHERTYPE_IPV6 {
        let Some(words) = headers::<WORDS6>(ctx, LINK) else { return NEXT };
        let Some(datagram) = Labelled::ipv6(words, port, |at| front(ctx, LINK as u32 + at)) else {
            return NEXT;
        };
        return forward::<LINK, false>(ctx, &datagram, port);
    }
    NEXT
}

/// The packet's words from its IP header on.
#[inline(always)]
fn headers<const N: usize>(ctx: &TcContext, link: usize) -> Option<&'static mut [u32; N]> {
    let end = link + 4 * N;
    if ctx.data() + end > ctx.data_end() {
        // SAFETY: the context is the program's own.
        let pulled = ctx.len() as usize >= end && unsafe { bpf_skb_pull_data(ctx.skb.skb, end as u32) } == 0;
        if !pulled || ctx.data() + end > ctx.data_end() {
            return None;
        }
    }
    // SAFETY: the bytes lie inside the packet, as the verifier checks. Headers are aligned to words wherever the
    // processor asks for that.
    Some(unsafe { &mut *((ctx.data() + link) as *mut [u32; N]) })
}

/// The first two words of a datagram. Copied, not pulled: a sender leaves the payload in fragments, and a packet that was
/// pulled together costs a copy here and makes the receiver's kernel join datagrams by chains (`skb_gro_receive`).
#[inline(always)]
fn front(ctx: &TcContext, offset: u32) -> Option<[u32; 2]> {
    let mut words = MaybeUninit::<[u32; 2]>::uninit();
    // SAFETY: the helper writes both words, or fails and clears them.
    unsafe {
        let failed = bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, words.as_mut_ptr().cast(), 8);
        (failed == 0).then_some(words.assume_init())
    }
}

#[inline(always)]
fn forward<const LINK: usize, const V4: bool>(ctx: &TcContext, datagram: &Labelled, port: u16) -> i32 {
    // SAFETY: the entry is only read; one that is replaced meanwhile lives on until the program ends.
    let Some(leg) = (unsafe { RELAY_LEGS.get(&datagram.hop) }) else { return NEXT };
    // SAFETY: as above.
    if unsafe { RELAY_OWN.get(&datagram.destination) }.is_none() {
        return NEXT;
    }
    let (Some(state), Some(source)) =
        (RELAY_STATE.get_ptr_mut(leg.slot), RELAY_SOURCES.get_ptr_mut(leg.source_slot))
    else {
        return NEXT;
    };
    let (bytes, payload) = (u64::from(datagram.bytes), LINK as u32 + datagram.payload);
    let Some((segments, largest)) = one_label(ctx, payload, datagram) else {
        count(state, offset_of!(LegState, mixed), 1);
        return NEXT;
    };
    if largest + datagram.payload > leg.mtu {
        count(state, offset_of!(LegState, too_big), segments);
        return NEXT;
    }
    if datagram.hops <= 1 {
        count(state, offset_of!(LegState, expired), segments);
        return DROP;
    }
    if !is_within(leg, state, source, bytes) {
        count(state, offset_of!(LegState, over_rate), segments);
        return DROP;
    }
    let rewritten = if V4 { rewrite4(ctx, LINK, leg, port) } else { rewrite6(ctx, LINK, leg, port) };
    if rewritten.is_none() {
        return DROP;
    }
    count(state, offset_of!(LegState, packets), segments);
    count(state, offset_of!(LegState, bytes), bytes);
    leave::<LINK>(ctx, leg)
}

/// How many datagrams there are and how large the largest is; `None` unless all have the label of the first.
#[inline(always)]
fn one_label(ctx: &TcContext, payload: u32, datagram: &Labelled) -> Option<(u64, u32)> {
    // SAFETY: the context is the program's own.
    let size = unsafe { (*ctx.skb.skb).gso_size };
    if size == 0 || size >= datagram.bytes {
        // Behind a short one there may be padding.
        return (payload + datagram.bytes <= ctx.len()).then_some((1, datagram.bytes));
    }
    let segments = datagram.bytes.div_ceil(size);
    if segments > MAX_SEGMENTS || payload + datagram.bytes != ctx.len() {
        return None;
    }
    // The verifier wants a bound that it sees in the loop itself, not one that the compiler has concluded.
    let segments = core::hint::black_box(segments);
    for segment in 1..MAX_SEGMENTS {
        if segment >= segments {
            break;
        }
        if front(ctx, payload + segment * size).and_then(label) != Some(datagram.hop.label) {
            return None;
        }
    }
    Some((u64::from(segments), size))
}

#[inline(always)]
fn is_within(leg: &LegEntry, state: *mut LegState, source: *mut SourceState, bytes: u64) -> bool {
    // SAFETY: the helper takes nothing and can't fail.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    // SAFETY: both are live map values.
    let (own, shared) = unsafe { (&raw mut (*state).budget, &raw mut (*source).budget) };
    if !take(own, now, bytes, leg.rate) {
        return false;
    }
    if take(shared, now, bytes, leg.source_rate) {
        return true;
    }
    // It is not the leg's fault.
    add(own, budget::cost(bytes, leg.rate).unwrap_or(0).wrapping_neg());
    false
}

/// `state` points into a map value that all CPUs change by atomic operations.
#[inline(always)]
fn take(state: *mut u64, now: u64, bytes: u64, rate: u64) -> bool {
    for _ in 0..TRIES {
        // SAFETY: the pointer is to a live map value.
        let seen = unsafe { state.read_volatile() };
        let Some(next) = budget::next(seen, now, bytes, rate) else { return false };
        // SAFETY: as above.
        if unsafe { atomic_cxchg::<u64, { Relaxed }, { Relaxed }>(state, seen, next) }.1 {
            return true;
        }
    }
    // Busy enough that it can't have been idle: what is missing is only the addition.
    add(state, budget::cost(bytes, rate).unwrap_or(0));
    true
}

#[inline(always)]
fn add(number: *mut u64, by: u64) {
    // SAFETY: the pointer is to a live map value.
    unsafe { atomic_xadd::<u64, u64, { Relaxed }>(number, by) };
}

/// Adds to the number that stands so far into the state.
#[inline(always)]
fn count(state: *mut LegState, number: usize, by: u64) {
    // SAFETY: it lies inside a live map value.
    add(unsafe { state.byte_add(number) }.cast(), by);
}

/// New addresses and ports and one hop less, with the header's checksum (RFC 1624) and UDP's.
#[inline(always)]
fn rewrite4(ctx: &TcContext, link: usize, leg: &LegEntry, port: u16) -> Option<()> {
    let [_, _, ttl, source, destination, ports, _] = headers::<WORDS4>(ctx, link)?;
    let ([.., from], [.., to]) = (leg.source.raw(), leg.to.raw());
    let addresses = difference(&[*source, *destination], &[from, to]);
    let after = (u32::from(port) << 16 | u32::from(leg.port)).to_be();
    let changed = difference(&[*ports], &[after]);
    let [hops, protocol, sum @ ..] = ttl.to_ne_bytes();
    let [old, new] = [hops, hops.wrapping_sub(1)].map(|hops| u32::from(u16::from_ne_bytes([hops, protocol])));
    let header = difference(&[old, *source, *destination], &[new, from, to]);
    let [c, d] = checksum(u16::from_ne_bytes(sum), header).to_ne_bytes();
    *ttl = u32::from_ne_bytes([hops.wrapping_sub(1), protocol, c, d]);
    (*source, *destination, *ports) = (from, to, after);
    udp_checksum(ctx, link as u32 + 26, addresses, changed)
}

#[inline(always)]
fn rewrite6(ctx: &TcContext, link: usize, leg: &LegEntry, port: u16) -> Option<()> {
    let [_, next, a, b, c, d, e, f, g, h, ports, _] = headers::<WORDS6>(ctx, link)?;
    let ([i, j, k, l], [m, n, o, p]) = (leg.source.raw(), leg.to.raw());
    let addresses = difference(&[*a, *b, *c, *d, *e, *f, *g, *h], &[i, j, k, l, m, n, o, p]);
    let after = (u32::from(port) << 16 | u32::from(leg.port)).to_be();
    let changed = difference(&[*ports], &[after]);
    let hop = (u32::from_be(*next) - 1).to_be();
    let uncovered = difference(&[*next, 0], &[hop, addresses]);
    (*next, *ports) = (hop, after);
    (*a, *b, *c, *d, *e, *f, *g, *h) = (i, j, k, l, m, n, o, p);
    udp_checksum(ctx, link as u32 + 46, addresses, changed)?;
    // A sum that the interface took over the whole packet: no header checksum makes up for the hop limit, and the helper
    // for the one above thought of IPv4, where that covers the addresses too. Refused where there is no such sum.
    // SAFETY: the context is the program's own.
    unsafe { bpf_csum_update(ctx.skb.skb, uncovered) };
    Some(())
}

/// The helper knows what the field holds: a sum, no sum, or only that of the pseudo-header, where ports aren't in.
#[inline(always)]
fn udp_checksum(ctx: &TcContext, offset: u32, addresses: u32, ports: u32) -> Option<()> {
    let none = u64::from(BPF_F_MARK_MANGLED_0);
    let replace = |by: u32, flags| {
        // SAFETY: the context is the program's own.
        unsafe { bpf_l4_csum_replace(ctx.skb.skb, offset, 0, u64::from(by), flags) }
    };
    let both = replace(addresses, none | u64::from(BPF_F_PSEUDO_HDR)) | replace(ports, none);
    (both == 0).then_some(())
}

/// Out by the leg's interface.
#[inline(always)]
fn leave<const LINK: usize>(ctx: &TcContext, leg: &LegEntry) -> i32 {
    if leg.neighbours == 0 {
        // SAFETY: the helper takes numbers only; it takes off a link header where the interface has none.
        return unsafe { bpf_redirect(leg.interface, 0) as i32 };
    }
    // The helper takes off a link header (`__bpf_redirect_neigh` in net/core/filter.c): there must be one.
    // SAFETY: the context is the program's own.
    if LINK == 0 && unsafe { bpf_skb_change_head(ctx.skb.skb, ETHERNET as u32, 0) } != 0 {
        return DROP;
    }
    let four = leg.gateway.is_v4();
    let words = leg.gateway.raw();
    let [.., last] = words;
    let mut hop = bpf_redir_neigh {
        nh_family: if four { AF_INET } else { AF_INET6 },
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
            ipv6_nh: if four { [last, 0, 0, 0] } else { words },
        },
    };
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: the helper copies the structure, which lives until it returns.
    unsafe { bpf_redirect_neigh(leg.interface, &raw mut hop, size, 0) as i32 }
}

/// The helpers with checksum semantics are open to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
