//! What the two handshake messages say inside.
//!
//! Owns the payload layouts, both of fixed length. Must not know Noise.

use crate::identity::NodeId;
use crate::session::Cipher;

/// Bytes of an [`Initiation`].
pub(super) const INITIATION: usize = 32 + 12 + 1 + 1 + 2 * 5;
/// Bytes of an [`Accept`].
pub const RESPONSE: usize = 2;
/// Bytes of Noise message 1: `e`, sealed `s`, sealed payload.
pub const SEALED_INITIATION: usize = 32 + 48 + INITIATION + 16;
/// Bytes of Noise message 2: `e`, sealed payload.
pub const SEALED_RESPONSE: usize = 32 + RESPONSE + 16;

/// A cipher that a node can use, with the speed it measured (MB/s).
pub type Offer = (Cipher, u32);

/// Payload of message 1: `node 32 | time 12 | lanes 1 | offers 1 | 2 x (cipher 1, speed 4)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initiation {
    /// Who speaks. Its X25519 form must be the Noise static key.
    pub node: NodeId,
    /// Seconds and nanoseconds since the Unix epoch; larger in every initiation of a node.
    pub time: [u8; 12],
    /// Lanes that the initiator wants.
    pub lanes: u8,
    /// Ciphers that it can use.
    pub offers: Vec<Offer>,
}

impl Initiation {
    pub(super) fn encode(&self) -> [u8; INITIATION] {
        let mut bytes = Vec::with_capacity(INITIATION);
        bytes.extend(self.node.0);
        bytes.extend(self.time);
        bytes.push(self.lanes);
        bytes.push(self.offers.len().min(2) as u8);
        for (cipher, speed) in self.offers.iter().take(2) {
            bytes.push(*cipher as u8);
            bytes.extend(speed.to_be_bytes());
        }
        let mut fixed = [0; INITIATION];
        fixed.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        fixed
    }

    /// Ciphers of a later version are skipped.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (node, rest) = bytes.split_first_chunk::<32>()?;
        let (time, rest) = rest.split_first_chunk::<12>()?;
        let (&lanes, rest) = rest.split_first()?;
        let (&count, rest) = rest.split_first()?;
        let offers = rest.chunks_exact(5).take(usize::from(count)).filter_map(|chunk| {
            let (&cipher, speed) = chunk.split_first()?;
            Some((cipher_of(cipher)?, u32::from_be_bytes(speed.try_into().ok()?)))
        });
        Some(Self { node: NodeId(*node), time: *time, lanes, offers: offers.collect() })
    }
}

/// Payload of message 2: `cipher 1 | lanes 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// The cipher of the session.
    pub cipher: Cipher,
    /// Lanes of the session.
    pub lanes: u8,
}

impl Accept {
    pub(super) fn encode(self) -> [u8; RESPONSE] {
        [self.cipher as u8, self.lanes]
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let &[cipher, lanes] = bytes else { return None };
        Some(Self { cipher: cipher_of(cipher)?, lanes })
    }
}

fn cipher_of(number: u8) -> Option<Cipher> {
    [Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm].into_iter().find(|cipher| *cipher as u8 == number)
}
