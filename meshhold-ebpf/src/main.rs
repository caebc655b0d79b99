//! The programs that the daemon loads. Entry points only.
#![no_std]
#![no_main]

use aya_ebpf::{
    macros::{classifier, socket_filter},
    programs::{SkBuffContext, TcContext},
};

/// From the mesh towards local services.
#[classifier]
pub fn mesh_ingress(ctx: TcContext) -> i32 {
    meshhold_ebpf::mesh_ingress(&ctx)
}

/// From local programs into the mesh.
#[classifier]
pub fn mesh_egress(ctx: TcContext) -> i32 {
    meshhold_ebpf::mesh_egress(&ctx)
}

/// Keeps mesh addresses off every other interface.
#[classifier]
pub fn lan_guard(ctx: TcContext) -> i32 {
    meshhold_ebpf::lan_guard(&ctx)
}

/// Keeps mesh addresses from leaving by any other interface.
#[classifier]
pub fn mesh_barrier(ctx: TcContext) -> i32 {
    meshhold_ebpf::barrier::mesh_barrier(&ctx)
}

/// From the mesh to LAN devices; before `mesh_ingress`.
#[classifier]
pub fn device_ingress(ctx: TcContext) -> i32 {
    meshhold_ebpf::device::ingress(&ctx)
}

/// From LAN devices into the mesh; before `mesh_egress`, which judges what leaves here.
#[classifier]
pub fn device_egress(ctx: TcContext) -> i32 {
    meshhold_ebpf::device::egress(&ctx)
}

/// Takes the answers of LAN devices to the mesh interface.
#[classifier]
pub fn lan_answer(ctx: TcContext) -> i32 {
    meshhold_ebpf::device::answer(&ctx)
}

/// Chooses the queue of the mesh interface that a packet waits in. Not a filter: its result is the queue's number.
#[socket_filter]
pub fn mesh_steer(ctx: SkBuffContext) -> i64 {
    i64::from(meshhold_ebpf::steer::queue(&ctx))
}

/// The helpers with checksum and time semantics are open to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
