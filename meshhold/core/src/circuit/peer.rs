//! The circuit to one peer: its sessions and the handshake under way.
//!
//! Owns the timing rules (WireGuard's). Must not know other peers, keys or datagrams.

use std::time::{Duration, Instant};

use crate::cookie::MAC;
use crate::handshake::Initiator;
use crate::path::Path;
use crate::record::SKEW;
use crate::session::{Cipher, Secret};

/// Age at which the initiator of a session renews it.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);
/// Age at which the responder renews it, should the initiator have failed to.
pub(super) const RESPONDER_REKEY_AFTER: Duration = Duration::from_secs(135);
/// Age at which a session ends.
pub const REJECT_AFTER: Duration = Duration::from_secs(180);
/// Silence after received data that is broken by a keepalive.
pub const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
/// Unanswered data after which the circuit is set up anew: keepalive and a handshake retry.
pub const UNANSWERED_AFTER: Duration = Duration::from_secs(15);
/// How long handshakes are retried.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(90);
/// Pauses between retries; the last one repeats.
const RETRIES: [u64; 4] = [500, 1_000, 2_000, 5_000];
/// Most endpoints that an initiation goes to.
pub(super) const MAX_ENDPOINTS: usize = 8;

/// A time that is further ahead of our clock is none that others are held against.
const AHEAD: Duration = Duration::from_secs(3);

fn is_ahead(time: Duration, wall: Duration) -> bool {
    time > wall.saturating_add(AHEAD)
}

/// A handshake that we began.
pub(super) struct Pending {
    pub(super) state: Initiator,
    pub(super) local_index: u32,
    pub(super) mac1: [u8; MAC],
    /// As it was sent, for paths that are found later.
    pub(super) datagram: Vec<u8>,
    pub(super) sent_at: Instant,
}

/// When to try again, and since when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempts {
    since: Instant,
    made: usize,
    pub(super) next: Instant,
}

impl Attempts {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, made: 0, next: now }
    }

    /// Counts one attempt; `jitter` is added to the pause.
    pub(super) fn made(&mut self, now: Instant, jitter: Duration) {
        let pause = RETRIES.get(self.made).or(RETRIES.last()).copied().unwrap_or(5_000);
        self.next = (now + Duration::from_millis(pause) + jitter).min(self.since + GIVE_UP_AFTER);
        self.made += 1;
    }

    pub(super) fn is_first(&self) -> bool {
        self.made == 1
    }

    pub(super) fn are_over(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= GIVE_UP_AFTER
    }
}

/// A session that may receive.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) local_index: u32,
    pub(super) created: Instant,
    pub(super) initiator: bool,
    pub(super) confirmed: bool,
    /// Where the handshake message came from.
    pub(super) remote: Path,
    pub(super) cipher: Cipher,
    pub(super) traffic: Traffic,
}

/// Totals of a session as last reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams sent, keepalives included.
    pub tx_packets: u64,
    /// Datagrams received, keepalives included.
    pub rx_packets: u64,
    /// Inner bytes sent.
    pub tx_bytes: u64,
    /// Inner bytes received.
    pub rx_bytes: u64,
}

/// The circuit to one peer.
pub(super) struct Peer {
    pub(super) endpoints: Vec<Path>,
    pub(super) remote: Option<Path>,
    pub(super) pending: Option<Pending>,
    pub(super) attempts: Option<Attempts>,
    pub(super) sessions: Vec<Live>,
    /// Local index of the session that sends.
    pub(super) sending: Option<u32>,
    pub(super) cookie: Option<(Secret, Instant)>,
    /// Time of the newest initiation that we accepted.
    newest: Duration,
    /// The same of those that were far ahead of our clock: one of both clocks was wrong.
    newest_ahead: Duration,
    pub(super) rtt: Option<Duration>,
    /// How far its clock was ahead of ours at that initiation, in seconds.
    pub(super) ahead: Option<i64>,
    /// Data was received, and nothing sent since.
    pub(super) owes_since: Option<Instant>,
    /// Data was sent, and nothing received since.
    pub(super) unanswered_since: Option<Instant>,
    /// Last data in either direction.
    pub(super) used_at: Instant,
}

impl Peer {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            endpoints: Vec::new(),
            remote: None,
            pending: None,
            attempts: None,
            sessions: Vec::new(),
            sending: None,
            cookie: None,
            newest: Duration::ZERO,
            newest_ahead: Duration::ZERO,
            rtt: None,
            ahead: None,
            owes_since: None,
            unanswered_since: None,
            used_at: now,
        }
    }

    /// Whether an initiation that was sent at `time` by the peer's clock is newer than all before. Those ahead of `wall`, our
    /// clock, are counted by themselves: a clock that was ahead for once, the peer's or ours, must not lock the peer out until
    /// that time comes.
    pub(super) fn is_news(&mut self, time: Duration, wall: Duration) -> bool {
        if !is_ahead(self.newest_ahead, wall) {
            self.newest = self.newest.max(self.newest_ahead);
        }
        if is_ahead(time, wall) {
            let news = time > self.newest.max(self.newest_ahead);
            self.newest_ahead = self.newest_ahead.max(time);
            return news;
        }
        if is_ahead(self.newest, wall) {
            self.newest_ahead = self.newest.max(self.newest_ahead);
            self.newest = wall.saturating_sub(Duration::from_secs(SKEW));
        }
        let news = time > self.newest;
        self.newest = self.newest.max(time);
        news
    }

    pub(super) fn session(&mut self, local_index: u32) -> Option<&mut Live> {
        self.sessions.iter_mut().find(|s| s.local_index == local_index)
    }

    /// The session that sends.
    pub(super) fn current(&self) -> Option<&Live> {
        self.sessions.iter().find(|s| Some(s.local_index) == self.sending)
    }

    /// Takes new totals of a session.
    pub(super) fn account(&mut self, now: Instant, local_index: u32, total: Traffic) {
        let Some(session) = self.session(local_index) else { return };
        let before = std::mem::replace(&mut session.traffic, total);
        let sent = total.tx_packets > before.tx_packets;
        let heard = total.rx_packets > before.rx_packets;
        if total.tx_bytes > before.tx_bytes {
            self.used_at = now;
            self.unanswered_since.get_or_insert(now);
        }
        if heard {
            self.unanswered_since = None;
        }
        if total.rx_bytes > before.rx_bytes {
            self.used_at = now;
            self.owes_since.get_or_insert(now);
        }
        if sent {
            self.owes_since = None;
        }
    }

    /// Whether the sending session has to be renewed at `now`: it is old and was used lately, or unanswered.
    pub(super) fn wants_rekey(&self, now: Instant) -> bool {
        let unanswered =
            self.unanswered_since.is_some_and(|since| now.duration_since(since) >= UNANSWERED_AFTER);
        let Some(current) = self.current() else { return false };
        let limit = if current.initiator { REKEY_AFTER } else { RESPONDER_REKEY_AFTER };
        let in_use = now.duration_since(self.used_at) < KEEPALIVE_AFTER + UNANSWERED_AFTER;
        unanswered || (in_use && now.duration_since(current.created) >= limit)
    }

    /// The next moment at which time alone changes something. Renewal goes by [`Peer::account`] instead: only a
    /// session in use is renewed.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        let ends = self.sessions.iter().map(|s| s.created + REJECT_AFTER).min();
        let owes = self.owes_since.filter(|_| self.sending.is_some()).map(|since| since + KEEPALIVE_AFTER);
        let retry = self.attempts.map(|attempts| attempts.next);
        [ends, owes, retry].into_iter().flatten().min()
    }
}
