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
const LOOPBACK4: u32 = 127;

impl Address {
    /// `127.0.0.1`, where loopback-only services listen.
    pub const LOOPBACK4: [u8; 4] = [127, 0, 0, 1];
    /// `::1`, likewise.
    pub const LOOPBACK6: Self = Self { bytes: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] };

    /// From four octets.
    #[inline(always)]
    pub fn v4(octets: [u8; 4]) -> Self {
        Self::from_raw([0, 0, u32::to_be(0xffff), u32::from_ne_bytes(octets)])
    }

    /// From sixteen octets.
    #[inline(always)]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self { bytes }
    }

    /// The last four octets: the IPv4 address of a mapped one.
    #[inline(always)]
    pub fn octets4(&self) -> [u8; 4] {
        let [.., last] = self.raw();
        last.to_ne_bytes()
    }

    /// Four words in memory order: for comparing, copying and summing up. The kernel programs become slow where they
    /// handle single bytes.
    #[inline(always)]
    pub fn raw(&self) -> [u32; 4] {
        bytemuck::cast(*self)
    }

    /// The reverse of [`Self::raw`].
    #[inline(always)]
    pub fn from_raw(words: [u32; 4]) -> Self {
        bytemuck::cast(words)
    }

    /// True for the same address; in the kernel programs faster than `==`.
    #[inline(always)]
    pub fn is(&self, other: &Self) -> bool {
        let [a, b, c, d] = self.raw();
        let [e, f, g, h] = other.raw();
        (a ^ e | b ^ f | c ^ g | d ^ h) == 0
    }

    /// True for a mapped IPv4 address.
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        let [a, b, c, _] = self.raw();
        a | b | (c ^ const { u32::to_be(0xffff) }) == 0
    }

    /// True for `127.0.0.0/8`, `::1`.
    #[inline(always)]
    pub fn is_loopback(&self) -> bool {
        let [a, b, c, d] = self.words();
        let four = a | b | (c ^ 0xffff) | (d >> 24 ^ LOOPBACK4);
        let six = a | b | c | (d ^ 1);
        (four == 0) | (six == 0)
    }

    /// True for `224.0.0.0/4`, `255.255.255.255`, `ff00::/8`.
    #[inline(always)]
    pub fn is_multicast(&self) -> bool {
        let [a, b, c, d] = self.words();
        let four = a | b | (c ^ 0xffff);
        ((four | (d >> 28 ^ 14)) == 0) | ((four | !d) == 0) | (a >> 24 == 0xff)
    }

    /// True for the caller addresses, `127.64.0.0/10`.
    #[inline(always)]
    pub fn is_caller(&self) -> bool {
        let [a, b, c, d] = self.words();
        a | b | (c ^ 0xffff) | (d >> 22 ^ (LOOPBACK4 << 2 | 1)) == 0
    }

    /// In host order. Bit operations on these instead of branches keep the number of paths low that the kernel's
    /// verifier has to follow.
    #[inline(always)]
    fn words(&self) -> [u32; 4] {
        self.raw().map(u32::from_be)
    }
}

/// Ones' complement sum (RFC 1071) of two addresses, folded; zero for its other zero, 0xffff. The `ffff` of a mapped
/// IPv4 address adds nothing. In memory order.
#[inline(always)]
pub fn sum(ends: [&Address; 2]) -> u16 {
    let [one, other] = ends.map(|end| end.raw().map(u64::from).iter().sum::<u64>());
    ((one + other) % 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use super::{Address, sum};

    #[test]
    fn sums_see_neither_the_family_nor_carries() {
        let [four, localhost] = [[198, 18, 255, 254], [127, 0, 0, 1]].map(Address::v4);
        // 198.18 + 255.254 + 127.0 + 0.1, in words of sixteen bits: 0x2_4511, and so 0x4513.
        assert_eq!(sum([&four, &localhost]), 0x4513_u16.to_be());
        let six = |last: [u8; 2]| {
            let mut bytes = [0; 16];
            (bytes[3], bytes[14], bytes[15]) = (7, last[0], last[1]);
            Address::v6(bytes)
        };
        assert_eq!(sum([&six([0x45, 0x05]), &six([0, 0])]), sum([&four, &localhost]));
        assert_eq!(sum([&six([0xff, 0xff]), &six([0, 0])]), sum([&six([0, 0]), &six([0, 0])]));
    }

    #[test]
    fn kinds_of_addresses() {
        let one = |last| Address::v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        let multicast6 = Address::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        // Address, then: v4, loopback, multicast, caller.
        let cases = [
            (Address::v4([127, 0, 0, 1]), [true, true, false, false]),
            (Address::v4([127, 63, 255, 255]), [true, true, false, false]),
            (Address::v4([127, 64, 0, 0]), [true, true, false, true]),
            (Address::v4([127, 127, 255, 255]), [true, true, false, true]),
            (Address::v4([127, 128, 0, 0]), [true, true, false, false]),
            (Address::v4([128, 0, 0, 1]), [true, false, false, false]),
            (Address::v4([223, 255, 255, 255]), [true, false, false, false]),
            (Address::v4([224, 0, 0, 0]), [true, false, true, false]),
            (Address::v4([240, 0, 0, 0]), [true, false, false, false]),
            (Address::v4([255, 255, 255, 255]), [true, false, true, false]),
            (Address::v4([0, 0, 0, 1]), [true, false, false, false]),
            (one(1), [false, true, false, false]),
            (one(2), [false, false, false, false]),
            (multicast6, [false, false, true, false]),
        ];
        for (address, expected) in cases {
            let kinds = [address.is_v4(), address.is_loopback(), address.is_multicast(), address.is_caller()];
            assert_eq!(kinds, expected, "{address:?}");
        }
    }
}
