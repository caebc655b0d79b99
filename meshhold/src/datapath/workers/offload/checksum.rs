//! The Internet checksum (RFC 1071) of headers, pseudo-headers and whole packets.
//!
//! Owns nothing. Sums are kept as sums of big-endian 16-bit words, not yet complemented.

use super::header::{Layout, TCP, UDP};

/// Sum of `bytes` as big-endian 16-bit words; an odd last byte counts as the high half of a word.
pub fn sum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    // Machine order inside, as the sum doesn't depend on it but for one swap at the end; the compiler vectorises this.
    let mut total: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    total += u64::from(u32::from_ne_bytes(last));
    total = (total >> 32) + (total & 0xffff_ffff);
    total = (total >> 32) + (total & 0xffff_ffff);
    u32::from(u16::from_be(fold(total as u32)))
}

/// Folds a sum into 16 bits with the carries added back.
pub fn fold(mut sum: u32) -> u16 {
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// Sum of the pseudo-header without its length (RFC 9293 section 3.1, RFC 8200 section 8.1).
/// `packet` must hold the whole IP header that `layout` found in it.
pub fn pseudo(packet: &[u8], layout: &Layout) -> u32 {
    let addresses = if layout.v6 { packet.get(8..40) } else { packet.get(12..20) };
    sum(addresses.unwrap_or(&[])) + u32::from(layout.protocol)
}

/// Offset of the checksum in a TCP or UDP header.
pub fn field_offset(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        _ => None,
    }
}

/// Completes a checksum that holds the pseudo-header sum: sums from `start`, stores at `start + offset`.
/// `None` when that lies outside the packet.
pub fn finish(packet: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let covered = packet.get_mut(start..)?;
    let complete = match !fold(sum(covered)) {
        // A UDP checksum of 0 would mean none (RFC 768); for the others both zeroes are the same.
        0 => 0xffff,
        other => other,
    };
    covered.get_mut(offset..)?.first_chunk_mut::<2>().map(|field| *field = complete.to_be_bytes())
}

/// Whether the complete TCP or UDP checksum of `packet` is right. A UDP packet without one is not.
pub fn is_valid(packet: &[u8], layout: &Layout) -> bool {
    let Some(segment) = packet.get(layout.transport()..layout.total()) else {
        return false;
    };
    let Some(offset) = field_offset(layout.protocol) else {
        return false;
    };
    let absent = layout.protocol == UDP && segment.get(offset..offset + 2) == Some(&[0, 0]);
    let length = segment.len() as u32;
    !absent && fold(u32::from(fold(pseudo(packet, layout) + length)) + sum(segment)) == 0xffff
}

/// Recomputes the header checksum of an IPv4 header.
pub fn write_ipv4(header: &mut [u8]) {
    put_u16(header, 10, 0);
    let complete = !fold(sum(header));
    put_u16(header, 10, complete);
}

/// Stores a big-endian value where there is room for it.
pub fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) {
        *field = value.to_be_bytes();
    }
}
