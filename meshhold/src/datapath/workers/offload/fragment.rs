//! A packet of a LAN device that is too long for the mesh, cut into fragments where it may be: IPv4 without "don't
//! fragment" (RFC 791 section 3.2), and IPv6 that is a fragment already.
//!
//! Owns offsets and lengths of the pieces. Must not know why the packet is too long.

use super::checksum::{put_u16, write_ipv4};
use super::header::Layout;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// IPv6 header and the fragment header right behind it.
const HEADERS6: usize = 48;
/// Next header value of the latter.
const FRAGMENT: u8 = 44;

/// The pieces of one packet, to be written one by one.
#[derive(Debug)]
pub struct Fragments<'a> {
    packet: &'a [u8],
    v6: bool,
    /// Bytes of headers that each piece repeats.
    header: usize,
    /// Payload bytes of each piece but the last: a multiple of eight.
    size: usize,
    /// Payload bytes written so far.
    done: usize,
    /// Offset of the packet itself in its datagram, in units of eight bytes, and whether it is not the last.
    place: (u16, bool),
}

impl<'a> Fragments<'a> {
    /// `None` where the packet may not be cut. `packet` is whole, with a complete transport checksum.
    pub fn plan(packet: &'a [u8], mtu: usize) -> Option<Self> {
        let layout = Layout::of(packet)?;
        let packet = packet.get(..layout.total())?;
        let (header, place) = if layout.v6 { place6(packet)? } else { place4(packet)? };
        let size = mtu.checked_sub(header)? & !7;
        (size > 0).then_some(Self { packet, v6: layout.v6, header, size, done: 0, place })
    }

    /// Length of the next piece in bytes; `None` after the last.
    pub fn next_len(&self) -> Option<usize> {
        let left = self.packet.len() - self.header - self.done;
        (left > 0).then(|| self.header + left.min(self.size))
    }

    /// Writes the next piece into `out`, which must have exactly [`Self::next_len`] bytes; `None` otherwise.
    pub fn write_next(&mut self, out: &mut [u8]) -> Option<()> {
        if self.next_len()? != out.len() {
            return None;
        }
        let total = out.len() as u16;
        let (head, body) = out.split_at_mut_checked(self.header)?;
        let from = self.header + self.done;
        head.copy_from_slice(self.packet.get(..self.header)?);
        body.copy_from_slice(self.packet.get(from..from + body.len())?);
        let offset = self.place.0 + (self.done / 8) as u16;
        self.done += body.len();
        let more = self.place.1 || from + body.len() < self.packet.len();
        if self.v6 {
            put_u16(head, 4, total - 40);
            put_u16(head, 42, offset << 3 | u16::from(more));
        } else {
            put_u16(head, 2, total);
            put_u16(head, 6, offset & OFFSET | if more { MORE_FRAGMENTS } else { 0 });
            write_ipv4(head);
        }
        Some(())
    }
}

fn place4(packet: &[u8]) -> Option<(usize, (u16, bool))> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let field = u16::from_be_bytes(*packet.get(6..)?.first_chunk()?);
    (field & DONT_FRAGMENT == 0).then_some((header, (field & OFFSET, field & MORE_FRAGMENTS != 0)))
}

fn place6(packet: &[u8]) -> Option<(usize, (u16, bool))> {
    let field = u16::from_be_bytes(*packet.get(42..)?.first_chunk()?);
    (*packet.get(6)? == FRAGMENT).then_some((HEADERS6, (field >> 3, field & 1 != 0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::workers::offload::checksum::{fold, sum};

    fn packet4(len: usize, field: u16) -> Vec<u8> {
        let mut packet: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
        packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 1, 2, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        put_u16(&mut packet, 2, len as u16);
        put_u16(&mut packet, 6, field);
        packet
    }

    fn packet6(len: usize, field: u16) -> Vec<u8> {
        let mut packet: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
        packet[..HEADERS6].fill(0);
        (packet[0], packet[6], packet[7], packet[8], packet[24], packet[40]) =
            (0x60, FRAGMENT, 64, 0xfd, 0xfd, 17);
        put_u16(&mut packet, 4, len as u16 - 40);
        put_u16(&mut packet, 42, field);
        packet
    }

    fn pieces(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
        let mut fragments = Fragments::plan(packet, mtu).unwrap();
        std::iter::from_fn(|| {
            let mut piece = vec![0; fragments.next_len()?];
            fragments.write_next(&mut piece).unwrap();
            Some(piece)
        })
        .collect()
    }

    /// What a receiver makes of them: payload bytes by their offset.
    fn join(pieces: &[Vec<u8>], header: usize, place: impl Fn(&[u8]) -> (u16, bool)) -> (Vec<u8>, u16, bool) {
        let start = place(&pieces[0]).0;
        let mut payload = Vec::new();
        for piece in pieces {
            assert_eq!(usize::from(place(piece).0 - start) * 8, payload.len());
            payload.extend_from_slice(&piece[header..]);
        }
        assert!(pieces[..pieces.len() - 1].iter().all(|piece| place(piece).1));
        (payload, start, place(pieces.last().unwrap()).1)
    }

    #[test]
    fn ipv4_pieces_join_to_the_packet() {
        for (field, offset, more) in
            [(0, 0, false), (0x2000, 0, true), (0x20b9, 0xb9, true), (0x0172, 0x172, false)]
        {
            for len in [1421, 1500, 4000] {
                let packet = packet4(len, field);
                let pieces = pieces(&packet, 1420);
                assert!(pieces.iter().all(|piece| piece.len() <= 1420 && fold(sum(&piece[..20])) == 0xffff));
                let joined = join(&pieces, 20, |piece| place4(piece).unwrap().1);
                assert_eq!(joined, (packet[20..].to_vec(), offset, more), "{field:#x} {len}");
            }
        }
    }

    #[test]
    fn ipv6_pieces_join_to_the_fragment() {
        for (field, offset, more) in [(1, 0, true), (185 << 3 | 1, 185, true), (185 << 3, 185, false)] {
            let packet = packet6(1500, field);
            let pieces = pieces(&packet, 1420);
            assert_eq!(pieces.len(), 2);
            let joined = join(&pieces, HEADERS6, |piece| place6(piece).unwrap().1);
            assert_eq!(joined, (packet[HEADERS6..].to_vec(), offset, more), "{field:#x}");
        }
    }

    #[test]
    fn what_may_not_be_cut_is_not() {
        assert!(Fragments::plan(&packet4(1500, DONT_FRAGMENT), 1420).is_none());
        let mut whole = packet6(1500, 0);
        whole[6] = 17;
        assert!(Fragments::plan(&whole, 1420).is_none());
        assert!(Fragments::plan(&packet4(1500, 0), 27).is_none(), "no room for eight bytes");
        assert!(Fragments::plan(&[0x45; 10], 1420).is_none());
    }
}
