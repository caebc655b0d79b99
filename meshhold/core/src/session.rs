//! An established circuit session: what a worker needs to seal and open.
//!
//! Owns the lane key derivation. Must not know sockets or worker threads.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// AEAD of a session, agreed in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Cipher {
    /// RFC 8439.
    ChaCha20Poly1305 = 1,
    /// NIST SP 800-38D with a 256-bit key.
    Aes256Gcm = 2,
}

/// 32 secret bytes, zeroed on drop and never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(pub [u8; 32]);

impl PartialEq for Secret {
    /// In time that doesn't depend on the content.
    fn eq(&self, other: &Self) -> bool {
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl Eq for Secret {}

impl core::fmt::Debug for Secret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Keys and indices of one handshake's outcome. Immutable; counters and windows live with the worker.
#[derive(Clone, Debug)]
pub struct Session {
    /// Our receiver index for lane 0; lane `n` is `local_index | n`. The low [`crate::wire::LANE_BITS`] bits are 0.
    pub local_index: u32,
    /// The peer's receiver index for lane 0.
    pub remote_index: u32,
    /// Lanes of this session, 1 to [`crate::wire::MAX_LANES`]: the larger of both ends' workers.
    pub lanes: u8,
    /// Agreed AEAD.
    pub cipher: Cipher,
    /// Root of our sending keys.
    pub send: Secret,
    /// Root of our receiving keys.
    pub recv: Secret,
}

impl Session {
    /// Key that seals what we send on `lane`.
    pub fn send_key(&self, lane: u8) -> Secret {
        lane_key(&self.send, lane)
    }

    /// Key that opens what arrives on `lane`.
    pub fn recv_key(&self, lane: u8) -> Secret {
        lane_key(&self.recv, lane)
    }
}

fn lane_key(root: &Secret, lane: u8) -> Secret {
    let mut hasher = blake3::Hasher::new_derive_key("meshhold v1 circuit lane key");
    hasher.update(&root.0).update(&[lane]);
    Secret(*hasher.finalize().as_bytes())
}

/// Messages of one lane after which its session is renewed (WireGuard's REKEY_AFTER_MESSAGES).
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Messages of one lane after which it sends no more (WireGuard's REJECT_AFTER_MESSAGES).
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// The only source of send counters: each value once, and none beyond the limit.
#[derive(Debug, Default)]
pub struct SendCounter(u64);

impl SendCounter {
    /// A counter that goes on at `value`, for tests of the limit.
    pub fn starting_at(value: u64) -> Self {
        Self(value)
    }

    /// The next counter; `None` for ever once the limit is reached.
    #[expect(clippy::should_implement_trait, reason = "it is no iterator: nobody may map or skip counters")]
    pub fn next(&mut self) -> Option<u64> {
        let counter = self.0;
        if counter >= REJECT_AFTER_MESSAGES {
            return None;
        }
        self.0 += 1;
        Some(counter)
    }

    /// Whether the session must be renewed.
    pub fn wants_rekey(&self) -> bool {
        self.0 >= REKEY_AFTER_MESSAGES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_three_counters_pass_and_then_none() {
        let mut counter = SendCounter::starting_at(REJECT_AFTER_MESSAGES - 3);
        let taken: Vec<_> = core::iter::from_fn(|| counter.next()).collect();
        assert_eq!(taken.len(), 3);
        assert_eq!(counter.next(), None);
        assert!(counter.wants_rekey());
    }

    #[test]
    fn lanes_and_directions_have_keys_of_their_own() {
        let session = Session {
            local_index: 0,
            remote_index: 16,
            lanes: 2,
            cipher: Cipher::ChaCha20Poly1305,
            send: Secret([1; 32]),
            recv: Secret([2; 32]),
        };
        let keys = [session.send_key(0), session.send_key(1), session.recv_key(0), session.recv_key(1)];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys.iter().skip(i + 1).all(|b| a != b));
        }
    }
}
