//! The mesh-route key and everything derived from it.
//!
//! Owns the `meshkey1…` string (bech32m, BIP 350) and the BLAKE3 derivations. Must not know who uses them.

mod text;

use core::fmt;
use core::str::FromStr;
use std::net::{Ipv4Addr, Ipv6Addr};

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32m, Hrp};
use ed25519_dalek::SigningKey;
use rand_core::CryptoRngCore;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::session::Secret;

const HRP: &str = "meshkey";
const CHARSET: &[u8] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const VERSION: u8 = 1;
/// Version 1, range base 4, prefix 1, secret 32, owner 32.
const PAYLOAD: usize = 70;
/// Widest and narrowest range of a network.
const PREFIXES: core::ops::RangeInclusive<u8> = 8..=24;

/// An IPv4 range in normal form: no bit below the prefix is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Range {
    /// First address.
    pub base: Ipv4Addr,
    /// Prefix length in bits, 8 to 24.
    pub prefix: u8,
}

/// A range is unusable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no usable IPv4 range: {why}; write it like 10.77.0.0/16")]
pub struct RangeError {
    text: String,
    why: &'static str,
}

impl Ipv4Range {
    /// Checks and builds a range.
    pub fn new(base: Ipv4Addr, prefix: u8) -> Result<Self, RangeError> {
        let error = |why| RangeError { text: format!("{base}/{prefix}"), why };
        if !PREFIXES.contains(&prefix) {
            return Err(error("the prefix length is not between 8 and 24"));
        }
        let range = Self { base, prefix };
        if u32::from(base) & (range.size() - 1) != 0 {
            return Err(error("address bits are set below the prefix"));
        }
        let foreign =
            base.is_loopback() || base.is_multicast() || base.is_link_local() || base.octets()[0] == 0;
        if foreign || base.octets()[0] >= 240 {
            return Err(error("hosts can't have addresses there"));
        }
        Ok(range)
    }

    /// Number of addresses.
    pub fn size(&self) -> u32 {
        1 << (32 - u32::from(self.prefix))
    }

    /// Whether `address` is inside.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & !(self.size() - 1) == u32::from(self.base)
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }

    /// The /18 ranges of `space`, in order: what a new network's range is picked from. `space` itself if it
    /// is no wider.
    pub fn networks(space: Self) -> impl Iterator<Item = Self> {
        let prefix = space.prefix.max(18);
        let step = 1u32 << (32 - u32::from(prefix));
        (0..space.size() / step)
            .map(move |i| Self { base: Ipv4Addr::from(u32::from(space.base) + i * step), prefix })
    }
}

impl fmt::Display for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl FromStr for Ipv4Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let error = |why| RangeError { text: text.chars().take(40).collect(), why };
        let (base, prefix) = text.split_once('/').ok_or_else(|| error("the '/' is missing"))?;
        let base = base.parse().map_err(|_| error("the address is no IPv4 address"))?;
        let prefix = prefix.parse().map_err(|_| error("the prefix length is no number"))?;
        Self::new(base, prefix)
    }
}

/// What defines a network. Holding it is membership.
#[derive(Clone, PartialEq, Eq)]
pub struct MeshKey {
    /// The network's IPv4 range.
    pub range: Ipv4Range,
    /// The network secret.
    pub secret: Secret,
    /// Public key (Ed25519) of whoever minted it.
    pub owner: [u8; 32],
}

impl fmt::Debug for MeshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshKey").field("range", &self.range).finish_non_exhaustive()
    }
}

/// A text is no mesh-route key. Never repeats the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no beginning of one.
    #[error("this is no mesh-route key: '{HRP}1', with which keys begin, isn't in it")]
    Foreign,
    /// Pasted twice, or two keys.
    #[error("there is more than one key here, or one key twice; give one, once")]
    Several,
    /// A character that no key has.
    #[error("the key has a typo: character {0} can't be in a key")]
    Character(usize),
    /// One character is wrong.
    #[error("the key has a typo: character {0} is wrong")]
    Typo(usize),
    /// More than one character is wrong, or some are missing.
    #[error("the key is damaged: it has {0} characters of {expected} and its checksum doesn't fit", expected = encoded_length())]
    Checksum(usize),
    /// Made by a newer program.
    #[error("the key has version {0} and this program knows {VERSION}; update this program")]
    Version(u8),
    /// The content makes no sense.
    #[error("the key is invalid: {0}")]
    Range(#[from] RangeError),
}

fn encoded_length() -> usize {
    HRP.len() + 1 + (PAYLOAD * 8).div_ceil(5) + 6
}

impl MeshKey {
    /// A new network in `range`. `owner` is the public half of the minter's owner key.
    pub fn mint(range: Ipv4Range, owner: [u8; 32], rng: &mut impl CryptoRngCore) -> Self {
        let mut secret = Secret([0; 32]);
        rng.fill_bytes(&mut secret.0);
        Self { range, secret, owner }
    }

    /// The `meshkey1…` string: a secret.
    pub fn to_string_secret(&self) -> Zeroizing<String> {
        let mut payload = Zeroizing::new(Vec::with_capacity(PAYLOAD));
        payload.push(VERSION);
        payload.extend(self.range.base.octets());
        payload.push(self.range.prefix);
        payload.extend(&self.secret.0);
        payload.extend(&self.owner);
        // Neither the length nor the human part can be refused: both are constants.
        Zeroizing::new(bech32::encode::<Bech32m>(Hrp::parse_unchecked(HRP), &payload).unwrap_or_default())
    }
}

impl FromStr for MeshKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let text = text::key_in(text)?;
        let text = text.as_str();
        let lower = Zeroizing::new(text.to_ascii_lowercase());
        let mixed = *lower != text && text.bytes().any(|b| b.is_ascii_lowercase());
        let bad = |(at, byte): (usize, u8)| {
            let wrong_case = mixed && byte.is_ascii_uppercase();
            (wrong_case || (at > HRP.len() && !CHARSET.contains(&byte.to_ascii_lowercase())))
                .then_some(at + 1)
        };
        if let Some(at) = text.bytes().enumerate().find_map(bad) {
            return Err(KeyError::Character(at));
        }
        let Ok(checked) = CheckedHrpstring::new::<Bech32m>(&lower) else { return Err(damage(&lower)) };
        let payload: Zeroizing<Vec<u8>> = Zeroizing::new(checked.byte_iter().collect());
        parse(&payload)
    }
}

/// Finds the one character whose replacement makes the checksum fit. The corrected key is never used.
fn damage(text: &str) -> KeyError {
    let mut bytes = Zeroizing::new(text.as_bytes().to_vec());
    if bytes.len() == encoded_length() {
        for at in HRP.len() + 1..bytes.len() {
            let Some(original) = bytes.get(at).copied() else { break };
            for &candidate in CHARSET {
                bytes.get_mut(at).into_iter().for_each(|byte| *byte = candidate);
                let fits =
                    core::str::from_utf8(&bytes).is_ok_and(|t| CheckedHrpstring::new::<Bech32m>(t).is_ok());
                if fits {
                    return KeyError::Typo(at + 1);
                }
            }
            bytes.get_mut(at).into_iter().for_each(|byte| *byte = original);
        }
    }
    KeyError::Checksum(text.len())
}

fn parse(payload: &[u8]) -> Result<MeshKey, KeyError> {
    let Some((&version, rest)) = payload.split_first() else { return Err(KeyError::Checksum(0)) };
    if version != VERSION {
        return Err(KeyError::Version(version));
    }
    let fields = rest.split_first_chunk::<4>().and_then(|(base, rest)| {
        let (prefix, rest) = rest.split_first()?;
        let (secret, owner) = rest.split_first_chunk::<32>()?;
        Some((*base, *prefix, *secret, owner.try_into().ok()?))
    });
    let Some((base, prefix, secret, owner)) = fields else { return Err(KeyError::Checksum(payload.len())) };
    Ok(MeshKey { range: Ipv4Range::new(base.into(), prefix)?, secret: Secret(secret), owner })
}

/// Public id of a network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetworkId(pub [u8; 16]);

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Everything derived from a network secret, one BLAKE3 context a purpose.
#[derive(Clone, Debug)]
pub struct NetworkKeys {
    /// Public id.
    pub id: NetworkId,
    /// Pre-shared key of the circuits.
    pub psk: Secret,
    /// Seals records.
    pub record: Secret,
    /// Seed of the topic's key pair: signs envelopes.
    pub topic: Secret,
    /// Keys the address hash.
    pub address: Secret,
    /// Seals what members say to find each other without a link.
    pub discovery: Secret,
    /// `fd12` and 16 bits of network: a /32.
    pub prefix6: Ipv6Addr,
}

impl NetworkKeys {
    /// Derives them.
    pub fn derive(key: &MeshKey) -> Self {
        let derive = |context: &str| Secret(blake3::derive_key(context, &key.secret.0));
        let id = derive("meshhold v1 network id");
        let prefix = derive("meshhold v1 ipv6 prefix");
        let [high, low, ..] = prefix.0;
        let mut short = [0; 16];
        short.iter_mut().zip(&id.0).for_each(|(to, from)| *to = *from);
        Self {
            id: NetworkId(short),
            psk: derive("meshhold v1 circuit psk"),
            record: derive("meshhold v1 record seal"),
            topic: derive("meshhold v1 discovery topic"),
            address: derive("meshhold v1 address"),
            discovery: derive("meshhold v1 discovery seal"),
            prefix6: Ipv6Addr::new(0xfd12, u16::from_be_bytes([high, low]), 0, 0, 0, 0, 0, 0),
        }
    }

    /// Key pair that signs the envelopes of this network.
    pub fn topic_key(&self) -> SigningKey {
        SigningKey::from_bytes(&self.topic.0)
    }

    /// The topic: public half of [`NetworkKeys::topic_key`].
    pub fn topic_id(&self) -> [u8; 32] {
        self.topic_key().verifying_key().to_bytes()
    }
}

#[cfg(test)]
mod tests;
