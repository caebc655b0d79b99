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
    /// TCP flags before segmentation; meaningless for UDP.
    flags: u8,
    /// Sum of the pseudo-header without its length.
    pseudo: u32,
    /// Sum of the IPv4 header without what differs from segment to segment.
    fixed: u32,
    partial: bool,
}

impl<'a> Segments<'a> {
    /// Checks `virtio` against the packet; `None` when they don't fit together or it is no IP packet.
    pub fn plan(virtio: VirtioHeader, packet: &'a mut [u8]) -> Option<Self> {
        let layout = Layout::of(packet)?;
        let packet = packet.get_mut(..layout.total())?;
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
        let fixed = if layout.v6 { 0 } else { fixed_sum(packet.get(..layout.transport())?) };
        let flags = packet.get(layout.transport() + 13).copied().unwrap_or_default();
        let whole = Self { packet, layout, header, size, done: 0, flags, pseudo, fixed, partial: true };
        possible.then_some(whole)
    }

    fn single(virtio: VirtioHeader, packet: &'a mut [u8], layout: Layout) -> Option<Self> {
        let partial = is_partial(virtio, packet, &layout);
        if virtio.flags & NEEDS_CHECKSUM != 0 && !partial {
            finish(packet, virtio.checksum_start.into(), virtio.checksum_offset.into())?;
        }
        let size = packet.len();
        Some(Self { packet, layout, header: 0, size, done: 0, flags: 0, pseudo: 0, fixed: 0, partial })
    }

    /// Makes no segment of a TCP packet longer than `mtu` bytes; `None` where it can't be cut, or its checksum is wrong.
    pub fn shorten(&mut self, mtu: usize) -> Option<()> {
        let header = self.layout.payload(self.packet).filter(|_| self.layout.protocol == TCP)?;
        let size = mtu.checked_sub(header).filter(|size| *size > 0)?;
        let flags = *self.packet.get(self.layout.transport() + 13)?;
        if self.header == 0 {
            // Each segment gets a checksum of its own, which must not hide that this one is wrong.
            if flags & UNCUT != 0 || !(self.partial || is_valid(self.packet, &self.layout)) {
                return None;
            }
            self.pseudo = pseudo(self.packet, &self.layout);
            self.fixed =
                if self.layout.v6 { 0 } else { fixed_sum(self.packet.get(..self.layout.transport())?) };
            (self.header, self.partial, self.flags) = (header, true, flags);
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
            let before = start.saturating_sub(self.size);
            self.packet.copy_within(before..before + self.header, start);
            self.fix_headers(start, start - before, len);
        }
        self.done += len;
        self.packet.get(start..start + self.header + len)
    }

    /// Makes the headers at `start` those of a segment that begins `step` bytes after the one that they were copied from.
    fn fix_headers(&mut self, start: usize, step: usize, payload: usize) {
        let (transport, flags) = (self.layout.transport(), self.flags);
        let total = self.header + payload;
        let last = self.header + start + payload == self.packet.len();
        let Some(head) = self.packet.get_mut(start..start + self.header) else { return };
        if self.layout.v6 {
            put_u16(head, 4, (total - transport) as u16);
        } else {
            let id = get_u16(head, 4).wrapping_add(u16::from(step > 0));
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
        fix_tcp(segment, flags, step as u32, last);
    }
}

/// Whether the packet's own TCP or UDP checksum holds the pseudo-header sum only, by its virtio header.
pub fn leaves_partial(virtio: VirtioHeader, packet: &[u8]) -> bool {
    virtio.gso_type != GSO_NONE
        || Layout::of(packet).is_some_and(|layout| is_partial(virtio, packet, &layout))
}

fn is_partial(virtio: VirtioHeader, packet: &[u8], layout: &Layout) -> bool {
    virtio.flags & NEEDS_CHECKSUM != 0
        && usize::from(virtio.checksum_start) == layout.transport()
        && Some(usize::from(virtio.checksum_offset)) == field_offset(layout.protocol)
        && layout.payload(packet).is_some()
}

/// Sum of an IPv4 header without its total length, identification and checksum (RFC 1624: their complements are added).
fn fixed_sum(header: &[u8]) -> u32 {
    [2, 4, 10].into_iter().fold(sum(header), |total, at| total + u32::from(!get_u16(header, at)))
}

fn fix_tcp(segment: &mut [u8], flags: u8, step: u32, last: bool) {
    if let Some(field) = segment.get_mut(4..).and_then(<[u8]>::first_chunk_mut::<4>) {
        *field = u32::from_be_bytes(*field).wrapping_add(step).to_be_bytes();
    }
    let not_first = if step > 0 { CWR } else { 0 };
    let not_last = if last { 0 } else { FIN_AND_PSH };
    if let Some(field) = segment.get_mut(13) {
        *field = flags & !not_first & !not_last;
    }
}

fn get_u16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<2>()).map_or(0, |field| u16::from_be_bytes(*field))
}
