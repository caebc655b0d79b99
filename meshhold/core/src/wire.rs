//! Layout of the circuit datagrams: `type 1, flags 1, reserved 2 | receiver index 4 | counter 8 | ciphertext | tag 16`.
//!
//! All integers are big-endian. The first byte of a circuit datagram is below 0x40 and that of a QUIC
//! packet is not (RFC 9000 section 17, fixed bit), so both share one UDP port.
//! Through relays: `type 1, flags 1, reserved 2 | label 4 | circuit datagram`; relays change addresses and ports, nothing else.
//! The data header (16 bytes) is the additional data of the AEAD; the nonce is 4 zero bytes and the counter.

/// First bytes at and above this belong to QUIC.
pub const QUIC_FIRST_BYTE: u8 = 0x40;
/// Handshake message 1 (initiator to responder).
pub const TYPE_INITIATION: u8 = 1;
/// Handshake message 2 (responder to initiator).
pub const TYPE_RESPONSE: u8 = 2;
/// Cookie reply of a responder under load.
pub const TYPE_COOKIE: u8 = 3;
/// A sealed inner packet, or a keepalive when it seals nothing.
pub const TYPE_DATA: u8 = 4;
/// A datagram of a circuit behind a label, for a relay or from one.
pub const TYPE_RELAY: u8 = 5;
/// Bytes before the circuit's datagram of a relayed one. All but type and label are zero.
pub const LABEL_HEADER: usize = 8;
/// Bytes before the ciphertext of a data datagram.
pub const DATA_HEADER: usize = 16;
/// Bytes of the AEAD tag at the end of a data datagram.
pub const TAG: usize = 16;
/// Low bits of a receiver index that name the lane.
pub const LANE_BITS: u32 = 4;
/// Most lanes of a circuit, without the sparse ones.
pub const MAX_LANES: u8 = 1 << (LANE_BITS - 1);
/// Bit of a lane's number: each lane has a second one beside it, for the packets of sparse flows. It has a worker of its own.
pub const SPARSE_LANE: u8 = 1 << (LANE_BITS - 1);
/// Flag of a data datagram: the sealed packet's TCP or UDP checksum holds the pseudo-header sum only. The packet was
/// authenticated on its way, so the receiving kernel takes it as a partial checksum and nobody computes it.
/// All other flags are zero; a datagram with one of them set is dropped.
pub const FLAG_PARTIAL_CHECKSUM: u8 = 1;
/// Flag of a data datagram: it seals no packet but a message about paths ([`crate::path::probe`]).
pub const FLAG_CONTROL: u8 = 2;
/// Flag of a data datagram: packets of the same flow may have gone before it on a sparse lane, a moment ago.
pub const FLAG_PROMOTED: u8 = 4;
