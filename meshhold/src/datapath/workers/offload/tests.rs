//! Segmentation and coalescing against each other, byte for byte, and against rubbish.

use std::io::IoSlice;

use super::checksum::{finish, fold, is_valid, pseudo, put_u16, sum, write_ipv4};
use super::coalesce::{Coalescer, PacketSink};
use super::header::{Layout, TCP, UDP};
use super::segment::Segments;
use super::virtio::*;

/// What a TUN would have received.
#[derive(Default)]
struct Written(Vec<Vec<u8>>);

impl PacketSink for Written {
    fn put(&mut self, pieces: &[IoSlice<'_>]) {
        self.0.push(pieces.iter().flat_map(|piece| piece.to_vec()).collect());
    }
}

/// A small generator (xorshift64*), so that failures repeat.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    v6: bool,
    protocol: u8,
    options: usize,
    payload: usize,
    size: usize,
    tos: u8,
    flags: u8,
}

const TCP4: Shape =
    Shape { v6: false, protocol: TCP, options: 12, payload: 60_000, size: 1368, tos: 0, flags: 0x18 };

impl Shape {
    fn headers(&self) -> usize {
        let transport = if self.v6 { 40 } else { 20 };
        transport + if self.protocol == TCP { 20 + self.options } else { 8 }
    }

    /// The super-packet as the kernel would hand it over.
    fn build(&self) -> (VirtioHeader, Vec<u8>) {
        let transport = if self.v6 { 40 } else { 20 };
        let total = self.headers() + self.payload;
        let mut packet: Vec<u8> = (0..total).map(|n| (n * 7 + n / 251) as u8).collect();
        if self.v6 {
            packet[0] = 0x60 | self.tos >> 4;
            packet[1] = self.tos << 4;
            put_u16(&mut packet, 4, (total - 40) as u16);
            packet[6..8].copy_from_slice(&[self.protocol, 64]);
        } else {
            packet[..2].copy_from_slice(&[0x45, self.tos]);
            put_u16(&mut packet, 2, total as u16);
            packet[6..10].copy_from_slice(&[0x40, 0, 64, self.protocol]);
            write_ipv4(&mut packet[..20]);
        }
        let layout = Layout::of(&packet).unwrap();
        let partial = fold(pseudo(&packet, &layout) + (total - transport) as u32);
        let offset = if self.protocol == TCP { 16 } else { 6 };
        put_u16(&mut packet, transport + offset, partial);
        if self.protocol == TCP {
            packet[transport + 12] = (((20 + self.options) / 4) << 4) as u8;
            packet[transport + 13] = self.flags;
        } else {
            put_u16(&mut packet, transport + 4, (total - transport) as u16);
        }
        let gso_type = match (self.protocol, self.v6) {
            _ if self.payload <= self.size => GSO_NONE,
            (UDP, _) => GSO_UDP,
            (_, false) => GSO_TCP4,
            (_, true) => GSO_TCP6,
        };
        let many = gso_type != GSO_NONE;
        let virtio = VirtioHeader {
            flags: NEEDS_CHECKSUM,
            gso_type,
            header_len: if many { self.headers() as u16 } else { 0 },
            gso_size: if many { self.size as u16 } else { 0 },
            checksum_start: transport as u16,
            checksum_offset: offset as u16,
        };
        (virtio, packet)
    }
}

fn split(virtio: VirtioHeader, packet: &mut [u8]) -> Option<Vec<Vec<u8>>> {
    let mut segments = Segments::plan(virtio, packet)?;
    let mut out = Vec::new();
    let longest = segments.longest();
    while let Some(segment) = segments.next_packet() {
        assert!(segment.len() <= longest);
        out.push(segment.to_vec());
    }
    Some(out)
}

fn join(packets: &[Vec<u8>], partial: bool) -> Vec<Vec<u8>> {
    let buffer = packets.concat();
    let (mut coalescer, mut written, mut at) = (Coalescer::new(true), Written::default(), 0);
    for packet in packets {
        if let Some(layout) = Layout::of(packet) {
            coalescer.push(&buffer, (at, layout), partial, &mut written);
        }
        at += packet.len();
    }
    coalescer.flush(&buffer, &mut written);
    written.0
}

fn complete(packet: &mut [u8]) {
    let layout = Layout::of(packet).unwrap();
    let offset = if layout.protocol == TCP { 16 } else { 6 };
    finish(packet, layout.transport(), offset).unwrap();
}

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for v6 in [false, true] {
        for (options, tos, flags) in [(0, 0, 0x10), (12, 1, 0x18), (40, 2, 0x50), (4, 3, 0x59)] {
            for (payload, size) in
                [(1, 1000), (1000, 1000), (1001, 1000), (2736, 1368), (60_001, 1367), (300, 7)]
            {
                shapes.push(Shape { v6, protocol: TCP, options, payload, size, tos, flags });
            }
        }
        for (payload, size) in [(1, 100), (1200, 1200), (1201, 1200), (200 * 64, 200), (9999, 1111)] {
            shapes.push(Shape { v6, protocol: UDP, options: 0, payload, size, tos: 1, flags: 0 });
        }
    }
    shapes
}

#[test]
fn super_packets_survive_the_journey_byte_for_byte() {
    for shape in shapes() {
        let (virtio, packet) = shape.build();
        let packets = split(virtio, &mut packet.clone()).unwrap();
        assert_eq!(packets.len(), shape.payload.div_ceil(shape.size), "{shape:?}");
        let mut want = virtio.to_bytes().to_vec();
        want.extend(&packet);
        assert_eq!(join(&packets, true), [want], "{shape:?}");
    }
}

/// The segments of a TCP packet for a path that carries `mtu` bytes.
fn shortened(virtio: VirtioHeader, packet: &mut [u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
    let mut segments = Segments::plan(virtio, packet)?;
    segments.shorten(mtu)?;
    assert!(segments.partial() && segments.longest() <= mtu);
    let mut out = Vec::new();
    while let Some(segment) = segments.next_packet() {
        out.push(segment.to_vec());
    }
    Some(out)
}

#[test]
fn tcp_goes_on_in_shorter_segments_where_the_path_wants_that() {
    for shape in shapes().into_iter().filter(|shape| shape.protocol == TCP && shape.payload > 600) {
        let (virtio, packet) = shape.build();
        let mut whole = packet.clone();
        complete(&mut whole);
        let is_single = virtio.gso_type == GSO_NONE;
        let none = VirtioHeader::default();
        let mut cases = vec![(virtio, packet.clone())];
        cases.extend(is_single.then(|| (none, whole.clone())));
        for (virtio, mut packet) in cases {
            let segments = shortened(virtio, &mut packet, 600).unwrap();
            let want = shape.payload.div_ceil(shape.size.min(600 - shape.headers()));
            assert_eq!(segments.len(), want, "{shape:?}");
            let mut payload = Vec::new();
            for mut segment in segments {
                complete(&mut segment);
                assert!(is_valid(&segment, &Layout::of(&segment).unwrap()), "{shape:?}");
                payload.extend_from_slice(&segment[shape.headers()..]);
            }
            assert_eq!(payload, whole[shape.headers()..], "{shape:?}");
        }
        if is_single {
            *whole.last_mut().unwrap() ^= 1;
            assert_eq!(shortened(none, &mut whole, 600), None, "a wrong checksum is not made a right one");
        }
    }
    let single = Shape { payload: 1368, ..TCP4 };
    assert!(shortened(single.build().0, &mut single.build().1, 1280).is_some());
    for shape in [Shape { flags: 0x02, ..single }, Shape { protocol: UDP, options: 0, ..single }] {
        assert_eq!(shortened(shape.build().0, &mut shape.build().1, 1280), None, "{shape:?}");
    }
}

#[test]
fn each_segment_is_a_right_packet() {
    for shape in shapes() {
        let (virtio, mut packet) = shape.build();
        let packets = split(virtio, &mut packet).unwrap();
        let last = packets.len() - 1;
        for (n, mut segment) in packets.into_iter().enumerate() {
            let layout = Layout::of(&segment).unwrap();
            assert_eq!(layout.total(), segment.len(), "{shape:?}");
            complete(&mut segment);
            assert!(is_valid(&segment, &layout), "{shape:?} segment {n}");
            if !shape.v6 {
                assert_eq!(fold(sum(&segment[..20])), 0xffff);
            }
            if shape.protocol == TCP && n < last {
                assert_eq!(segment[layout.transport() + 13] & 0x09, 0, "FIN and PSH only at the end");
            }
        }
    }
}

#[test]
fn complete_checksums_are_joined_only_when_right() {
    let (virtio, mut packet) = TCP4.build();
    let mut packets = split(virtio, &mut packet).unwrap();
    packets.iter_mut().for_each(|packet| complete(packet));
    assert_eq!(join(&packets, false).len(), 1);
    let last = packets[3].len() - 1;
    packets[3][last] ^= 1;
    let joined = join(&packets, false);
    assert_eq!(joined.len(), 3, "before, the bad one alone, after");
    assert_eq!((joined[1][0], &joined[1][LEN..]), (0, &packets[3][..]), "its checksum stays wrong");
}

/// Changes that must keep the third packet of a run from being joined to the second.
#[test]
fn unlike_packets_are_not_joined() {
    type Change = (&'static str, fn(&mut Vec<u8>));
    let changes: [Change; 13] = [
        ("ecn", |p| p[1] = 3),
        ("ttl", |p| p[8] = 63),
        ("don't fragment", |p| p[6] = 0),
        ("source", |p| p[15] ^= 1),
        ("port", |p| p[21] ^= 1),
        ("sequence", |p| p[27] ^= 1),
        ("acknowledgement", |p| p[31] ^= 1),
        ("window", |p| p[35] ^= 1),
        ("timestamp option", |p| p[50] ^= 1),
        ("syn", |p| p[33] |= 2),
        ("rst", |p| p[33] |= 4),
        ("urg", |p| p[33] |= 32),
        ("cwr", |p| p[33] |= 128),
    ];
    let shape = Shape { payload: 4 * 1368, flags: 0x10, ..TCP4 };
    for (name, change) in changes {
        let (virtio, mut packet) = shape.build();
        let mut packets = split(virtio, &mut packet).unwrap();
        assert_eq!(join(&packets, true).len(), 1);
        change(&mut packets[2]);
        let joined = join(&packets, true);
        assert!(joined.len() > 1, "{name}");
        let bytes: usize = joined.iter().map(|packet| packet.len() - LEN - shape.headers()).sum();
        assert_eq!(bytes, shape.payload, "{name}: nothing is lost");
    }
}

#[test]
fn push_and_fin_end_a_run_and_order_is_kept() {
    let shape = Shape { payload: 4 * 1368, flags: 0x10, ..TCP4 };
    for flag in [8, 1] {
        let (virtio, mut packet) = shape.build();
        let mut packets = split(virtio, &mut packet).unwrap();
        packets[1][33] |= flag;
        let joined = join(&packets, true);
        assert_eq!(joined.len(), 2);
        assert_eq!(joined[0][LEN + 33], 0x10 | flag);
        assert_eq!(joined[1][LEN + 24..LEN + 28], packets[2][24..28], "the rest starts a new run");
    }
}

#[test]
fn flows_are_joined_side_by_side() {
    let mut mixed = Vec::new();
    for flow in 0..4 {
        let (virtio, mut packet) = Shape { payload: 5 * 1368, flags: 0x10, ..TCP4 }.build();
        packet[13] = flow;
        mixed.push(split(virtio, &mut packet).unwrap());
    }
    let turns: Vec<_> = (0..5).flat_map(|n| mixed.iter().map(move |flow| flow[n].clone())).collect();
    assert_eq!(join(&turns, true).len(), 4);
}

#[test]
fn other_packets_pass_untouched() {
    let icmp = {
        let mut packet = vec![0; 84];
        packet[0] = 0x45;
        put_u16(&mut packet, 2, 84);
        packet[9] = 1;
        packet
    };
    let mut fragment = Shape { payload: 500, size: 500, ..TCP4 }.build().1;
    fragment[6] = 0x20;
    for packet in [icmp, fragment] {
        let joined = join(&[packet.clone(), packet.clone()], false);
        assert_eq!(joined.len(), 2);
        assert!(joined.iter().all(|written| written[..LEN] == [0; LEN] && written[LEN..] == packet[..]));
    }
}

#[test]
fn an_unusual_checksum_is_completed_here() {
    let (mut virtio, mut packet) = Shape { payload: 100, size: 100, ..TCP4 }.build();
    packet[9] = 47;
    virtio.checksum_offset = 4;
    let want = {
        let mut packet = packet.clone();
        finish(&mut packet, 20, 4).unwrap();
        packet
    };
    assert!(!Segments::plan(virtio, &mut packet.clone()).unwrap().partial());
    assert_eq!(split(virtio, &mut packet).unwrap(), [want]);
}

#[test]
fn corrupted_virtio_headers_are_survived() {
    let mut random = Random(7);
    let shapes = shapes();
    let (mut refused, mut cut) = (0, 0);
    for _ in 0..100_000 {
        let (good, mut packet) = Shape { payload: 3000, ..shapes[random.below(shapes.len())] }.build();
        let mut bytes = good.to_bytes();
        for _ in 0..=random.below(4) {
            bytes[random.below(LEN)] = random.next() as u8;
        }
        if random.below(4) == 0 {
            let at = random.below(packet.len().min(80));
            packet[at] = random.next() as u8;
        }
        let len = random.below(packet.len() + 1);
        let mut read =
            [&bytes[..], &packet[..if random.below(2) == 0 { len } else { packet.len() }]].concat();
        let (virtio, packet) = VirtioHeader::split(&mut read).unwrap();
        match split(virtio, packet) {
            None => refused += 1,
            Some(packets) => {
                cut += 1;
                join(&packets, random.below(2) == 0);
            }
        }
    }
    assert!(refused > 1000 && cut > 1000, "{refused} refused, {cut} cut");
}

#[test]
fn random_packets_never_upset_the_coalescer() {
    let mut random = Random(99);
    for _ in 0..20_000 {
        let packets: Vec<Vec<u8>> = (0..random.below(6))
            .map(|_| {
                let mut packet: Vec<u8> = (0..random.below(120)).map(|_| random.next() as u8).collect();
                if let Some(first) = packet.first_mut() {
                    *first = [0x45, 0x60, 0x46, *first][(*first & 3) as usize];
                }
                packet
            })
            .collect();
        join(&packets, random.below(2) == 0);
    }
}

#[test]
fn sums_match_a_naive_one() {
    let mut random = Random(3);
    for len in 0..600 {
        let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        let naive: u32 =
            bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
        assert_eq!(fold(sum(&bytes)) % 0xffff, fold(naive) % 0xffff, "{len} bytes");
    }
    let full = vec![0xff; 65_535];
    assert_eq!(fold(sum(&full)), 0xff00);
}
