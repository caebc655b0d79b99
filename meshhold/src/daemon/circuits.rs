//! Carries the circuits' wishes out: sends their datagrams, keeps which sessions the workers hold.
//!
//! Owns the sessions of every peer. Must not know handshakes (that is `meshhold-core`) or packets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use meshhold_core::circuit::{Circuits, Output};
use meshhold_core::path::Path;
use meshhold_core::session::Session;

use super::callers::PeerKey;
use super::view::Sessions;

/// What the daemon must do for a circuit beyond changing the table.
#[derive(Debug)]
pub(super) enum Effect {
    /// Send a handshake datagram from the shared port.
    Send(Path, Vec<u8>),
    /// Have the workers send an empty data datagram.
    Keepalive(u32),
    /// The circuit can be used, by this path.
    Up(PeerKey, Path),
    /// There is no circuit with this peer any more.
    Down(PeerKey),
}

/// The circuits of this node and the sessions they have brought up.
pub(super) struct CircuitTable {
    /// The state machine.
    pub(super) machine: Circuits,
    /// Sessions by peer.
    pub(super) peers: BTreeMap<PeerKey, Sessions>,
    owners: BTreeMap<u32, PeerKey>,
    /// The workers' table has to follow.
    changed: bool,
}

impl CircuitTable {
    /// Starts with no circuit.
    pub(super) fn new(machine: Circuits) -> Self {
        Self { machine, peers: BTreeMap::new(), owners: BTreeMap::new(), changed: false }
    }

    /// Takes all outputs of the machine. Returns the effects, and whether the table changed.
    pub(super) fn drain(&mut self) -> (Vec<Effect>, bool) {
        let mut effects = Vec::new();
        while let Some(output) = self.machine.poll_output() {
            effects.extend(self.apply(output));
        }
        (effects, std::mem::take(&mut self.changed))
    }

    /// Whose session this is.
    pub(super) fn owner(&self, local_index: u32) -> Option<PeerKey> {
        self.owners.get(&local_index).copied()
    }

    /// Whether the session is the one that the peer's circuit sends on.
    pub(super) fn is_sending(&self, key: PeerKey, local_index: u32) -> bool {
        self.peers.get(&key).is_some_and(|sessions| sessions.sending == Some(local_index))
    }

    /// Due timers.
    pub(super) fn tick(&mut self, now: Instant) {
        self.machine.handle_timeout(now);
    }

    fn apply(&mut self, output: Output) -> Option<Effect> {
        match output {
            Output::Transmit { to, datagram } => return Some(Effect::Send(to, datagram)),
            Output::Keepalive { local_index } => return Some(Effect::Keepalive(local_index)),
            Output::Install { network, peer, session, remote, transmit } => {
                self.changed = true;
                self.install((network, peer), session, remote, transmit);
                return transmit.then_some(Effect::Up((network, peer), remote));
            }
            Output::Use { local_index } => {
                self.with(local_index, |s| s.sending = Some(local_index));
                return self.up(local_index);
            }
            Output::Move { local_index, remote } => {
                self.with(local_index, |s| s.remote = Some(remote));
                return self.up(local_index);
            }
            Output::Retire { local_index } => self.retire(local_index),
            Output::Up { network, peer } => tracing::info!(%network, %peer, "circuit up"),
            Output::Down { network, peer, reason } => {
                tracing::info!(%network, %peer, reason, "circuit down");
                return Some(Effect::Down((network, peer)));
            }
        }
        None
    }

    fn up(&mut self, local_index: u32) -> Option<Effect> {
        self.changed = true;
        let key = self.owner(local_index)?;
        Some(Effect::Up(key, self.peers.get(&key)?.remote?))
    }

    fn install(&mut self, key: PeerKey, session: Arc<Session>, remote: Path, transmit: bool) {
        let local_index = session.local_index;
        let sessions = self.peers.entry(key).or_default();
        sessions.receiving.push(session);
        if transmit {
            sessions.sending = Some(local_index);
        }
        sessions.remote = Some(remote);
        self.owners.insert(local_index, key);
    }

    fn retire(&mut self, local_index: u32) {
        self.changed = true;
        self.with(local_index, |sessions| {
            sessions.receiving.retain(|s| s.local_index != local_index);
            sessions.sending = sessions.sending.filter(|sending| *sending != local_index);
        });
        if let Some(key) = self.owners.remove(&local_index)
            && self.peers.get(&key).is_some_and(|s| s.receiving.is_empty())
        {
            self.peers.remove(&key);
        }
    }

    fn with(&mut self, local_index: u32, change: impl FnOnce(&mut Sessions)) {
        if let Some(sessions) = self.owners.get(&local_index).and_then(|key| self.peers.get_mut(key)) {
            change(sessions);
        }
    }
}
