//! Addresses as maps hold them: 16 bytes in network order, IPv4 mapped into `::ffff:0:0/96` (RFC 4291).

use bytemuck::{Pod, Zeroable};

/// An IPv4 or IPv6 address in one form.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Address {
    /// Network byte order.
    pub bytes: [u8; 16],
}

/// First octet of loopback IPv4 addresses (RFC 1122).
const LOOPBACK4: u8 = 127;

impl Address {
    /// `127.0.0.1`, where loopback-only services listen.
    pub const LOOPBACK4: [u8; 4] = [127, 0, 0, 1];

    /// From four octets.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self { bytes: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] }
    }

    /// From sixteen octets.
    #[inline(always)]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self { bytes }
    }

    /// The last four octets: the IPv4 address of a mapped one.
    #[inline(always)]
    pub const fn octets4(&self) -> [u8; 4] {
        let [.., a, b, c, d] = self.bytes;
        [a, b, c, d]
    }

    /// True for a mapped IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        matches!(self.bytes, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..])
    }

    /// True for `127.0.0.0/8`, `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            return self.bytes[12] == LOOPBACK4;
        }
        matches!(self.bytes, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    }

    /// True for `224.0.0.0/4`, `255.255.255.255`, `ff00::/8`.
    #[inline(always)]
    pub const fn is_multicast(&self) -> bool {
        if self.is_v4() {
            return self.bytes[12] >> 4 == 14 || matches!(self.octets4(), [255, 255, 255, 255]);
        }
        self.bytes[0] == 0xff
    }

    /// True for the caller addresses, `127.64.0.0/10`.
    #[inline(always)]
    pub const fn is_caller(&self) -> bool {
        self.is_v4() && self.bytes[12] == LOOPBACK4 && self.bytes[13] >> 6 == 1
    }
}
