//! What two members say to each other about paths, inside a circuit (postcard, zeros after it as padding).
//!
//! Owns the format. A message counts because the session authenticates it. Must not know what follows from it.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::birthday::Mapping;

/// Most endpoints in one [`Message::Candidates`].
pub const MAX_CANDIDATES: usize = 16;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// "Does this path work?" Answered at once, by the path on which it came.
    Ping {
        /// Comes back in the answer.
        id: u32,
    },
    /// "It does."
    Pong {
        /// Of the ping.
        id: u32,
        /// From where the ping came, as its receiver saw it: our address, or that of the last relay.
        seen: SocketAddr,
    },
    /// "Send to me here, I am sending to you": both ends open their NATs at the same time.
    Candidates {
        /// Where the sender may be reached.
        endpoints: Vec<SocketAddr>,
    },
    /// How the sender's NAT maps it, as far as two others agree.
    Mapping(Mapping),
    /// "Many ports of my NAT are open to your mapped address: try which."
    Knock {
        /// Of the NAT.
        address: Ipv4Addr,
    },
}

impl Message {
    /// As it is sealed.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// As [`Self::encode`], and as long as an inner packet of `len` bytes.
    pub fn padded(&self, len: usize) -> Vec<u8> {
        let mut bytes = self.encode();
        bytes.resize(len.max(bytes.len()), 0);
        bytes
    }

    /// `None` where it makes no sense.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (message, padding) = postcard::take_from_bytes::<Self>(bytes).ok()?;
        let fits = !matches!(&message, Self::Candidates { endpoints } if endpoints.len() > MAX_CANDIDATES);
        (fits && padding.iter().all(|byte| *byte == 0)).then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_padding_and_nothing_else_is_one() {
        let seen: SocketAddr = "[2001:db8::1]:7777".parse().unwrap();
        for message in [
            Message::Ping { id: u32::MAX },
            Message::Pong { id: 7, seen },
            Message::Candidates { endpoints: vec![seen; MAX_CANDIDATES] },
            Message::Mapping(Mapping::Stable("192.0.2.1:7777".parse().unwrap())),
            Message::Mapping(Mapping::Drawn([192, 0, 2, 1].into())),
            Message::Knock { address: [192, 0, 2, 1].into() },
        ] {
            let long = message.padded(1420);
            assert!(long.len() >= 1420);
            assert_eq!(Message::decode(&long), Some(message.clone()));
            assert_eq!(Message::decode(&message.encode()), Some(message.clone()));
            let mut spoilt = long;
            *spoilt.last_mut().unwrap() = 1;
            assert_eq!(Message::decode(&spoilt), None);
        }
        let many = Message::Candidates { endpoints: vec![seen; MAX_CANDIDATES + 1] };
        for bytes in [&[][..], &[9], &[0], &many.encode()] {
            assert_eq!(Message::decode(bytes), None);
        }
    }
}
