//! Counts every packet once, and tells user space about drops at a bounded rate.

use meshhold_common::{
    Packet, Reason,
    event::Event,
    maps::{EVENTS_PER_TICK, SEEN},
};

use crate::{
    host::{jiffies, nanoseconds},
    maps::{COUNTERS, EVENTS, TOKENS},
};

/// Counts the packet as seen and under its reason; reports it if it was dropped.
#[inline(always)]
pub fn account(packet: &Packet, reason: Reason, direction: u8, length: u32) {
    count(SEEN, length);
    count(reason as u32, length);
    if !reason.is_pass() && take_token(reason) {
        report(packet, reason, direction, length);
    }
}

#[inline(always)]
fn count(slot: u32, length: u32) {
    let Some(counter) = COUNTERS.get_ptr_mut(slot) else { return };
    // SAFETY: the slot belongs to this CPU and programs on it don't interrupt each other at this hook.
    let counter = unsafe { &mut *counter };
    counter.packets += 1;
    counter.bytes += u64::from(length);
}

#[inline(always)]
fn take_token(reason: Reason) -> bool {
    let Some(tokens) = TOKENS.get_ptr_mut(reason as u32) else { return false };
    // SAFETY: as in `count`.
    let tokens = unsafe { &mut *tokens };
    let now = jiffies();
    if tokens.tick != now {
        tokens.tick = now;
        tokens.used = 0;
    }
    tokens.used += 1;
    tokens.used <= EVENTS_PER_TICK
}

#[inline(always)]
fn report(packet: &Packet, reason: Reason, direction: u8, length: u32) {
    let Some(mut entry) = EVENTS.reserve(0) else { return };
    entry.write(Event {
        time: nanoseconds(),
        source: packet.source,
        destination: packet.destination,
        reason: reason as u32,
        length,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        protocol: packet.protocol,
        direction,
        pad: [0; 2],
    });
    entry.submit(0);
}
