//! Packets that wait for a session: a few a peer, for a few seconds.
//!
//! Owns the bounds. This is the slow path: it may allocate. Must not know how packets are sent.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Packets that wait for one peer.
const PER_PEER: usize = 32;
/// Bytes that wait for one peer.
const PEER_BYTES: usize = 256 << 10;
/// Peers for which packets wait.
const PEERS: usize = 256;
/// How long a packet waits.
const LIFETIME: Duration = Duration::from_secs(5);
/// How often a peer is asked for again while packets wait.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A read of the TUN that waits.
#[derive(Debug)]
struct Held {
    since: Instant,
    read: Box<[u8]>,
}

#[derive(Debug, Default)]
struct Queue {
    packets: Vec<Held>,
    asked: Option<Instant>,
}

/// All waiting packets of one worker.
#[derive(Debug, Default)]
pub(super) struct Hold(HashMap<u32, Queue>);

impl Hold {
    /// Lets `read` wait for `peer`; false where there is no room.
    pub(super) fn keep(&mut self, peer: u32, read: &[u8], now: Instant) -> bool {
        if self.0.len() >= PEERS && !self.0.contains_key(&peer) {
            return false;
        }
        let queue = self.0.entry(peer).or_default();
        let bytes: usize = queue.packets.iter().map(|held| held.read.len()).sum();
        let fits = queue.packets.len() < PER_PEER && bytes + read.len() <= PEER_BYTES;
        if fits {
            queue.packets.push(Held { since: now, read: read.into() });
        }
        fits
    }

    /// Whether `peer` should be asked for now; at most once in [`ASK_EVERY`].
    pub(super) fn ask(&mut self, peer: u32, now: Instant) -> bool {
        let Some(queue) = self.0.get_mut(&peer) else {
            return false;
        };
        let due = queue.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= ASK_EVERY);
        if due {
            queue.asked = Some(now);
        }
        due
    }

    /// The peers for which packets wait.
    pub(super) fn peers(&self) -> Vec<u32> {
        self.0.keys().copied().collect()
    }

    /// Takes all that wait for `peer`, oldest first.
    pub(super) fn take(&mut self, peer: u32) -> Vec<Box<[u8]>> {
        let queue = self.0.remove(&peer).unwrap_or_default();
        queue.packets.into_iter().map(|held| held.read).collect()
    }

    /// Takes what has waited too long.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Box<[u8]>> {
        let mut expired = Vec::new();
        for queue in self.0.values_mut() {
            let old = |held: &Held| now.saturating_duration_since(held.since) >= LIFETIME;
            let count = queue.packets.iter().take_while(|held| old(held)).count();
            expired.extend(queue.packets.drain(..count).map(|held| held.read));
        }
        self.0.retain(|_, queue| !queue.packets.is_empty());
        expired
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_by_packets_bytes_and_peers() {
        let now = Instant::now();
        let mut hold = Hold::default();
        assert_eq!((0..100).filter(|_| hold.keep(1, &[0; 10], now)).count(), PER_PEER);
        assert_eq!((0..100).filter(|_| hold.keep(2, &[0; 60_000], now)).count(), 4);
        assert_eq!((0..1000).filter(|peer| hold.keep(*peer, &[0], now)).count(), PEERS - 1);
    }

    #[test]
    fn packets_come_out_in_order_or_expire() {
        let start = Instant::now();
        let mut hold = Hold::default();
        assert!(hold.keep(1, &[1], start) && hold.keep(1, &[2], start + Duration::from_secs(1)));
        assert!(hold.ask(1, start) && !hold.ask(1, start + ASK_EVERY / 2) && hold.ask(1, start + ASK_EVERY));
        assert_eq!(hold.expire(start + LIFETIME), [Box::from([1])]);
        assert_eq!(hold.take(1), [Box::from([2])]);
        assert!(hold.is_empty());
    }
}
