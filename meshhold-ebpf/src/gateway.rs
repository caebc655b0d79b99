//! The [`Gateway`] over the kernel maps: flows to LAN devices are found, opened and renewed here.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use meshhold_common::{
    Address, Packet,
    forward::Gateway,
    maps::FlowKey,
    nat::{
        ANSWERED, DEVICE_DONE, DeviceEntry, FIRST_PORT, Inward, Outward, PEER_DONE, PORT_BITS, RESET,
        inward_key, is_over, later,
    },
};

use crate::{
    host::{KernelHost, tick},
    maps,
};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// How many ports are tried for a new flow: with half of them taken, one in 65,000 flows finds none.
const TRIES: u32 = 16;

impl Gateway for KernelHost<'_> {
    #[inline(always)]
    fn device(&mut self, address: &Address) -> Option<DeviceEntry> {
        // SAFETY: the entry is read at once; the loader replaces values, it never reuses them for another type.
        unsafe { maps::DEVICES.get(address) }.copied()
    }

    #[inline(always)]
    fn port(&mut self, flow: &FlowKey, device: &DeviceEntry, flags: u8) -> Option<u16> {
        if let Some(outward) = maps::NAT_OUT.get_ptr_mut(flow) {
            // SAFETY: the pointer is a live map value; words that another CPU writes are still a time and marks.
            let outward = unsafe { &mut *outward };
            if flags & (SYN | ACK) == SYN {
                begin_anew(outward, flow, device);
            }
            return Some(renew(outward, flags));
        }
        // What only ends a connection opens none.
        if flags & RST != 0 { None } else { open(flow, device) }
    }

    #[inline(always)]
    fn known_port(&mut self, flow: &FlowKey) -> Option<u16> {
        // SAFETY: as in `device`.
        unsafe { maps::NAT_OUT.get(flow) }.map(|outward| outward.port)
    }

    #[inline(always)]
    fn answered(&mut self, flow: &FlowKey, flags: u8) -> Option<Inward> {
        let inward = maps::NAT_IN.get_ptr_mut(flow)?;
        // SAFETY: as in `port`.
        let inward = unsafe { &mut *inward };
        let now = tick();
        if inward.used != now {
            inward.used = now;
        }
        let state = inward.state | ANSWERED | done(flags, DEVICE_DONE);
        if inward.state != state {
            inward.state = state;
        }
        Some(*inward)
    }

    #[inline(always)]
    fn piece(&mut self, packet: &Packet) -> Option<Inward> {
        // SAFETY: as in `device`.
        unsafe { maps::NAT_PIECES.get(packet.fragment_key()) }.copied()
    }

    #[inline(always)]
    fn keep_piece(&mut self, packet: &Packet, flow: &Inward) {
        let _ = maps::NAT_PIECES.insert(packet.fragment_key(), flow, 0);
    }
}

/// The marks that a segment's flags leave.
#[inline(always)]
fn done(flags: u8, end: u8) -> u8 {
    let fin = if flags & FIN != 0 { end } else { 0 };
    let reset = if flags & RST != 0 { RESET } else { 0 };
    fin | reset
}

#[inline(always)]
fn renew(outward: &mut Outward, flags: u8) -> u16 {
    let now = tick();
    if outward.used != now {
        outward.used = now;
    }
    let state = outward.state | done(flags, PEER_DONE);
    if outward.state != state {
        outward.state = state;
    }
    outward.port
}

/// The same ports again, for another connection.
#[inline(always)]
fn begin_anew(outward: &mut Outward, flow: &FlowKey, device: &DeviceEntry) {
    outward.state = 0;
    if let Some(inward) = maps::NAT_IN.get_ptr_mut(inward_key(flow, device, outward.port)) {
        // SAFETY: as in `port`.
        unsafe { (*inward).state = 0 };
    }
}

/// Takes a port that no flow to the same end of the device has, or one whose flow is over.
#[inline(always)]
fn open(flow: &FlowKey, device: &DeviceEntry) -> Option<u16> {
    // SAFETY: the helper takes nothing and can't fail.
    let start = unsafe { bpf_get_prandom_u32() };
    let now = tick();
    let fresh = Inward {
        device: flow.local,
        peer: flow.remote,
        used: now,
        peer_port: flow.remote_port,
        ..Inward::default()
    };
    for attempt in 0..TRIES {
        let offset = (start >> 16).wrapping_add(attempt.wrapping_mul(start | 1)) & ((1 << PORT_BITS) - 1);
        let port = FIRST_PORT + offset as u16;
        let key = inward_key(flow, device, port);
        if !is_free(&key, now) {
            continue;
        }
        if maps::NAT_IN.insert(key, fresh, 0).is_err() {
            return None;
        }
        let outward = Outward { used: now, port, ..Outward::default() };
        return maps::NAT_OUT.insert(flow, outward, 0).ok().map(|()| port);
    }
    None
}

/// True where nobody has the key, or whoever has it is done with it and was taken off.
#[inline(always)]
fn is_free(key: &FlowKey, now: u32) -> bool {
    // SAFETY: the entry is read at once.
    let Some(inward) = (unsafe { maps::NAT_IN.get(key) }) else { return true };
    let inward = *inward;
    let former = inward.outward_key(key);
    // SAFETY: as above.
    let outward = unsafe { maps::NAT_OUT.get(former) }.copied().unwrap_or_default();
    let (state, used) = (inward.state | outward.state, later(inward.used, outward.used));
    if !is_over(key.protocol, state, used, now) {
        return false;
    }
    let _ = maps::NAT_OUT.remove(former);
    true
}
