//! Feeds the steering rules of meshhold-common with a packet and the rate of its flow.
//!
//! Owns no rule. Two CPUs may write one rate at a time; what that spoils is a guess.

use aya_ebpf::{helpers::generated::bpf_ktime_get_coarse_ns, programs::SkBuffContext};
use meshhold_common::{
    Load,
    maps::FLOW_RATES,
    steer::{self, flow_hash, is_bulk},
};

use crate::maps;

struct Skb<'a>(&'a SkBuffContext);

impl Load for Skb<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.0.load(offset as usize).ok()
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.0.len()
    }
}

/// Number of the queue for this packet.
#[inline(always)]
pub fn queue(ctx: &SkBuffContext) -> u32 {
    let hash = flow_hash(&Skb(ctx));
    let workers = maps::WORKERS.get(0).copied().unwrap_or(1);
    let Some(rate) = maps::RATES.get_ptr_mut(hash & (FLOW_RATES - 1)) else { return 0 };
    // SAFETY: the helper takes nothing and can't fail.
    let now = unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000;
    // SAFETY: the pointer is a live map value; words that another CPU writes are still numbers.
    let bulk = is_bulk(unsafe { &mut *rate }, now as u32, ctx.len());
    steer::queue(hash, workers, bulk)
}
