//! The virtio network header before each packet of a TUN with `IFF_VNET_HDR` (virtio 1.2, section 5.1.6).
//!
//! Owns its layout. Values are kept as they came; `segment` judges them.

/// Bytes of the header on a TUN queue (without `num_buffers`), in the byte order of the machine.
pub const LEN: usize = 10;
/// The checksum at `csum_start + csum_offset` holds the pseudo-header sum only.
pub const NEEDS_CHECKSUM: u8 = 1;
/// The checksum has been verified.
pub const DATA_VALID: u8 = 2;
/// Not a super-packet.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub const GSO_TCP4: u8 = 1;
/// TCP over IPv6.
pub const GSO_TCP6: u8 = 4;
/// UDP datagrams of one size.
pub const GSO_UDP: u8 = 5;
/// Or-ed to the TCP types: the first segment carries CWR (RFC 3168).
pub const GSO_ECN: u8 = 0x80;

/// The header, decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioHeader {
    /// [`NEEDS_CHECKSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// One of the `GSO_*` types, maybe with [`GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of all headers of a super-packet; a hint.
    pub header_len: u16,
    /// Payload bytes of each segment but the last.
    pub gso_size: u16,
    /// Where the checksummed bytes start.
    pub checksum_start: u16,
    /// Where the checksum stands after that.
    pub checksum_offset: u16,
}

impl VirtioHeader {
    /// Splits a read of the TUN into header and packet; `None` when it is too short.
    pub fn split(read: &mut [u8]) -> Option<(Self, &mut [u8])> {
        let (head, packet) = read.split_first_chunk_mut::<LEN>()?;
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = *head;
        let header = Self {
            flags,
            gso_type,
            header_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            checksum_start: u16::from_ne_bytes([s0, s1]),
            checksum_offset: u16::from_ne_bytes([o0, o1]),
        };
        Some((header, packet))
    }

    /// The header as the kernel reads it.
    pub fn to_bytes(self) -> [u8; LEN] {
        let [h0, h1] = self.header_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.checksum_start.to_ne_bytes();
        let [o0, o1] = self.checksum_offset.to_ne_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}
