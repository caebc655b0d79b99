//! Which queue a packet of the mesh interface waits in: a worker by its flow, and there the sparse or the bulk queue.
//!
//! Decides by what a flow did in the last milliseconds, as the sparse flows of FQ-CoDel (RFC 8290) do: what sends little
//! passes what sends much. Must not know policy; a wrong guess costs time, never order.

use crate::{
    Load,
    maps::{FlowRate, Steering},
    packet::{IPV4_BYTES, IPV6_BYTES, TCP, UDP},
};

/// Milliseconds over which a flow's bytes are counted.
const WINDOW: u32 = 64;
/// Bytes a window that a sparse flow may send.
const BUDGET: u32 = 12_000;
/// Bytes that each packet counts for at least: many small ones, as the acknowledgements of a transfer, are bulk too.
const LEAST: u32 = 384;
/// Milliseconds of silence after which a bulk flow is sparse again: nothing of it waits in the bulk queue any more, so
/// the change can't bring its packets out of order.
const PAUSE: u32 = 250;
/// Milliseconds of silence after which a sparse flow may change its worker: these never have more than a few packets in hand.
const REST: u32 = 3;

/// Bit of [`flow_hash`] that says which way a packet goes: all between two addresses have the same there, and the other one back.
const DIRECTION: u32 = 1;
/// Bit of [`flow_hash`] that says that it is TCP's.
const IS_TCP: u32 = 1 << 31;

/// A number that all packets of a flow share at both ends; those of the other direction have another last bit.
/// Fragments have no ports and share one for their addresses.
#[inline(always)]
pub fn flow_hash<L: Load>(load: &L) -> u32 {
    let Some([first]) = load.load::<1>(0) else { return 0 };
    let [version, ..] = first.to_ne_bytes();
    let (source, destination, protocol, transport) = if version >> 4 == 4 {
        let Some([_, field, kind, source, destination]) = load.load::<5>(0) else { return 0 };
        let [_, protocol, ..] = kind.to_ne_bytes();
        let whole = field & u32::from_ne_bytes([0, 0, 0x3f, 0xff]) == 0;
        let transport = if whole && version == 0x45 { IPV4_BYTES } else { 0 };
        (source, destination, protocol, transport)
    } else {
        let Some([_, kind, a, b, c, d, e, f, g, h]) = load.load::<10>(0) else { return 0 };
        let [_, _, protocol, _] = kind.to_ne_bytes();
        (short([a, b, c, d]), short([e, f, g, h]), protocol, IPV6_BYTES)
    };
    let mut ports = [0; 4];
    if transport > 0
        && matches!(protocol, TCP | UDP)
        && let Some([found]) = load.load::<1>(transport)
    {
        ports = found.to_ne_bytes();
    }
    let [sa, sb, da, db] = ports;
    let from = end(source, u16::from_be_bytes([sa, sb]));
    let to = end(destination, u16::from_be_bytes([da, db]));
    let flow = mix(from.wrapping_add(to) ^ u32::from(protocol));
    let tcp = if protocol == TCP { IS_TCP } else { 0 };
    flow & !(DIRECTION | IS_TCP) | tcp | u32::from(source > destination)
}

/// A packet on its way to a queue.
pub struct Arrival {
    /// [`flow_hash`]
    pub hash: u32,
    /// Milliseconds, wrapping.
    pub now: u32,
    /// Bytes.
    pub length: u32,
    /// The processor that it is on.
    pub cpu: u32,
}

/// Number of the queue: each worker has one for bulk, and as many queues further on one for what is sparse. Bulk goes by
/// flow, its directions to neighbours: what acknowledges a transfer doesn't take the time of the worker that seals it.
/// Where TCP isn't spread, only direction counts. What is sparse goes to the worker that stays on the packet's own processor,
/// which need not wake another one; after a pause, for nothing of the flow is under way then.
#[inline(always)]
pub fn queue(rate: &mut FlowRate, packet: &Arrival, steering: Steering) -> u32 {
    let Steering { workers, spread } = steering;
    let rest = packet.now.wrapping_sub(rate.last) > REST;
    if is_bulk(rate, packet.now, packet.length) {
        let by_direction = spread == 0 && packet.hash & IS_TCP != 0;
        let flow = if by_direction { 0 } else { packet.hash >> 16 };
        return flow.wrapping_add(packet.hash & DIRECTION).checked_rem(workers).unwrap_or(0);
    }
    if rest {
        rate.worker = packet.cpu;
    }
    rate.worker.checked_rem(workers).unwrap_or(0) + workers
}

/// Counts a packet of `length` bytes at `now` (milliseconds, wrapping) and says whether its flow is bulk.
#[inline(always)]
fn is_bulk(rate: &mut FlowRate, now: u32, length: u32) -> bool {
    let pause = now.wrapping_sub(rate.last);
    rate.last = now;
    if pause > PAUSE {
        rate.bulk = 0;
    }
    if rate.bulk != 0 {
        return true;
    }
    if now.wrapping_sub(rate.since) > WINDOW {
        rate.since = now;
        rate.bytes = 0;
    }
    rate.bytes = rate.bytes.saturating_add(if length < LEAST { LEAST } else { length });
    rate.bulk = u32::from(rate.bytes > BUDGET);
    rate.bulk != 0
}

#[inline(always)]
fn end(address: u32, port: u16) -> u32 {
    mix(address ^ u32::from(port).wrapping_mul(0x9e37_79b9))
}

/// An IPv6 address in 32 bits.
#[inline(always)]
fn short([a, b, c, d]: [u32; 4]) -> u32 {
    a ^ b.rotate_left(7) ^ c.rotate_left(13) ^ d.rotate_left(19)
}

/// The finalizer of MurmurHash3: every bit of the input reaches every bit of the result.
#[inline(always)]
fn mix(mut hash: u32) -> u32 {
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet4(source: u8, destination: u8, ports: [u8; 4]) -> [u8; 28] {
        let mut packet = [0; 28];
        (packet[0], packet[9]) = (0x45, UDP);
        (packet[15], packet[19]) = (source, destination);
        packet[20..24].copy_from_slice(&ports);
        packet
    }

    fn bulk_queue(packet: [u8; 28], workers: u32, spread: u32) -> u32 {
        let mut bulk = FlowRate { bulk: 1, ..FlowRate::default() };
        let hash = flow_hash(&&packet[..]);
        queue(&mut bulk, &Arrival { hash, now: 1, length: 1400, cpu: 0 }, Steering { workers, spread })
    }

    #[test]
    fn the_directions_of_a_flow_have_workers_of_their_own_and_flows_spread() {
        for port in 0..100 {
            let (there, back) = (packet4(1, 2, [0, 80, 9, port]), packet4(2, 1, [9, port, 0, 80]));
            assert_eq!(flow_hash(&&there[..]) ^ flow_hash(&&back[..]), DIRECTION);
            for workers in 2..5 {
                assert_ne!(bulk_queue(there, workers, 1), bulk_queue(back, workers, 1), "{workers} workers");
            }
            assert_eq!([there, back].map(|packet| bulk_queue(packet, 1, 1)), [0, 0]);
        }
    }

    /// How many of 100 flows from one host to another have the first of two workers.
    fn at_first([from, to]: [u8; 2], protocol: u8, spread: u32) -> usize {
        let packet = |port| {
            let mut packet = packet4(from, to, [0, 80, 9, port]);
            packet[9] = protocol;
            packet
        };
        (0..100).filter(|port| bulk_queue(packet(*port), 2, spread) == 0).count()
    }

    #[test]
    fn flows_spread_but_tcp_only_where_it_shall() {
        let ways = [[1, 2], [1, 3], [2, 1], [3, 1]];
        assert_eq!(ways.map(|way| at_first(way, TCP, 0)), [100, 100, 0, 0]);
        for (protocol, spread) in [(TCP, 1), (UDP, 0), (UDP, 1)] {
            let counts = ways.map(|way| at_first(way, protocol, spread));
            assert!(counts.iter().all(|first| (30..70).contains(first)), "{protocol}, {spread}: {counts:?}");
        }
    }

    #[test]
    fn a_fragment_is_hashed_without_ports() {
        let mut first = packet4(1, 2, [0, 80, 9, 9]);
        let mut later = packet4(1, 2, [1, 2, 3, 4]);
        first[6] = 0x20;
        later[7] = 9;
        assert_eq!(flow_hash(&&first[..]), flow_hash(&&later[..]));
    }

    #[test]
    fn a_flow_is_bulk_by_what_it_sends_until_it_pauses() {
        let mut rate = FlowRate::default();
        let ping = (0..100).any(|n| is_bulk(&mut rate, 1000 + 50 * n, 84));
        assert!(!ping, "20 pings a second are sparse");
        let bulk = (0..20).filter(|_| is_bulk(&mut rate, 7000, 1400)).count();
        assert_eq!(bulk, 12, "the first 12 kB pass");
        let mut acknowledgements = FlowRate::default();
        let sparse = (0..1000).filter(|n| !is_bulk(&mut acknowledgements, n / 4, 52)).count();
        assert_eq!(sparse, 31, "4,000 a second are bulk");
        assert!(is_bulk(&mut rate, 7000 + PAUSE, 84), "no pause yet");
        assert!(!is_bulk(&mut rate, 7001 + 2 * PAUSE, 84));
    }

    #[test]
    fn a_sparse_flow_goes_with_its_processor_after_a_rest() {
        let mut rate = FlowRate::default();
        let steering = Steering { workers: 2, spread: 0 };
        let mut at = |now, cpu| queue(&mut rate, &Arrival { hash: 7, now, length: 84, cpu }, steering);
        assert_eq!([at(1000, 1), at(1001, 0), at(1004, 0)], [3, 3, 3], "it stays while it goes on");
        assert_eq!([at(1008, 0), at(1020, 3)], [2, 3]);
    }
}
