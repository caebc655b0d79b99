//! Metrics for Prometheus (text exposition format 0.0.4).
//!
//! Owns names and bounds: peers beyond [`MAX_PEERS`] are counted together. Must not know how figures come about.

use super::App;
use super::state::{counted, known};
use crate::control::api::{
    Figures, GossipFigures, HandshakeFigures, LegStatus, PathKind, PeerState, PeerStatus, ProgramCost,
    RelayHost, Status,
};
use crate::control::problem::Problem;
use axum::extract::State;
use axum::http::{HeaderName, header};
use std::collections::BTreeMap;
use std::fmt::{Display, Write};

/// Peers with figures of their own, those with the most traffic first.
const MAX_PEERS: usize = 200;

/// Figures for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn metrics(
    State(app): State<App>,
) -> Result<([(HeaderName, &'static str); 1], String), Problem> {
    let (status, figures) = (known(&app).await?, counted(&app).await?);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text(&status, &figures)))
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

fn text(status: &Status, figures: &Figures) -> String {
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
    handshakes(&mut page, &figures.handshakes);
    gossip(&mut page, &figures.gossip);
    by_label(&mut page, "dns_answers_total", "Answers of the name server.", "code", &figures.dns);
    programs(&mut page, &figures.programs);
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
    page.family("peer_rtt_seconds", "gauge", "Round-trip time of the path in use, or of the last handshake.");
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
        ("relay_packets_total", "Datagrams forwarded.", (|leg| leg.packets) as fn(&LegStatus) -> u64),
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

fn handshakes(page: &mut Page, of: &HandshakeFigures) {
    page.family("handshakes_total", "counter", "Handshakes of circuits by what became of them.");
    for (outcome, count) in [
        ("begun", of.begun),
        ("completed", of.completed),
        ("given-up", of.given_up),
        ("answered", of.answered),
        ("cookie", of.cookies),
        ("limited", of.limited),
        ("refused", of.refused),
        ("stranger", of.strange),
    ] {
        page.sample("handshakes_total", &[("outcome", outcome)], count);
    }
}

fn gossip(page: &mut Page, of: &GossipFigures) {
    page.one("links", "gauge", "Control connections to other nodes.", of.links);
    page.one("records", "gauge", "Records of own networks that this node holds.", of.envelopes);
    by_label(page, "gossip_sent_total", "Messages about records sent.", "kind", &of.sent);
    by_label(page, "gossip_received_total", "Messages about records received.", "kind", &of.received);
    page.one("gossip_lost_total", "counter", "Messages about records that a slow link lost.", of.lost);
    page.one("link_violations_total", "counter", "Links closed for breaking the protocol.", of.violations);
}

fn by_label(page: &mut Page, name: &str, help: &str, label: &str, counts: &BTreeMap<String, u64>) {
    page.family(name, "counter", help);
    for (value, count) in counts {
        page.sample(name, &[(label, value)], count);
    }
}

/// Zeros while the kernel doesn't count (`kernel.bpf_stats_enabled`).
fn programs(page: &mut Page, of: &[ProgramCost]) {
    page.family("program_runs_total", "counter", "Runs of the kernel programs.");
    for program in of {
        page.sample("program_runs_total", &[("program", &program.name)], program.runs);
    }
    page.family("program_run_seconds_total", "counter", "Time that the kernel programs ran.");
    for program in of {
        page.sample("program_run_seconds_total", &[("program", &program.name)], program.run_ns as f64 / 1e9);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::NetworkStatus;
    use std::collections::BTreeSet;

    fn peer(n: u64, name: &str) -> PeerStatus {
        PeerStatus {
            node_id: format!("12D3{n}"),
            name: name.to_owned(),
            ipv4: None,
            ipv6: Some(std::net::Ipv6Addr::LOCALHOST),
            state: PeerState::Connected,
            path: None,
            rtt_ms: Some(1.5),
            cipher: None,
            rx_bytes: n,
            tx_bytes: 0,
            clock_ahead_s: None,
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
            ipv6: Some(std::net::Ipv6Addr::LOCALHOST),
            scope: Vec::new(),
            peers,
            devices: Vec::new(),
            conflicts: Vec::new(),
            warnings: Vec::new(),
        };
        let text = text(&Status { networks: vec![network], ..Status::default() }, &Figures::default());
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

    /// Words of an expression that name a metric of ours.
    fn named(expression: &str) -> BTreeSet<String> {
        let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        words.filter(|word| word.starts_with("meshhold_")).map(str::to_owned).collect()
    }

    #[test]
    fn the_dashboard_and_the_metrics_name_the_same() {
        let dashboard = include_str!("../../../../packaging/grafana-dashboard.json");
        let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
        let targets = dashboard["panels"].as_array().unwrap().iter();
        let targets = targets.flat_map(|panel| panel["targets"].as_array().unwrap());
        let expressions = targets.map(|target| target["expr"].as_str().unwrap());
        let shown: BTreeSet<String> = expressions.flat_map(named).collect();
        let text = text(&Status::default(), &Figures::default());
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let made: BTreeSet<String> = types.map(str::to_owned).collect();
        let lacking: Vec<_> = shown.difference(&made).collect();
        assert!(lacking.is_empty(), "the dashboard shows what is not there: {lacking:?}");
        // What isn't worth a panel.
        let hidden = ["meshhold_info", "meshhold_workers"].map(str::to_owned);
        let hidden: Vec<_> = made.difference(&shown).filter(|name| !hidden.contains(name)).collect();
        assert!(hidden.is_empty(), "no panel shows {hidden:?}");
    }
}
