//! A node's key pair and its printed form, the libp2p peer id.
//!
//! Owns signatures and the X25519 form of the key. Must not know files or networks.

use core::fmt;
use core::str::FromStr;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rand_core::CryptoRngCore;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::session::Secret;

/// Identity multihash (0x00, 36 bytes) of the libp2p protobuf of an Ed25519 public key.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// Public key of a node (Ed25519, RFC 8032). Printed as a libp2p peer id (`12D3KooW…`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

/// A text is no node id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no node id: {why}")]
pub struct NodeIdError {
    text: String,
    why: &'static str,
}

impl NodeId {
    /// Montgomery form of the key: the node's static key in Noise. `None` for bytes that are no point of
    /// the curve, or a point of low order.
    pub fn noise_public(&self) -> Option<[u8; 32]> {
        let key = VerifyingKey::from_bytes(&self.0).ok()?;
        (!key.is_weak()).then(|| key.to_montgomery().to_bytes())
    }

    /// True if this node signed `message` (strict verification: no low-order keys, no malleable signatures).
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.0) else { return false };
        key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 38];
        let (prefix, key) = bytes.split_at_mut(PEER_ID_PREFIX.len());
        prefix.copy_from_slice(&PEER_ID_PREFIX);
        key.copy_from_slice(&self.0);
        f.write_str(&bs58::encode(bytes).into_string())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        let error = |why| NodeIdError { text: text.chars().take(80).collect(), why };
        if text.len() > 80 {
            return Err(error("it is too long"));
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| error("it isn't base58"))?;
        let key = bytes.strip_prefix(&PEER_ID_PREFIX).ok_or_else(|| error("it isn't that of an Ed25519 key"))?;
        let key = key.try_into().map_err(|_| error("its length is wrong"))?;
        Ok(Self(key))
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() { to.collect_str(self) } else { self.0.serialize(to) }
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        if from.is_human_readable() {
            let text = <String as Deserialize>::deserialize(from)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 32]>::deserialize(from).map(Self)
        }
    }
}

/// A node's key pair. The secret half is zeroed on drop and never printed.
#[derive(Clone)]
pub struct Identity(SigningKey);

impl Identity {
    /// A new key pair.
    pub fn generate(rng: &mut impl CryptoRngCore) -> Self {
        Self(SigningKey::generate(rng))
    }

    /// The key pair of a 32-byte seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// The seed, for the identity file.
    pub fn seed(&self) -> Secret {
        Secret(self.0.to_bytes())
    }

    /// The public half.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// X25519 form of the secret key, the counterpart of [`NodeId::noise_public`].
    pub fn noise_secret(&self) -> Secret {
        Secret(self.0.to_scalar_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.node_id()).finish()
    }
}
