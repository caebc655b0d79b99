//! Circuits over a restart: those that there were are set up again before anybody asks, and so are those on which a peer
//! still sends what nobody here can open.
//!
//! Owns who was connected lately. Nothing is ever sent to an address that isn't a member's. Must not know handshakes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meshhold_core::identity::NodeId;
use meshhold_core::key::NetworkId;
use meshhold_core::path::Path;
use serde::{Deserialize, Serialize};

use super::Daemon;
use super::callers::PeerKey;

/// Most circuits that are set up again at once; further ones come with their first packet.
const MOST: usize = 512;
/// How often, at most, stray datagrams make this node try the same peer.
const AGAIN: Duration = Duration::from_secs(5);
/// How often, at most, peers are searched for the sender of one.
const SEARCH: Duration = Duration::from_millis(50);

/// A circuit as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct LiveCircuit {
    network: NetworkId,
    node: NodeId,
    /// Where its datagrams went, unless relays forwarded them.
    remote: Option<SocketAddr>,
}

/// Who may still send on circuits of the last daemon.
#[derive(Debug, Default)]
pub(super) struct Strays {
    /// Peers of the last daemon, by address.
    known: BTreeMap<SocketAddr, PeerKey>,
    tried: BTreeMap<PeerKey, Instant>,
    searched: Option<Instant>,
}

impl Strays {
    /// Whether it is time to search again.
    fn may_search(&mut self, now: Instant) -> bool {
        let is_due = |at| now.saturating_duration_since(at) >= SEARCH;
        let due = self.searched.is_none_or(is_due);
        if due {
            self.searched = Some(now);
        }
        due
    }

    /// Whether it is time to try this peer again.
    fn may_try(&mut self, now: Instant, key: PeerKey) -> bool {
        self.tried.retain(|_, at| now.saturating_duration_since(*at) < AGAIN);
        let due = self.tried.len() < MOST && !self.tried.contains_key(&key);
        if due {
            self.tried.insert(key, now);
        }
        due
    }
}

impl Daemon {
    /// The circuits that there are now.
    pub(super) fn live_circuits(&self) -> Vec<LiveCircuit> {
        let live = self.circuits.peers.iter().filter(|(_, sessions)| sessions.sending.is_some());
        let remembered = live.map(|(&(network, node), sessions)| {
            let remote = sessions.remote.filter(Path::is_direct).map(|path| path.remote);
            LiveCircuit { network, node, remote }
        });
        remembered.take(MOST).collect()
    }

    /// Sets up again what the last daemon had.
    pub(super) fn resume(&mut self, circuits: &[LiveCircuit]) {
        let now = Instant::now();
        for circuit in circuits.iter().take(MOST) {
            let key = (circuit.network, circuit.node);
            self.strays.known.extend(circuit.remote.map(|remote| (remote, key)));
            self.connect_to(now, key, circuit.remote);
        }
    }

    /// A datagram came for a session that nobody here has.
    pub(super) fn on_stray(&mut self, now: Instant, from: Path) {
        if !from.is_direct() || !self.strays.may_search(now) {
            return;
        }
        let Some(key) = self.sender(from.remote) else { return };
        let is_connected = self.circuits.peers.get(&key).is_some_and(|sessions| sessions.sending.is_some());
        if !is_connected && self.strays.may_try(now, key) {
            tracing::debug!(peer = %key.1, remote = %from.remote, "sends on a circuit that is no more");
            self.connect_to(now, key, Some(from.remote));
        }
    }

    /// Whose address this is.
    fn sender(&self, remote: SocketAddr) -> Option<PeerKey> {
        let is_at = |endpoints: &[SocketAddr]| endpoints.contains(&remote);
        self.strays.known.get(&remote).copied().or_else(|| {
            self.networks.values().find_map(|network| {
                let peer = network.members.peers().find(|peer| is_at(&peer.endpoints))?;
                Some((network.id, peer.node))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_tried_at_most_so_often_whatever_arrives() {
        let (mut strays, start) = (Strays::default(), Instant::now());
        let key = |number| (NetworkId([number; 16]), NodeId([number; 32]));
        let later = |ms| start + Duration::from_millis(ms);
        assert!(strays.may_try(start, key(1)) && strays.may_try(start, key(2)));
        assert!(!strays.may_try(later(4_999), key(1)));
        assert!(strays.may_try(later(5_000), key(1)));
        assert!(strays.may_search(start) && !strays.may_search(later(49)) && strays.may_search(later(50)));
    }
}
