//! LAN devices behind this node: carries out what [`meshhold_common::forward`] decides.
//!
//! All rewriting happens at the mesh interface, where packets start with their IP header: `lan_answer` only moves an
//! answer there, whatever link header it came with. Must not decide anything.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::BPF_F_MARK_MANGLED_0,
    helpers::generated::{
        bpf_redirect, bpf_redirect_neigh, bpf_skb_change_head, bpf_skb_load_bytes_relative,
    },
    programs::TcContext,
};
use meshhold_common::{
    Change, Packet, Reason, event,
    forward::{Plan, from_device, is_answer, to_device},
    packet::{FRAGMENT_BYTES, ICMP6, IPV4_BYTES, IPV6_BYTES, Load, Piece, TCP, UDP},
};

use crate::{
    DROP, NEXT,
    account::account,
    host::{KernelHost, Skb},
    maps,
    maps::Scratch,
    rewrite::{self, Failed},
    scratch,
};

/// From the mesh.
#[inline(always)]
pub fn ingress(ctx: &TcContext) -> i32 {
    let Some(scratch) = plain_scratch() else { return DROP };
    let Scratch { packet, plan, .. } = scratch;
    let Some(mut reason) = to_device(&Skb(ctx), &mut KernelHost(ctx), packet, plan) else { return NEXT };
    let length = ctx.len();
    if reason.is_pass() && carry_out(ctx, packet, plan, Side::Source).is_err() {
        reason = Reason::RewriteFailed;
    }
    account(packet, reason, event::INGRESS, length);
    if !reason.is_pass() {
        return DROP;
    }
    leave(ctx, plan.interface)
}

/// Sends the packet on by another interface, to the next hop that its route names.
#[inline(always)]
fn leave(ctx: &TcContext, interface: u32) -> i32 {
    // The helper takes off the link header of the interface that a packet came by (`__bpf_redirect_neigh` in
    // net/core/filter.c); packets of an L3 interface have none, so they get an empty one.
    // SAFETY: the context is the program's own. Without a next hop the helper looks it up, and takes no pointer.
    unsafe {
        if bpf_skb_change_head(ctx.skb.skb, rewrite::LINK_HEADER, 0) != 0 {
            return DROP;
        }
        bpf_redirect_neigh(interface, core::ptr::null_mut(), 0, 0) as i32
    }
}

/// Into the mesh.
#[inline(always)]
pub fn egress(ctx: &TcContext) -> i32 {
    // SAFETY: the context is the program's own. What this node sends itself came in nowhere.
    if unsafe { (*ctx.skb.skb).ingress_ifindex } == 0 {
        return NEXT;
    }
    let Some(scratch) = plain_scratch() else { return DROP };
    let Scratch { packet, plan, .. } = scratch;
    let Some(outcome) = from_device(&Skb(ctx), &mut KernelHost(ctx), packet, plan) else { return NEXT };
    let refused = match outcome {
        Err(reason) => reason,
        Ok(()) if carry_out(ctx, packet, plan, Side::Destination).is_ok() => return NEXT,
        Ok(()) => Reason::RewriteFailed,
    };
    account(packet, refused, event::EGRESS, ctx.len());
    DROP
}

/// On an interface behind which devices are.
#[inline(always)]
pub fn answer(ctx: &TcContext) -> i32 {
    // SAFETY: the context is the program's own.
    let interface = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: the entry is read at once.
    let Some(lan) = (unsafe { maps::LANS.get(interface) }) else { return NEXT };
    let mesh = lan.mesh;
    let Some(scratch) = plain_scratch() else { return NEXT };
    if !is_answer(&Network(ctx), &mut KernelHost(ctx), &mut scratch.packet) {
        return NEXT;
    }
    // SAFETY: the helper takes numbers only.
    unsafe { bpf_redirect(mesh, 0) as i32 }
}

#[inline(always)]
fn plain_scratch() -> Option<&'static mut Scratch> {
    let scratch = scratch()?;
    scratch.plan = Plan::NOTHING;
    Some(scratch)
}

/// The packet from its network header on, whatever stands before that.
struct Network<'a>(&'a TcContext);

impl Load for Network<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        /// `BPF_HDR_START_NET`.
        const NETWORK_HEADER: u32 = 1;
        let mut words = MaybeUninit::<[u32; N]>::uninit();
        // SAFETY: the helper writes exactly N words, or fails and clears them.
        unsafe {
            let target = words.as_mut_ptr().cast();
            (bpf_skb_load_bytes_relative(self.0.skb.skb.cast(), offset, target, 4 * N as u32, NETWORK_HEADER)
                == 0)
                .then(|| words.assume_init())
        }
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.0.len()
    }
}

/// Which port the translation changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

#[inline(always)]
fn carry_out(ctx: &TcContext, packet: &Packet, plan: &Plan, side: Side) -> Result<(), Failed> {
    count_hop(ctx, packet)?;
    rewrite::apply(ctx, packet, &plan.action)?;
    if packet.piece == Piece::Later {
        return Ok(());
    }
    if plan.is_error {
        return requote(ctx, packet, plan, side);
    }
    let start = transport(packet, plan.action.change);
    if !matches!(packet.protocol, TCP | UDP) {
        return echo(ctx, packet, plan, start);
    }
    if plan.segment != 0 {
        clamp(ctx, start, plan.segment)?;
    }
    let (offset, old) = match side {
        Side::Source => (start, packet.source_port),
        Side::Destination => (start + 2, packet.destination_port),
    };
    set_port(ctx, packet, start, (offset, old, plan.port))
}

/// Where the transport header is after the change.
#[inline(always)]
fn transport(packet: &Packet, change: Change) -> u32 {
    let fragment = if packet.piece == Piece::Whole { 0 } else { FRAGMENT_BYTES };
    match change {
        Change::ToIpv4 => IPV4_BYTES,
        Change::ToIpv6 => IPV6_BYTES + fragment,
        Change::Keep | Change::Rewrite | Change::ByLoopback => packet.transport,
    }
}

/// One hop less, with the checksum beside it in IPv4 (RFC 1141).
#[inline(always)]
fn count_hop(ctx: &TcContext, packet: &Packet) -> Result<(), Failed> {
    if packet.version == 6 {
        let Some([word]) = Skb(ctx).load::<1>(4) else { return Err(Failed) };
        return rewrite::store(ctx, 4, [(u32::from_be(word) - 1).to_be()]);
    }
    let Some([word]) = Skb(ctx).load::<1>(8) else { return Err(Failed) };
    let word = u32::from_be(word) - 0x0100_0000;
    let sum = (word & 0xffff) + 0x0100;
    let sum = (sum & 0xffff) + (sum >> 16);
    rewrite::store(ctx, 8, [(word & 0xffff_0000 | sum).to_be()])
}

#[inline(always)]
fn set_port(
    ctx: &TcContext,
    packet: &Packet,
    start: u32,
    (offset, old, new): (u32, u16, u16),
) -> Result<(), Failed> {
    let (old, new) = (old.to_be(), new.to_be());
    ctx.store(offset as usize, &new, 0).or(Err(Failed))?;
    let (sum, flags) = match packet.protocol {
        TCP => (start + 16, 0),
        // The sum of a super-packet covers the pseudo-header only.
        _ if rewrite::is_super_packet(ctx) => return Ok(()),
        _ => (start + 6, u64::from(BPF_F_MARK_MANGLED_0)),
    };
    ctx.l4_csum_replace(sum as usize, u64::from(old), u64::from(new), flags | 2).or(Err(Failed))
}

/// Announces no larger segments than both sides carry (RFC 9293 section 3.7.1).
#[inline(always)]
fn clamp(ctx: &TcContext, start: u32, segment: u32) -> Result<(), Failed> {
    const OPTIONS: u32 = 20;
    const MOST: u32 = 10;
    let Some([offset]) = Skb(ctx).load_far::<1>(start + 12) else { return Err(Failed) };
    let end = start + (u32::from_be(offset) >> 28) * 4;
    let mut at = start + OPTIONS;
    for _ in 0..MOST {
        if at + 4 > end {
            break;
        }
        let Some([word]) = Skb(ctx).load_far::<1>(at) else { break };
        let word = u32::from_be(word);
        let length = word >> 16 & 0xff;
        at += match word >> 24 {
            // End of the list; padding; the maximum segment size.
            0 => break,
            1 => 1,
            2 if length == 4 && word & 0xffff > segment => {
                return announce(ctx, start, at + 2, (word, segment));
            }
            _ if length < 2 => break,
            _ => length,
        };
    }
    Ok(())
}

#[inline(always)]
fn announce(ctx: &TcContext, start: u32, at: u32, (old, new): (u32, u32)) -> Result<(), Failed> {
    let (old, new) = ((old as u16).to_be(), (new as u16).to_be());
    ctx.store(at as usize, &new, 0).or(Err(Failed))?;
    // At an odd offset the two bytes lie in two words of the sum, each in the other's place.
    let (old, new) = if at & 1 == 0 { (old, new) } else { (old.swap_bytes(), new.swap_bytes()) };
    ctx.l4_csum_replace((start + 16) as usize, u64::from(old), u64::from(new), 2).or(Err(Failed))
}

/// Gives an echo message its new identifier; across the families its new type as well, and the sum of the IPv6
/// pseudo-header, which ICMPv6 has (RFC 4443 section 2.3) and ICMP has not.
#[inline(always)]
fn echo(ctx: &TcContext, packet: &Packet, plan: &Plan, start: u32) -> Result<(), Failed> {
    let Some([first, second]) = Skb(ctx).load_far::<2>(start) else { return Err(Failed) };
    let across = plan.action.change != Change::Rewrite;
    if across && packet.piece != Piece::Whole {
        return Err(Failed);
    }
    let kind = match (plan.action.change, u32::from_be(first) >> 24) {
        (Change::ToIpv4, 128) => 8,
        (Change::ToIpv4, 129) => 0,
        (Change::ToIpv6, 8) => 128,
        (Change::ToIpv6, 0) => 129,
        (_, kind) => kind,
    };
    let new_first = (kind << 24 | u32::from_be(first) & 0x00ff_ffff).to_be();
    let new_second = (u32::from(plan.port) << 16 | u32::from_be(second) & 0xffff).to_be();
    ctx.store(start as usize, &[new_first, new_second], 0).or(Err(Failed))?;
    let mut change = rewrite::change([first, second], [new_first, new_second]);
    if across {
        change = rewrite::change([], [change, pseudo_change(packet, plan)]);
    }
    ctx.l4_csum_replace((start + 2) as usize, 0, u64::from(change), 0).or(Err(Failed))
}

/// What the pseudo-header adds to the sum of an ICMPv6 message that was one of ICMP, or takes from it.
#[inline(always)]
fn pseudo_change(packet: &Packet, plan: &Plan) -> u32 {
    let rest = [(packet.end - packet.transport).to_be(), u32::from(ICMP6).to_be()];
    let change = rewrite::change([], rest);
    if plan.action.change == Change::ToIpv6 {
        let ends = rewrite::ends6(&plan.action);
        return rewrite::change([], [change, rewrite::change([], ends)]);
    }
    let ([a, b, c, d], [e, f, g, h]) = (packet.source.raw(), packet.destination.raw());
    rewrite::change([change, rewrite::change([], [a, b, c, d, e, f, g, h])], [])
}

/// Gives the packet that an ICMP error quotes the ends and the port under which its sender knows it. The quoted
/// transport checksum stays: no receiver looks at it.
#[inline(always)]
fn requote(ctx: &TcContext, packet: &Packet, plan: &Plan, side: Side) -> Result<(), Failed> {
    let start = packet.transport + 8;
    let (transport, protocol, change) =
        if packet.version == 4 { requote4(ctx, start, plan)? } else { requote6(ctx, start, plan)? };
    let Some(old) = Skb(ctx).load_far::<2>(transport) else { return Err(Failed) };
    let ([ports, second], port) = (old.map(u32::from_be), u32::from(plan.port));
    let new = match side {
        Side::Source => [ports & 0xffff_0000 | port, second],
        Side::Destination if matches!(protocol, TCP | UDP) => [port << 16 | ports & 0xffff, second],
        Side::Destination => [ports, port << 16 | second & 0xffff],
    };
    let new = new.map(u32::to_be);
    ctx.store(transport as usize, &new, 0).or(Err(Failed))?;
    let change = rewrite::change([], [change, rewrite::change(old, new)]);
    ctx.l4_csum_replace((packet.transport + 2) as usize, 0, u64::from(change), 0).or(Err(Failed))
}

/// Returns where the quoted transport header is, its protocol, and what the error's checksum changes by: nothing, for an
/// IPv4 header with a right checksum always sums up to the same.
#[inline(always)]
fn requote4(ctx: &TcContext, start: u32, plan: &Plan) -> Result<(u32, u8, u32), Failed> {
    let Some([first, _, time, source, destination]) = Skb(ctx).load_far::<5>(start) else {
        return Err(Failed);
    };
    let new = rewrite::ends4(&plan.quoted);
    let [a, b, sum @ ..] = time.to_ne_bytes();
    let change = rewrite::change([source, destination], new);
    let [c, d] = (!rewrite::fold(u64::from(!u16::from_ne_bytes(sum)) + u64::from(change))).to_ne_bytes();
    let header = [u32::from_ne_bytes([a, b, c, d]), new[0], new[1]];
    ctx.store((start + 8) as usize, &header, 0).or(Err(Failed))?;
    Ok((start + (u32::from_be(first) >> 24 & 0x0f) * 4, (u32::from_be(time) >> 16) as u8, 0))
}

#[inline(always)]
fn requote6(ctx: &TcContext, start: u32, plan: &Plan) -> Result<(u32, u8, u32), Failed> {
    let Some([next]) = Skb(ctx).load_far::<1>(start + 4) else { return Err(Failed) };
    let Some(old) = Skb(ctx).load_far::<8>(start + 8) else { return Err(Failed) };
    let new = rewrite::ends6(&plan.quoted);
    ctx.store((start + 8) as usize, &new, 0).or(Err(Failed))?;
    Ok((start + IPV6_BYTES, (u32::from_be(next) >> 8) as u8, rewrite::change(old, new)))
}
