//! The initiator's side: starting handshakes, taking responses and cookies.
//!
//! Owns nothing of its own; the state is the peer's. Must not know when to start.

use std::time::{Duration, Instant};

use rand_core::RngCore;

use super::frame::{self, Framed};
use super::peer::{Live, Pending, Traffic};
use super::{Circuits, Output, PeerKey, session};
use crate::cookie::{COOKIE_LIFETIME, MacKeys};
use crate::handshake::{Accept, Initiation, Initiator};
use crate::path::Path;
use crate::wire::MAX_LANES;

impl Circuits {
    /// Sends a fresh initiation to every endpoint of the peer and sets the next retry.
    pub(super) fn initiate(&mut self, now: Instant, key: PeerKey) {
        let jitter = Duration::from_millis(u64::from(self.rng.next_u32() % 64));
        let time = self.next_time(now);
        let local_index = self.draw_index(key);
        let started = self.first_message(key, time);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Some(attempts) = &mut peer.attempts {
            attempts.made(now, jitter);
        }
        let replaced = peer.pending.take().map(|p| p.local_index);
        self.forget_index(replaced);
        let Some((state, noise, keys)) = started else { return self.forget_index(Some(local_index)) };
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let cookie = peer.cookie.as_ref().filter(|(_, since)| now.duration_since(*since) < COOKIE_LIFETIME);
        let datagram = frame::initiation(local_index, &noise, &keys, cookie.map(|(cookie, _)| cookie));
        let Some(framed) = Framed::initiation(&datagram) else { return };
        let mac1 = *framed.mac1;
        self.counts.begun += 1;
        // A session that is renewed in time stays where it is.
        let renewal = peer.sending.is_some() && peer.attempts.is_some_and(|attempts| attempts.is_first());
        let others: &[Path] = if renewal && peer.unanswered_since.is_none() { &[] } else { &peer.endpoints };
        let mut targets: Vec<Path> = peer.remote.iter().chain(others).copied().collect();
        let mut seen = std::collections::BTreeSet::new();
        targets.retain(|to| seen.insert(*to));
        peer.pending = Some(Pending { state, local_index, mac1, datagram: datagram.clone(), sent_at: now });
        for to in targets {
            self.push(Output::Transmit { to, datagram: datagram.clone() });
        }
    }

    fn first_message(
        &mut self,
        key: PeerKey,
        time: [u8; 12],
    ) -> Option<(Initiator, [u8; crate::handshake::SEALED_INITIATION], MacKeys)> {
        let payload = Initiation { node: self.node, time, lanes: self.lanes, offers: self.offers.clone() };
        let rng = self.rng.fork();
        let network = self.networks.get(&key.0)?;
        let keys = MacKeys::new(&network.psk, self.swarm_key.as_ref(), key.1);
        let (state, noise) =
            Initiator::start(key.0, &network.psk, &self.identity, key.1, &payload, rng).ok()?;
        Some((state, noise, keys))
    }

    pub(super) fn on_response(&mut self, now: Instant, from: Path, datagram: &[u8]) {
        let Some(framed) = Framed::response(datagram) else { return };
        let Some(&key) = self.indices.get(&framed.receiver) else { return };
        let Some(network) = self.networks.get(&key.0) else { return };
        if !network.inbound.check_mac1(framed.before_mac1, framed.mac1) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(pending) = peer.pending.take_if(|p| p.local_index == framed.receiver) else { return };
        let Ok(outcome) = pending.state.finish(framed.noise) else {
            // Only a member can spoil it, and only by sending what the retry repairs.
            return self.forget_index(Some(pending.local_index));
        };
        let Accept { cipher, lanes } = outcome.accept;
        if !(self.lanes..=MAX_LANES).contains(&lanes)
            || !self.offers.iter().any(|(offer, _)| *offer == cipher)
        {
            return self.forget_index(Some(pending.local_index));
        }
        peer.rtt = Some(now.saturating_duration_since(pending.sent_at));
        let live = Live {
            local_index: pending.local_index,
            created: now,
            initiator: true,
            confirmed: true,
            remote: from,
            cipher: outcome.accept.cipher,
            traffic: Traffic::default(),
        };
        let session = session(outcome, true, pending.local_index, framed.sender);
        self.counts.completed += 1;
        self.install(now, key, live, session);
    }

    /// Keeps a cookie and tries again with it at once. The peer's address isn't learnt from it.
    pub(super) fn on_cookie(&mut self, now: Instant, datagram: &[u8]) {
        let Some((receiver, sealed)) = frame::parse_cookie(datagram) else { return };
        let Some(&key) = self.indices.get(&receiver) else { return };
        let (Some(network), Some(peer)) = (self.networks.get(&key.0), self.peers.get_mut(&key)) else {
            return;
        };
        let Some(pending) = peer.pending.as_ref().filter(|p| p.local_index == receiver) else { return };
        let keys = MacKeys::new(&network.psk, self.swarm_key.as_ref(), key.1);
        let Some(cookie) = keys.open(sealed, &pending.mac1) else { return };
        let is_first = peer
            .cookie
            .replace((cookie, now))
            .is_none_or(|(_, since)| now.duration_since(since) >= Duration::from_secs(5));
        if is_first {
            self.initiate(now, key);
        }
    }
}
