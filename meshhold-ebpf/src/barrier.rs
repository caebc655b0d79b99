//! The barrier on the way out of every other interface: addresses of mesh ranges and of callers leave by the mesh
//! interface or not at all, whatever becomes of routes and rules, whether the daemon runs or not.
//!
//! Owns the look-up, which most packets are spared by one comparison. Must not know the policy.

use aya_ebpf::{btf_maps::lpm_trie::Key, programs::TcContext};
use meshhold_common::{Address, Packet, Reason, event};

use crate::{
    DROP, NEXT,
    account::account,
    lan,
    maps::{BARRIER, BARRIER_HINT},
};

/// On every interface but `lo` and the mesh.
#[inline(always)]
pub fn mesh_barrier(ctx: &TcContext) -> i32 {
    let Some(lan::Ends { source, destination }) = lan::ends(ctx) else { return NEXT };
    if !is_barred(&destination) && !is_barred(&source) {
        return NEXT;
    }
    let packet = Packet { source, destination, ..Packet::default() };
    account(&packet, Reason::Barrier, event::BARRIER, ctx.len());
    DROP
}

#[inline(always)]
fn is_barred(address: &Address) -> bool {
    let may_be = BARRIER_HINT.get(0).is_none_or(|hint| hint.may_hold(address));
    address.is_caller() || may_be && BARRIER.get(&Key::new(128, *address)).is_some()
}
