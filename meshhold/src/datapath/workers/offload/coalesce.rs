//! Packets that arrived together, joined into super-packets for the TUN.
//!
//! Owns the merge rules, those of the kernel's GRO (`tcp_gro_receive`, `udp_gro_receive`): same flow, in order, headers
//! alike but for what segmentation itself changes, ECN bits included. Payloads are never copied: a run names its parts
//! in the receive buffer and is written with one gathering write.

use std::io::IoSlice;

use super::checksum::{field_offset, fold, is_valid, pseudo, put_u16, write_ipv4};
use super::header::{Layout, TCP, UDP};
use super::virtio::{self, DATA_VALID, GSO_TCP4, GSO_TCP6, GSO_UDP, NEEDS_CHECKSUM, VirtioHeader};

/// Most packets joined in one super-packet (the kernel's UDP_MAX_SEGMENTS of old).
const MAX_PARTS: usize = 64;
/// Flows that can be joined at the same time.
const MAX_RUNS: usize = 8;
/// IPv4 with 20 or IPv6 with 40 bytes, TCP with up to 60.
const MAX_HEADERS: usize = 100;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const FIN: u8 = 0x01;
const ECE: u8 = 0x40;

/// Takes finished packets: virtio header, packet headers and payload parts in turn.
pub trait PacketSink {
    /// Writes one packet or super-packet, given in pieces.
    fn put(&mut self, pieces: &[IoSlice<'_>]);
}

/// Joins the packets of one receive buffer.
#[derive(Debug)]
pub struct Coalescer {
    runs: [Run; MAX_RUNS],
    open: usize,
    udp: bool,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    layout: Layout,
    /// The virtio header and the headers of the first packet.
    head: [u8; virtio::LEN + MAX_HEADERS],
    headers: usize,
    /// Where the first packet is, whole.
    first: (usize, usize),
    parts: [(usize, usize); MAX_PARTS],
    count: usize,
    payload: usize,
    size: usize,
    virtio_flags: u8,
    /// Nothing may follow any more.
    closed: bool,
}

/// A received packet, looked at once.
struct Candidate<'a> {
    packet: &'a [u8],
    at: usize,
    layout: Layout,
    headers: usize,
    virtio_flags: u8,
}

impl Coalescer {
    /// `udp`: whether the TUN takes UDP super-packets.
    pub fn new(udp: bool) -> Self {
        Self { runs: [Run::EMPTY; MAX_RUNS], open: 0, udp }
    }

    /// Takes the packet of this `layout` that starts `at` a place in `buffer`. `partial`: its transport checksum holds the
    /// pseudo-header sum only. What was taken since the last [`Self::flush`] must still be in `buffer`, unchanged.
    pub fn push(
        &mut self,
        buffer: &[u8],
        (at, layout): (usize, Layout),
        partial: bool,
        sink: &mut impl PacketSink,
    ) {
        let Some(packet) = buffer.get(at..at + layout.total()) else {
            return;
        };
        let Some(headers) = layout.payload(packet) else {
            self.flush(buffer, sink);
            return put_single(packet, VirtioHeader::default(), sink);
        };
        let virtio_flags = match partial {
            true => NEEDS_CHECKSUM,
            false if is_valid(packet, &layout) => DATA_VALID,
            false => 0,
        };
        let candidate = Candidate { packet, at, layout, headers, virtio_flags };
        let same_flow = self.runs.iter().take(self.open).position(|run| run.same_flow(&candidate));
        if let Some(index) = same_flow {
            if self.runs.get_mut(index).is_some_and(|run| run.try_append(&candidate)) {
                return;
            }
            self.flush_one(index, buffer, sink);
        }
        self.start(&candidate, buffer, sink);
    }

    /// Writes everything that is held, oldest first.
    pub fn flush(&mut self, buffer: &[u8], sink: &mut impl PacketSink) {
        for run in self.runs.iter_mut().take(self.open) {
            run.write(buffer, sink);
        }
        self.open = 0;
    }

    fn start(&mut self, candidate: &Candidate<'_>, buffer: &[u8], sink: &mut impl PacketSink) {
        if !candidate.can_start(self.udp) {
            return put_single(candidate.packet, candidate.single_header(), sink);
        }
        if self.open == MAX_RUNS {
            self.flush_one(0, buffer, sink);
        }
        if let Some(slot) = self.runs.get_mut(self.open) {
            slot.start(candidate);
            self.open += 1;
        }
    }

    fn flush_one(&mut self, index: usize, buffer: &[u8], sink: &mut impl PacketSink) {
        let Some(held) = self.runs.get_mut(index..self.open) else {
            return;
        };
        if let Some(run) = held.first_mut() {
            run.write(buffer, sink);
            held.rotate_left(1);
            self.open -= 1;
        }
    }
}

impl Candidate<'_> {
    fn transport(&self) -> &[u8] {
        self.packet.get(self.layout.transport()..self.headers).unwrap_or_default()
    }

    fn payload(&self) -> usize {
        self.layout.total() - self.headers
    }

    fn tcp_flags(&self) -> u8 {
        self.transport().get(13).copied().unwrap_or_default()
    }

    fn can_start(&self, udp: bool) -> bool {
        let plain_ip = self.layout.v6 || self.packet.first() == Some(&0x45);
        let mergeable = match self.layout.protocol {
            // PSH and FIN end a run, so a packet that has them starts none. CWR stays alone.
            TCP => self.tcp_flags() & !ECE == ACK,
            _ => udp && self.transport().get(4..6) == Some(&((self.payload() + 8) as u16).to_be_bytes()),
        };
        plain_ip && mergeable && self.payload() > 0 && self.virtio_flags != 0
    }

    fn single_header(&self) -> VirtioHeader {
        single_header(&self.layout, self.virtio_flags)
    }
}

impl Run {
    const EMPTY: Self = Self {
        layout: Layout::EMPTY,
        head: [0; virtio::LEN + MAX_HEADERS],
        headers: 0,
        first: (0, 0),
        parts: [(0, 0); MAX_PARTS],
        count: 0,
        payload: 0,
        size: 0,
        virtio_flags: 0,
        closed: true,
    };

    fn headers(&self) -> &[u8] {
        self.head.get(virtio::LEN..virtio::LEN + self.headers).unwrap_or_default()
    }

    fn start(&mut self, candidate: &Candidate<'_>) {
        self.layout = candidate.layout;
        self.headers = candidate.headers;
        self.virtio_flags = candidate.virtio_flags;
        self.first = (candidate.at, candidate.layout.total());
        self.count = 0;
        self.payload = 0;
        self.size = candidate.payload();
        self.closed = false;
        for (to, from) in
            self.head.iter_mut().skip(virtio::LEN).zip(candidate.packet.iter().take(self.headers))
        {
            *to = *from;
        }
        self.add_part(candidate);
    }

    fn add_part(&mut self, candidate: &Candidate<'_>) {
        if let Some(slot) = self.parts.get_mut(self.count) {
            *slot = (candidate.at + candidate.headers, candidate.payload());
            self.count += 1;
            self.payload += candidate.payload();
        }
    }

    fn same_flow(&self, candidate: &Candidate<'_>) -> bool {
        let (mine, other) = (&self.layout, &candidate.layout);
        let addresses = if mine.v6 { 8..40 } else { 12..20 };
        let (a, b) = (self.headers(), candidate.packet);
        mine.v6 == other.v6
            && mine.protocol == other.protocol
            && a.get(addresses.clone()) == b.get(addresses)
            && a.get(mine.transport()..mine.transport() + 4)
                == b.get(other.transport()..other.transport() + 4)
    }

    fn try_append(&mut self, candidate: &Candidate<'_>) -> bool {
        let payload = candidate.payload();
        let fits = !self.closed
            && self.count < MAX_PARTS
            && payload > 0
            && payload <= self.size
            && self.headers + self.payload + payload <= usize::from(u16::MAX);
        let alike = fits
            && self.headers == candidate.headers
            && self.layout.transport() == candidate.layout.transport()
            && candidate.virtio_flags != 0
            && self.ip_follows(candidate)
            && self.transport_follows(candidate);
        if !alike {
            return false;
        }
        self.add_part(candidate);
        self.closed = payload < self.size;
        if self.layout.protocol == TCP {
            let flags = candidate.tcp_flags();
            self.closed |= flags & (PSH | FIN) != 0;
            if let Some(mine) = self.head.get_mut(virtio::LEN + self.layout.transport() + 13) {
                *mine |= flags;
            }
        }
        true
    }

    fn ip_follows(&self, candidate: &Candidate<'_>) -> bool {
        let (a, b) = (self.headers(), candidate.packet);
        if self.layout.v6 {
            return a.get(..4) == b.get(..4) && a.get(7) == b.get(7);
        }
        let dont_fragment = a.get(6).is_some_and(|bits| bits & 0x40 != 0);
        let id = get_u16(a, 4).wrapping_add(self.count as u16);
        a.get(..2) == b.get(..2) && a.get(6..9) == b.get(6..9) && (dont_fragment || id == get_u16(b, 4))
    }

    fn transport_follows(&self, candidate: &Candidate<'_>) -> bool {
        let a = self.headers().get(self.layout.transport()..).unwrap_or_default();
        let b = candidate.transport();
        if self.layout.protocol == UDP {
            return get_u16(b, 4) as usize == candidate.payload() + 8;
        }
        let next = get_u32(a, 4).wrapping_add(self.payload as u32);
        let ending = candidate.tcp_flags() & (PSH | FIN);
        get_u32(b, 4) == next
            && a.get(8..13) == b.get(8..13)
            && a.get(13) == Some(&(candidate.tcp_flags() & !ending))
            && a.get(14..16) == b.get(14..16)
            && a.get(18..) == b.get(18..)
    }

    fn write(&mut self, buffer: &[u8], sink: &mut impl PacketSink) {
        if self.count < 2 {
            let (at, len) = self.first;
            let packet = buffer.get(at..at + len).unwrap_or_default();
            return put_single(packet, single_header(&self.layout, self.virtio_flags), sink);
        }
        self.finish_headers();
        let mut pieces = [IoSlice::new(&[]); MAX_PARTS + 1];
        let head = self.head.get(..virtio::LEN + self.headers).unwrap_or_default();
        let parts = self.parts.iter().take(self.count);
        let bodies = parts.map(|&(at, len)| buffer.get(at..at + len).unwrap_or_default());
        for (slot, piece) in pieces.iter_mut().zip(std::iter::once(head).chain(bodies)) {
            *slot = IoSlice::new(piece);
        }
        sink.put(pieces.get(..self.count + 1).unwrap_or_default());
    }

    fn finish_headers(&mut self) {
        let layout = self.layout;
        let offset = field_offset(layout.protocol).unwrap_or_default();
        let segment = self.headers - layout.transport() + self.payload;
        let gso_type = match (layout.protocol, layout.v6) {
            (UDP, _) => GSO_UDP,
            (_, false) => GSO_TCP4,
            (_, true) => GSO_TCP6,
        };
        let virtio = VirtioHeader {
            flags: NEEDS_CHECKSUM,
            gso_type,
            header_len: self.headers as u16,
            gso_size: self.size as u16,
            checksum_start: layout.transport() as u16,
            checksum_offset: offset as u16,
        };
        let (first, headers) = self.head.split_at_mut(virtio::LEN);
        first.copy_from_slice(&virtio.to_bytes());
        let check = fold(pseudo(headers, &layout) + segment as u32);
        put_u16(headers, layout.transport() + offset, check);
        if layout.protocol == UDP {
            put_u16(headers, layout.transport() + 4, segment as u16);
        }
        if layout.v6 {
            put_u16(headers, 4, segment as u16);
        } else {
            put_u16(headers, 2, (layout.transport() + segment) as u16);
            write_ipv4(headers.get_mut(..layout.transport()).unwrap_or_default());
        }
    }
}

fn single_header(layout: &Layout, flags: u8) -> VirtioHeader {
    let mut header = VirtioHeader { flags, ..VirtioHeader::default() };
    if flags & NEEDS_CHECKSUM != 0 {
        header.checksum_start = layout.transport() as u16;
        header.checksum_offset = field_offset(layout.protocol).unwrap_or_default() as u16;
    }
    header
}

fn put_single(packet: &[u8], header: VirtioHeader, sink: &mut impl PacketSink) {
    sink.put(&[IoSlice::new(&header.to_bytes()), IoSlice::new(packet)]);
}

fn get_u16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<2>()).map_or(0, |field| u16::from_be_bytes(*field))
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).map_or(0, |field| u32::from_be_bytes(*field))
}
