//! Against aws-lc and the portable reference. Without the processor for it there is nothing to compare: the first test says
//! where there must be.

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use chacha20poly1305::aead::{AeadInPlace as _, KeyInit as _};

use super::*;

const ALGORITHMS: [Algorithm; 2] = [Algorithm::Aes256Gcm, Algorithm::ChaCha20Poly1305];

/// Each length to beyond what the library takes in one turn, then those of packets and of the longest datagram.
fn lengths() -> impl Iterator<Item = usize> {
    (0..=2100).chain([8_900, 9_000, 65_507])
}

/// Bytes that differ from call to call.
fn bytes<const N: usize>(seed: usize) -> [u8; N] {
    std::array::from_fn(|at| (seed * 131 + at * 29 + (at >> 8) * 7) as u8)
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + (at >> 8) + len) as u8).collect()
}

/// Ciphertext and tag by aws-lc.
fn sealed(algorithm: Algorithm, key: &[u8; KEY], nonce: &[u8; NONCE], text: &[u8]) -> Vec<u8> {
    let theirs = match algorithm {
        Algorithm::Aes256Gcm => &AES_256_GCM,
        Algorithm::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    };
    let key = LessSafeKey::new(UnboundKey::new(theirs, key).unwrap());
    let mut sealed = text.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut sealed).unwrap();
    sealed
}

#[test]
fn it_is_there_on_a_processor_for_it() {
    let linux = cfg!(all(target_os = "linux", target_arch = "x86_64"));
    let skipped = std::env::var_os("MESHHOLD_SKIP_IPSEC_MB").is_some_and(|skip| skip == "1");
    assert_eq!(cfg!(ipsec_mb), linux && !skipped, "`cargo xtask setup` installs what is missing");
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags: Vec<&str> = info
        .lines()
        .find(|line| line.starts_with("flags"))
        .map_or(Vec::new(), |line| line.split(' ').collect());
    let needed = [
        "avx2",
        "avx512f",
        "avx512dq",
        "avx512cd",
        "avx512bw",
        "avx512vl",
        "avx512ifma",
        "vaes",
        "vpclmulqdq",
        "gfni",
        "sha_ni",
    ];
    let fit = needed.iter().all(|flag| flags.contains(flag));
    for algorithm in ALGORITHMS {
        assert_eq!(Key::new(algorithm, &[1; KEY]).is_some(), cfg!(ipsec_mb) && fit, "{algorithm:?}");
    }
}

#[test]
fn every_length_is_sealed_and_opened_as_aws_lc_does() {
    for algorithm in ALGORITHMS {
        for len in lengths() {
            let (secret, nonce, text) = (bytes(len), bytes(len + 1), text(len));
            let Some(key) = Key::new(algorithm, &secret) else { return };
            let expected = sealed(algorithm, &secret, &nonce, &text);
            let (ciphertext, tag) = expected.split_last_chunk::<TAG>().unwrap();
            // At an odd address, with bytes around it that must stay.
            let mut room = vec![0xee; len + 2];
            assert_eq!(
                key.seal(&nonce, &text, &mut room[1..=len]).as_ref(),
                Some(tag),
                "{algorithm:?} {len}"
            );
            assert_eq!(&room[1..=len], ciphertext, "{algorithm:?} {len}");
            assert_eq!(key.open(&nonce, &mut room[1..=len], tag), Some(()), "{algorithm:?} {len}");
            assert_eq!(room[1..=len], text, "{algorithm:?} {len}");
            assert_eq!((room[0], room[len + 1]), (0xee, 0xee), "{algorithm:?} {len}");
        }
    }
}

/// Poly1305's accumulator then holds what a lost carry would show in: all ones, and its prime and what is next to it.
#[test]
fn extreme_texts_have_the_reference_s_tags() {
    for len in (0..=2100).step_by(16) {
        for (seed, fill) in [0x00, 0x01, 0xfa, 0xfb, 0xfe, 0xff].into_iter().enumerate() {
            let (secret, nonce) = (bytes(seed + len), bytes(seed));
            let Some(key) = Key::new(Algorithm::ChaCha20Poly1305, &secret) else { return };
            let reference = chacha20poly1305::ChaCha20Poly1305::new(&secret.into());
            // The ciphertext is the extreme one: the text is its decryption.
            let mut text = vec![0; len];
            let _ = reference.encrypt_in_place_detached(&nonce.into(), &[], &mut text).unwrap();
            text.iter_mut().for_each(|byte| *byte ^= fill);
            let mut expected = text.clone();
            let tag = reference.encrypt_in_place_detached(&nonce.into(), &[], &mut expected).unwrap();
            assert!(expected.iter().all(|byte| *byte == fill));
            let mut ciphertext = vec![0; len];
            assert_eq!(key.seal(&nonce, &text, &mut ciphertext), Some(tag.into()), "{fill:#x} {len}");
            assert_eq!(ciphertext, expected, "{fill:#x} {len}");
        }
    }
}

#[test]
fn what_does_not_open_leaves_zeros() {
    for algorithm in ALGORITHMS {
        let (secret, nonce, text) = (bytes(1), bytes(2), text(200));
        let Some(key) = Key::new(algorithm, &secret) else { return };
        let expected = sealed(algorithm, &secret, &nonce, &text);
        let (ciphertext, tag) = expected.split_last_chunk::<TAG>().unwrap();
        for bit in 0..TAG * 8 {
            let (mut text, mut tag) = (ciphertext.to_vec(), *tag);
            tag[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(&nonce, &mut text, &tag), None, "{algorithm:?} bit {bit}");
            assert_eq!(text, [0; 200], "{algorithm:?} bit {bit}");
        }
    }
}

#[test]
fn lengths_that_differ_are_refused() {
    for algorithm in ALGORITHMS {
        let Some(key) = Key::new(algorithm, &[3; KEY]) else { return };
        let mut ciphertext = [0xee; 10];
        assert_eq!(key.seal(&[0; NONCE], &[1; 9], &mut ciphertext), None);
        assert_eq!(key.seal(&[0; NONCE], &[1; 11], &mut ciphertext), None);
        assert_eq!(ciphertext, [0xee; 10]);
    }
}

/// Each thread has a manager of its own, which a key made by another one is used with.
#[test]
fn keys_are_used_by_many_threads_at_once() {
    for algorithm in ALGORITHMS {
        let (secret, nonce, text) = (bytes(5), bytes(6), text(1420));
        let Some(key) = Key::new(algorithm, &secret) else { return };
        let expected = sealed(algorithm, &secret, &nonce, &text);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut ciphertext = vec![0; text.len()];
                    for _ in 0..2_000 {
                        let tag = key.seal(&nonce, &text, &mut ciphertext).unwrap();
                        assert_eq!(ciphertext, expected[..text.len()]);
                        assert_eq!(tag, expected[text.len()..]);
                    }
                });
            }
        });
    }
}
