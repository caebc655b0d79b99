//! Stateless resets that outlive the process (RFC 9000 section 10.3): a node that was killed and started
//! again tells its peers with the first packet it gets that their links are gone.
//!
//! Owns the reset key and the connection ids. Must not know sockets or TLS.

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator};
use rand_core::{OsRng, RngCore as _};

const CONTEXT: &str = "meshhold v1 link reset";
const TOKEN: usize = 32;
const ID: usize = 8;

/// Makes the reset token of a connection id; the same after a restart.
pub(super) struct ResetKey([u8; 32]);

impl ResetKey {
    /// From the secret part of the node's identity.
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        Self(blake3::derive_key(CONTEXT, seed))
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        blake3::Hasher::new_keyed(&self.0).update(data).finalize_xof().fill(signature_out);
    }

    fn signature_len(&self) -> usize {
        TOKEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let signature = <[u8; TOKEN]>::try_from(signature).map_err(|_| CryptoError)?;
        // Equality of hashes takes the same time whatever they are.
        let is_ours = blake3::keyed_hash(&self.0, data) == signature;
        if is_ours { Ok(()) } else { Err(CryptoError) }
    }
}

/// Random connection ids. QUIC's default recognises only those of its own process and would never reset others.
pub(super) struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID];
        OsRng.fill_bytes(&mut id);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        ID
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_same_after_a_restart_and_others_for_another_node() {
        let sign = |seed: u8| {
            let mut token = [0; TOKEN];
            ResetKey::new(&[seed; 32]).sign(b"id", &mut token);
            token
        };
        assert_eq!(sign(1), sign(1));
        assert_ne!(sign(1), sign(2));
        assert!(ResetKey::new(&[1; 32]).verify(b"id", &sign(1)).is_ok());
        assert!(ResetKey::new(&[1; 32]).verify(b"id", &sign(2)).is_err());
    }
}
