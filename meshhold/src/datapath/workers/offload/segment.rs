//! A packet or super-packet from the TUN, cut into packets for sending.
//!
//! Owns the judgement of the virtio header: impossible sizes are refused, whoever wrote them. The transport checksum
//! is left partial (pseudo-header sum) where the kernel left it so: the receiving end hands it to its kernel.
//! Each segment is made where its payload lies, its headers over the end of the one before, so nothing is copied twice.

use super::checksum::{field_offset, finish, fold, is_valid, pseudo, put_u16, sum};
use super::header::{Layout, TCP, UDP};
use super::virtio::{GSO_ECN, GSO_NONE, GSO_TCP4, GSO_TCP6, GSO_UDP, NEEDS_CHECKSUM, VirtioHeader};

const FIN_AND_PSH: u8 = 0x09;
const CWR: u8 = 0x80;
/// SYN, RST and URG: they are about a segment as a whole.
const UNCUT: u8 = 0x26;

/// The packets of one TUN read, one by one.
#[derive(Debug)]
pub struct Segments<'a> {
    packet: &'a mut [u8],
    layout: Layout,
    /// Bytes of headers that each segment repeats; 0 where the packet goes as it is.
    header: usize,
    /// Payload bytes of each segment but the last.
    size: usize,
    /// Payload bytes given out so far; the headers of the next segment go there.
    done: usize,
    /// What the headers say at first.
    first: First,
    /// Sum of the pseudo-header without its length.
    pseudo: u32,
    /// Sum of the IPv4 header without what differs from segment to segment.
    fixed: u32,
    partial: bool,
}

/// Fields that differ from segment to segment, as the super-packet has them.
#[derive(Clone, Copy, Debug, Default)]
struct First {
    /// Of IPv4.
    identification: u16,
    sequence: u32,
    flags: u8,
}

impl First {
    /// `None` where the headers don't fit into the packet.
    fn of(packet: &[u8], layout: &Layout) -> Option<Self> {
        let identification = if layout.v6 { 0 } else { get_u16(packet, 4) };
        if layout.protocol != TCP {
            return Some(Self { identification, ..Self::default() });
        }
        let tcp = packet.get(layout.transport..)?;
        let sequence = u32::from_be_bytes(*tcp.get(4..)?.first_chunk()?);
        Some(Self { identification, sequence, flags: *tcp.get(13)? })
    }
}

impl<'a> Segments<'a> {
    /// Checks `virtio` against the packet; `None` when they don't fit together or it is no IP packet.
    pub fn plan(virtio: VirtioHeader, packet: &'a mut [u8]) -> Option<Self> {
        let layout = Layout::of(packet)?;
        let packet = packet.get_mut(..layout.total)?;
        if virtio.gso_type == GSO_NONE {
            return Self::single(virtio, packet, layout);
        }
        let protocol = match (virtio.gso_type & !GSO_ECN, layout.v6) {
            (GSO_TCP4, false) | (GSO_TCP6, true) => TCP,
            (GSO_UDP, _) => UDP,
            _ => return None,
        };
        let header = layout.payload(packet)?;
        let size = usize::from(virtio.gso_size);
        let possible = protocol == layout.protocol && size > 0 && header < packet.len();
        let pseudo = pseudo(packet, &layout);
        let fixed = if layout.v6 { 0 } else { fixed_sum(packet.get(..layout.transport)?) };
        let first = First::of(packet, &layout)?;
        let whole = Self { packet, layout, header, size, done: 0, first, pseudo, fixed, partial: true };
        possible.then_some(whole)
    }

    fn single(virtio: VirtioHeader, packet: &'a mut [u8], layout: Layout) -> Option<Self> {
        let partial = is_partial(virtio, packet, &layout);
        if virtio.flags & NEEDS_CHECKSUM != 0 && !partial {
            finish(packet, virtio.checksum_start.into(), virtio.checksum_offset.into())?;
        }
        let (size, first) = (packet.len(), First::default());
        Some(Self { packet, layout, header: 0, size, done: 0, first, pseudo: 0, fixed: 0, partial })
    }

    /// Makes no segment of a TCP packet longer than `mtu` bytes; `None` where it can't be cut, or its checksum is wrong.
    pub fn shorten(&mut self, mtu: usize) -> Option<()> {
        let header = self.layout.payload(self.packet).filter(|_| self.layout.protocol == TCP)?;
        let size = mtu.checked_sub(header).filter(|size| *size > 0)?;
        let first = First::of(self.packet, &self.layout)?;
        if self.header == 0 {
            // Each segment gets a checksum of its own, which must not hide that this one is wrong.
            if first.flags & UNCUT != 0 || !(self.partial || is_valid(self.packet, &self.layout)) {
                return None;
            }
            self.pseudo = pseudo(self.packet, &self.layout);
            self.fixed =
                if self.layout.v6 { 0 } else { fixed_sum(self.packet.get(..self.layout.transport)?) };
            (self.header, self.partial, self.first) = (header, true, first);
        }
        self.size = self.size.min(size);
        Some(())
    }

    /// The IP layout of the packet, before segmentation.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The packet, before segmentation.
    pub fn packet(&self) -> &[u8] {
        self.packet
    }

    /// Whether the transport checksums hold the pseudo-header sum only.
    pub fn partial(&self) -> bool {
        self.partial
    }

    /// Length of the longest segment in bytes.
    pub fn longest(&self) -> usize {
        self.header + self.size.min(self.packet.len() - self.header)
    }

    /// The next segment; `None` after the last.
    pub fn next_packet(&mut self) -> Option<&[u8]> {
        let left = self.packet.len() - self.header - self.done;
        if left == 0 {
            return None;
        }
        let (start, len) = (self.done, left.min(self.size));
        if self.header > 0 {
            // From the segment before: the first one's may lie under it by now.
            let before = start.saturating_sub(self.size);
            self.packet.copy_within(before..before + self.header, start);
            self.fix_headers(start, len);
        }
        self.done += len;
        self.packet.get(start..start + self.header + len)
    }

    fn fix_headers(&mut self, start: usize, payload: usize) {
        let (transport, first) = (self.layout.transport, self.first);
        let total = self.header + payload;
        let last = self.header + start + payload == self.packet.len();
        let Some(head) = self.packet.get_mut(start..start + self.header) else { return };
        if self.layout.v6 {
            put_u16(head, 4, (total - transport) as u16);
        } else {
            let id = first.identification.wrapping_add((start / self.size) as u16);
            put_u16(head, 2, total as u16);
            put_u16(head, 4, id);
            put_u16(head, 10, !fold(self.fixed + total as u32 + u32::from(id)));
        }
        let check = fold(self.pseudo + (total - transport) as u32);
        let Some(segment) = head.get_mut(transport..) else { return };
        if self.layout.protocol == UDP {
            put_u16(segment, 4, (total - transport) as u16);
            put_u16(segment, 6, check);
            return;
        }
        put_u16(segment, 16, check);
        put_tcp(segment, first, start as u32, last);
    }
}

/// Whether the packet's own TCP or UDP checksum holds the pseudo-header sum only, by its virtio header.
pub fn leaves_partial(virtio: VirtioHeader, packet: &[u8]) -> bool {
    virtio.gso_type != GSO_NONE
        || Layout::of(packet).is_some_and(|layout| is_partial(virtio, packet, &layout))
}

fn is_partial(virtio: VirtioHeader, packet: &[u8], layout: &Layout) -> bool {
    virtio.flags & NEEDS_CHECKSUM != 0
        && usize::from(virtio.checksum_start) == layout.transport
        && Some(usize::from(virtio.checksum_offset)) == field_offset(layout.protocol)
        && layout.payload(packet).is_some()
}

/// Sum of an IPv4 header without its total length, identification and checksum (RFC 1624: their complements are added).
fn fixed_sum(header: &[u8]) -> u32 {
    [2, 4, 10].into_iter().fold(sum(header), |total, at| total + u32::from(!get_u16(header, at)))
}

/// Sequence number and flags of the segment that starts `done` bytes after the first.
fn put_tcp(segment: &mut [u8], first: First, done: u32, last: bool) {
    if let Some(field) = segment.get_mut(4..).and_then(<[u8]>::first_chunk_mut::<4>) {
        *field = first.sequence.wrapping_add(done).to_be_bytes();
    }
    let not_first = if done > 0 { CWR } else { 0 };
    let not_last = if last { 0 } else { FIN_AND_PSH };
    if let Some(flags) = segment.get_mut(13) {
        *flags = first.flags & !not_first & !not_last;
    }
}

fn get_u16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<2>()).map_or(0, |field| u16::from_be_bytes(*field))
}
