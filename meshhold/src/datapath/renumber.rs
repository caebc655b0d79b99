//! A local view: the IPv4 addresses of one network as this host sees them, and as its members write them.
//!
//! Owns the rewriting of a packet's addresses, of the checksums that cover them (RFC 1624), and of what an ICMP error
//! quotes. Stateless: both ranges have one length. Must not know why a network is shown elsewhere, nor who may send.

use std::net::{IpAddr, Ipv4Addr};

use super::workers::offload::checksum::{field_offset, fold, put_u16, sum};
use super::workers::offload::header::UDP;

const ICMP: u8 = 1;
/// ICMP types that quote the packet they are about (RFC 792).
const ERRORS: [u8; 5] = [3, 4, 5, 11, 12];
/// Where an ICMP error's quote begins.
const QUOTE: usize = 8;

/// The two ranges of a network with a local view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalView {
    real: u32,
    shown: u32,
    mask: u32,
}

impl LocalView {
    /// A network of `real`/`prefix` that this host sees at `shown`/`prefix`.
    pub fn new(real: Ipv4Addr, shown: Ipv4Addr, prefix: u8) -> Self {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        Self { real: real.to_bits() & mask, shown: shown.to_bits() & mask, mask }
    }

    /// From what the host writes to what members read.
    pub fn to_real(self) -> Renumber {
        Renumber { from: self.shown, to: self.real, mask: self.mask }
    }

    /// From what members write to what the host reads.
    pub fn to_shown(self) -> Renumber {
        Renumber { from: self.real, to: self.shown, mask: self.mask }
    }
}

/// One direction of a [`LocalView`].
#[derive(Clone, Copy, Debug)]
pub struct Renumber {
    from: u32,
    to: u32,
    mask: u32,
}

impl Renumber {
    /// The other name of `address`; `None` where the range doesn't hold it. IPv6 has but one name.
    pub fn address(&self, address: IpAddr) -> Option<IpAddr> {
        match address {
            IpAddr::V4(ip) => self.map(ip.to_bits()).map(|bits| Ipv4Addr::from_bits(bits).into()),
            IpAddr::V6(_) => Some(address),
        }
    }

    fn map(&self, address: u32) -> Option<u32> {
        (address & self.mask == self.from).then_some(self.to | (address & !self.mask))
    }

    /// Rewrites an IP packet. `partial` says that its TCP or UDP checksum holds the pseudo-header sum only.
    pub fn packet(&self, packet: &mut [u8], partial: bool) {
        let Some(transport) = self.datagram(packet, partial) else {
            return;
        };
        if packet.get(9) == Some(&ICMP)
            && let Some(message) = packet.get_mut(transport..)
        {
            self.quote(message);
        }
    }

    /// Rewrites header and transport checksum; yields where the transport header is, if this packet has its beginning.
    fn datagram(&self, packet: &mut [u8], partial: bool) -> Option<usize> {
        let [version, _, _, _, _, _, high, low, _, protocol, ..] = *packet.first_chunk::<20>()?;
        let transport = usize::from(version & 15) * 4;
        if version >> 4 != 4 || transport < 20 {
            return None;
        }
        let before = sum(packet.get(12..20)?);
        for at in [12, 16] {
            self.field(packet.get_mut(at..)?.first_chunk_mut()?);
        }
        let change = Change { before, after: sum(packet.get(12..20)?) };
        change.apply(packet, 10);
        if u16::from_be_bytes([high, low]) & 0x1fff != 0 {
            return None;
        }
        let segment = packet.get_mut(transport..)?;
        if let Some(offset) = field_offset(protocol) {
            change.apply_to_transport(segment, (protocol, offset), partial);
        }
        Some(transport)
    }

    fn field(&self, address: &mut [u8; 4]) {
        if let Some(other) = self.map(u32::from_be_bytes(*address)) {
            *address = other.to_be_bytes();
        }
    }

    /// The quote of an ICMP error is what its receiver sent, so it must be what the receiver knows.
    fn quote(&self, message: &mut [u8]) {
        if !message.first().is_some_and(|kind| ERRORS.contains(kind)) {
            return;
        }
        let before = sum(message);
        if let Some(quoted) = message.get_mut(QUOTE..) {
            self.datagram(quoted, false);
        }
        Change { before, after: sum(message) }.apply(message, 2);
    }
}

/// What changed of the bytes that a checksum covers, as sums.
#[derive(Clone, Copy)]
struct Change {
    before: u32,
    after: u32,
}

impl Change {
    fn apply(self, bytes: &mut [u8], at: usize) {
        if let Some(check) = get_u16(bytes, at) {
            put_u16(bytes, at, !self.on(!check));
        }
    }

    fn apply_to_transport(self, segment: &mut [u8], (protocol, at): (u8, usize), partial: bool) {
        let Some(check) = get_u16(segment, at) else {
            return;
        };
        let other = match (partial, check, protocol) {
            (true, ..) => self.on(check),
            // No checksum (RFC 768).
            (false, 0, UDP) => 0,
            // UDP has no other zero; for TCP both are the same.
            (false, ..) => Some(!self.on(!check)).filter(|other| *other > 0).unwrap_or(0xffff),
        };
        put_u16(segment, at, other);
    }

    fn on(self, sum: u16) -> u16 {
        fold(u32::from(sum) + u32::from(!fold(self.before)) + u32::from(fold(self.after)))
    }
}

fn get_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|field| u16::from_be_bytes(*field))
}

#[cfg(test)]
mod tests;
