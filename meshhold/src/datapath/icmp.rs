//! ICMP errors that a worker makes: host unreachable, at once instead of after a time-out, and packet too big.
//!
//! Owns their layout (RFC 792, RFC 4443 sections 3.1 and 3.2) and the rules when none is sent (RFC 1122 section 3.2.2).
//! Must not know why a packet was undeliverable.

use std::time::{Duration, Instant};

use super::workers::offload::checksum::{fold, pseudo, put_u16, sum, write_ipv4};
use super::workers::offload::header::Layout;

const ICMP4: u8 = 1;
const ICMP6: u8 = 58;
/// Most bytes of an error, so that it fits every path (RFC 1812 section 4.3.2.3).
pub const MAX_ERROR: usize = 576;
/// Errors a second that one worker writes.
const PER_SECOND: u32 = 100;

/// What an error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Nobody is at the destination.
    HostUnreachable,
    /// The way to the destination carries this many bytes at most.
    TooBig(u16),
}

/// Writes an error about `packet` into `out` and returns its length. Its source is the packet's destination: an address of
/// our own would be dropped as martian. `None` where the rules forbid an error.
pub fn error(kind: Error, packet: &[u8], out: &mut [u8; MAX_ERROR]) -> Option<usize> {
    let layout = Layout::of(packet)?;
    let header = if layout.v6 { 40 } else { 20 };
    let quoted = packet.get(..layout.total().min(MAX_ERROR - header - 8))?;
    if layout.fragment || is_error(packet, &layout) {
        return None;
    }
    let total = header + 8 + quoted.len();
    let error = out.get_mut(..total)?;
    error.fill(0);
    error.get_mut(header + 8..)?.copy_from_slice(quoted);
    if layout.v6 {
        return finish6(kind, packet, error).map(|()| total);
    }
    finish4(kind, packet, error).map(|()| total)
}

fn is_error(packet: &[u8], layout: &Layout) -> bool {
    let kind = packet.get(layout.transport()).copied();
    match (layout.protocol, layout.v6) {
        (ICMP4, false) => !matches!(kind, Some(0 | 8)),
        (ICMP6, true) => kind.is_none_or(|kind| kind < 128),
        _ => false,
    }
}

fn finish4(kind: Error, packet: &[u8], error: &mut [u8]) -> Option<()> {
    let total = error.len() as u16;
    let (header, message) = error.split_at_mut_checked(20)?;
    header.get_mut(..2)?.copy_from_slice(&[0x45, 0xc0]);
    put_u16(header, 2, total);
    header.get_mut(8..10)?.copy_from_slice(&[64, ICMP4]);
    header.get_mut(12..16)?.copy_from_slice(packet.get(16..20)?);
    header.get_mut(16..20)?.copy_from_slice(packet.get(12..16)?);
    write_ipv4(header);
    // Destination unreachable: host unreachable; fragmentation needed, with the MTU of the next hop (RFC 1191).
    let (code, mtu) = match kind {
        Error::HostUnreachable => (1, 0),
        Error::TooBig(mtu) => (4, mtu),
    };
    message.get_mut(..2)?.copy_from_slice(&[3, code]);
    put_u16(message, 6, mtu);
    let check = !fold(sum(message));
    put_u16(message, 2, check);
    Some(())
}

fn finish6(kind: Error, packet: &[u8], error: &mut [u8]) -> Option<()> {
    let length = (error.len() - 40) as u16;
    *error.first_mut()? = 0x60;
    put_u16(error, 4, length);
    error.get_mut(6..8)?.copy_from_slice(&[ICMP6, 64]);
    error.get_mut(8..24)?.copy_from_slice(packet.get(24..40)?);
    error.get_mut(24..40)?.copy_from_slice(packet.get(8..24)?);
    // Destination unreachable: address unreachable; packet too big.
    let (head, mtu) = match kind {
        Error::HostUnreachable => ([1, 3], 0),
        Error::TooBig(mtu) => ([2, 0], mtu),
    };
    error.get_mut(40..42)?.copy_from_slice(&head);
    put_u16(error, 46, mtu);
    let layout = Layout::of(error)?;
    let check = !fold(pseudo(error, &layout) + u32::from(length) + sum(error.get(40..)?));
    put_u16(error, 42, check);
    Some(())
}

/// At most `PER_SECOND` errors in any calendar second of the worker's clock.
#[derive(Debug)]
pub struct Limit {
    since: Instant,
    left: u32,
}

impl Limit {
    /// A full allowance.
    pub fn new(now: Instant) -> Self {
        Self { since: now, left: PER_SECOND }
    }

    /// Takes one from the allowance; false where none is left.
    pub fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::workers::offload::checksum::is_valid;

    fn udp4(len: usize) -> Vec<u8> {
        let mut packet = vec![0; len];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        packet[9] = 17;
        packet[12..20].copy_from_slice(&[198, 18, 0, 17, 198, 18, 9, 1]);
        packet
    }

    #[test]
    fn ipv4_error_quotes_and_turns_the_packet() {
        for len in [28, 100, 1400] {
            let packet = udp4(len);
            let mut out = [0; MAX_ERROR];
            let total = error(Error::HostUnreachable, &packet, &mut out).unwrap();
            let error = &out[..total];
            assert_eq!(Layout::of(error).unwrap().total(), total);
            assert_eq!(fold(sum(&error[..20])), 0xffff);
            assert_eq!(fold(sum(&error[20..])), 0xffff);
            assert_eq!((&error[12..16], &error[16..20]), (&packet[16..20], &packet[12..16]));
            assert_eq!(error[20..22], [3, 1]);
            assert_eq!(error[28..], packet[..total - 28]);
        }
    }

    #[test]
    fn ipv6_error_has_a_right_checksum() {
        let mut packet = vec![0; 148];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&108u16.to_be_bytes());
        packet[6] = 17;
        packet[8] = 0xfd;
        packet[24..26].copy_from_slice(&[0xfd, 0x12]);
        let mut out = [0; MAX_ERROR];
        let total = error(Error::HostUnreachable, &packet, &mut out).unwrap();
        let layout = Layout::of(&out[..total]).unwrap();
        let length = (total - 40) as u32;
        assert_eq!(fold(pseudo(&out, &layout) + length + sum(&out[40..total])), 0xffff);
        assert_eq!(out[40..42], [1, 3]);
        assert!(!is_valid(&out[..total], &layout), "ICMP is not the business of is_valid");
    }

    #[test]
    fn too_big_tells_the_mtu() {
        let mut out = [0; MAX_ERROR];
        let total = error(Error::TooBig(1280), &udp4(1400), &mut out).unwrap();
        assert_eq!((&out[20..22], &out[26..28]), (&[3, 4][..], &1280u16.to_be_bytes()[..]));
        assert_eq!(fold(sum(&out[20..total])), 0xffff);
    }

    #[test]
    fn no_error_about_errors_fragments_or_rubbish() {
        let mut out = [0; MAX_ERROR];
        let mut error = udp4(60);
        (error[9], error[20]) = (1, 3);
        assert_eq!(super::error(Error::HostUnreachable, &error, &mut out), None);
        error[20] = 8;
        assert!(super::error(Error::HostUnreachable, &error, &mut out).is_some(), "an echo request gets one");
        let mut fragment = udp4(60);
        fragment[6] = 0x20;
        assert_eq!(super::error(Error::HostUnreachable, &fragment, &mut out), None);
        assert_eq!(super::error(Error::HostUnreachable, &[0; 3], &mut out), None);
    }

    #[test]
    fn the_limit_refills_after_a_second() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        assert_eq!((0..1000).filter(|_| limit.take(start)).count(), PER_SECOND as usize);
        assert!(limit.take(start + Duration::from_secs(1)));
    }
}
