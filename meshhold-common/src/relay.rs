//! The kernel relay's tables, and what it reads of a datagram before it looks there.
//!
//! Only the plainest packets are its own: no options, no extension headers, no fragments. Addresses are in network byte
//! order, ports and numbers in host order. Must not know where packets come from, nor who asked for a leg.

use bytemuck::{Pod, Zeroable};

use crate::{
    Address,
    packet::{IPV4_BYTES, IPV6_BYTES, UDP},
};

/// Most legs of the kernel relay.
pub const MAX_LEGS: u32 = 16_384;
/// Most nodes that have legs there.
pub const MAX_SOURCES: u32 = 4_096;
/// Most addresses of this host that it answers to.
pub const MAX_OWN: u32 = 256;
/// Most datagrams of a super-packet (`UDP_MAX_SEGMENTS` of the kernel).
pub const MAX_SEGMENTS: u32 = 128;
/// Words of the headers that are read: IP and UDP.
pub const WORDS4: usize = 7;
/// The same for IPv6.
pub const WORDS6: usize = 12;
/// Bytes of a UDP header.
const UDP_BYTES: u32 = 8;
/// The type of a datagram behind a label, with its flags and the reserved bytes.
const LABELLED: u32 = 0x0500_0000_u32.to_be();

/// By what a datagram is known.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct HopKey {
    /// Address of the previous hop.
    pub address: Address,
    /// The label.
    pub label: u32,
    /// Port of the previous hop.
    pub port: u16,
    /// Always zero.
    pub pad: u16,
}

/// Where a datagram goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct LegEntry {
    /// Address of the next hop.
    pub to: Address,
    /// Our own address towards it.
    pub source: Address,
    /// Whose link address the frame gets: the gateway's, or the next hop's own. Maybe of the other family.
    pub gateway: Address,
    /// Index of the interface that it leaves by.
    pub interface: u32,
    /// Most bytes of an IP packet there.
    pub mtu: u32,
    /// Slot of [`LegState`].
    pub slot: u32,
    /// Slot of [`SourceState`].
    pub source_slot: u32,
    /// Most bytes a second.
    pub rate: u64,
    /// Most bytes a second of all legs of the same source.
    pub source_rate: u64,
    /// Port of the next hop.
    pub port: u16,
    /// 1 where the interface has link addresses.
    pub neighbours: u8,
    /// Always zero.
    pub pad: [u8; 5],
}

/// What a leg has done, summed over CPUs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct LegState {
    /// State of its budget, see [`crate::budget`].
    pub budget: u64,
    /// Datagrams forwarded.
    pub packets: u64,
    /// Their UDP payload in bytes.
    pub bytes: u64,
    /// Datagrams beyond a budget.
    pub over_rate: u64,
    /// Datagrams that may make no further hop.
    pub expired: u64,
    /// Datagrams too large for the interface; user space has got them.
    pub too_big: u64,
    /// Super-packets of more than one label; user space has got them.
    pub mixed: u64,
    /// Always zero.
    pub pad: u64,
}

/// What all legs of a source share.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct SourceState {
    /// State of its budget.
    pub budget: u64,
}

/// What the headers of a labelled datagram say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// Key of its leg.
    pub hop: HopKey,
    /// Where it was sent to.
    pub destination: Address,
    /// Offset of the UDP payload from the IP header.
    pub payload: u32,
    /// Bytes of the UDP payload; of all datagrams in a super-packet.
    pub bytes: u32,
    /// Time to live, or hop limit.
    pub hops: u8,
}

impl Labelled {
    /// From the first words of a packet, in memory order; `None` unless it is a plain IPv4 one for `port` with a label.
    /// `front` reads the first two words from an offset on: few of the packets that pass by come so far.
    #[inline(always)]
    pub fn ipv4(
        words: &[u32; WORDS4],
        port: u16,
        front: impl FnOnce(u32) -> Option<[u32; 2]>,
    ) -> Option<Self> {
        let [first, piece, ttl, source, destination, ports, length] = *words;
        let (first, ttl, ports) = (u32::from_be(first), u32::from_be(ttl), u32::from_be(ports));
        let strange = (ttl >> 16 & 0xff ^ u32::from(UDP))
            | (ports as u16 ^ port) as u32
            | (first >> 24 ^ 0x45)
            | (u32::from_be(piece) & 0x3fff);
        let length = u32::from_be(length) >> 16;
        if strange != 0 || first & 0xffff != length + IPV4_BYTES || length < UDP_BYTES {
            return None;
        }
        let payload = IPV4_BYTES + UDP_BYTES;
        let (address, label) = (Address::v4(source.to_ne_bytes()), label(front(payload)?)?);
        Some(Self {
            hop: HopKey { address, label, port: (ports >> 16) as u16, pad: 0 },
            destination: Address::v4(destination.to_ne_bytes()),
            payload,
            bytes: length - UDP_BYTES,
            hops: (ttl >> 24) as u8,
        })
    }

    /// The same for IPv6, where UDP has a checksum (RFC 8200 section 8.1).
    #[inline(always)]
    pub fn ipv6(
        words: &[u32; WORDS6],
        port: u16,
        front: impl FnOnce(u32) -> Option<[u32; 2]>,
    ) -> Option<Self> {
        let [_, next, a, b, c, d, e, f, g, h, ports, length] = *words;
        let (next, ports, length) = (u32::from_be(next), u32::from_be(ports), u32::from_be(length));
        let strange = (next >> 8 & 0xff ^ u32::from(UDP)) | (ports as u16 ^ port) as u32;
        let bytes = length >> 16;
        if strange != 0 || next >> 16 != bytes || bytes < UDP_BYTES || length & 0xffff == 0 {
            return None;
        }
        let address = Address::from_raw([a, b, c, d]);
        // A mapped address never appears on the wire (RFC 4291 section 2.5.5.2) and would meet the key of another.
        if address.is_v4() {
            return None;
        }
        let payload = IPV6_BYTES + UDP_BYTES;
        let label = label(front(payload)?)?;
        Some(Self {
            hop: HopKey { address, label, port: (ports >> 16) as u16, pad: 0 },
            destination: Address::from_raw([e, f, g, h]),
            payload,
            bytes: bytes - UDP_BYTES,
            hops: next as u8,
        })
    }
}

/// What a datagram's first two words say, in memory order.
#[inline(always)]
pub fn label([kind, label]: [u32; 2]) -> Option<u32> {
    (kind == LABELLED).then(|| u32::from_be(label))
}

/// By how much a ones' complement sum changes when `old` becomes `new` (RFC 1624), as the kernel's helpers want it.
#[inline(always)]
pub fn difference<const N: usize>(old: &[u32; N], new: &[u32; N]) -> u32 {
    let mut sum = 0_u64;
    for (old, new) in old.iter().zip(new) {
        sum += u64::from(!*old) + u64::from(*new);
    }
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum as u32
}

/// A header checksum after its header's sum has changed by `difference`; all in memory order.
#[inline(always)]
pub fn checksum(old: u16, difference: u32) -> u16 {
    let mut sum = u32::from(!old) + (difference & 0xffff) + (difference >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u16 = 7_000;

    fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
        core::array::from_fn(|at| u32::from_ne_bytes(bytes[4 * at..4 * at + 4].try_into().unwrap()))
    }

    fn datagram4() -> [u8; 36] {
        let mut packet = [0; 36];
        (packet[0], packet[3], packet[8], packet[9]) = (0x45, 36, 64, UDP);
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        packet[20..24].copy_from_slice(&[0x10, 0, 0x1b, 0x58]);
        (packet[25], packet[28], packet[35]) = (16, 5, 9);
        packet
    }

    fn datagram6() -> [u8; 56] {
        let mut packet = [0; 56];
        (packet[0], packet[5], packet[6], packet[7]) = (0x60, 16, UDP, 64);
        (packet[8], packet[23], packet[24], packet[39]) = (0xfd, 1, 0xfd, 2);
        packet[40..44].copy_from_slice(&[0x10, 0, 0x1b, 0x58]);
        (packet[45], packet[47], packet[48], packet[55]) = (16, 1, 5, 9);
        packet
    }

    fn read4(packet: &[u8; 36]) -> Option<Labelled> {
        Labelled::ipv4(&words(packet), PORT, |at| Some(words(&packet[at as usize..])))
    }

    fn read6(packet: &[u8; 56]) -> Option<Labelled> {
        Labelled::ipv6(&words(packet), PORT, |at| Some(words(&packet[at as usize..])))
    }

    #[test]
    fn a_plain_datagram_is_read_in_both_families() {
        let four = read4(&datagram4()).unwrap();
        assert_eq!((four.hop.label, four.hop.port, four.bytes, four.hops), (9, 4096, 8, 64));
        assert_eq!(
            (four.hop.address, four.destination),
            (Address::v4([10, 0, 0, 1]), Address::v4([10, 0, 0, 2]))
        );
        let six = read6(&datagram6()).unwrap();
        assert_eq!((six.hop.label, six.hop.port, six.bytes, six.hops), (9, 4096, 8, 64));
        assert_eq!((six.hop.address.bytes[15], six.destination.bytes[15]), (1, 2));
    }

    #[test]
    fn whatever_is_not_plain_is_somebody_elses() {
        // Options, total length, fragments, protocol, port, UDP length, type, flags, reserved.
        for (at, value) in
            [(0, 0x46), (3, 37), (6, 0x20), (7, 1), (9, 6), (23, 0x59), (25, 15), (28, 4), (29, 1), (31, 1)]
        {
            let mut packet = datagram4();
            packet[at] = value;
            assert_eq!(read4(&packet), None, "byte {at}");
        }
        // Length, next header, port, UDP length, no checksum, type, flags.
        for (at, value) in [(5, 17), (6, 44), (43, 0), (45, 15), (47, 0), (48, 4), (49, 1)] {
            let mut packet = datagram6();
            packet[at] = value;
            assert_eq!(read6(&packet), None, "byte {at}");
        }
    }

    #[test]
    fn a_checksum_follows_what_it_covers() {
        let sum = |words: &[u32]| {
            let mut sum: u64 = words.iter().map(|word| u64::from(*word)).sum();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            !(sum as u16)
        };
        let mut state = 1_u32;
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state
        };
        for _ in 0..10_000 {
            let (old, new) = ([draw(), draw(), draw()], [draw(), draw(), draw()]);
            assert_eq!(checksum(sum(&old), difference(&old, &new)), sum(&new));
        }
    }
}
