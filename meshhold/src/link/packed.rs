//! Envelopes in a text file: each as the hexadecimal digits of its compact form. As JSON's lists of numbers they would
//! take three times as much.
//!
//! Must not know what an envelope says or who keeps the file.

use std::sync::Arc;

use meshhold_core::record::Envelope;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

struct Packed(Arc<Envelope>);

pub(super) fn serialize<S: Serializer>(envelopes: &[Arc<Envelope>], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(envelopes.iter().map(|envelope| Packed(envelope.clone())))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Arc<Envelope>>, D::Error> {
    let packed = Vec::<Packed>::deserialize(from)?;
    Ok(packed.into_iter().map(|Packed(envelope)| envelope).collect())
}

impl Serialize for Packed {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let bytes = postcard::to_allocvec(&*self.0).map_err(S::Error::custom)?;
        to.serialize_str(&to_digits(&bytes))
    }
}

impl<'de> Deserialize<'de> for Packed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(from)?;
        let bytes = from_digits(&digits).ok_or_else(|| D::Error::custom("not an envelope's digits"))?;
        postcard::from_bytes(&bytes).map(|envelope| Self(Arc::new(envelope))).map_err(D::Error::custom)
    }
}

fn to_digits(bytes: &[u8]) -> String {
    let halves = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    halves.filter_map(|half| DIGITS.get(usize::from(half))).map(|digit| char::from(*digit)).collect()
}

/// `None` where anything but pairs of digits stands.
fn from_digits(digits: &str) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| {
            let [high, low] = *pair else { return None };
            u8::try_from(value(high)? << 4 | value(low)?).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Snapshot;

    #[test]
    fn envelopes_come_back_and_damage_is_seen() {
        let signature = [3; 64];
        let envelope = Envelope {
            topic: [1; 32],
            slot: [2; 16],
            version: 7,
            expires: 9,
            sealed: vec![0, 0xff, 4],
            signature,
        };
        let snapshot = Snapshot { links: Vec::new(), envelopes: vec![Arc::new(envelope)] };
        let text = serde_json::to_string(&snapshot).unwrap();
        assert!(text.contains("0202") && text.contains("00ff04"), "{text}");
        assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
        for damaged in [text.replace("00ff", "00f"), text.replace("00ff", "00fg"), text.replace("0202", "")] {
            assert!(serde_json::from_str::<Snapshot>(&damaged).is_err(), "{damaged}");
        }
    }
}
