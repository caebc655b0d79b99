//! One datagram = one record: header, sealed bytes, tag. Records of one size leave in one call.
//!
//! Must not know what is inside.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use anyhow::{Result, anyhow, bail};
use aws_lc_rs::aead::{AES_128_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use meshhold::platform::linux::sys_net::{self, Outgoing};

/// Counter (8 bytes) and [`Note`] (8 bytes): as long as the header of a VPN's data datagram.
pub(super) const HEADER: usize = 16;
pub(super) const TAG: usize = 16;
/// The kernel's limits for one UDP_SEGMENT call.
const MOST_RECORDS: usize = 64;
const MOST_BYTES: usize = 65_000;

/// What goes beside a record, authenticated and in the clear.
pub(super) type Note = [u8; 8];

pub(super) struct Key(LessSafeKey);

impl Key {
    pub(super) fn new(cipher: &str) -> Result<Self> {
        let algorithm = match cipher {
            "aes-128-gcm" => &AES_128_GCM,
            "chacha20-poly1305" => &CHACHA20_POLY1305,
            _ => bail!("the cipher is aes-128-gcm or chacha20-poly1305, not {cipher}"),
        };
        let bytes = [0x6d; 32];
        let key = UnboundKey::new(algorithm, bytes.get(..algorithm.key_len()).unwrap_or_default());
        Ok(Self(LessSafeKey::new(key.map_err(|_| anyhow!("{cipher} refuses its key"))?)))
    }

    /// Writes header and tag around the bytes that stand in the middle of `record`.
    pub(super) fn seal(&self, counter: u64, note: Note, record: &mut [u8]) -> Option<()> {
        let (head, rest) = record.split_first_chunk_mut::<HEADER>()?;
        let (body, tag) = rest.split_last_chunk_mut::<TAG>()?;
        let (first, second) = head.split_at_mut(8);
        first.copy_from_slice(&counter.to_le_bytes());
        second.copy_from_slice(&note);
        let sealed = self.0.seal_in_place_separate_tag(nonce(counter), Aad::from(note), body).ok()?;
        tag.copy_from_slice(sealed.as_ref());
        Some(())
    }

    /// Opens a record in place; its bytes then stand after the header.
    pub(super) fn open(&self, record: &mut [u8]) -> Option<(Note, usize)> {
        let (head, sealed) = record.split_first_chunk_mut::<HEADER>()?;
        let (counter, note) = head.split_first_chunk::<8>()?;
        let note: Note = note.try_into().ok()?;
        let opened =
            self.0.open_in_place(nonce(u64::from_le_bytes(*counter)), Aad::from(note), sealed).ok()?;
        Some((note, opened.len()))
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    if let Some(low) = bytes.first_chunk_mut::<8>() {
        *low = counter.to_le_bytes();
    }
    Nonce::assume_unique_for_key(bytes)
}

/// Sealed records on their way to the other end.
pub(super) struct Outbox {
    key: Key,
    counter: u64,
    socket: UdpSocket,
    remote: SocketAddr,
    bytes: Vec<u8>,
    used: usize,
    records: usize,
    /// Length of the first record; a shorter one is the last of its call.
    size: usize,
    closed: bool,
}

impl Outbox {
    pub(super) fn new(key: Key, socket: UdpSocket, remote: SocketAddr) -> Self {
        let bytes = vec![0; MOST_BYTES];
        Self { key, counter: 0, socket, remote, bytes, used: 0, records: 0, size: 0, closed: false }
    }

    /// Adds a record with `length` bytes, which `fill` writes; sends first what it can't share a call with.
    pub(super) fn add(&mut self, length: usize, note: Note, fill: impl FnOnce(&mut [u8])) {
        let length = HEADER + length + TAG;
        if self.closed
            || length > self.size
            || self.records == MOST_RECORDS
            || self.used + length > MOST_BYTES
        {
            self.send();
        }
        let Some(record) = self.bytes.get_mut(self.used..self.used + length) else { return };
        if let Some(body) = record.get_mut(HEADER..length - TAG) {
            fill(body);
        }
        self.counter += 1;
        if self.key.seal(self.counter, note, record).is_none() {
            return;
        }
        self.size = self.size.max(length);
        self.closed = length < self.size;
        self.used += length;
        self.records += 1;
    }

    /// Seals records that stand in a buffer of the caller's, `stride` bytes each but the last, and sends them.
    pub(super) fn send_in_place(&mut self, bytes: &mut [u8], stride: usize, note: impl Fn(usize) -> Note) {
        for (index, record) in bytes.chunks_mut(stride).enumerate() {
            self.counter += 1;
            if self.key.seal(self.counter, note(index), record).is_none() {
                return;
            }
        }
        for run in bytes.chunks(MOST_BYTES / stride * stride) {
            send(&self.socket, run, stride, self.remote);
        }
    }

    /// Sends what has been added.
    pub(super) fn send(&mut self) {
        let bytes = self.bytes.get(..self.used).unwrap_or_default();
        if !bytes.is_empty() {
            send(&self.socket, bytes, self.size, self.remote);
        }
        (self.used, self.records, self.size, self.closed) = (0, 0, 0, false);
    }
}

fn send(socket: &UdpSocket, bytes: &[u8], size: usize, to: SocketAddr) {
    let segment = if bytes.len() > size { u16::try_from(size).unwrap_or_default() } else { 0 };
    // What the network refuses is lost, as on any network.
    let _ = sys_net::send_many(socket.as_fd(), [Outgoing { bytes, segment, to, hops: 0, from: None }]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_open_as_they_were_sealed() {
        for cipher in ["aes-128-gcm", "chacha20-poly1305"] {
            let key = Key::new(cipher).unwrap();
            let mut record = vec![0; HEADER + 100 + TAG];
            record[HEADER..HEADER + 100].fill(7);
            key.seal(5, [1; 8], &mut record).unwrap();
            let mut altered = record.clone();
            assert_eq!(key.open(&mut record), Some(([1; 8], 100)));
            assert_eq!(record[HEADER..HEADER + 100], [7; 100]);
            altered[9] ^= 1;
            assert!(key.open(&mut altered).is_none());
        }
    }
}
