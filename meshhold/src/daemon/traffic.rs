//! Bytes to and from each peer, over all of its sessions: a session ends after three minutes at most.
//!
//! Owns the sums. Must not know workers, circuits or keys.

use std::collections::BTreeMap;

use super::callers::PeerKey;

/// Bytes received and sent.
pub(super) type Bytes = (u64, u64);

/// What every peer sent and received since it was met.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    sums: BTreeMap<PeerKey, Bytes>,
    /// Totals of the present sessions when they were last looked at.
    seen: BTreeMap<u32, Bytes>,
}

impl Traffic {
    /// Adds what came since the last look; `sessions` are all that there are now: local index, peer, totals.
    pub(super) fn take(&mut self, sessions: impl Iterator<Item = (u32, PeerKey, Bytes)>) {
        let mut seen = BTreeMap::new();
        for (index, peer, (rx, tx)) in sessions {
            let (known_rx, known_tx) = self.seen.get(&index).copied().unwrap_or_default();
            let sum = self.sums.entry(peer).or_default();
            sum.0 += rx.saturating_sub(known_rx);
            sum.1 += tx.saturating_sub(known_tx);
            seen.insert(index, (rx, tx));
        }
        self.seen = seen;
    }

    /// Of one peer.
    pub(super) fn of(&self, peer: &PeerKey) -> Bytes {
        self.sums.get(peer).copied().unwrap_or_default()
    }

    /// Forgets peers that nobody knows any more.
    pub(super) fn forget(&mut self, is_known: impl Fn(&PeerKey) -> bool) {
        self.sums.retain(|peer, _| is_known(peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshhold_core::identity::Identity;
    use meshhold_core::key::NetworkId;

    #[test]
    fn sums_outlive_sessions_and_count_nothing_twice() {
        let peer = (NetworkId([7; 16]), Identity::from_seed([1; 32]).node_id());
        let mut traffic = Traffic::default();
        for (sessions, sum) in [
            (vec![(16, (100, 10))], (100, 10)),
            (vec![(16, (150, 10)), (32, (0, 5))], (150, 15)),
            (vec![(32, (50, 5))], (200, 15)),
            (vec![], (200, 15)),
            (vec![(48, (1, 1))], (201, 16)),
        ] {
            traffic.take(sessions.into_iter().map(|(index, bytes)| (index, peer, bytes)));
            assert_eq!(traffic.of(&peer), sum);
        }
        traffic.forget(|_| false);
        assert_eq!(traffic.of(&peer), (0, 0));
    }
}
