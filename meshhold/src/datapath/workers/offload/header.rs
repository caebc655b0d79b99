//! Where the parts of an inner packet are: just enough for routing and offloads.
//!
//! Owns the bounds checks: what [`Layout::of`] accepts lies inside the packet. Must not judge packets;
//! that is the classifier's work (`meshhold_common`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
const FRAGMENT_HEADER: u8 = 44;
const ICMPV6: u8 = 58;
/// Type of an echo request (RFC 4443 section 4.1).
const ECHO_REQUEST6: u8 = 128;

/// Offsets and lengths of one IPv4 or IPv6 packet, all in bytes. Small enough for a register: it is made for each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// IPv6, else IPv4.
    pub v6: bool,
    /// Protocol or next header; extension headers are not followed.
    pub protocol: u8,
    /// A fragment: the transport header may be missing.
    pub fragment: bool,
    transport: u8,
    total: u32,
}

impl Layout {
    /// Of no packet.
    pub const EMPTY: Self = Self { v6: false, protocol: 0, fragment: false, transport: 0, total: 0 };

    /// Where the IP header (without extensions) ends.
    pub fn transport(self) -> usize {
        self.transport.into()
    }

    /// Whether it is an echo request by IPv6.
    pub fn is_echo_request6(self, packet: &[u8]) -> bool {
        (self.v6, self.protocol, packet.get(self.transport())) == (true, ICMPV6, Some(&ECHO_REQUEST6))
    }

    /// Length of the packet by its own header, never above the bytes given.
    pub fn total(self) -> usize {
        self.total as usize
    }

    /// Reads the IP header; `None` when it is no whole IP packet. Bytes after the packet are allowed.
    pub fn of(packet: &[u8]) -> Option<Self> {
        let layout = match packet.first()? >> 4 {
            4 => Self::of_ipv4(packet.first_chunk()?),
            6 => Self::of_ipv6(packet.first_chunk()?),
            _ => return None,
        };
        let header = if layout.v6 { 40 } else { 20 };
        let fits = header <= layout.transport()
            && layout.transport() <= layout.total()
            && layout.total() <= packet.len();
        fits.then_some(layout)
    }

    fn of_ipv4(header: &[u8; 20]) -> Self {
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        Self {
            v6: false,
            protocol: header[9],
            fragment: fragment & 0x3fff != 0,
            transport: (header[0] & 15) * 4,
            total: u16::from_be_bytes([header[2], header[3]]).into(),
        }
    }

    fn of_ipv6(header: &[u8; 40]) -> Self {
        Self {
            v6: true,
            protocol: header[6],
            fragment: header[6] == FRAGMENT_HEADER,
            transport: 40,
            total: 40 + u32::from(u16::from_be_bytes([header[4], header[5]])),
        }
    }

    /// Where the packet comes from. `packet` is the one this layout was read from.
    pub fn source(self, packet: &[u8]) -> Option<IpAddr> {
        self.address(packet, if self.v6 { 8 } else { 12 })
    }

    /// Where the packet goes.
    pub fn destination(self, packet: &[u8]) -> Option<IpAddr> {
        self.address(packet, if self.v6 { 24 } else { 16 })
    }

    fn address(self, packet: &[u8], at: usize) -> Option<IpAddr> {
        let bytes = packet.get(at..)?;
        if self.v6 {
            return Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into());
        }
        Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into())
    }

    /// End of the TCP or UDP header; `None` for anything else, for fragments and for truncated headers.
    pub fn payload(&self, packet: &[u8]) -> Option<usize> {
        let header = match self.protocol {
            _ if self.fragment => return None,
            UDP => 8,
            TCP => usize::from(packet.get(self.transport() + 12)? >> 4) * 4,
            _ => return None,
        };
        let least = if self.protocol == TCP { 20 } else { 8 };
        let end = self.transport() + header;
        (header >= least && end <= self.total()).then_some(end)
    }

    /// A number that all packets of one flow share (addresses and, where they are, ports).
    pub fn flow_hash(&self, packet: &[u8]) -> u32 {
        let addresses = if self.v6 { packet.get(8..40) } else { packet.get(12..20) };
        let ports = match self.protocol {
            TCP | UDP if !self.fragment => packet.get(self.transport()..self.transport() + 4),
            _ => None,
        };
        let words = addresses.into_iter().chain(ports).flat_map(|bytes| bytes.as_chunks::<4>().0);
        let mix = |hash: u32, word: &[u8; 4]| {
            (hash.rotate_left(5) ^ u32::from_ne_bytes(*word)).wrapping_mul(0x9e37_79b9)
        };
        // The finalizer of MurmurHash3: every bit of the input reaches the low bits, which choose the lane.
        let mut hash = words.fold(0, mix);
        hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
        hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
        hash ^ (hash >> 16)
    }
}
