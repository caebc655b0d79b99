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
        let key =
            bytes.strip_prefix(&PEER_ID_PREFIX).ok_or_else(|| error("it isn't that of an Ed25519 key"))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_are_libp2p_peer_ids() {
        for n in 0..50u8 {
            let node = Identity::from_seed([n; 32]).node_id();
            let text = node.to_string();
            assert!(text.starts_with("12D3KooW") && text.len() == 52, "{text}");
            assert_eq!(text.parse(), Ok(node));
        }
        for bad in [
            "",
            "12D3KooW",
            "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
            "12D3KooW0OIl",
            &"1".repeat(500),
        ] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_noise_key_is_the_node_s_own() {
        let identity = Identity::from_seed([5; 32]);
        let public =
            curve25519_dalek::MontgomeryPoint::mul_base_clamped(identity.noise_secret().0).to_bytes();
        assert_eq!(identity.node_id().noise_public(), Some(public));
    }

    #[test]
    fn low_order_and_invalid_keys_have_no_noise_key() {
        let points = curve25519_dalek::constants::EIGHT_TORSION;
        for bytes in points.map(|point| point.compress().to_bytes()) {
            assert_eq!(NodeId(bytes).noise_public(), None, "{bytes:02x?}");
        }
        let mut no_point = [0; 32];
        no_point[0] = 2;
        assert_eq!(NodeId(no_point).noise_public(), None);
    }

    #[test]
    fn a_signature_is_one_node_s_and_one_message_s() {
        let (one, other) = (Identity::from_seed([1; 32]), Identity::from_seed([2; 32]));
        let signature = one.sign(b"said");
        assert!(one.node_id().verify(b"said", &signature));
        assert!(!one.node_id().verify(b"sai", &signature) && !other.node_id().verify(b"said", &signature));
        assert!(!NodeId([0; 32]).verify(b"said", &[0; 64]));
    }
}
