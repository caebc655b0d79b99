//! AES-256-GCM (NIST SP 800-38D) and ChaCha20-Poly1305 (RFC 8439) by libipsec-mb, Intel's Multi-Buffer Crypto for IPsec.
//!
//! On a processor with AVX-512 and VAES it takes 0.55 to 0.65 of aws-lc's time for a full packet (`docs/performance.md`). Owns its
//! C interface; must not know what is encrypted, nor care that a nonce is used once. There is no additional data.

#[cfg_attr(not(ipsec_mb), path = "absent.rs")]
mod sys;

use std::fmt;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use sys::{GcmKey, Manager};

/// Length of a key, in bytes.
pub const KEY: usize = 32;
/// Length of a nonce, in bytes.
pub const NONCE: usize = 12;
/// Length of a tag, in bytes.
pub const TAG: usize = 16;

thread_local! {
    /// `None` where the library isn't there or the processor is none for it. Made by the thread's first packet: 200 kB, 0.4 ms.
    static MANAGER: Option<Manager> = Manager::new();
}

/// Which cipher a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// NIST SP 800-38D with 96-bit nonces and 128-bit tags.
    Aes256Gcm,
    /// RFC 8439.
    ChaCha20Poly1305,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Seal,
    Open,
}

/// What is encrypted or decrypted: from one place to another of the same length, or in place.
#[cfg_attr(not(ipsec_mb), expect(dead_code, reason = "there is no library that reads it"))]
struct Text<'a> {
    /// Where it is read, if not where it is written.
    from: Option<&'a [u8]>,
    to: &'a mut [u8],
}

/// A key, expanded.
pub struct Key(Expanded);

enum Expanded {
    Gcm(Box<GcmKey>),
    ChaCha(Zeroizing<[u8; KEY]>),
}

impl Key {
    /// `None` where the crate was built without the library, and on a processor that lacks what it is fast by.
    #[must_use]
    pub fn new(algorithm: Algorithm, key: &[u8; KEY]) -> Option<Self> {
        MANAGER.with(|manager| {
            let manager = manager.as_ref()?;
            Some(Self(match algorithm {
                Algorithm::Aes256Gcm => Expanded::Gcm(manager.gcm_key(key)),
                Algorithm::ChaCha20Poly1305 => Expanded::ChaCha(Zeroizing::new(*key)),
            }))
        })
    }

    /// Encrypts `packet` into `ciphertext`, which is as long, and gives the tag. `None` where it isn't, or the library fails.
    #[must_use]
    pub fn seal(&self, nonce: &[u8; NONCE], packet: &[u8], ciphertext: &mut [u8]) -> Option<[u8; TAG]> {
        self.run(Direction::Seal, nonce, Text { from: Some(packet), to: ciphertext })
    }

    /// Decrypts `text` in place. `None`, and zeros in it, where `tag` isn't that of this key, nonce and text.
    #[must_use]
    pub fn open(&self, nonce: &[u8; NONCE], text: &mut [u8], tag: &[u8; TAG]) -> Option<()> {
        let found = self.run(Direction::Open, nonce, Text { from: None, to: text });
        if found.is_some_and(|found| found.ct_eq(tag).into()) {
            return Some(());
        }
        text.fill(0);
        None
    }

    fn run(&self, direction: Direction, nonce: &[u8; NONCE], text: Text<'_>) -> Option<[u8; TAG]> {
        MANAGER.with(|manager| {
            let manager = manager.as_ref()?;
            match &self.0 {
                Expanded::Gcm(key) => manager.gcm(direction, key, nonce, text),
                Expanded::ChaCha(key) => manager.chacha(direction, key, nonce, text),
            }
        })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Expanded::Gcm(_) => "Key(AES-256-GCM)",
            Expanded::ChaCha(_) => "Key(ChaCha20-Poly1305)",
        })
    }
}

#[cfg(test)]
mod tests;
