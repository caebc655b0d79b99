//! Announcements: sealed so that only holders of a common key learn anything, and all of one size.
//!
//! Owns their bytes. Must not know sockets, or who was met before.

use std::net::{IpAddr, Ipv6Addr};

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use meshhold_core::identity::NodeId;
use meshhold_core::session::Secret;
use rand_core::{OsRng, RngCore as _};

/// Bytes of each announcement on the wire.
pub const DATAGRAM: usize = NONCE + CONTENT + TAG;
const NONCE: usize = 24;
const TAG: usize = 16;
/// Node 32, source 16, time 8, port 2, purpose 1; the rest is zero and for later versions.
const CONTENT: usize = 64;
const SWARM_CONTEXT: &str = "meshhold v1 swarm discovery seal";

/// The seal that holders of one swarm key share.
pub fn swarm_seal(swarm_key: &[u8; 32]) -> Secret {
    Secret(blake3::derive_key(SWARM_CONTEXT, swarm_key))
}

/// What an announcement is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Its sender is still there.
    Tell,
    /// Its sender is new here and wants to hear of others.
    Ask,
    /// Its sender was asked.
    Answer,
}

/// What a node says of itself on a LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Who says it.
    pub node: NodeId,
    /// Where it is sent from: from anywhere else it is a replay.
    pub source: IpAddr,
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
    /// UDP port of links and circuits.
    pub port: u16,
    /// Why.
    pub purpose: Purpose,
}

impl Announcement {
    /// The datagram, different each time.
    pub fn seal(&self, key: &Secret) -> Vec<u8> {
        let mut nonce = [0; NONCE];
        OsRng.fill_bytes(&mut nonce);
        let cipher = XChaCha20Poly1305::new((&key.0).into());
        // Fails only for contents of 256 GiB and more.
        let sealed =
            cipher.encrypt(XNonce::from_slice(&nonce), self.content().as_slice()).unwrap_or_default();
        [nonce.as_slice(), &sealed].concat()
    }

    /// What `datagram` says to holders of `key`; `None` to all others.
    pub fn open(key: &Secret, datagram: &[u8]) -> Option<Self> {
        if datagram.len() != DATAGRAM {
            return None;
        }
        let (nonce, sealed) = datagram.split_first_chunk::<NONCE>()?;
        let cipher = XChaCha20Poly1305::new((&key.0).into());
        Self::parse(&cipher.decrypt(XNonce::from_slice(nonce), sealed).ok()?)
    }

    fn content(&self) -> Vec<u8> {
        let source = match self.source {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut content = Vec::with_capacity(CONTENT);
        content.extend(self.node.0);
        content.extend(source.octets());
        content.extend(self.at.to_be_bytes());
        content.extend(self.port.to_be_bytes());
        content.push(self.purpose as u8);
        content.resize(CONTENT, 0);
        content
    }

    fn parse(content: &[u8]) -> Option<Self> {
        let (node, rest) = content.split_first_chunk::<32>()?;
        let (source, rest) = rest.split_first_chunk::<16>()?;
        let (at, rest) = rest.split_first_chunk::<8>()?;
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let purpose = match rest.first()? {
            0 => Purpose::Tell,
            1 => Purpose::Ask,
            2 => Purpose::Answer,
            _ => return None,
        };
        let port = Some(u16::from_be_bytes(*port)).filter(|port| *port != 0)?;
        let source = Ipv6Addr::from(*source).to_canonical();
        Some(Self { node: NodeId(*node), source, at: u64::from_be_bytes(*at), port, purpose })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(source: &str) -> Announcement {
        let source = source.parse().unwrap();
        Announcement {
            node: NodeId([7; 32]),
            source,
            at: 1_700_000_000_123,
            port: 7777,
            purpose: Purpose::Ask,
        }
    }

    #[test]
    fn only_holders_of_the_key_learn_anything() {
        let (key, other) = (Secret([1; 32]), Secret([2; 32]));
        for source in ["192.0.2.7", "2001:db8::7"] {
            let said = announcement(source);
            let sealed = said.seal(&key);
            assert_eq!(sealed.len(), DATAGRAM);
            assert_eq!(Announcement::open(&key, &sealed), Some(said));
            assert_eq!(Announcement::open(&other, &sealed), None);
            for position in 0..sealed.len() {
                let mut damaged = sealed.clone();
                damaged[position] ^= 1;
                assert_eq!(Announcement::open(&key, &damaged), None, "byte {position}");
            }
        }
        assert_ne!(swarm_seal(&[1; 32]), Secret([1; 32]));
    }

    #[test]
    fn two_have_no_bytes_in_common() {
        let key = Secret([1; 32]);
        let sealed: Vec<_> = (0..64).map(|_| announcement("192.0.2.7").seal(&key)).collect();
        for at in 0..DATAGRAM {
            let first = sealed[0][at];
            assert!(sealed.iter().any(|one| one[at] != first), "byte {at} is a constant");
        }
    }

    #[test]
    fn rubbish_is_none_whatever_its_length() {
        let mut junk = vec![0; 4096];
        for round in 0..20_000 {
            OsRng.fill_bytes(&mut junk);
            let length = if round % 4 == 0 { DATAGRAM } else { round % junk.len() };
            assert_eq!(Announcement::open(&Secret([1; 32]), &junk[..length]), None);
            if let Some(parsed) = Announcement::parse(&junk[..round % 100]) {
                assert_ne!(parsed.port, 0);
                assert_eq!(Announcement::parse(&parsed.content()), Some(parsed));
            }
        }
        let said = announcement("192.0.2.7");
        assert_eq!(Announcement::parse(&said.content()), Some(said));
        let mut unknown = said.content();
        unknown[58] = 3;
        assert_eq!(Announcement::parse(&unknown), None);
    }
}
