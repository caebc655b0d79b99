//! Metrics for Prometheus (text exposition format 0.0.4).
//!
//! Owns names and bounds: peers beyond [`MAX_PEERS`] are counted together. Must not know how figures come about.

use super::App;
use super::state::known;
use crate::control::api::{PathKind, PeerState, PeerStatus, RelayHost, Status};
use crate::control::problem::Problem;
use axum::extract::State;
use axum::http::{HeaderName, header};
use std::fmt::{Display, Write};

/// Peers with figures of their own, those with the most traffic first.
const MAX_PEERS: usize = 200;

/// Figures for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn metrics(
    State(app): State<App>,
) -> Result<([(HeaderName, &'static str); 1], String), Problem> {
    let status = known(&app).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text(&status)))
}

/// The text that is made.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP meshhold_{name} {help}\n# TYPE meshhold_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> =
            labels.iter().map(|(key, text)| format!("{key}=\"{}\"", escaped(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "meshhold_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

/// Names come from other members: nothing in them ends a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn text(status: &Status) -> String {
    let mut page = Page::default();
    page.family("info", "gauge", "This node.");
    let version = env!("CARGO_PKG_VERSION");
    page.sample("info", &[("version", version), ("name", &status.name), ("node_id", &status.node_id)], 1);
    page.family("packets_total", "counter", "Packets by what became of them.");
    for (reason, packets) in &status.counters {
        page.sample("packets_total", &[("reason", reason)], packets);
    }
    page.one("warnings", "gauge", "What is degraded.", status.warnings.len());
    page.one("translations", "gauge", "Flows to LAN devices.", status.datapath.translations);
    page.one("workers", "gauge", "Worker threads.", status.datapath.workers);
    peers(&mut page, status);
    relay(&mut page, status);
    page.0
}

fn peers(page: &mut Page, status: &Status) {
    let mut all: Vec<(&str, &PeerStatus)> = status
        .networks
        .iter()
        .flat_map(|network| network.peers.iter().map(|peer| (network.id.as_str(), peer)))
        .collect();
    all.sort_by_key(|(_, peer)| std::cmp::Reverse(peer.rx_bytes + peer.tx_bytes));
    page.family("peers", "gauge", "Known members by the state of their circuit.");
    for (label, state) in [
        ("idle", PeerState::Idle),
        ("connecting", PeerState::Connecting),
        ("connected", PeerState::Connected),
    ] {
        page.sample("peers", &[("state", label)], all.iter().filter(|(_, peer)| peer.state == state).count());
    }
    page.family("paths", "gauge", "Circuits by how their datagrams travel.");
    for (label, kind) in [("direct", PathKind::Direct), ("relay", PathKind::Relay)] {
        let on = |(_, peer): &&(&str, &PeerStatus)| peer.path.as_ref().is_some_and(|path| path.kind == kind);
        page.sample("paths", &[("kind", label)], all.iter().filter(on).count());
    }
    let (shown, others) = all.split_at(all.len().min(MAX_PEERS));
    traffic(page, "peer_receive_bytes_total", "Bytes received inside circuits.", shown, others, |p| {
        p.rx_bytes
    });
    traffic(page, "peer_transmit_bytes_total", "Bytes sent inside circuits.", shown, others, |p| p.tx_bytes);
    page.family("peer_rtt_seconds", "gauge", "Round-trip time of the last handshake or keepalive.");
    for (network, peer) in shown {
        if let Some(rtt) = peer.rtt_ms {
            let labels = [("network", *network), ("peer", &peer.node_id), ("name", &peer.name)];
            page.sample("peer_rtt_seconds", &labels, rtt / 1e3);
        }
    }
}

fn traffic(
    page: &mut Page,
    name: &str,
    help: &str,
    shown: &[(&str, &PeerStatus)],
    others: &[(&str, &PeerStatus)],
    bytes: fn(&PeerStatus) -> u64,
) {
    page.family(name, "counter", help);
    for (network, peer) in shown {
        let labels = [("network", *network), ("peer", &peer.node_id), ("name", &peer.name)];
        page.sample(name, &labels, bytes(peer));
    }
    if !others.is_empty() {
        let sum: u64 = others.iter().map(|(_, peer)| bytes(peer)).sum();
        page.sample(name, &[("network", ""), ("peer", "other"), ("name", "")], sum);
    }
}

fn relay(page: &mut Page, status: &Status) {
    page.one("relay_legs", "gauge", "Directions of circuits forwarded for others.", status.relay.count);
    let hosts = [("kernel", RelayHost::Kernel), ("workers", RelayHost::Workers)];
    for (name, help, of) in [
        (
            "relay_packets_total",
            "Datagrams forwarded.",
            (|leg| leg.packets) as fn(&crate::control::api::LegStatus) -> u64,
        ),
        ("relay_bytes_total", "Their bytes.", |leg| leg.bytes),
        ("relay_over_rate_total", "Datagrams dropped beyond the rate.", |leg| leg.over_rate),
    ] {
        page.family(name, "counter", help);
        for (label, host) in hosts {
            let sum: u64 = status.relay.legs.iter().filter(|leg| leg.by == host).map(of).sum();
            page.sample(name, &[("by", label)], sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::NetworkStatus;

    fn peer(n: u64, name: &str) -> PeerStatus {
        PeerStatus {
            node_id: format!("12D3{n}"),
            name: name.to_owned(),
            ipv4: None,
            ipv6: std::net::Ipv6Addr::LOCALHOST,
            state: PeerState::Connected,
            path: None,
            rtt_ms: Some(1.5),
            cipher: None,
            rx_bytes: n,
            tx_bytes: 0,
        }
    }

    #[test]
    fn names_stay_inside_their_label_and_peers_are_bounded() {
        let peers = (0..500).map(|n| peer(n, "a\"} 1\nmeshhold_evil 1\\")).collect();
        let network = NetworkStatus {
            id: "07".to_owned(),
            name: "Home".to_owned(),
            range: String::new(),
            local_view: None,
            ipv4: None,
            ipv6: std::net::Ipv6Addr::LOCALHOST,
            scope: Vec::new(),
            peers,
            devices: Vec::new(),
            conflicts: Vec::new(),
            warnings: Vec::new(),
        };
        let text = text(&Status { networks: vec![network], ..Status::default() });
        assert!(!text.lines().any(|line| line.starts_with("meshhold_evil")), "{text}");
        let received: Vec<&str> =
            text.lines().filter(|line| line.starts_with("meshhold_peer_receive_bytes_total")).collect();
        assert_eq!(received.len(), MAX_PEERS + 1);
        assert!(
            received[0].contains("12D3499") && received[MAX_PEERS].ends_with(&format!(" {}", 299 * 300 / 2))
        );
        assert!(
            text.contains("meshhold_peer_rtt_seconds{network=\"07\",peer=\"12D3499\"")
                && text.contains("} 0.0015")
        );
    }
}
