//! `meshlan status`: the daemon's state for people and for programs.

use super::output::{Outcome, printable, table};
use crate::config::{Config, identity};
use crate::control::api::{
    DatapathMode, DnsStatus, NetworkStatus, PeerState, PeerStatus, Request, Response, Status,
};
use crate::control::client::{self, ClientError};
use std::fmt::Write;
use std::net::IpAddr;

/// Exit code for "no daemon".
pub(super) const NOT_RUNNING: u8 = 3;

/// Asks the daemon and prints its answer.
pub(super) fn run(config: &Config, json: bool) -> anyhow::Result<Outcome> {
    let status = known(config)?;
    let code = if status.running { 0 } else { NOT_RUNNING };
    Ok(if json { Outcome::json(&status) } else { Outcome::text(render(&status)) }.code(code))
}

/// The daemon's answer, or what is known without one.
pub(super) fn known(config: &Config) -> anyhow::Result<Status> {
    match client::call(&config.socket(), &Request::Status) {
        Ok(Response::Status(status)) => Ok(*status),
        Ok(Response::Error(error)) => anyhow::bail!(error),
        Ok(_) => anyhow::bail!("the daemon's answer isn't a status; restart it with this version"),
        Err(ClientError::NotRunning(_)) => Ok(stopped(config)),
        Err(error) => Err(error.into()),
    }
}

/// What is known without a daemon, in the same shape.
fn stopped(config: &Config) -> Status {
    let node_id =
        identity::load(&config.node.data_dir).ok().flatten().map(|identity| identity.node_id().to_string());
    Status {
        node_id: node_id.unwrap_or_default(),
        name: config.node.name.clone(),
        interface: config.meshlan.interface.clone(),
        ..Status::default()
    }
}

fn render(status: &Status) -> String {
    if !status.running {
        return "running: no\n".to_owned();
    }
    let mut text = "running: yes\n".to_owned();
    let single = status.networks.len() == 1;
    for network in &status.networks {
        if !single {
            let _ =
                write!(text, "\nnetwork: {} ({}, {})\n", printable(&network.name), network.range, network.id);
        }
        section(&mut text, network);
    }
    let _ = write!(
        text,
        "\nnode: {} {}\ndatapath: {}\n",
        printable(&status.name),
        status.node_id,
        datapath(status)
    );
    text.push_str(&dns(status));
    text.push_str(&relay(status));
    for warning in &status.warnings {
        let _ = writeln!(text, "warning: {}", printable(warning));
    }
    text
}

fn dns(status: &Status) -> String {
    let DnsStatus { server, suffix, handed_over, hindrance, remedy } = &status.dns;
    let Some(server) = server else { return String::new() };
    let mut text = match handed_over {
        true => format!("names: .{suffix}, by {server}, which this host's resolver asks\n"),
        false => format!("names: .{suffix}, by {server}, which nobody asks by itself\n"),
    };
    if let (Some(hindrance), Some(remedy)) = (hindrance, remedy) {
        let _ = writeln!(text, "warning: {}; to mend it: {}", printable(hindrance), printable(remedy));
    }
    text
}

/// Two legs are one circuit.
fn relay(status: &Status) -> String {
    let relay = &status.relay;
    let by = if relay.kernel { "the kernel" } else { "the workers" };
    if relay.enabled { format!("relay: {} circuits, by {by}\n", relay.count / 2) } else { String::new() }
}

fn datapath(status: &Status) -> String {
    let path = &status.datapath;
    let mode = match path.mode {
        DatapathMode::Off => return "off (no mesh interface)".to_owned(),
        DatapathMode::Ebpf => "ebpf",
        DatapathMode::Userspace => "userspace",
    };
    let hook = path.hook.as_ref().map(|hook| format!(" ({hook})")).unwrap_or_default();
    format!("{mode}{hook} on {}, {} workers", status.interface, path.workers)
}

fn section(text: &mut String, network: &NetworkStatus) {
    let addresses = network.ipv4.map(IpAddr::V4).into_iter().chain(network.ipv6.map(IpAddr::V6));
    let addresses: Vec<String> = addresses.map(|address| address.to_string()).collect();
    let scope = if network.scope.is_empty() { "none".to_owned() } else { network.scope.join(" ") };
    let _ = write!(text, "my IPs: {}\nopen ports: {scope}\n", addresses.join(", "));
    for conflict in &network.conflicts {
        let _ = writeln!(text, "name conflict: {}", printable(conflict));
    }
    if let Some(view) = &network.local_view {
        let _ = writeln!(
            text,
            "local view: {} stands for {} here, which is in use by {}",
            view.range,
            view.real_range,
            printable(&view.reason)
        );
    }
    for warning in &network.warnings {
        let _ = writeln!(text, "warning: {}", printable(warning));
    }
    let rows: Vec<Vec<String>> = network.peers.iter().flat_map(peer_rows).collect();
    text.push_str(&table(&rows));
    if !network.devices.is_empty() {
        let _ = write!(text, "devices:\n{}", super::forwards::list(&network.devices));
    }
}

/// One row an address.
fn peer_rows(peer: &PeerStatus) -> Vec<Vec<String>> {
    let state = match (peer.state, &peer.path) {
        (PeerState::Connected, Some(path)) => {
            let rtt = peer.rtt_ms.map(|rtt| format!(" {rtt:.1} ms")).unwrap_or_default();
            format!("connected via {path}{rtt}")
        }
        (PeerState::Connected, None) => "connected".to_owned(),
        (PeerState::Connecting, _) => "connecting".to_owned(),
        (PeerState::Idle, _) => "idle".to_owned(),
    };
    let row = |address: String| vec![address, peer.node_id.clone(), printable(&peer.name), state.clone()];
    let addresses = peer.ipv4.map(IpAddr::V4).into_iter().chain(peer.ipv6.map(IpAddr::V6));
    addresses.map(|address| row(address.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::{DatapathStatus, PathKind, PathStatus};

    fn peer() -> PeerStatus {
        PeerStatus {
            node_id: "12D3KooWpeer".into(),
            name: "lap\x1btop".into(),
            ipv4: Some([198, 18, 4, 17].into()),
            ipv6: Some("fd12:3::1".parse().unwrap()),
            state: PeerState::Connected,
            path: Some(PathStatus {
                kind: PathKind::Direct,
                remote: "192.0.2.1:7777".parse().unwrap(),
                local: None,
                via: Vec::new(),
                since: 0,
                reason: String::new(),
            }),
            rtt_ms: Some(0.84),
            cipher: Some("chacha20-poly1305".into()),
            rx_bytes: 1,
            tx_bytes: 2,
            clock_ahead_s: None,
        }
    }

    fn network(name: &str) -> NetworkStatus {
        NetworkStatus {
            id: "aa".into(),
            name: name.into(),
            range: "198.18.0.0/18".into(),
            local_view: None,
            ipv4: Some([198, 18, 0, 33].into()),
            ipv6: Some("fd12:3:4::1".parse().unwrap()),
            scope: vec!["tcp:22".into()],
            devices: Vec::new(),
            conflicts: Vec::new(),
            peers: vec![peer()],
            warnings: vec!["address moved".into()],
        }
    }

    fn status(networks: Vec<NetworkStatus>) -> Status {
        let datapath = DatapathStatus {
            mode: DatapathMode::Ebpf,
            hook: Some("tcx".into()),
            workers: 2,
            translations: 0,
            without_offloads: Vec::new(),
        };
        Status {
            running: true,
            interface: "mesh0".into(),
            networks,
            datapath,
            warnings: vec!["no tun".into()],
            ..Status::default()
        }
    }

    #[test]
    fn one_network_reads_as_documented() {
        let text = render(&status(vec![network("Home")]));
        let expected = "running: yes\nmy IPs: 198.18.0.33, fd12:3:4::1\nopen ports: tcp:22\nwarning: address moved\n\
            198.18.4.17  12D3KooWpeer  lap\u{fffd}top  connected via 192.0.2.1:7777 0.8 ms\n\
            fd12:3::1    12D3KooWpeer  lap\u{fffd}top  connected via 192.0.2.1:7777 0.8 ms\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("datapath: ebpf (tcx) on mesh0, 2 workers\nwarning: no tun\n"), "{text}");
    }

    #[test]
    fn several_networks_have_a_section_each() {
        let text = render(&status(vec![network("Home"), network("Work")]));
        assert_eq!(text.matches("\nnetwork: ").count(), 2);
        assert_eq!(text.matches("\nmy IPs: ").count(), 2);
    }

    #[test]
    fn json_shape_is_stable() {
        let value = serde_json::to_value(status(vec![network("Home")])).unwrap();
        let keys = |value: &serde_json::Value| {
            value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            keys(&value),
            "counters datapath dns interface name networks node_id relay running warnings"
        );
        assert_eq!(keys(&value["datapath"]), "hook mode translations without_offloads workers");
        assert_eq!(
            keys(&value["networks"][0]),
            "conflicts devices id ipv4 ipv6 local_view name peers range scope warnings"
        );
        let peer = &value["networks"][0]["peers"][0];
        assert_eq!(
            keys(peer),
            "cipher clock_ahead_s ipv4 ipv6 name node_id path rtt_ms rx_bytes state tx_bytes"
        );
        let path = serde_json::json!({ "kind": "direct", "remote": "192.0.2.1:7777", "via": [], "since": 0, "reason": "" });
        assert_eq!(peer["path"], path);
        assert_eq!(peer["state"], "connected");
    }
}
