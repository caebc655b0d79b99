//! What time alone brings about: retries, renewals, keepalives, ends.
//!
//! Owns the sweep over the peers. Must not know how a handshake works.

use std::time::Instant;

use super::peer::{Attempts, KEEPALIVE_AFTER, REJECT_AFTER};
use super::{Circuits, Output, PeerKey};

impl Circuits {
    /// The next moment at which [`Circuits::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers.values().filter_map(super::peer::Peer::next_timer).min()
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due = self.peers.iter().filter(|(_, peer)| peer.next_timer().is_some_and(|at| at <= now));
        let due: Vec<PeerKey> = due.map(|(key, _)| *key).collect();
        for key in due {
            self.end_sessions(now, key);
            self.keep_alive(now, key);
            self.retry(now, key);
        }
    }

    fn end_sessions(&mut self, now: Instant, key: PeerKey) {
        let Some(peer) = self.peers.get(&key) else { return };
        let old = peer.sessions.iter().filter(|s| now.duration_since(s.created) >= REJECT_AFTER);
        let old: Vec<u32> = old.map(|s| s.local_index).collect();
        let had_session = peer.sending.is_some();
        for index in old {
            self.retire(key, index);
        }
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if had_session && peer.sending.is_none() {
            peer.owes_since = None;
            peer.unanswered_since = None;
            let reason = if peer.attempts.is_none() { "idle" } else { "expired" };
            self.push(Output::Down { network: key.0, peer: key.1, reason });
        }
    }

    fn keep_alive(&mut self, now: Instant, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(local_index) = peer.sending else { return };
        if peer.owes_since.is_some_and(|since| now.duration_since(since) >= KEEPALIVE_AFTER) {
            peer.owes_since = None;
            self.push(Output::Keepalive { local_index });
        }
    }

    fn retry(&mut self, now: Instant, key: PeerKey) {
        match self.peers.get(&key).and_then(|peer| peer.attempts) {
            Some(attempts) if attempts.are_over(now) => {
                self.counts.given_up += 1;
                self.drop_peer(key, "no answer");
            }
            Some(attempts) if attempts.next <= now => self.initiate(now, key),
            _ => {}
        }
    }

    /// Begins a handshake with retries.
    pub(super) fn renew(&mut self, now: Instant, key: PeerKey) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.attempts = Some(Attempts::new(now));
            self.initiate(now, key);
        }
    }
}
