//! Changes addresses and families as the verdict says, with incremental checksums, so that GSO packets stay whole.
//!
//! Stateless; ports are never touched. Must not decide anything.

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0,
        BPF_F_PSEUDO_HDR, bpf_adj_room_mode::BPF_ADJ_ROOM_NET,
    },
    helpers::generated::{bpf_get_prandom_u32, bpf_redirect, bpf_skb_change_head, bpf_skb_change_proto},
    programs::TcContext,
};
use meshhold_common::{
    Action, Change, Packet,
    packet::{FRAGMENT_BYTES, ICMP, ICMP6, IPV4_BYTES, IPV6_BYTES, Load, Piece, TCP, UDP},
};

use crate::host::Skb;

/// The kernel refused a step; the packet must not go on.
pub struct Failed;

/// `ETH_P_IP` and `ETH_P_IPV6` in network order.
const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
/// Length of an Ethernet header, which the loopback interface has too.
pub const LINK_HEADER: u32 = 14;
const DONT_FRAGMENT: u32 = 0x4000;
/// Whole IPv6 packets up to so many bytes pass every path as they are (RFC 7915 section 5.1); from longer datagrams a
/// narrower IPv4 path may cut fragments, as its "too big" would not reach their sender.
const LARGEST_UNCUT: u32 = 1280;
/// Next header value of the IPv6 fragment header.
const FRAGMENT: u8 = 44;
/// Room is made or taken between headers; payload sums and segment sizes stay as they are.
const ROOM_FLAGS: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;

/// Carries the action out.
#[inline(always)]
pub fn apply(ctx: &TcContext, packet: &Packet, action: &Action) -> Result<(), Failed> {
    match action.change {
        Change::Keep => Ok(()),
        Change::Rewrite if packet.version == 4 => rewrite4(ctx, packet, action),
        Change::Rewrite => rewrite6(ctx, packet, ends6(action)),
        Change::ToIpv4 => to_ipv4(ctx, packet, action),
        Change::ToIpv6 => to_ipv6(ctx, packet, action),
        Change::ByLoopback => {
            rewrite6(ctx, packet, ends6(action))?;
            frame(ctx)
        }
    }
}

/// Puts a link header before an IPv6 packet, as the loopback interface wants one.
#[inline(always)]
fn frame(ctx: &TcContext) -> Result<(), Failed> {
    // SAFETY: the context is the program's own.
    if unsafe { bpf_skb_change_head(ctx.skb.skb, LINK_HEADER, 0) } != 0 {
        return Err(Failed);
    }
    ctx.store(LINK_HEADER as usize - size_of::<u16>(), &ETHERTYPE_IPV6, 0).or(Err(Failed))
}

/// Lets a packet that has been given its link header come in by the loopback interface. Returns the program's verdict.
#[inline(always)]
pub fn come_in_by_loopback() -> i32 {
    /// `LOOPBACK_IFINDEX`, in every namespace.
    const LOOPBACK: u32 = 1;
    // SAFETY: the helper takes numbers only.
    unsafe { bpf_redirect(LOOPBACK, u64::from(BPF_F_INGRESS)) as i32 }
}

#[inline(always)]
fn rewrite4(ctx: &TcContext, packet: &Packet, action: &Action) -> Result<(), Failed> {
    let new = ends4(action);
    if action.neutral {
        return store(ctx, 12, new);
    }
    let Some([ttl]) = Skb(ctx).load::<1>(8) else { return Err(Failed) };
    let difference = difference(packet, &new);
    // Protocol and time to live stay, the checksum beside them follows the addresses (RFC 1624).
    let [a, b, sum @ ..] = ttl.to_ne_bytes();
    let [c, d] = (!fold(u64::from(!u16::from_ne_bytes(sum)) + u64::from(difference))).to_ne_bytes();
    let [source, destination] = new;
    store(ctx, 8, [u32::from_ne_bytes([a, b, c, d]), source, destination])?;
    transport_checksum(ctx, packet, packet.transport, difference)
}

#[inline(always)]
fn rewrite6(ctx: &TcContext, packet: &Packet, new: [u32; 8]) -> Result<(), Failed> {
    store(ctx, 8, new)?;
    let difference = difference(packet, &new);
    if packet.protocol != ICMP6 || packet.piece == Piece::Later {
        return transport_checksum(ctx, packet, packet.transport, difference);
    }
    // It covers the addresses, which ICMP's doesn't (RFC 4443 section 2.3).
    let sum = (packet.transport + 2) as usize;
    ctx.l4_csum_replace(sum, 0, u64::from(difference), u64::from(BPF_F_PSEUDO_HDR)).or(Err(Failed))
}

#[inline(always)]
fn to_ipv4(ctx: &TcContext, packet: &Packet, action: &Action) -> Result<(), Failed> {
    let new = ends4(action);
    let Some([class, hop_limit]) = Skb(ctx).load::<2>(0) else { return Err(Failed) };
    // Without "don't fragment" an 8-byte unit offset and the flag keep their meaning between the families.
    let (mut field, mut id) = (DONT_FRAGMENT, packet.id);
    if packet.piece == Piece::Whole && packet.protocol != TCP && packet.end > LARGEST_UNCUT {
        // SAFETY: the helper takes nothing and can't fail.
        (field, id) = (0, unsafe { bpf_get_prandom_u32() });
    }
    if packet.piece != Piece::Whole {
        let Some([six]) = Skb(ctx).load::<1>(IPV6_BYTES) else { return Err(Failed) };
        let six = u32::from_be(six) & 0xffff;
        field = six >> 3 | (six & 1) << 13;
        adjust(ctx, -(FRAGMENT_BYTES as i32))?;
    }
    change_family(ctx, ETHERTYPE_IPV4)?;
    let length = u16::try_from(packet.end - packet.transport + IPV4_BYTES).or(Err(Failed))?;
    let [source, destination] = new;
    let first = (0x4500_0000 | (u32::from_be(class) >> 4 & 0x00ff_0000) | u32::from(length)).to_be();
    let second = ((id & 0xffff) << 16 | field).to_be();
    let protocol = if packet.protocol == ICMP6 { ICMP } else { packet.protocol };
    let third = (u32::from_be(hop_limit) << 24 | u32::from(protocol) << 16).to_be();
    let sum: u64 = [first, second, third, source, destination].map(u64::from).iter().sum();
    let [a, b, _, _] = third.to_ne_bytes();
    let [c, d] = (!fold(sum)).to_ne_bytes();
    let header = [first, second, u32::from_ne_bytes([a, b, c, d]), source, destination];
    store(ctx, 0, header)?;
    if action.neutral {
        Ok(())
    } else {
        transport_checksum(ctx, packet, IPV4_BYTES, difference(packet, &new))
    }
}

#[inline(always)]
fn to_ipv6(ctx: &TcContext, packet: &Packet, action: &Action) -> Result<(), Failed> {
    let new = ends6(action);
    let Some([first, second, third]) = Skb(ctx).load::<3>(0) else { return Err(Failed) };
    let fragment = packet.piece != Piece::Whole;
    change_family(ctx, ETHERTYPE_IPV6)?;
    let extra = if fragment { FRAGMENT_BYTES } else { 0 };
    let length = u16::try_from(packet.end - packet.transport + extra).or(Err(Failed))?;
    let protocol = if packet.protocol == ICMP { ICMP6 } else { packet.protocol };
    let next = if fragment { FRAGMENT } else { protocol };
    if fragment {
        adjust(ctx, FRAGMENT_BYTES as i32)?;
        let four = u32::from_be(second);
        let field = (four & 0x1fff) << 3 | four >> 13 & 1;
        let header = [(u32::from(protocol) << 24 | field).to_be(), packet.id.to_be()];
        ctx.store(IPV6_BYTES as usize, &header, 0).or(Err(Failed))?;
    }
    let class = u32::from_be(first) << 4 & 0x0ff0_0000;
    let hop_limit = u32::from_be(third) >> 24;
    let [a, b, c, d, e, f, g, h] = new;
    let header = [
        (0x6000_0000 | class).to_be(),
        (u32::from(length) << 16 | u32::from(next) << 8 | hop_limit).to_be(),
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
    ];
    store(ctx, 0, header)?;
    if action.neutral {
        return Ok(());
    }
    transport_checksum(ctx, packet, IPV6_BYTES + extra, difference(packet, &new))
}

/// Adds the difference of the addresses to the transport checksum, which covers them (RFC 9293, RFC 768).
#[inline(always)]
fn transport_checksum(ctx: &TcContext, packet: &Packet, start: u32, difference: u32) -> Result<(), Failed> {
    if packet.piece == Piece::Later {
        return Ok(());
    }
    let (offset, flags) = match packet.protocol {
        UDP if is_super_packet(ctx) => return add_to_partial(ctx, (start + 6) as usize, difference),
        TCP => (start + 16, BPF_F_PSEUDO_HDR),
        // A zero UDP checksum means "none" and stays so.
        UDP => (start + 6, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0),
        _ => return Ok(()),
    };
    ctx.l4_csum_replace(offset as usize, 0, u64::from(difference), u64::from(flags)).or(Err(Failed))
}

#[inline(always)]
pub fn is_super_packet(ctx: &TcContext) -> bool {
    // SAFETY: the context is the program's own.
    unsafe { (*ctx.skb.skb).gso_size != 0 }
}

/// The checksum of a UDP super-packet holds the pseudo-header sum, which segmentation completes. On interfaces without
/// checksum offload Linux doesn't say so (`udp_send_skb` leaves `CHECKSUM_NONE`), and the kernel's helper takes it for a
/// complete one.
#[inline(always)]
fn add_to_partial(ctx: &TcContext, offset: usize, difference: u32) -> Result<(), Failed> {
    let sum: u16 = ctx.load(offset).or(Err(Failed))?;
    if sum == 0 {
        return Ok(());
    }
    let sum = fold(u64::from(sum) + u64::from(difference));
    ctx.store(offset, &sum, 0).or(Err(Failed))
}

/// What the new addresses add to a ones' complement sum over the packet's own ones, as the kernel's helpers take it.
#[inline(always)]
fn difference<const N: usize>(packet: &Packet, new: &[u32; N]) -> u32 {
    let [a, b, c, d] = packet.source.raw();
    let [e, f, g, h] = packet.destination.raw();
    let old = if packet.version == 4 { [0, 0, 0, d, 0, 0, 0, h] } else { [a, b, c, d, e, f, g, h] };
    change(old, *new)
}

/// What `new` words in the place of `old` ones add to a ones' complement sum. All in memory order.
#[inline(always)]
pub fn change<const N: usize, const M: usize>(old: [u32; N], new: [u32; M]) -> u32 {
    // Subtracted as complements, so the sum never is negative.
    let old: u64 = old.map(|word| u64::from(!word)).iter().sum();
    let sum = old + new.map(u64::from).iter().sum::<u64>();
    let folded = (sum & 0xffff_ffff) + (sum >> 32);
    ((folded & 0xffff_ffff) + (folded >> 32)) as u32
}

#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Writes to the header, directly where that is possible.
#[inline(always)]
pub fn store<const N: usize>(ctx: &TcContext, offset: usize, words: [u32; N]) -> Result<(), Failed> {
    let start = ctx.data() + offset;
    if start + 4 * N > ctx.data_end() {
        // A copy of its own, so that the words needn't be in memory for the other way.
        let words = words;
        return ctx.store(offset, &words, 0).or(Err(Failed));
    }
    // SAFETY: the bytes lie inside the packet, as the verifier checks; before the program runs the kernel has made
    // them its own.
    unsafe { *(start as *mut [u32; N]) = words };
    Ok(())
}

#[inline(always)]
fn change_family(ctx: &TcContext, ethertype: u16) -> Result<(), Failed> {
    // SAFETY: the context is the program's own.
    let result = unsafe { bpf_skb_change_proto(ctx.skb.skb, ethertype, 0) };
    if result == 0 { Ok(()) } else { Err(Failed) }
}

#[inline(always)]
fn adjust(ctx: &TcContext, bytes: i32) -> Result<(), Failed> {
    ctx.skb.adjust_room(bytes, BPF_ADJ_ROOM_NET, ROOM_FLAGS).or(Err(Failed))
}

#[inline(always)]
pub fn ends4(action: &Action) -> [u32; 2] {
    [action.source, action.destination].map(|end| u32::from_ne_bytes(end.octets4()))
}

#[inline(always)]
pub fn ends6(action: &Action) -> [u32; 8] {
    let [a, b, c, d] = action.source.raw();
    let [e, f, g, h] = action.destination.raw();
    [a, b, c, d, e, f, g, h]
}
