//! What can't be meant for the control socket is dropped by the kernel, before it takes room in the socket's queue and the
//! daemon's time: most junk gets no further.
//!
//! Owns a classic BPF program. It is a sieve and no judge: whatever may be right passes, and what the kernel has joined passes by
//! its first datagram. Must not know who sends.

use meshhold_core::wire::{QUIC_FIRST_BYTE, TYPE_RELAY};

use crate::platform::linux::sys_net::Instruction;

/// The program sees the UDP header too.
const UDP: u32 = 8;
/// Shorter QUIC packets don't exist (RFC 9000 section 10.3).
const QUIC: u32 = 21;
/// Bits of the first byte: the long header, and what all packets of version 1 have set.
const LONG: u32 = 0x80;
const FIXED: u32 = 0x40;

const LOAD_BYTE: u16 = 0x30;
const LOAD_WORD: u16 = 0x20;
const LOAD_LENGTH: u16 = 0x80;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const JUMP_IF_ANY: u16 = 0x45;
const RETURN: u16 = 0x06;

/// Yields 0 for what is to be dropped, also where it would read beyond the end: types of circuits that don't exist, versions of
/// QUIC other than 1 and that of version negotiation, and what is too short.
pub(super) fn program() -> [Instruction; 14] {
    [
        (LOAD_BYTE, 0, 0, UDP),
        (JUMP_IF_AT_LEAST, 2, 0, u32::from(QUIC_FIRST_BYTE)),
        (JUMP_IF_AT_LEAST, 10, 0, u32::from(TYPE_RELAY) + 1),
        (JUMP_IF_EQUAL, 9, 8, 0),
        (JUMP_IF_ANY, 0, 5, LONG),
        (LOAD_WORD, 0, 0, UDP + 1),
        (JUMP_IF_EQUAL, 5, 0, 0),
        (JUMP_IF_EQUAL, 0, 5, 1),
        (LOAD_BYTE, 0, 0, UDP),
        (JUMP_IF_ANY, 0, 3, FIXED),
        (LOAD_LENGTH, 0, 0, 0),
        (JUMP_IF_AT_LEAST, 0, 1, UDP + QUIC),
        (RETURN, 0, 0, u32::MAX),
        (RETURN, 0, 0, 0),
    ]
}
