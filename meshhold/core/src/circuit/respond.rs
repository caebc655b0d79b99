//! The responder's side: who gets an answer, and the answer.
//!
//! Owns the order of the checks, cheap before dear: length, `mac1`, load, cookie or per-source limit, Noise,
//! replay. Must not know retries.

use std::time::{Duration, Instant};

use super::frame::{self, Framed};
use super::peer::{Live, Peer, Traffic};
use super::{Circuits, Output, PeerKey, decode_time, session};
use crate::cookie::MacKeys;
use crate::handshake::{Accept, Initiation, Responder};
use crate::key::NetworkId;
use crate::path::Path;
use crate::session::Cipher;
use crate::wire::MAX_LANES;

/// Initiations a second above which a cookie is asked for.
const LOAD: u32 = 100;

/// Counts initiations in seconds.
#[derive(Debug, Default)]
pub(super) struct Load {
    second: Option<Instant>,
    count: u32,
    high_until: Option<Instant>,
}

impl Load {
    /// Counts one; true while there are too many.
    fn is_high(&mut self, now: Instant) -> bool {
        if self.second.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1)) {
            self.second = Some(now);
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        if self.count > LOAD {
            self.high_until = Some(now + Duration::from_secs(1));
        }
        self.high_until.is_some_and(|until| now < until)
    }
}

impl Circuits {
    pub(super) fn on_initiation(&mut self, now: Instant, from: Path, datagram: &[u8]) {
        let Some(framed) = Framed::initiation(datagram) else { return };
        let fits = |network: &super::Network| network.inbound.check_mac1(framed.before_mac1, framed.mac1);
        let Some(network) = self.networks.iter().find(|(_, network)| fits(network)).map(|(id, _)| *id) else {
            self.counts.strange += 1;
            return;
        };
        if self.load.is_high(now) {
            let jar = &mut self.cookies;
            if !jar.check(now, from.remote, framed.before_mac2, framed.mac2, &mut self.rng) {
                return self.send_cookie(now, network, from, &framed);
            }
        }
        if !self.limiter.allow(now, from.remote.ip()) {
            self.counts.limited += 1;
            return;
        }
        let rng = self.rng.fork();
        let Some(keys) = self.networks.get(&network) else { return };
        let read = Responder::read(network, &keys.psk, &self.identity, framed.noise, rng);
        let accepted = match read {
            Ok((responder, said)) => self.accept(now, network, from, framed.sender, responder, &said),
            Err(_) => None,
        };
        match accepted {
            Some(()) => self.counts.answered += 1,
            None => self.counts.refused += 1,
        }
    }

    /// None where it leads nowhere.
    fn accept(
        &mut self,
        now: Instant,
        network: NetworkId,
        from: Path,
        sender: u32,
        responder: Responder,
        said: &Initiation,
    ) -> Option<()> {
        let key: PeerKey = (network, said.node);
        let cipher = choose(&self.offers, &said.offers)?;
        if said.node == self.node || !self.has_room(key) {
            return None;
        }
        let wall = self.wall(now);
        let peer = self.peers.entry(key).or_insert_with(|| Peer::new(now));
        if !peer.is_news(decode_time(said.time), wall) {
            return None;
        }
        peer.ahead = Some(ahead(said.time, wall));
        let lanes = self.lanes.max(said.lanes.min(MAX_LANES));
        let (outcome, noise) = responder.answer(Accept { cipher, lanes }).ok()?;
        let local_index = self.draw_index(key);
        let keys = self.networks.get(&network)?;
        let outbound = MacKeys::new(&keys.psk, self.swarm_key.as_ref(), said.node);
        let datagram = frame::response(local_index, sender, &noise, &outbound);
        let live = Live {
            local_index,
            created: now,
            initiator: false,
            confirmed: false,
            remote: from,
            cipher,
            traffic: Traffic::default(),
        };
        // Receiving must work before the initiator can know that it does.
        self.install(now, key, live, session(outcome, false, local_index, sender));
        self.push(Output::Transmit { to: from, datagram });
        Some(())
    }

    fn send_cookie(&mut self, now: Instant, network: NetworkId, from: Path, framed: &Framed<'_>) {
        self.counts.cookies += 1;
        let cookie = self.cookies.cookie(now, from.remote, &mut self.rng);
        let Some(network) = self.networks.get(&network) else { return };
        if let Some(sealed) = network.inbound.seal(&cookie, framed.mac1, &mut self.rng) {
            self.push(Output::Transmit { to: from, datagram: frame::cookie(framed.sender, &sealed) });
        }
    }
}

/// How far `time` is ahead of `wall`, in seconds.
fn ahead(time: [u8; 12], wall: Duration) -> i64 {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    seconds(decode_time(time)).saturating_sub(seconds(wall))
}

/// The cipher that both have and whose slower end is fastest; AES-256-GCM where that is a draw.
fn choose(ours: &[(Cipher, u32)], theirs: &[(Cipher, u32)]) -> Option<Cipher> {
    let both = ours.iter().filter_map(|(cipher, ours)| {
        let (_, theirs) = theirs.iter().find(|(other, _)| other == cipher)?;
        Some((*ours.min(theirs), *cipher))
    });
    both.max().map(|(_, cipher)| cipher)
}
