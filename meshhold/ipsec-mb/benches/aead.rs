//! What sealing and opening a packet costs by libipsec-mb and by aws-lc: a Markdown table of nanoseconds.
//!
//! `cargo bench --package meshhold-ipsec-mb`, with nothing else running. What is opened is put back by a copy each time,
//! which counts.

use std::hint::black_box;
use std::time::Instant;

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use meshhold_ipsec_mb::{Algorithm, KEY, Key, NONCE, TAG};

/// An empty packet, an acknowledgement, those of the benchmarks, a full one, and one of a path with jumbo frames.
const LENGTHS: [usize; 6] = [0, 52, 200, 576, 1420, 8900];
/// Packets at different places, as a worker has them.
const PACKETS: usize = 64;
/// Turns through them in a try.
const TURNS: usize = 2_000;
/// Tries, of which the fastest counts.
const TRIES: usize = 7;

/// Encrypts or decrypts one packet at this place; the number makes its nonce.
type Work<'a> = &'a mut dyn FnMut(&mut [u8], usize);

fn main() {
    println!(
        "| bytes | cipher | libipsec-mb: seal, open ns | aws-lc: seal, open ns |\n| --- | --- | --- | --- |"
    );
    for (algorithm, theirs, name) in [
        (Algorithm::Aes256Gcm, &AES_256_GCM, "AES-256-GCM"),
        (Algorithm::ChaCha20Poly1305, &CHACHA20_POLY1305, "ChaCha20-Poly1305"),
    ] {
        let key = Key::new(algorithm, &[7; KEY]);
        let Ok(theirs) = UnboundKey::new(theirs, &[7; KEY]).map(LessSafeKey::new) else { continue };
        for len in LENGTHS {
            let ours = key.as_ref().map_or("not here".into(), |key| by_ipsec_mb(key, len));
            println!("| {len} | {name} | {ours} | {} |", by_aws_lc(&theirs, len));
        }
    }
}

fn by_ipsec_mb(key: &Key, len: usize) -> String {
    // From one place to another, as packets are sealed.
    let packet = vec![0; len];
    let seal = time(len, &mut |sealed, n| {
        black_box(key.seal(&nonce(n), black_box(&packet), &mut sealed[..len]));
    });
    let mut text = vec![0; len];
    let tag = key.seal(&nonce(0), &packet, &mut text).unwrap_or_default();
    let open = time(len, &mut |sealed, _| {
        sealed[..len].copy_from_slice(&text);
        black_box(key.open(&nonce(0), &mut sealed[..len], &tag));
    });
    format!("{seal:.0}, {open:.0}")
}

fn by_aws_lc(key: &LessSafeKey, len: usize) -> String {
    let packet = vec![0; len];
    let seal = time(len, &mut |sealed, n| {
        let (text, tag) = sealed.split_at_mut(len);
        let nonce = Nonce::assume_unique_for_key(nonce(n));
        black_box(key.seal_out_of_place_scatter(nonce, Aad::empty(), black_box(&packet), text, &[], tag))
            .ok();
    });
    let mut text = packet.clone();
    let nonce = || Nonce::assume_unique_for_key(nonce(0));
    if key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut text).is_err() {
        return "fails".into();
    }
    let open = time(len, &mut |sealed, _| {
        sealed.copy_from_slice(&text);
        black_box(key.open_in_place(nonce(), Aad::empty(), sealed)).ok();
    });
    format!("{seal:.0}, {open:.0}")
}

/// Nanoseconds of `work` with one packet of `len` bytes.
fn time(len: usize, work: Work<'_>) -> f64 {
    let mut packets = vec![vec![0; len + TAG]; PACKETS];
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        let started = Instant::now();
        for turn in 0..TURNS {
            for (n, packet) in packets.iter_mut().enumerate() {
                work(packet, turn * PACKETS + n);
            }
        }
        best = best.min(started.elapsed().as_nanos() as f64 / (TURNS * PACKETS) as f64);
    }
    best
}

fn nonce(n: usize) -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    let (start, _) = nonce.split_at_mut(size_of::<usize>());
    start.copy_from_slice(&n.to_le_bytes());
    nonce
}
