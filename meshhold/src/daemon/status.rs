//! What `meshlan status` shows, gathered from the parts.
//!
//! Owns the translation into the stable JSON shape. Must not know how it is printed.

use std::collections::BTreeMap;
use std::time::Duration;

use meshhold_core::circuit::{CircuitState, CircuitStatus};
use meshhold_core::session::Cipher;

use super::network::Network;
use super::{Daemon, expiry, unix_now};
use crate::clock::warning;
use crate::control::api::{LocalViewStatus, NetworkStatus, PathStatus, PeerState, PeerStatus, Status};

impl Daemon {
    pub(super) fn status(&self) -> Status {
        let circuits: BTreeMap<_, _> = self
            .circuits
            .machine
            .status()
            .map(|circuit| ((circuit.network, circuit.peer), circuit))
            .collect();
        let networks = self.networks.values().map(|network| {
            let peers = network.members.peers().map(|peer| {
                let circuit = circuits.get(&(network.id, peer.node));
                let (rx_bytes, tx_bytes) = self.traffic.of(&(network.id, peer.node));
                PeerStatus {
                    node_id: peer.node.to_string(),
                    name: peer.name.to_string(),
                    ipv4: Some(network.shown(peer.ipv4)),
                    ipv6: (!peer.without_ipv6).then_some(peer.ipv6),
                    state: circuit.map_or(PeerState::Idle, |c| state(c.state)),
                    path: circuit.and_then(|circuit| self.path_status(circuit)),
                    rtt_ms: circuit.and_then(|c| self.rtt(c)).map(|rtt| rtt.as_secs_f64() * 1e3),
                    cipher: circuit.and_then(|c| c.cipher).map(|cipher| label(cipher).to_owned()),
                    rx_bytes,
                    tx_bytes,
                    clock_ahead_s: network.clocks.of(peer.node).or(circuit.and_then(|c| c.ahead)),
                }
            });
            let devices = self.gateway.status(&self.lan, &self.networks, network);
            let conflicts = self.names.conflicts(network.id);
            let ipv6 = (!self.families.without_ipv6()).then(|| network.members.own6());
            NetworkStatus { devices, conflicts, ipv6, ..network_status(network, peers.collect()) }
        });
        Status {
            running: true,
            node_id: self.identity.node_id().to_string(),
            name: self.config.node.name.clone(),
            interface: self.config.meshlan.interface.clone(),
            datapath: self.lan.status(),
            dns: self.names.status(),
            relay: self.relay_status(),
            networks: networks.collect(),
            warnings: self
                .warnings
                .iter()
                .cloned()
                .chain(self.lan.warnings())
                .chain(self.reconciler.warnings())
                .chain(self.state.warning())
                .chain(warning(unix_now()))
                .chain(self.families.warning())
                .collect(),
            counters: self.lan.counters(&self.relaying.counters()),
        }
    }
}

impl Daemon {
    /// Who answered a handshake knows the time by the probes only.
    fn rtt(&self, circuit: &CircuitStatus) -> Option<Duration> {
        self.ways.paths.rtt((circuit.network, circuit.peer)).or(circuit.rtt)
    }

    /// How a circuit's datagrams travel; none while there is no circuit.
    pub(super) fn path_status(&self, circuit: &CircuitStatus) -> Option<PathStatus> {
        circuit.remote.filter(|_| circuit.state == CircuitState::Connected)?;
        Some(self.decided(self.ways.paths.current((circuit.network, circuit.peer))?))
    }
}

fn network_status(network: &Network, peers: Vec<PeerStatus>) -> NetworkStatus {
    NetworkStatus {
        id: network.id.to_string(),
        name: network.name.clone(),
        range: network.shown_range().to_string(),
        local_view: network.view.as_ref().map(|view| LocalViewStatus {
            range: network.shown_range().to_string(),
            real_range: network.range.to_string(),
            reason: view.reason.clone(),
        }),
        ipv4: network.own4(),
        ipv6: None,
        scope: network.scope.rules().iter().map(ToString::to_string).collect(),
        peers,
        devices: Vec::new(),
        conflicts: Vec::new(),
        warnings: network
            .conflict
            .iter()
            .cloned()
            .chain(expiry::warning(network.expires, unix_now()))
            .chain(network.unclaimed())
            .chain(network.clocks.warnings())
            .collect(),
    }
}

fn state(state: CircuitState) -> PeerState {
    match state {
        CircuitState::Connecting => PeerState::Connecting,
        CircuitState::Connected => PeerState::Connected,
    }
}

fn label(cipher: Cipher) -> &'static str {
    match cipher {
        Cipher::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        Cipher::Aes256Gcm => "AES-256-GCM",
    }
}
