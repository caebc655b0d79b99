//! The circuit handshake: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s with the network's pre-shared key.
//!
//! Owns the two messages and what comes out of them. Must not know retries, timers or who may connect.

mod message;
mod noise;
pub mod random;
mod resolver;
#[cfg(test)]
mod tests;

pub use message::{Accept, Initiation, Offer, RESPONSE, SEALED_INITIATION, SEALED_RESPONSE};
pub use noise::{Initiator, Outcome, Responder};

/// The handshake failed. Nothing is said about why: the peer gets no answer either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handshake failed")]
pub struct HandshakeError;

impl From<snow::Error> for HandshakeError {
    fn from(_: snow::Error) -> Self {
        Self
    }
}
