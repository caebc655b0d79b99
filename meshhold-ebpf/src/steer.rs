//! Feeds the steering rules of meshhold-common with a packet and the rate of its flow.
//!
//! Owns no rule. Two CPUs may write one rate at a time; what that spoils is a guess.

use aya_ebpf::{
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    programs::SkBuffContext,
};
use meshhold_common::{
    Load,
    maps::{FLOW_RATES, Steering},
    steer::{self, Arrival, flow_hash},
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
    let steering = maps::WORKERS.get(0).copied().unwrap_or(Steering { workers: 1, spread: 0 });
    let Some(rate) = maps::RATES.get_ptr_mut(hash & (FLOW_RATES - 1)) else { return 0 };
    // SAFETY: the helpers take nothing and can't fail.
    let (now, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    let packet = Arrival { hash, now: (now / 1_000_000) as u32, length: ctx.len(), cpu };
    // SAFETY: the pointer is a live map value; words that another CPU writes are still numbers.
    let rate = unsafe { &mut *rate };
    let was = rate.bulk;
    let queue = steer::queue(rate, &packet, steering);
    if rate.bulk > was
        && let Some(promoted) = maps::PROMOTED.get_ptr_mut(0)
    {
        // SAFETY: the pointer is a live map value of one aligned word.
        unsafe { promoted.write_volatile(now) };
    }
    queue
}
