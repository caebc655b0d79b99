//! Reads the two ends of a packet on an ordinary interface: IPv4, IPv6 and ARP, nothing deeper.
//!
//! Offsets count from the network header as the stack sees it, so interfaces with and without link headers are
//! alike. The kernel takes one VLAN tag off before this hook; VLAN interfaces are guarded on their own.

use core::mem::MaybeUninit;

use aya_ebpf::{helpers::generated::bpf_skb_load_bytes_relative, programs::TcContext};
use meshhold_common::Address;

/// Who a packet claims to be from, and for.
pub struct Ends {
    pub source: Address,
    pub destination: Address,
}

/// `BPF_HDR_START_NET`.
const NETWORK_HEADER: u32 = 1;

/// The ends, where the protocol has any that matter.
#[inline(always)]
pub fn ends(ctx: &TcContext) -> Option<Ends> {
    // SAFETY: the context is the program's own.
    match u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16) {
        0x0800 => ends4(ctx, 12, 16),
        0x86dd => Some(Ends { source: Address::v6(load(ctx, 8)?), destination: Address::v6(load(ctx, 24)?) }),
        // The kernel would answer "who has" for any address of its own on any interface.
        0x0806 => ends4(ctx, 14, 24),
        _ => None,
    }
}

#[inline(always)]
fn ends4(ctx: &TcContext, source: u32, destination: u32) -> Option<Ends> {
    Some(Ends { source: Address::v4(load(ctx, source)?), destination: Address::v4(load(ctx, destination)?) })
}

#[inline(always)]
fn load<const N: usize>(ctx: &TcContext, offset: u32) -> Option<[u8; N]> {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: the helper writes exactly N bytes, or fails and clears them.
    unsafe {
        let target = bytes.as_mut_ptr().cast();
        (bpf_skb_load_bytes_relative(ctx.skb.skb.cast(), offset, target, N as u32, NETWORK_HEADER) == 0)
            .then(|| bytes.assume_init())
    }
}
