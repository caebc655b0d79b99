//! The two MACs at the end of handshake messages, and cookies against floods from forged addresses.
//!
//! `mac1` proves that the sender holds the network key (and the swarm key, where there is one): without it there
//! is no answer at all. `mac2` proves, while we are under load, that the sender receives at its address: it is
//! keyed with a cookie made from address *and* port. Must not know Noise or sessions.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand_core::CryptoRngCore;

use crate::identity::NodeId;
use crate::session::Secret;

/// Bytes of either MAC.
pub const MAC: usize = 16;
/// Bytes of a sealed cookie: nonce, cookie, tag.
pub const SEALED_COOKIE: usize = 24 + 32 + 16;
/// How long a cookie can be used, and how often the secret behind cookies changes.
pub const COOKIE_LIFETIME: Duration = Duration::from_secs(120);

/// The keys for messages to one receiver in one network.
#[derive(Debug)]
pub struct MacKeys {
    mac1: Secret,
    seal: Secret,
}

impl MacKeys {
    /// Keys for messages to `receiver`.
    pub fn new(psk: &Secret, swarm_key: Option<&Secret>, receiver: NodeId) -> Self {
        let derive = |context: &str| {
            let mut hasher = blake3::Hasher::new_derive_key(context);
            hasher.update(&psk.0).update(&receiver.0);
            if let Some(swarm_key) = swarm_key {
                hasher.update(&swarm_key.0);
            }
            Secret(*hasher.finalize().as_bytes())
        };
        Self { mac1: derive("meshhold v1 handshake mac1"), seal: derive("meshhold v1 handshake cookie") }
    }

    /// `mac1` of `message`.
    pub fn mac1(&self, message: &[u8]) -> [u8; MAC] {
        keyed(&self.mac1, message)
    }

    /// Whether `mac1` fits, in constant time.
    pub fn check_mac1(&self, message: &[u8], mac1: &[u8; MAC]) -> bool {
        equal(&self.mac1(message), mac1)
    }

    /// Seals a cookie for the sender of a message with this `mac1`.
    pub fn seal(
        &self,
        cookie: &Secret,
        mac1: &[u8; MAC],
        rng: &mut impl CryptoRngCore,
    ) -> Option<[u8; SEALED_COOKIE]> {
        let mut sealed = [0; SEALED_COOKIE];
        let (nonce, rest) = sealed.split_at_mut(24);
        rng.fill_bytes(nonce);
        let cipher = XChaCha20Poly1305::new((&self.seal.0).into());
        let text = cipher.encrypt(XNonce::from_slice(nonce), Payload { msg: &cookie.0, aad: mac1 }).ok()?;
        rest.iter_mut().zip(text).for_each(|(to, from)| *to = from);
        Some(sealed)
    }

    /// Opens a cookie that answers our message with this `mac1`.
    pub fn open(&self, sealed: &[u8; SEALED_COOKIE], mac1: &[u8; MAC]) -> Option<Secret> {
        let (nonce, text) = sealed.split_at(24);
        let cipher = XChaCha20Poly1305::new((&self.seal.0).into());
        let plain = cipher.decrypt(XNonce::from_slice(nonce), Payload { msg: text, aad: mac1 }).ok()?;
        Some(Secret(plain.as_slice().try_into().ok()?))
    }
}

/// `mac2` of `message` under a cookie.
pub fn mac2(cookie: &Secret, message: &[u8]) -> [u8; MAC] {
    keyed(cookie, message)
}

/// Makes and checks cookies.
#[derive(Debug)]
pub struct CookieJar {
    secret: Secret,
    previous: Secret,
    since: Option<Instant>,
}

impl CookieJar {
    /// A jar whose first secret is drawn at its first use.
    pub fn new(rng: &mut impl CryptoRngCore) -> Self {
        Self { secret: draw(rng), previous: draw(rng), since: None }
    }

    /// The cookie of `source` now.
    pub fn cookie(&mut self, now: Instant, source: SocketAddr, rng: &mut impl CryptoRngCore) -> Secret {
        self.turn(now, rng);
        cookie(&self.secret, source)
    }

    /// Whether `mac2` was made with a cookie of `source`, of this period or the last.
    pub fn check(
        &mut self,
        now: Instant,
        source: SocketAddr,
        message: &[u8],
        given: &[u8; MAC],
        rng: &mut impl CryptoRngCore,
    ) -> bool {
        self.turn(now, rng);
        [&self.secret, &self.previous]
            .into_iter()
            .any(|secret| equal(&mac2(&cookie(secret, source), message), given))
    }

    /// Changes the secret once per period; after a pause longer than that, none of the old ones counts.
    fn turn(&mut self, now: Instant, rng: &mut impl CryptoRngCore) {
        let age = now.saturating_duration_since(*self.since.get_or_insert(now));
        if age < COOKIE_LIFETIME {
            return;
        }
        self.previous = core::mem::replace(&mut self.secret, draw(rng));
        if age >= 2 * COOKIE_LIFETIME {
            self.previous = draw(rng);
        }
        self.since = Some(now);
    }
}

fn cookie(secret: &Secret, source: SocketAddr) -> Secret {
    let mut hasher = blake3::Hasher::new_keyed(&secret.0);
    match source.ip() {
        IpAddr::V4(ip) => hasher.update(&ip.to_ipv6_mapped().octets()),
        IpAddr::V6(ip) => hasher.update(&ip.octets()),
    };
    hasher.update(&source.port().to_be_bytes());
    Secret(*hasher.finalize().as_bytes())
}

fn draw(rng: &mut impl CryptoRngCore) -> Secret {
    let mut secret = Secret([0; 32]);
    rng.fill_bytes(&mut secret.0);
    secret
}

fn keyed(key: &Secret, message: &[u8]) -> [u8; MAC] {
    let hash = blake3::keyed_hash(&key.0, message);
    let mut mac = [0; MAC];
    mac.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
    mac
}

fn equal(a: &[u8; MAC], b: &[u8; MAC]) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::random::SeededRng;

    #[test]
    fn a_cookie_is_bound_to_address_and_port() {
        let (now, mut rng) = (Instant::now(), SeededRng::new([1; 32]));
        let mut jar = CookieJar::new(&mut rng);
        let source: SocketAddr = "192.0.2.1:7777".parse().unwrap();
        let mac = mac2(&jar.cookie(now, source, &mut rng), b"message");
        let accepts = [
            ("192.0.2.1:7777", true),
            ("[::ffff:192.0.2.1]:7777", true),
            ("192.0.2.1:7778", false),
            ("192.0.2.2:7777", false),
            ("[2001:db8::1]:7777", false),
        ];
        for (source, accepted) in accepts {
            assert_eq!(
                jar.check(now, source.parse().unwrap(), b"message", &mac, &mut rng),
                accepted,
                "{source}"
            );
        }
        assert!(!jar.check(now, source, b"massage", &mac, &mut rng));
        assert!(!jar.check(now, source, b"message", &[0; MAC], &mut rng));
    }

    #[test]
    fn a_cookie_works_for_its_lifetime_and_not_for_ever() {
        let source: SocketAddr = "192.0.2.1:7777".parse().unwrap();
        let ages = [(0, true), (119, true), (121, true), (239, true), (240, false), (100_000, false)];
        for (age, accepted) in ages {
            let (now, mut rng) = (Instant::now(), SeededRng::new([1; 32]));
            let mut jar = CookieJar::new(&mut rng);
            let mac = mac2(&jar.cookie(now, source, &mut rng), b"message");
            let later = now + Duration::from_secs(age);
            assert_eq!(jar.check(later, source, b"message", &mac, &mut rng), accepted, "after {age} s");
        }
    }

    #[test]
    fn a_sealed_cookie_opens_for_its_mac1_and_network_only() {
        let mut rng = SeededRng::new([1; 32]);
        let keys = MacKeys::new(&Secret([2; 32]), None, NodeId([3; 32]));
        let sealed = keys.seal(&Secret([4; 32]), &[5; MAC], &mut rng).unwrap();
        assert_eq!(keys.open(&sealed, &[5; MAC]), Some(Secret([4; 32])));
        assert_eq!(keys.open(&sealed, &[6; MAC]), None);
        let swarm = MacKeys::new(&Secret([2; 32]), Some(&Secret([0; 32])), NodeId([3; 32]));
        assert_eq!(swarm.open(&sealed, &[5; MAC]), None);
        let other = MacKeys::new(&Secret([2; 32]), None, NodeId([4; 32]));
        assert_eq!(other.open(&sealed, &[5; MAC]), None);
    }
}
