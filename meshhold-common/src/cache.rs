//! What was decided a moment ago, for the next packets of the same flow or between the same two addresses.
//!
//! Owns when a decision may serve again: under the same policy, within the same tick of the clock. Everything here
//! can be lost at any time; then the classifier decides anew. Must not know where places are kept.

use bytemuck::{Pod, Zeroable};

use crate::{
    Action, Address, Change, Host, Packet, Reason,
    maps::CACHE_BITS,
    packet::{Piece, TCP, UDP},
};

/// Under what a decision was made. Whatever could change one, changes the stamp.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Stamp {
    /// Number of the policy; 0 is no policy, and what was decided under none never serves again.
    pub policy: u32,
    /// Number of the tick, a second or so: flows age, and services come and go, without notice.
    pub tick: u32,
}

/// A decision, about a flow or about a pair of addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Place {
    /// Under what it was made.
    pub stamp: Stamp,
    /// Source address of the packet.
    pub source: Address,
    /// Destination address of the packet.
    pub destination: Address,
    /// Source and destination port; 0 for a pair.
    pub ports: u32,
    /// Protocol (0 for a pair), IP version, direction: one byte each.
    pub kind: u32,
    /// Flow: the [`Reason`] to pass. Pair: index of the network.
    pub outcome: u32,
    /// Flow: a [`Change`] as number, and in bit 8 [`Action::neutral`].
    pub change: u32,
    /// Flow: new source address. Pair: the peer's caller address, or our own address for one.
    pub new_source: Address,
    /// Flow: new destination address. Pair: the peer's address for its caller address.
    pub new_destination: Address,
}

/// In [`Place::change`]: [`Action::neutral`].
const NEUTRAL: u32 = 1 << 8;

/// What a place is looked for by.
struct Key {
    source: [u32; 4],
    destination: [u32; 4],
    ports: u32,
    kind: u32,
}

/// True for what is kept as a flow. A packet that opens a connection never is: it takes the long way each time.
#[inline(always)]
pub(crate) fn is_flow(packet: &Packet) -> bool {
    packet.piece == Piece::Whole
        && matches!(packet.protocol, TCP | UDP)
        && packet.is_plain()
        && !packet.is_syn()
}

/// What was decided about the packet's flow.
#[inline(always)]
pub(crate) fn recall<H: Host>(
    host: &mut H,
    packet: &Packet,
    direction: u8,
    stamp: Stamp,
    action: &mut Action,
) -> Option<Reason> {
    let place = Key::of_flow(packet, direction).find(host, stamp)?;
    action.change = change(place.change & !NEUTRAL);
    action.neutral = place.change & NEUTRAL != 0;
    action.source = place.new_source;
    action.destination = place.new_destination;
    Some(match place.outcome {
        outcome if outcome == Reason::PassFlow as u32 => Reason::PassFlow,
        outcome if outcome == Reason::PassEgress as u32 => Reason::PassEgress,
        _ => Reason::PassScope,
    })
}

/// Keeps what was decided about the packet's flow.
#[inline(always)]
pub(crate) fn remember<H: Host>(
    host: &mut H,
    packet: &Packet,
    direction: u8,
    stamp: Stamp,
    reason: Reason,
    action: &Action,
) {
    let Some(place) = Key::of_flow(packet, direction).claim(host, packet, stamp) else { return };
    place.outcome = reason as u32;
    place.change = action.change as u32 | if action.neutral { NEUTRAL } else { 0 };
    place.new_source = action.source;
    place.new_destination = action.destination;
}

/// What is known about two addresses that have been found good.
pub(crate) struct Pair {
    /// Index of their network.
    pub(crate) network: u32,
    /// Ingress: the peer's caller address. From a loopback service: our own address.
    pub(crate) source: Address,
    /// From a loopback service: the peer's address.
    pub(crate) destination: Address,
}

impl Pair {
    /// To fill up from.
    pub(crate) const NOTHING: Self =
        Self { network: 0, source: Address { bytes: [0; 16] }, destination: Address { bytes: [0; 16] } };

    /// Egress: what has one of these goes back from a loopback service to its caller.
    #[inline(always)]
    pub(crate) fn is_from_loopback(&self) -> bool {
        let [a, b, c, d] = self.source.raw();
        (a | b | c | d) != 0
    }
}

/// What is known about the packet's two addresses.
#[inline(always)]
pub(crate) fn recall_pair<H: Host>(
    host: &mut H,
    packet: &Packet,
    direction: u8,
    stamp: Stamp,
) -> Option<Pair> {
    let place = Key::of_pair(packet, direction).find(host, stamp)?;
    Some(Pair { network: place.outcome, source: place.new_source, destination: place.new_destination })
}

/// Keeps that the packet's two addresses are good.
#[inline(always)]
pub(crate) fn remember_pair<H: Host>(
    host: &mut H,
    packet: &Packet,
    direction: u8,
    stamp: Stamp,
    pair: &Pair,
) {
    let Some(place) = Key::of_pair(packet, direction).claim(host, packet, stamp) else { return };
    place.outcome = pair.network;
    place.new_source = pair.source;
    place.new_destination = pair.destination;
}

impl Key {
    #[inline(always)]
    fn of_flow(packet: &Packet, direction: u8) -> Self {
        let ports = u32::from(packet.source_port) << 16 | u32::from(packet.destination_port);
        Self { ports, ..Self::new(packet, packet.protocol, direction) }
    }

    #[inline(always)]
    fn of_pair(packet: &Packet, direction: u8) -> Self {
        Self::new(packet, 0, direction)
    }

    #[inline(always)]
    fn new(packet: &Packet, protocol: u8, direction: u8) -> Self {
        Self {
            source: packet.source.raw(),
            destination: packet.destination.raw(),
            ports: 0,
            kind: u32::from(protocol) << 16 | u32::from(packet.version) << 8 | u32::from(direction),
        }
    }

    #[inline(always)]
    fn find<H: Host>(self, host: &mut H, stamp: Stamp) -> Option<&Place> {
        let (index, tag) = self.hash();
        if !host.has_tag(index, tag) {
            return None;
        }
        let place = host.place(index)?;
        let [a, b, c, d] = place.source.raw();
        let [e, f, g, h] = place.destination.raw();
        let [i, j, k, l] = self.source;
        let [m, n, o, p] = self.destination;
        let difference = (a ^ i | b ^ j | c ^ k | d ^ l)
            | (e ^ m | f ^ n | g ^ o | h ^ p)
            | (place.ports ^ self.ports | place.kind ^ self.kind)
            | (place.stamp.policy ^ stamp.policy | place.stamp.tick ^ stamp.tick);
        (difference == 0).then_some(place)
    }

    /// Empties its place for a decision. Whatever was there has been decided longer ago.
    #[inline(always)]
    fn claim<'a, H: Host>(self, host: &'a mut H, packet: &Packet, stamp: Stamp) -> Option<&'a mut Place> {
        if stamp.policy == 0 {
            return None;
        }
        let (index, tag) = self.hash();
        host.set_tag(index, tag);
        let place = host.place(index)?;
        place.stamp = stamp;
        place.source = packet.source;
        place.destination = packet.destination;
        place.ports = self.ports;
        place.kind = self.kind;
        Some(place)
    }

    /// Sum of products of pairs of words (the NH of UMAC, RFC 4418, with `^` for its additions): quick, for no product
    /// waits for another. Who finds colliding flows makes them slower, and no more than that. Returns the number of the
    /// place and its tag.
    ///
    /// An index is made by masks and `^`, never by adding constants: verifiers from Linux 6.11 on, until it was mended in
    /// 6.12.107 and after 6.18.15, take the constant for an offset of whatever is computed from the sum, and refuse the program.
    #[inline(always)]
    fn hash(&self) -> (u32, u16) {
        let [a, b, c, d] = self.source;
        let [e, f, g, h] = self.destination;
        let sum = product(a ^ 0x3c6e_f372, e ^ 0x1b87_3593)
            .wrapping_add(product(b ^ 0x165e_67b1, f ^ 0x27d4_eb2f))
            .wrapping_add(product(c ^ 0x05eb_ca6b, g ^ 0x42b2_ae35))
            .wrapping_add(product(d ^ 0x1e37_79b9, h ^ 0x4cf5_ad43))
            .wrapping_add(product(self.ports ^ 0x38b3_4ae5, self.kind ^ 0x6543_2f1b));
        let mixed = sum.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed >> (64 - CACHE_BITS)) as u32, (mixed >> (48 - CACHE_BITS)) as u16)
    }
}

#[inline(always)]
const fn product(one: u32, other: u32) -> u64 {
    (one as u64).wrapping_mul(other as u64)
}

#[inline(always)]
const fn change(number: u32) -> Change {
    match number {
        1 => Change::Rewrite,
        2 => Change::ToIpv4,
        3 => Change::ToIpv6,
        4 => Change::ByLoopback,
        _ => Change::Keep,
    }
}
