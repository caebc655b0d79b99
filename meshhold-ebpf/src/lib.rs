//! What the kernel programs share: the classifier of meshhold-common decides, this crate looks up, rewrites and
//! counts.
//!
//! Owns nothing that decides about a packet. The mesh programs belong on an L3 TUN, where a packet starts with
//! its IP header; the guards on every other interface.
#![no_std]

pub mod account;
pub mod barrier;
pub mod device;
pub mod gateway;
pub mod host;
pub mod lan;
pub mod maps;
pub mod rewrite;
pub mod socket;
pub mod steer;

use aya_ebpf::programs::TcContext;
use meshhold_common::{Change, Packet, Reason, Verdict, classify_egress, classify_ingress, event, guard};

use crate::{account::account, host::KernelHost, maps::Scratch};

/// On to the next program on the interface, and then to the stack.
pub const NEXT: i32 = -1;
/// Dropped here.
pub const DROP: i32 = 2;

/// From the mesh towards local services.
#[inline(always)]
pub fn mesh_ingress(ctx: &TcContext) -> i32 {
    let Some(scratch) = scratch() else { return DROP };
    let verdict = classify_ingress(&host::Skb(ctx), &mut KernelHost(ctx), &mut scratch.packet);
    finish(ctx, scratch, verdict, event::INGRESS)
}

/// From local programs into the mesh.
#[inline(always)]
pub fn mesh_egress(ctx: &TcContext) -> i32 {
    let Some(scratch) = scratch() else { return DROP };
    let verdict = classify_egress(&host::Skb(ctx), &mut KernelHost(ctx), &mut scratch.packet);
    finish(ctx, scratch, verdict, event::EGRESS)
}

/// Keeps mesh addresses off every other interface.
#[inline(always)]
pub fn lan_guard(ctx: &TcContext) -> i32 {
    let Some(lan::Ends { source, destination }) = lan::ends(ctx) else { return NEXT };
    if !guard(&mut KernelHost(ctx), &source, &destination) {
        return NEXT;
    }
    let packet = Packet { source, destination, ..Packet::default() };
    account(&packet, Reason::LanGuard, event::GUARD, ctx.len());
    DROP
}

/// Room for the packet and the outcome, in memory whose content the verifier does not follow. Holds what the last
/// packet left there.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    let scratch = maps::SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the slot is this CPU's, and one run of a program ends before the next one starts on it.
    Some(unsafe { &mut *scratch })
}

#[inline(always)]
fn finish(ctx: &TcContext, scratch: &mut Scratch, mut verdict: Verdict, direction: u8) -> i32 {
    let Verdict { reason, action } = &mut verdict;
    (scratch.reason, scratch.change, scratch.neutral) = (*reason, action.change, action.neutral);
    let scratch = core::hint::black_box(scratch);
    (*reason, action.change, action.neutral) = (scratch.reason, scratch.change, scratch.neutral);
    let length = ctx.len();
    let mut reason = verdict.reason;
    if reason.is_pass() && rewrite::apply(ctx, &scratch.packet, &verdict.action).is_err() {
        reason = Reason::RewriteFailed;
    }
    account(&scratch.packet, reason, direction, length);
    match (reason.is_pass(), verdict.action.change) {
        (false, _) => DROP,
        (true, Change::ByLoopback) => rewrite::come_in_by_loopback(),
        (true, _) => NEXT,
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
