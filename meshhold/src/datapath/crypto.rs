//! The AEADs of the packet path, by the fastest backends measured (`docs/performance.md`): libipsec-mb where processor and
//! build have it, else aws-lc.
//!
//! Owns the nonce of a data datagram, which is its header but for the index: that one chooses the key. So the whole header
//! is authenticated without additional data, which would cost each packet a turn of GHASH or Poly1305. Must not know
//! replay windows, counters or packets; the tests check it against the portable reference, crate `chacha20poly1305`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use meshhold_core::session::{Cipher, Secret};
use meshhold_core::wire::{DATA_HEADER, TAG};
use meshhold_ipsec_mb as ipsec_mb;

/// Size of the packets that [`measure`] seals, in bytes.
const SAMPLE: usize = 1400;
/// How long [`measure`] tries each cipher at a time.
const SAMPLE_TIME: Duration = Duration::from_micros(250);
/// How often; the fastest counts. On a busy machine most tries are interrupted, and a choice by them would be chance.
const SAMPLES: usize = 8;

/// A key that can't be used: never for 32 bytes and a known cipher, but the backend has a result for it.
#[derive(Debug, thiserror::Error)]
#[error("the cryptographic library refuses a {0:?} key")]
pub struct KeyError(Cipher);

/// One direction of one lane.
#[derive(Debug)]
pub struct LaneKey(Backend);

#[derive(Debug)]
enum Backend {
    IpsecMb(ipsec_mb::Key),
    AwsLc(LessSafeKey),
}

impl LaneKey {
    /// Expands the key.
    ///
    /// # Errors
    /// The backend refuses the key.
    pub fn new(cipher: Cipher, key: &Secret) -> Result<Self, KeyError> {
        let algorithm = match cipher {
            Cipher::Aes256Gcm => ipsec_mb::Algorithm::Aes256Gcm,
            Cipher::ChaCha20Poly1305 => ipsec_mb::Algorithm::ChaCha20Poly1305,
        };
        match ipsec_mb::Key::new(algorithm, &key.0) {
            Some(key) => Ok(Self(Backend::IpsecMb(key))),
            None => Self::by_aws_lc(cipher, key),
        }
    }

    fn by_aws_lc(cipher: Cipher, key: &Secret) -> Result<Self, KeyError> {
        let algorithm = match cipher {
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = UnboundKey::new(algorithm, &key.0).map_err(|_| KeyError(cipher))?;
        Ok(Self(Backend::AwsLc(LessSafeKey::new(key))))
    }

    fn library(&self) -> &'static str {
        match self.0 {
            Backend::IpsecMb(_) => "libipsec-mb",
            Backend::AwsLc(_) => "aws-lc",
        }
    }

    /// Seals `packet` into `sealed` (ciphertext and tag, exactly as long as both) for a datagram with this `header`, whose
    /// counter must never be used twice with one key. `None` where the backend fails.
    pub fn seal(&self, header: &[u8; DATA_HEADER], packet: &[u8], sealed: &mut [u8]) -> Option<()> {
        let (ciphertext, tag) = sealed.split_last_chunk_mut::<TAG>()?;
        match &self.0 {
            Backend::IpsecMb(key) => *tag = key.seal(&nonce(header), packet, ciphertext)?,
            Backend::AwsLc(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce(header));
                key.seal_out_of_place_scatter(nonce, Aad::empty(), packet, ciphertext, &[], tag).ok()?;
            }
        }
        Some(())
    }

    /// Opens `sealed` (ciphertext and tag) in place and returns the length of the packet at its beginning;
    /// `None` where it was not sealed with this key and header.
    pub fn open(&self, header: &[u8; DATA_HEADER], sealed: &mut [u8]) -> Option<usize> {
        let (packet, tag) = sealed.split_last_chunk_mut::<TAG>()?;
        match &self.0 {
            Backend::IpsecMb(key) => key.open(&nonce(header), packet, tag)?,
            Backend::AwsLc(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce(header));
                key.open_in_place(nonce, Aad::empty(), sealed).ok()?;
            }
        }
        sealed.len().checked_sub(TAG)
    }
}

/// The ciphers of this machine with their sealing speed in MB/s, fastest first. Takes a few milliseconds.
pub fn measure() -> Vec<(Cipher, u32)> {
    let mut speeds: Vec<_> = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305]
        .into_iter()
        .filter_map(|cipher| Some((cipher, speed(cipher)?)))
        .collect();
    speeds.sort_by_key(|(_, speed)| std::cmp::Reverse(*speed));
    speeds
}

fn speed(cipher: Cipher) -> Option<u32> {
    let key = LaneKey::new(cipher, &Secret([7; 32])).ok()?;
    let speed = (0..SAMPLES).filter_map(|_| sample(&key)).max()?;
    tracing::info!(?cipher, library = key.library(), "seals {speed} MB/s");
    Some(speed)
}

fn sample(key: &LaneKey) -> Option<u32> {
    let (packet, mut sealed) = ([0; SAMPLE], [0; SAMPLE + TAG]);
    let started = Instant::now();
    let mut bytes = 0;
    while started.elapsed() < SAMPLE_TIME {
        // The same nonce again and again is fine: nothing sealed here leaves this function.
        key.seal(&[0; DATA_HEADER], black_box(&packet), black_box(&mut sealed))?;
        bytes += packet.len() as u128;
    }
    let micros = started.elapsed().as_micros().max(1);
    Some(u32::try_from(bytes / micros).unwrap_or(u32::MAX).max(1))
}

fn nonce(header: &[u8; DATA_HEADER]) -> [u8; NONCE_LEN] {
    let (front, counter) = header.split_at(DATA_HEADER - size_of::<u64>());
    let (front, _index) = front.split_at(size_of::<u32>());
    let mut nonce = [0; NONCE_LEN];
    // By words: what is moved by bytes is waited for.
    let (start, end) = nonce.split_at_mut(front.len());
    start.copy_from_slice(front);
    end.copy_from_slice(counter);
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;
    use chacha20poly1305::aead::{AeadInPlace, KeyInit};
    use chacha20poly1305::{ChaCha20Poly1305, Key};

    /// By each backend of this machine; the same twice where it has one only.
    fn lane_keys(cipher: Cipher, secret: [u8; 32]) -> [LaneKey; 2] {
        let secret = Secret(secret);
        [LaneKey::new(cipher, &secret).unwrap(), LaneKey::by_aws_lc(cipher, &secret).unwrap()]
    }

    fn packet(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n * 31 + len) as u8).collect()
    }

    #[test]
    fn chacha_matches_the_reference_both_ways() {
        let secret = [0x5a; 32];
        let reference = ChaCha20Poly1305::new(Key::from_slice(&secret));
        for key in lane_keys(Cipher::ChaCha20Poly1305, secret) {
            for (n, len) in [0, 1, 15, 16, 17, 63, 64, 65, 1400, 9000].into_iter().enumerate() {
                let header: [u8; DATA_HEADER] = std::array::from_fn(|at| (n * 17 + at) as u8);
                let mut nonce = [0; 12];
                nonce[..4].copy_from_slice(&header[..4]);
                nonce[4..].copy_from_slice(&header[8..]);
                let (mut ours, mut theirs) = (vec![0; len + TAG], packet(len));
                key.seal(&header, &packet(len), &mut ours).unwrap();
                let tag = reference.encrypt_in_place_detached(&nonce.into(), &[], &mut theirs).unwrap();
                theirs.extend_from_slice(&tag);
                assert_eq!(ours, theirs, "{len} bytes, {key:?}");
                assert_eq!(key.open(&header, &mut theirs), Some(len));
                assert_eq!(theirs[..len], packet(len));
            }
        }
    }

    #[test]
    fn what_one_backend_seals_the_other_opens() {
        for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
            let keys = lane_keys(cipher, [9; 32]);
            for (sealer, opener) in [(0, 1), (1, 0)] {
                let header = std::array::from_fn(|at| at as u8);
                let mut sealed = vec![0; 1400 + TAG];
                keys[sealer].seal(&header, &packet(1400), &mut sealed).unwrap();
                assert_eq!(keys[opener].open(&header, &mut sealed), Some(1400), "{cipher:?}");
                assert_eq!(sealed[..1400], packet(1400), "{cipher:?}");
            }
        }
    }

    #[test]
    fn nothing_altered_opens() {
        for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
            lane_keys(cipher, [1; 32]).iter().for_each(altered_datagrams_stay_shut);
        }
    }

    fn altered_datagrams_stay_shut(key: &LaneKey) {
        let header = [4; DATA_HEADER];
        let mut sealed = vec![0; 100 + TAG];
        key.seal(&header, &packet(100), &mut sealed).unwrap();
        assert!(key.seal(&header, &packet(100), &mut sealed[1..]).is_none(), "no room");
        let opens =
            |header: &[u8; DATA_HEADER], bytes: &[u8]| key.open(header, &mut bytes.to_vec()).is_some();
        assert!(opens(&header, &sealed));
        // The index chooses the key, so it needs no protection by it.
        for at in (0..4).chain(8..DATA_HEADER) {
            let mut altered = header;
            altered[at] ^= 0x10;
            assert!(!opens(&altered, &sealed), "{key:?} byte {at} of the header");
        }
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 0x10;
            assert!(!opens(&header, &altered), "{key:?} byte {at}");
        }
        for len in 0..sealed.len() {
            assert!(!opens(&header, &sealed[..len]), "{key:?} {len} bytes");
        }
    }

    #[test]
    fn both_ciphers_are_measured() {
        let speeds = measure();
        assert_eq!(speeds.len(), 2);
        assert!(speeds[0].1 >= speeds[1].1 && speeds[1].1 > 0);
    }
}
