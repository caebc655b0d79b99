//! A node's signed statement about itself, and the sealed envelope it travels in.
//!
//! Owns both formats and their checks. Two signatures do two jobs: the node's, inside, makes the statement
//! count; the topic's, outside, lets a relay without the network key see that a member wrote it. Must not know
//! how envelopes spread or what follows from a record.

use std::net::SocketAddr;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rand_core::CryptoRngCore;
use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::identity::{Identity, NodeId};
use crate::key::NetworkKeys;

/// How long a record counts, in seconds.
pub const LIFETIME: u64 = 24 * 3600;
/// How far a node's clock may be ahead of ours, in seconds.
pub const SKEW: u64 = 3600;
/// Most endpoints of a record.
pub const MAX_ENDPOINTS: usize = 16;
/// Most relays of a record.
pub const MAX_RELAYS: usize = 4;
/// Longest name, in bytes.
pub const MAX_NAME: usize = 63;
/// Most bytes of the sealed part.
pub const MAX_SEALED: usize = 2048;
const NONCE: usize = 24;
const SIGNATURE_CONTEXT: &[u8] = b"meshhold v1 record";
const MORE_CONTEXT: &[u8] = b"meshhold v1 record, more";
const TOPIC_CONTEXT: &[u8] = b"meshhold v1 envelope";

/// What a node says about itself in one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordBody {
    /// Who says it.
    pub node: NodeId,
    /// Display name.
    pub name: String,
    /// Which attempt its block comes from.
    pub attempt: u32,
    /// Since when it claims that block (Unix seconds).
    pub claimed_at: u64,
    /// UDP addresses to try.
    pub endpoints: Vec<SocketAddr>,
    /// LAN devices that it fronts.
    pub devices: Vec<Device>,
    /// Relays that it has links to, the nearest first, and where these can be dialed.
    pub relays: Vec<(NodeId, SocketAddr)>,
    /// Grows with every statement.
    pub version: u64,
    /// Until when it counts (Unix seconds).
    pub expires: u64,
    /// Its mesh interface has no IPv6. Said behind the record, where nodes that don't know it don't look.
    #[serde(skip)]
    pub without_ipv6: bool,
}

/// A sealed record on its way. Says nothing about who wrote it to a node without the network key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Envelope {
    /// Public key of the topic.
    pub topic: [u8; 32],
    /// The author's place in the topic: a keyed hash of the node id.
    pub slot: [u8; 16],
    /// Version of the record.
    pub version: u64,
    /// When it may be forgotten (Unix seconds).
    pub expires: u64,
    /// Nonce and XChaCha20-Poly1305 ciphertext of the signed record.
    pub sealed: Vec<u8>,
    /// The topic key's signature over all of the above.
    #[serde(with = "signature")]
    pub signature: [u8; 64],
}

#[derive(Serialize, Deserialize)]
struct Signed {
    body: RecordBody,
    #[serde(with = "signature")]
    signature: [u8; 64],
}

/// What is said behind the record, only where there is something to say.
#[derive(Serialize, Deserialize)]
struct More {
    without_ipv6: bool,
    #[serde(with = "signature")]
    signature: [u8; 64],
}

/// Serde of 64 bytes, which serde's arrays don't reach.
mod signature {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 64], to: S) -> Result<S::Ok, S::Error> {
        bytes.as_slice().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 64], D::Error> {
        let bytes = Vec::<u8>::deserialize(from)?;
        bytes.as_slice().try_into().map_err(|_| D::Error::custom("a signature has 64 bytes"))
    }
}

/// Why a record doesn't count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Of another network.
    #[error("the envelope is of another topic")]
    Topic,
    /// No member wrote it.
    #[error("the envelope's signature doesn't fit")]
    Envelope,
    /// Not sealed with this network's key, or changed on the way.
    #[error("the envelope can't be opened")]
    Seal,
    /// Opened, but no record.
    #[error("the record makes no sense")]
    Format,
    /// Its node didn't sign it, or it says something else than its envelope.
    #[error("the record's signature doesn't fit")]
    Signature,
    /// Too old.
    #[error("the record has expired")]
    Expired,
    /// From the future.
    #[error("the record is from the future; is a clock wrong?")]
    Future,
    /// The membership is full.
    #[error("the network has too many members")]
    Full,
}

impl Envelope {
    /// An envelope around something sealed, signed with the topic's key.
    pub fn sign(topic: &SigningKey, slot: [u8; 16], version: u64, expires: u64, sealed: Vec<u8>) -> Self {
        let key = topic.verifying_key().to_bytes();
        let mut envelope = Self { topic: key, slot, version, expires, sealed, signature: [0; 64] };
        envelope.signature = topic.sign(&envelope.message()).to_bytes();
        envelope
    }

    /// Whether a member of the topic's network wrote this. Needs no secret.
    pub fn verify(&self) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.topic) else { return false };
        self.sealed.len() <= MAX_SEALED
            && key.verify_strict(&self.message(), &Signature::from_bytes(&self.signature)).is_ok()
    }

    fn message(&self) -> Vec<u8> {
        [
            TOPIC_CONTEXT,
            &self.topic,
            &self.slot,
            &self.version.to_be_bytes(),
            &self.expires.to_be_bytes(),
            &self.sealed,
        ]
        .concat()
    }

    fn head(topic: &[u8; 32], slot: &[u8; 16], version: u64) -> Vec<u8> {
        [topic.as_slice(), slot, &version.to_be_bytes()].concat()
    }
}

impl RecordBody {
    /// Signs and seals the record.
    ///
    /// # Errors
    /// [`RecordError::Format`] when it is larger than [`MAX_SEALED`] allows.
    pub fn seal(
        self,
        keys: &NetworkKeys,
        identity: &Identity,
        rng: &mut impl CryptoRngCore,
    ) -> Result<Envelope, RecordError> {
        let (version, expires) = (self.version, self.expires);
        let (topic_key, slot) = (keys.topic_key(), slot(keys, self.node));
        let topic = topic_key.verifying_key().to_bytes();
        let said = statement(&topic, &self)?;
        let more = self
            .without_ipv6
            .then(|| More { without_ipv6: true, signature: identity.sign(&further_statement(&said, true)) });
        let signed = Signed { body: self, signature: identity.sign(&said) };
        let mut plain = postcard::to_allocvec(&signed).map_err(|_| RecordError::Format)?;
        if let Some(more) = more {
            plain.extend(postcard::to_allocvec(&more).map_err(|_| RecordError::Format)?);
        }
        let mut nonce = [0; NONCE];
        rng.fill_bytes(&mut nonce);
        let payload = Payload { msg: &plain, aad: &Envelope::head(&topic, &slot, version) };
        let cipher = XChaCha20Poly1305::new((&keys.record.0).into());
        let mut sealed = nonce.to_vec();
        sealed.extend(cipher.encrypt(XNonce::from_slice(&nonce), payload).map_err(|_| RecordError::Format)?);
        if sealed.len() > MAX_SEALED {
            return Err(RecordError::Format);
        }
        Ok(Envelope::sign(&topic_key, slot, version, expires, sealed))
    }

    /// Opens and checks an envelope: what comes out was said by `node`.
    pub fn open(keys: &NetworkKeys, envelope: &Envelope) -> Result<Self, RecordError> {
        if envelope.topic != keys.topic_id() {
            return Err(RecordError::Topic);
        }
        if !envelope.verify() {
            return Err(RecordError::Envelope);
        }
        let (nonce, sealed) = envelope.sealed.split_at_checked(NONCE).ok_or(RecordError::Format)?;
        let aad = Envelope::head(&envelope.topic, &envelope.slot, envelope.version);
        let cipher = XChaCha20Poly1305::new((&keys.record.0).into());
        let plain = cipher
            .decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: &aad })
            .map_err(|_| RecordError::Seal)?;
        let (signed, rest) = postcard::take_from_bytes(&plain).map_err(|_| RecordError::Format)?;
        let Signed { mut body, signature } = signed;
        let fits = body.version == envelope.version
            && body.expires == envelope.expires
            && slot(keys, body.node) == envelope.slot;
        let said = statement(&envelope.topic, &body)?;
        if !fits || !body.node.verify(&said, &signature) {
            return Err(RecordError::Signature);
        }
        if !rest.is_empty() {
            let More { without_ipv6, signature } =
                postcard::from_bytes(rest).map_err(|_| RecordError::Format)?;
            if !body.node.verify(&further_statement(&said, without_ipv6), &signature) {
                return Err(RecordError::Signature);
            }
            body.without_ipv6 = without_ipv6;
        }
        if body.endpoints.len() > MAX_ENDPOINTS
            || body.name.len() > MAX_NAME
            || body.name.chars().any(char::is_control)
            || body.relays.len() > MAX_RELAYS
            || !Device::are_sound(&body.devices)
        {
            return Err(RecordError::Format);
        }
        Ok(body)
    }

    /// Whether the record counts at `now` (Unix seconds).
    pub fn check_time(&self, now: u64) -> Result<(), RecordError> {
        if self.expires <= now {
            return Err(RecordError::Expired);
        }
        if self.claimed_at > now + SKEW || self.expires > now + LIFETIME + SKEW {
            return Err(RecordError::Future);
        }
        Ok(())
    }
}

/// What the node signs: never valid in another network.
fn statement(topic: &[u8; 32], body: &RecordBody) -> Result<Vec<u8>, RecordError> {
    let body = postcard::to_allocvec(body).map_err(|_| RecordError::Format)?;
    Ok([SIGNATURE_CONTEXT, topic, &body].concat())
}

/// What the node signs of what is behind its statement: never valid behind another.
fn further_statement(said: &[u8], without_ipv6: bool) -> Vec<u8> {
    [MORE_CONTEXT, &[u8::from(without_ipv6)], said].concat()
}

fn slot(keys: &NetworkKeys, node: NodeId) -> [u8; 16] {
    let hash = blake3::keyed_hash(&keys.record.0, &node.0);
    let mut slot = [0; 16];
    slot.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
    slot
}

#[cfg(test)]
mod tests;
