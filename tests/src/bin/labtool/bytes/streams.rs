//! A TCP connection full of content in both directions, written in pieces of random size.
//!
//! After the content each end says the hash of what it received, and both must agree.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use anyhow::{Context, Result, bail, ensure};
use blake3::{Hash, Hasher};

use super::content::{self, Random};
use super::{End, read_line};

/// Bytes that are made, or compared, at once.
const BLOCK: usize = 256 << 10;
/// Each piece is at most one of these.
const PIECES: [usize; 5] = [32, 1500, 9000, 65_536, BLOCK];

/// Of all content in each direction, the same at both ends.
pub(super) struct Hashes {
    pub(super) sent: Hash,
    pub(super) received: Hash,
}

pub(super) fn exchange(mut stream: TcpStream, end: End) -> Result<Hashes> {
    let mut outgoing = stream.try_clone()?;
    let writer = std::thread::spawn(move || send(&mut outgoing, end));
    let received = receive(&mut stream, end)?;
    let Ok(sent) = writer.join() else { bail!("the writer panicked") };
    let sent = sent?;
    stream.write_all(format!("{received}\n").as_bytes())?;
    let theirs = read_line(&mut stream)?;
    ensure!(theirs == sent.to_string(), "{sent} was sent and {theirs} received");
    stream.shutdown(Shutdown::Write)?;
    ensure!(stream.read(&mut [0])? == 0, "bytes after the end");
    Ok(Hashes { sent, received })
}

fn send(stream: &mut TcpStream, end: End) -> Result<Hash> {
    let mut random = Random::new(end.seed, end.sends);
    let (mut hasher, mut block, mut offset) = (Hasher::new(), vec![0; BLOCK], 0);
    while let Some(block) = next(&mut block, end.bytes - offset) {
        content::fill(end.seed, end.sends, 0, offset, block);
        hasher.update(block);
        let mut rest: &[u8] = block;
        while !rest.is_empty() {
            let most = random.pick(&PIECES);
            let (piece, after) = rest.split_at(rest.len().min(1 + random.below(most)));
            stream.write_all(piece).with_context(|| format!("{offset} bytes were sent"))?;
            rest = after;
        }
        offset += block.len() as u64;
    }
    Ok(hasher.finalize())
}

fn receive(stream: &mut TcpStream, end: End) -> Result<Hash> {
    let (mut hasher, mut block, mut expected, mut offset) =
        (Hasher::new(), vec![0; BLOCK], vec![0; BLOCK], 0);
    while let Some(block) = next(&mut block, end.bytes - offset) {
        stream.read_exact(block).with_context(|| format!("{offset} bytes were received"))?;
        let expected = expected.get_mut(..block.len()).unwrap_or_default();
        content::fill(end.seed, end.receives, 0, offset, expected);
        if block != expected {
            let at = block.iter().zip(&*expected).position(|(one, other)| one != other);
            bail!("byte {} of the stream is not what was sent", offset + at.unwrap_or_default() as u64);
        }
        hasher.update(block);
        offset += block.len() as u64;
    }
    Ok(hasher.finalize())
}

/// Room for the next block where `left` bytes are left; `None` after the last.
fn next(block: &mut [u8], left: u64) -> Option<&mut [u8]> {
    let len = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
    block.get_mut(..len).filter(|block| !block.is_empty())
}
