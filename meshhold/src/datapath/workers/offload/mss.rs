//! The longest segment that a TCP end offers to take, lowered to what the path carries: it is only said in a SYN, so
//! connections begin with segments that fit, whatever ICMP gets through (RFC 6691, RFC 4459 section 3.2).
//!
//! Owns the option and the checksum that follows it. Must not know paths.

use super::checksum::{fold, put_u16};
use super::header::{Layout, TCP};

const SYN: u8 = 0x02;
/// Bytes of a TCP header without options.
const HEADER: usize = 20;
const END: u8 = 0;
const NOTHING: u8 = 1;
const MSS: u8 = 2;

/// Whether `packet` opens a TCP connection, or answers that.
pub fn is_syn(packet: &[u8], layout: &Layout) -> bool {
    layout.protocol == TCP
        && !layout.fragment
        && packet.get(layout.transport() + 13).is_some_and(|flags| flags & SYN != 0)
}

/// Lets the SYN `packet` offer no more than what fits into packets of `mtu` bytes. `partial`: its checksum holds the pseudo-header
/// sum only, in which the options aren't.
pub fn clamp(packet: &mut [u8], layout: &Layout, mtu: usize, partial: bool) {
    let most = mtu.saturating_sub(if layout.v6 { 40 } else { 20 } + HEADER);
    let Some(end) = layout.payload(packet) else { return };
    let Some(segment) = packet.get_mut(layout.transport()..end) else { return };
    let Some(at) = value(segment) else { return };
    let Some(old) = get_u16(segment, at) else { return };
    let Some(new) = u16::try_from(most).ok().filter(|new| *new < old) else { return };
    put_u16(segment, at, new);
    if partial {
        return;
    }
    // RFC 1624, equation 3; at an odd place the bytes of a value are in two words of the sum.
    let turn = |value: u16| u32::from(if at.is_multiple_of(2) { value } else { value.swap_bytes() });
    let Some(sum) = get_u16(segment, 16) else { return };
    put_u16(segment, 16, !fold(u32::from(!sum) + (!turn(old) & 0xffff) + turn(new)));
}

/// Where the value of the option stands.
fn value(segment: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match segment.get(at..)? {
            [MSS, 4, _, _, ..] => return Some(at + 2),
            [END | MSS, ..] | [] => return None,
            [NOTHING, ..] => at += 1,
            [_, len, ..] if *len >= 2 => at += usize::from(*len),
            _ => return None,
        }
    }
}

fn get_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|field| u16::from_be_bytes(*field))
}

#[cfg(test)]
mod tests {
    use super::super::checksum::{finish, is_valid, pseudo};
    use super::*;

    /// A SYN with these options, padded, and a whole checksum.
    fn syn(v6: bool, options: &[u8]) -> Vec<u8> {
        let ip = if v6 { 40 } else { 20 };
        let header = HEADER + options.len().next_multiple_of(4);
        let mut packet = vec![0; ip + header];
        if v6 {
            (packet[0], packet[6], packet[8], packet[24]) = (0x60, TCP, 0xfd, 0xfd);
            put_u16(&mut packet, 4, header as u16);
        } else {
            (packet[0], packet[9], packet[12], packet[16]) = (0x45, TCP, 198, 198);
            put_u16(&mut packet, 2, (ip + header) as u16);
        }
        (packet[ip + 1], packet[ip + 12], packet[ip + 13]) = (80, (header as u8 / 4) << 4, SYN);
        packet[ip + HEADER..ip + HEADER + options.len()].copy_from_slice(options);
        let layout = Layout::of(&packet).unwrap();
        let sum = fold(pseudo(&packet, &layout) + header as u32);
        put_u16(&mut packet, ip + 16, sum);
        packet
    }

    #[test]
    fn offers_are_lowered_with_their_checksum_and_never_raised() {
        for v6 in [false, true] {
            for before in [&[][..], &[NOTHING], &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8], &[NOTHING, 4, 2]] {
                for (offer, mtu) in
                    [(1460u16, 1280), (1380, 1320), (536, 1280), (u16::MAX, 1420), (1461, 1419)]
                {
                    let options = [before, &[MSS, 4], &offer.to_be_bytes()].concat();
                    let mut partial = syn(v6, &options);
                    let layout = Layout::of(&partial).unwrap();
                    let mut whole = partial.clone();
                    finish(&mut whole, layout.transport(), 16).unwrap();
                    assert!(is_valid(&whole, &layout) && is_syn(&whole, &layout));
                    clamp(&mut whole, &layout, mtu, false);
                    assert!(is_valid(&whole, &layout), "{v6} {before:?} {offer} {mtu}");
                    let at = layout.transport() + HEADER + before.len() + 2;
                    let most = offer.min(mtu as u16 - if v6 { 60 } else { 40 });
                    assert_eq!(get_u16(&whole, at), Some(most));
                    clamp(&mut partial, &layout, mtu, true);
                    finish(&mut partial, layout.transport(), 16).unwrap();
                    assert_eq!(partial, whole);
                }
            }
        }
    }

    #[test]
    fn what_is_no_syn_or_makes_no_sense_stays() {
        let layout = |packet: &[u8]| Layout::of(packet).unwrap();
        let mut plain = syn(false, &[MSS, 4, 5, 180]);
        plain[33] = 0x10;
        assert!(!is_syn(&plain, &layout(&plain)));
        let mut fragment = syn(false, &[MSS, 4, 5, 180]);
        fragment[6] = 0x20;
        assert!(!is_syn(&fragment, &layout(&fragment)));
        for options in
            [&[][..], &[END, MSS, 4, 5, 180], &[MSS, 3, 5, 180], &[3, 0, 1, 1], &[3, 1, 1, 1], &[8, 40, 0, 0]]
        {
            let before = syn(false, options);
            let mut after = before.clone();
            clamp(&mut after, &layout(&before), 600, false);
            assert_eq!(after, before, "{options:?}");
        }
    }
}
