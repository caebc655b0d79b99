//! What was read from a TUN queue in one turn, to be handled together.
//!
//! Owns the buffer. Must not know what the reads hold.

use std::io::{self, ErrorKind};

use super::offload::virtio;
use super::run::PACKET;

/// Most reads of a turn.
const MAX_READS: usize = 64;
/// Bytes after which a turn ends: less than a large super-packet has.
const TURN: usize = PACKET / 2;

/// The reads of one turn.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Empty in the one that stands in while this one is used.
    buffer: Box<[u8]>,
    /// Where each read ends; it starts where the one before ends.
    ends: Vec<usize>,
}

impl Reads {
    /// With room for a turn.
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; TURN + virtio::LEN + PACKET].into(), ends: Vec::with_capacity(MAX_READS) }
    }

    /// Reads until nothing waits or the turn is full.
    ///
    /// # Errors
    /// What `read` says, but for what passes by itself (nothing there, interrupted, no memory now).
    pub(super) fn fill(&mut self, mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
        self.ends.clear();
        let mut at = 0;
        while at < TURN && self.ends.len() < MAX_READS {
            match read(self.buffer.get_mut(at..).unwrap_or_default()) {
                Ok(len) => at += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if is_temporary(&error) => break,
                Err(error) => return Err(error),
            }
            self.ends.push(at);
        }
        Ok(())
    }

    /// The reads, oldest first.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let mut rest = &mut *self.buffer;
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let (read, after) = std::mem::take(&mut rest).split_at_mut(end - start);
            (rest, start) = (after, *end);
            read
        })
    }
}

fn is_temporary(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
        || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_ends_when_nothing_waits_or_it_is_full() {
        let mut reads = Reads::new();
        let mut sizes = [3, 0, 5].into_iter();
        let small = |room: &mut [u8]| {
            let len = sizes.next().ok_or(ErrorKind::WouldBlock)?;
            room[..len].fill(len as u8);
            Ok(len)
        };
        reads.fill(small).unwrap();
        let seen: Vec<_> = reads.iter_mut().map(|read| read.to_vec()).collect();
        assert_eq!(seen, [vec![3; 3], vec![], vec![5; 5]]);
        let mut calls = 0;
        reads
            .fill(|room| {
                Ok(room.len().min(
                    20_000 + {
                        calls += 1;
                        0
                    },
                ))
            })
            .unwrap();
        assert_eq!((calls, reads.iter_mut().count()), (2, 2));
        reads.fill(|_| Ok(60)).unwrap();
        assert_eq!(reads.iter_mut().count(), MAX_READS);
    }

    #[test]
    fn a_lost_queue_is_an_error() {
        let mut reads = Reads::new();
        assert!(reads.fill(|_| Err(io::Error::from_raw_os_error(libc::EBADFD))).is_err());
        assert_eq!(reads.iter_mut().count(), 0);
    }
}
