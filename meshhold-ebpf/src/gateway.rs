//! The [`Gateway`] over the kernel maps: flows to LAN devices are found, opened and renewed here.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_get_prandom_u32};
use meshhold_common::{
    Address, Packet,
    forward::Gateway,
    maps::FlowKey,
    nat::{
        ANSWERED, DEVICE_DONE, DeviceEntry, FIRST_PORT, Inward, Outward, PEER_DONE, PORT_BITS, RESET,
        inward_key, later, may_make_room,
    },
    packet::TCP,
};

use crate::{
    host::{KernelHost, tick},
    maps,
};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// How many ports are tried for a new flow: with half of them taken, one in 4,000 flows has to try again.
const TRIES: u32 = 12;

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
            let port = renew(outward, flags);
            // It may vanish in the next moment: whoever asks again finds it, or gets another.
            return if flags & SYN != 0 && is_swept(flow) { None } else { Some(port) };
        }
        // Only its first segment opens a connection: what comes after the end of one is no new one.
        if flow.protocol == TCP && flags & (SYN | ACK | RST) != SYN { None } else { open(flow, device) }
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

/// Whether user space is about to take the flow out. It says so first and then looks at the flow once more, so one of
/// both sees the other.
#[inline(always)]
fn is_swept(flow: &FlowKey) -> bool {
    // SAFETY: the entry is read at once; one that is being written is none that has been.
    unsafe { maps::SWEEPING.get(0) }.is_some_and(|swept| swept.is(flow))
}

/// Takes a port that no flow to the same end of the device has; where a few tries find none, that of a flow that is done
/// with it.
#[inline(always)]
fn open(flow: &FlowKey, device: &DeviceEntry) -> Option<u16> {
    // SAFETY: the helper takes nothing and can't fail.
    let start = unsafe { bpf_get_prandom_u32() };
    let now = tick();
    let scratch = maps::SCRATCH.get_ptr_mut(0)?;
    // Kept there for the verifier's sake: of a local variable it would follow every value through every try.
    // SAFETY: the entry is this CPU's own, see `SCRATCH`; nothing else holds this field.
    let chosen = unsafe { &mut (*scratch).chosen };
    *chosen = 0;
    for attempt in 0..TRIES {
        let offset = (start >> 16).wrapping_add(attempt.wrapping_mul(start | 1)) & ((1 << PORT_BITS) - 1);
        let port = FIRST_PORT + offset as u16;
        let key = inward_key(flow, device, port);
        // SAFETY: the entry is read at once.
        let Some(inward) = (unsafe { maps::NAT_IN.get(key) }) else {
            *chosen = port;
            break;
        };
        if is_done(&key, inward, now) {
            *chosen = port;
        }
    }
    take(flow, device, *chosen, now)
}

/// Whether the flow has ended, so that no more than stray packets of it can come.
#[inline(always)]
fn is_done(key: &FlowKey, inward: &Inward, now: u32) -> bool {
    // SAFETY: the entry is read at once.
    let outward = unsafe { maps::NAT_OUT.get(inward.outward_key(key)) }.copied().unwrap_or_default();
    may_make_room(key.protocol, inward.state | outward.state, later(inward.used, outward.used), now)
}

/// Gives `flow` a port, which whoever had it loses. 0 is none.
#[inline(always)]
fn take(flow: &FlowKey, device: &DeviceEntry, port: u16, now: u32) -> Option<u16> {
    if port == 0 {
        return None;
    }
    let key = inward_key(flow, device, port);
    // Another CPU may be about to take the same free port.
    let mut flag = u64::from(BPF_NOEXIST);
    // SAFETY: the entry is read at once.
    if let Some(former) = unsafe { maps::NAT_IN.get(key) } {
        let _ = maps::NAT_OUT.remove(former.outward_key(&key));
        flag = 0;
    }
    let inward = Inward {
        device: flow.local,
        peer: flow.remote,
        used: now,
        peer_port: flow.remote_port,
        ..Inward::default()
    };
    maps::NAT_IN.insert(key, inward, flag).ok()?;
    let outward = Outward { used: now, port, ..Outward::default() };
    maps::NAT_OUT.insert(flow, outward, 0).ok().map(|()| port)
}
