//! Header parsing of a bare IP packet: addresses, fragment state, transport header, and nothing beyond its end.
//!
//! The version nibble decides the family. Lengths are believed only as far as the packet reaches.
//! Must not know policy.

use crate::{Address, Reason, maps::FragmentKey};

/// IP protocol numbers (IANA).
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6.
pub const ICMP6: u8 = 58;

/// Length of an IPv4 header without options, in bytes.
pub const IPV4_BYTES: u32 = 20;
/// Length of the fixed IPv6 header, in bytes.
pub const IPV6_BYTES: u32 = 40;
/// Length of the IPv6 fragment header, in bytes.
pub const FRAGMENT_BYTES: u32 = 8;
/// Most IPv6 extension headers that are followed.
const MAX_EXTENSIONS: u32 = 6;

/// Reads the packet; offset 0 is the first byte of the IP header. In words, for the kernel programs become slow where
/// they handle single bytes.
pub trait Load {
    /// The `N` words at `offset`, in memory order; `None` where the packet ends before their end.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
    /// The same, where speed doesn't matter.
    fn load_far<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.load(offset)
    }
    /// Length of the packet in bytes.
    fn length(&self) -> u32;
}

impl Load for &[u8] {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let bytes = self.get(offset as usize..)?.get(..4 * N)?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Some(words)
    }

    fn length(&self) -> u32 {
        self.len() as u32
    }
}

/// Place of a packet in a fragmented datagram.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Piece {
    /// Not fragmented.
    #[default]
    Whole,
    /// Holds the transport header.
    First,
    /// Holds no ports: none are ever read from it.
    Later,
}

/// What the headers say. Fields after the point of failure keep their zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Offset of the transport header (of the payload, in a later fragment), in bytes.
    pub transport: u32,
    /// Offset of the end that the IP header claims, in bytes.
    pub end: u32,
    /// Identification of the fragmented datagram.
    pub id: u32,
    /// Source port; type of an ICMP message.
    pub source_port: u16,
    /// Destination port; identifier of an ICMP echo message.
    pub destination_port: u16,
    /// Transport protocol (IP protocol number).
    pub protocol: u8,
    /// What names the datagram besides its id, see [`FragmentKey::protocol`].
    pub fragment_protocol: u8,
    /// TCP flags, the low eight (RFC 9293).
    pub flags: u8,
    /// 4 or 6; 0 where not even that was read.
    pub version: u8,
    /// Place in a fragmented datagram.
    pub piece: Piece,
}

impl Packet {
    /// Reads the IP header and the IPv6 extension headers, whatever `self` held before.
    #[inline(always)]
    pub fn parse_network<L: Load>(&mut self, load: &L) -> Result<(), Reason> {
        let Some([first]) = load.load::<1>(0) else { return self.unread(Reason::Truncated) };
        match u32::from_be(first) >> 28 {
            4 => self.parse_ipv4(load),
            6 => self.parse_ipv6(load),
            _ => self.unread(Reason::Malformed),
        }
    }

    /// Not even the addresses could be read.
    #[inline(always)]
    fn unread(&mut self, reason: Reason) -> Result<(), Reason> {
        *self = Self::default();
        Err(reason)
    }

    /// Reads ports, TCP flags or the ICMP type; nothing in a later fragment.
    #[inline(always)]
    pub fn parse_transport<L: Load>(&mut self, load: &L) -> Result<(), Reason> {
        let icmp = if self.version == 4 { ICMP } else { ICMP6 };
        if self.piece == Piece::Later {
            return self.check_later(icmp);
        }
        let bytes = match self.protocol {
            TCP => 20,
            UDP => 8,
            protocol if protocol == icmp => 8,
            _ => return Err(Reason::ProtocolUnknown),
        };
        if self.transport + bytes > self.end {
            return Err(if self.piece == Piece::First { Reason::FragmentShort } else { Reason::Truncated });
        }
        if self.protocol == TCP {
            let Some([ports, _, _, flags]) = load.load::<4>(self.transport) else {
                return Err(Reason::Truncated);
            };
            self.flags = (u32::from_be(flags) >> 16) as u8;
            self.set_ports(ports);
            return Ok(());
        }
        let Some([ports, second]) = load.load::<2>(self.transport) else { return Err(Reason::Truncated) };
        if self.protocol == UDP {
            self.set_ports(ports);
        } else {
            let (first, second) = (u32::from_be(ports), u32::from_be(second));
            (self.source_port, self.destination_port) = ((first >> 24) as u16, (second >> 16) as u16);
        }
        Ok(())
    }

    /// The key under which the fragments of this datagram meet.
    #[inline(always)]
    pub fn fragment_key(&self) -> FragmentKey {
        FragmentKey {
            source: self.source,
            destination: self.destination,
            id: self.id,
            protocol: self.fragment_protocol,
            pad: [0; 3],
        }
    }

    /// True where nothing stands between IP and transport header but, in fragments, the IPv6 fragment header:
    /// the layouts that can be translated between the families.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        let fragment = if self.version == 4 || self.piece == Piece::Whole { 0 } else { FRAGMENT_BYTES };
        let fixed = if self.version == 4 { IPV4_BYTES } else { IPV6_BYTES };
        self.transport == fixed + fragment
    }

    /// True for a TCP segment that opens a connection: SYN without ACK.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.protocol == TCP && self.flags & 0x12 == 0x02
    }

    #[inline(always)]
    fn check_later(&self, icmp: u8) -> Result<(), Reason> {
        // In IPv6 this is the next header of the fragment header, which the first fragment fixed: the key compares it.
        if self.version == 4 && !matches!(self.protocol, TCP | UDP) && self.protocol != icmp {
            return Err(Reason::ProtocolUnknown);
        }
        Ok(())
    }

    #[inline(always)]
    fn parse_ipv4<L: Load>(&mut self, load: &L) -> Result<(), Reason> {
        let Some([first, id, ttl, source, destination]) = load.load::<5>(0) else {
            return self.unread(Reason::Truncated);
        };
        let (first, id, ttl) = (u32::from_be(first), u32::from_be(id), u32::from_be(ttl));
        let protocol = (ttl >> 16) as u8;
        *self = Self {
            source: Address::v4(source.to_ne_bytes()),
            destination: Address::v4(destination.to_ne_bytes()),
            transport: (first >> 24 & 0x0f) * 4,
            end: first & 0xffff,
            id: id >> 16,
            protocol,
            fragment_protocol: protocol,
            version: 4,
            ..Self::default()
        };
        if self.transport < IPV4_BYTES || self.end < self.transport {
            return Err(Reason::Malformed);
        }
        if self.end > load.length() {
            return Err(Reason::Truncated);
        }
        self.set_piece(id as u16 & 0x1fff, id & 0x2000 != 0)
    }

    #[inline(always)]
    fn parse_ipv6<L: Load>(&mut self, load: &L) -> Result<(), Reason> {
        let Some([_, length, a, b, c, d, e, f, g, h]) = load.load::<10>(0) else {
            return self.unread(Reason::Truncated);
        };
        let length = u32::from_be(length);
        *self = Self {
            source: Address::from_raw([a, b, c, d]),
            destination: Address::from_raw([e, f, g, h]),
            transport: IPV6_BYTES,
            end: IPV6_BYTES + (length >> 16),
            version: 6,
            ..Self::default()
        };
        // Mapped addresses never appear on the wire (RFC 4291 section 2.5.5.2) and would meet IPv4 keys here.
        if self.end == IPV6_BYTES || self.source.is_v4() || self.destination.is_v4() {
            return Err(Reason::Malformed);
        }
        if self.end > load.length() {
            return Err(Reason::Truncated);
        }
        self.walk_extensions(load, (length >> 8) as u8)
    }

    /// Follows the chain up to the transport header, or to a fragment header that ends what can be read.
    #[inline(always)]
    fn walk_extensions<L: Load>(&mut self, load: &L, first: u8) -> Result<(), Reason> {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const DESTINATION: u8 = 60;
        let mut next = first;
        for step in 0..=MAX_EXTENSIONS {
            match next {
                HOP_BY_HOP if step > 0 => return Err(Reason::ExtensionUnknown),
                FRAGMENT if self.piece != Piece::Whole => return Err(Reason::ExtensionUnknown),
                HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT => {}
                // AH, mobility, HIP, shim6: real extension headers, with no business inside a circuit.
                51 | 135 | 139 | 140 => return Err(Reason::ExtensionUnknown),
                _ => {
                    self.protocol = next;
                    return Ok(());
                }
            }
            if step == MAX_EXTENSIONS {
                break;
            }
            if self.transport + 8 > self.end {
                let fragment = self.piece == Piece::First;
                return Err(if fragment { Reason::FragmentShort } else { Reason::Truncated });
            }
            let Some([first, id]) = load.load_far::<2>(self.transport) else { return Err(Reason::Truncated) };
            let first = u32::from_be(first);
            let following = (first >> 24) as u8;
            if next == FRAGMENT {
                self.transport += FRAGMENT_BYTES;
                self.id = u32::from_be(id);
                self.fragment_protocol = following;
                self.protocol = following;
                self.set_piece(first as u16 >> 3, first & 1 != 0)?;
                if self.piece == Piece::Later {
                    return Ok(());
                }
            } else {
                self.transport += ((first >> 16 & 0xff) + 1) * 8;
            }
            next = following;
        }
        Err(Reason::ExtensionChain)
    }

    #[inline(always)]
    fn set_ports(&mut self, word: u32) {
        let word = u32::from_be(word);
        (self.source_port, self.destination_port) = ((word >> 16) as u16, word as u16);
    }

    /// `offset` in units of eight bytes.
    #[inline(always)]
    fn set_piece(&mut self, offset: u16, more: bool) -> Result<(), Reason> {
        self.piece = match (offset, more) {
            (0, false) => Piece::Whole,
            (0, true) => Piece::First,
            // Eight bytes into TCP lie its flags (RFC 1858 section 3.2.1).
            (1, _) if self.protocol == TCP => return Err(Reason::FragmentShort),
            _ => Piece::Later,
        };
        Ok(())
    }
}
