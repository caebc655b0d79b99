//! What this node sees of the world, and what became of each path, for people who ask.
//!
//! Owns the translation into the shapes of the control API. Must not know how anything is found out.

use super::callers::PeerKey;
use super::{Daemon, unix_now};
use crate::control::api::{Netcheck, PathKind, PathStatus, PeerName, PeerPaths, RelaySeen, TriedPath};
use meshhold_core::path::{Decision, Path, Trial};

impl Daemon {
    /// Every connected peer's paths.
    pub(super) fn peer_paths(&self) -> Vec<PeerPaths> {
        let mut all = Vec::new();
        for network in self.networks.values() {
            for peer in network.members.peers() {
                let Some((decisions, tried)) = self.ways.paths.report((network.id, peer.node)) else {
                    continue;
                };
                all.push(PeerPaths {
                    network: network.id.to_string(),
                    peer: PeerName { node_id: peer.node.to_string(), name: peer.name.to_string() },
                    decisions: decisions.iter().map(|decision| self.decided(decision)).collect(),
                    tried: tried.iter().map(|trial| self.tried(trial)).collect(),
                });
            }
        }
        all
    }

    /// What this node sees of the world.
    pub(super) fn netcheck(&self) -> Netcheck {
        let links = self.links.status();
        let rtt = |node| links.iter().find(|link| link.node == node).map(|link| link.rtt);
        let mut relays: Vec<RelaySeen> = Vec::new();
        for (node, _, first) in self.ways.relays.near() {
            let rtt_ms = rtt(node).unwrap_or(first).as_secs_f64() * 1e3;
            relays.push(RelaySeen { node_id: node.to_string(), rtt_ms });
        }
        relays.sort_by(|a, b| a.rtt_ms.total_cmp(&b.rtt_ms));
        Netcheck {
            nat: self.ways.reflexive.nat(&self.own_ips()),
            mapped: self.ways.reflexive.all(),
            relays,
            port_mapping: self.mapped.shown(),
            udp: self.has_udp(!links.is_empty()),
            path_mtu: self
                .circuits
                .peers
                .keys()
                .filter_map(|key: &PeerKey| Some(self.ways.paths.sizes(*key)?.fits))
                .min(),
        }
    }

    fn has_udp(&self, linked: bool) -> Option<bool> {
        let nobody = self.config.bootstrap_peers.is_empty()
            && self.networks.values().all(|n| n.members.peers().count() == 0);
        (linked || !nobody).then_some(linked)
    }

    /// A decision as it is shown.
    pub(super) fn decided(&self, decision: &Decision) -> PathStatus {
        let (kind, via) = self.kind(decision.path);
        let since = unix_now().saturating_sub(decision.at.elapsed().as_secs());
        let Path { remote, local, .. } = decision.path;
        PathStatus { kind, remote, local, via, since, reason: decision.reason.clone() }
    }

    fn tried(&self, trial: &Trial) -> TriedPath {
        let (kind, via) = self.kind(trial.path);
        TriedPath {
            kind,
            remote: trial.path.remote,
            via,
            rtt_ms: trial.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
            sent: trial.sent,
            answered: trial.answered,
        }
    }

    fn kind(&self, path: Path) -> (PathKind, Vec<String>) {
        let via = self.ways.relays.via(path).iter().map(ToString::to_string).collect();
        (if path.is_direct() { PathKind::Direct } else { PathKind::Relay }, via)
    }
}
