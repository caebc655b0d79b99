//! The primitives of `snow` with two changes: randomness comes from our generator, and a Diffie-Hellman result of zero,
//! which a public key of low order gives (RFC 7748 section 6.1), is an error.
//!
//! Must not know messages.

use std::sync::Mutex;

use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};

use super::random::SeededRng;

/// The primitives of one handshake.
pub(super) struct Resolver(Mutex<Option<SeededRng>>);

impl Resolver {
    pub(super) fn new(rng: SeededRng) -> Self {
        Self(Mutex::new(Some(rng)))
    }
}

impl CryptoResolver for Resolver {
    /// The generator; only once, or two handshakes would share an ephemeral key.
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        let rng = self.0.lock().ok()?.take()?;
        Some(Box::new(rng))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(ContributoryDh(DefaultResolver.resolve_dh(choice)?)))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct ContributoryDh(Box<dyn Dh>);

impl Dh for ContributoryDh {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn pub_len(&self) -> usize {
        self.0.pub_len()
    }

    fn priv_len(&self) -> usize {
        self.0.priv_len()
    }

    fn set(&mut self, privkey: &[u8]) {
        self.0.set(privkey);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        self.0.generate(rng)
    }

    fn pubkey(&self) -> &[u8] {
        self.0.pubkey()
    }

    fn privkey(&self) -> &[u8] {
        self.0.privkey()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), Error> {
        self.0.dh(pubkey, out)?;
        if out.iter().fold(0, |any, byte| any | byte) == 0 { Err(Error::Dh) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seven points of low order of Curve25519, as WireGuard's test has them.
    fn low_order() -> [[u8; 32]; 7] {
        let small = |first: u8| core::array::from_fn(|at| if at == 0 { first } else { 0 });
        let near_p = |first: u8| {
            core::array::from_fn(|at| match at {
                0 => first,
                31 => 0x7f,
                _ => 0xff,
            })
        };
        let unhex = |text: &str| {
            core::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        };
        [
            small(0),
            small(1),
            unhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
            unhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
            near_p(0xec),
            near_p(0xed),
            near_p(0xee),
        ]
    }

    #[test]
    fn seven_points_of_low_order_end_a_handshake() {
        let mut dh = Resolver::new(SeededRng::new([1; 32])).resolve_dh(&DHChoice::Curve25519).unwrap();
        dh.set(&[0x42; 32]);
        let mut out = [0; 32];
        for point in low_order() {
            assert!(dh.dh(&point, &mut out).is_err(), "{point:02x?}");
        }
        let mut base = [0; 32];
        base[0] = 9;
        assert!(dh.dh(&base, &mut out).is_ok(), "any other point does not");
    }
}
