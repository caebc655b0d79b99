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
