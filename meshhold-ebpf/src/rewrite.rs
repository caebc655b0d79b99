//! Changes addresses and families as the verdict says, with incremental checksums, so that GSO packets stay whole.
//!
//! Stateless; ports are never touched. Must not decide anything.

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR,
        bpf_adj_room_mode::BPF_ADJ_ROOM_NET,
    },
    helpers::generated::{bpf_csum_diff, bpf_skb_change_proto},
    programs::TcContext,
};
use meshhold_common::{
    Action, Change, Packet,
    packet::{FRAGMENT_BYTES, IPV4_BYTES, IPV6_BYTES, Piece, TCP, UDP},
};

/// The kernel refused a step; the packet must not go on.
pub struct Failed;

/// `ETH_P_IP` and `ETH_P_IPV6` in network order.
const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
/// Next header value of the IPv6 fragment header.
const FRAGMENT: u8 = 44;
/// Room is made or taken between headers; payload sums and segment sizes stay as they are.
const ROOM_FLAGS: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;

/// Carries the action out.
#[inline(always)]
pub fn apply(ctx: &TcContext, packet: &Packet, action: &Action) -> Result<(), Failed> {
    match action.change {
        Change::Keep => Ok(()),
        Change::Rewrite => rewrite4(ctx, packet, ends4(action)),
        Change::ToIpv4 => to_ipv4(ctx, packet, ends4(action)),
        Change::ToIpv6 => to_ipv6(ctx, packet, ends6(action)),
    }
}

#[inline(always)]
fn rewrite4(ctx: &TcContext, packet: &Packet, new: [u32; 2]) -> Result<(), Failed> {
    let old: [u32; 2] = ctx.load(12).or(Err(Failed))?;
    let difference = difference(&old, &new)?;
    ctx.l3_csum_replace(10, 0, difference, 0).or(Err(Failed))?;
    transport_checksum(ctx, packet, packet.transport, difference)?;
    ctx.store(12, &new, 0).or(Err(Failed))
}

#[inline(always)]
fn to_ipv4(ctx: &TcContext, packet: &Packet, new: [u32; 2]) -> Result<(), Failed> {
    let [a, b, _, _, _, _, _, hop_limit]: [u8; 8] = ctx.load(0).or(Err(Failed))?;
    let old: [u32; 8] = ctx.load(8).or(Err(Failed))?;
    let difference = difference(&old, &new)?;
    let fragment = packet.piece != Piece::Whole;
    // Without "don't fragment" an 8-byte unit offset and the flag keep their meaning between the families.
    let mut field = 0x4000_u16;
    if fragment {
        let [_, _, high, low]: [u8; 4] = ctx.load(IPV6_BYTES as usize).or(Err(Failed))?;
        let six = u16::from_be_bytes([high, low]);
        field = six >> 3 | (six & 1) << 13;
        adjust(ctx, -(FRAGMENT_BYTES as i32))?;
    }
    change_family(ctx, ETHERTYPE_IPV4)?;
    let length = u16::try_from(packet.end - packet.transport + IPV4_BYTES).or(Err(Failed))?;
    let [len_a, len_b] = length.to_be_bytes();
    let [id_a, id_b] = (packet.id as u16).to_be_bytes();
    let [field_a, field_b] = field.to_be_bytes();
    let [source, destination] = new;
    let [sa, sb, sc, sd] = source.to_ne_bytes();
    let [da, db, dc, dd] = destination.to_ne_bytes();
    let mut header: [u8; 20] = [
        0x45, a << 4 | b >> 4, len_a, len_b, id_a, id_b, field_a, field_b, hop_limit, packet.protocol,
        0, 0, sa, sb, sc, sd, da, db, dc, dd,
    ];
    let sum = header_checksum(&header)?;
    let [_, _, _, _, _, _, _, _, _, _, sum_a, sum_b, ..] = &mut header;
    [*sum_a, *sum_b] = sum.to_ne_bytes();
    ctx.store(0, &header, 0).or(Err(Failed))?;
    transport_checksum(ctx, packet, IPV4_BYTES, difference)
}

#[inline(always)]
fn to_ipv6(ctx: &TcContext, packet: &Packet, new: [u32; 8]) -> Result<(), Failed> {
    let [_, tos, _, _, _, _, field_a, field_b]: [u8; 8] = ctx.load(0).or(Err(Failed))?;
    let [hop_limit]: [u8; 1] = ctx.load(8).or(Err(Failed))?;
    let old: [u32; 2] = ctx.load(12).or(Err(Failed))?;
    let difference = difference(&old, &new)?;
    let fragment = packet.piece != Piece::Whole;
    change_family(ctx, ETHERTYPE_IPV6)?;
    let extra = if fragment { FRAGMENT_BYTES } else { 0 };
    let length = u16::try_from(packet.end - packet.transport + extra).or(Err(Failed))?;
    let [len_a, len_b] = length.to_be_bytes();
    let next = if fragment { FRAGMENT } else { packet.protocol };
    if fragment {
        adjust(ctx, FRAGMENT_BYTES as i32)?;
        let four = u16::from_be_bytes([field_a, field_b]);
        let [high, low] = ((four & 0x1fff) << 3 | (four >> 13) & 1).to_be_bytes();
        let [ia, ib, ic, id] = packet.id.to_be_bytes();
        let header = [packet.protocol, 0, high, low, ia, ib, ic, id];
        ctx.store(IPV6_BYTES as usize, &header, 0).or(Err(Failed))?;
    }
    let header = [0x60 | tos >> 4, tos << 4, 0, 0, len_a, len_b, next, hop_limit];
    ctx.store(0, &header, 0).or(Err(Failed))?;
    ctx.store(8, &new, 0).or(Err(Failed))?;
    transport_checksum(ctx, packet, IPV6_BYTES + extra, difference)
}

/// Adds the difference of the addresses to the transport checksum, which covers them (RFC 9293, RFC 768).
#[inline(always)]
fn transport_checksum(ctx: &TcContext, packet: &Packet, start: u32, difference: u64) -> Result<(), Failed> {
    if packet.piece == Piece::Later {
        return Ok(());
    }
    let (offset, flags) = match packet.protocol {
        TCP => (start + 16, BPF_F_PSEUDO_HDR),
        // A zero UDP checksum means "none" and stays so.
        UDP => (start + 6, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0),
        _ => return Ok(()),
    };
    ctx.l4_csum_replace(offset as usize, 0, difference, u64::from(flags)).or(Err(Failed))
}

#[inline(always)]
fn difference<const A: usize, const B: usize>(old: &[u32; A], new: &[u32; B]) -> Result<u64, Failed> {
    // SAFETY: both arrays outlive the call and are only read; their sizes are multiples of four.
    let difference = unsafe {
        bpf_csum_diff(old.as_ptr().cast_mut(), 4 * A as u32, new.as_ptr().cast_mut(), 4 * B as u32, 0)
    };
    u64::try_from(difference).or(Err(Failed))
}

/// In memory order, ready to be stored.
#[inline(always)]
fn header_checksum(header: &[u8; 20]) -> Result<u16, Failed> {
    // SAFETY: the header outlives the call and is only read; a null `from` of size 0 means "nothing to subtract".
    let sum = unsafe {
        bpf_csum_diff(core::ptr::null_mut(), 0, header.as_ptr().cast_mut().cast(), IPV4_BYTES, 0)
    };
    let sum = u64::try_from(sum).or(Err(Failed))?;
    let folded = (sum & 0xffff) + (sum >> 16 & 0xffff);
    Ok(!((folded & 0xffff) + (folded >> 16)) as u16)
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
fn ends4(action: &Action) -> [u32; 2] {
    [action.source, action.destination].map(|end| u32::from_ne_bytes(end.octets4()))
}

#[inline(always)]
fn ends6(action: &Action) -> [u32; 8] {
    let [a, b, c, d] = words(action.source.bytes);
    let [e, f, g, h] = words(action.destination.bytes);
    [a, b, c, d, e, f, g, h]
}

#[inline(always)]
fn words(bytes: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}
