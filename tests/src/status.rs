//! The documented shape of `meshhold meshlan status --json`, as much of it as the tests use.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Deserialize;

/// The whole answer.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// Whether the daemon runs.
    pub running: bool,
    /// `12D3KooW…`.
    pub node_id: String,
    /// Name of the mesh interface.
    pub interface: Option<String>,
    /// How packets are judged and carried.
    pub datapath: Datapath,
    /// The name service.
    #[serde(default)]
    pub dns: Dns,
    /// What the node forwards for others.
    #[serde(default)]
    pub relay: Relay,
    /// One entry a mesh-route key.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// What is degraded, a sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Packets by reason.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
}

/// What a node forwards for others.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Relay {
    /// It does.
    pub enabled: bool,
    /// The kernel program is loaded.
    pub kernel: bool,
    /// Two for each circuit.
    pub legs: Vec<Leg>,
}

/// One direction of a circuit that is forwarded.
#[derive(Debug, Clone, Deserialize)]
pub struct Leg {
    /// The previous hop.
    pub from: SocketAddr,
    /// The next hop.
    pub to: SocketAddr,
    /// `kernel` or `workers`.
    pub by: String,
    /// Datagrams forwarded.
    pub packets: u64,
    /// Their UDP payload in bytes.
    pub bytes: u64,
    /// Datagrams beyond a budget.
    pub over_rate: u64,
}

/// The name service.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Dns {
    /// Where it listens.
    pub server: Option<SocketAddr>,
    /// What it answers for.
    pub suffix: String,
    /// Programs of the host get its answers.
    pub handed_over: bool,
    /// Why they don't.
    #[serde(default)]
    pub hindrance: Option<String>,
    /// What mends that.
    #[serde(default)]
    pub remedy: Option<String>,
}

/// The packet path.
#[derive(Debug, Clone, Deserialize)]
pub struct Datapath {
    /// `ebpf` when policy is in the kernel, `userspace` when the workers enforce it, `off` without an interface.
    pub mode: String,
    /// Which hook.
    pub hook: Option<String>,
    /// Worker threads.
    pub workers: u32,
    /// Flows to LAN devices that are translated.
    #[serde(default)]
    pub translations: u32,
}

/// A network this node is a member of.
#[derive(Debug, Clone, Deserialize)]
pub struct Network {
    /// Network id, hexadecimal.
    pub id: String,
    /// Name of the management key that opened it.
    pub name: String,
    /// The IPv4 range as `a.b.c.d/n`.
    pub range: String,
    /// Where this host sees the range, if not where members do.
    pub local_view: Option<LocalView>,
    /// What the user should know of this network.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Own address.
    pub ipv4: Option<Ipv4Addr>,
    /// Own address. `::` where the node has no IPv6.
    #[serde(deserialize_with = "or_none")]
    pub ipv6: Ipv6Addr,
    /// Open ports as `tcp:22`.
    pub scope: Vec<String>,
    /// The other members.
    pub peers: Vec<Peer>,
    /// LAN devices that the node fronts.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Who doesn't answer to its own name.
    #[serde(default)]
    pub conflicts: Vec<String>,
}

/// A LAN device that the node fronts.
#[derive(Debug, Clone, Deserialize)]
pub struct Device {
    /// Its display name.
    pub name: String,
    /// Its address in the LAN.
    pub target: IpAddr,
    /// Its mesh IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its mesh IPv6 address.
    pub ipv6: Ipv6Addr,
    /// `config` or `runtime`.
    pub origin: String,
    /// `ready`, `no-route`, …
    pub state: String,
}

/// A range that is shown elsewhere.
#[derive(Debug, Clone, Deserialize)]
pub struct LocalView {
    /// Here.
    pub range: String,
    /// To the members.
    pub real_range: String,
    /// What uses that on this host.
    pub reason: String,
}

/// Another member.
#[derive(Debug, Clone, Deserialize)]
pub struct Peer {
    /// `12D3KooW…`.
    pub node_id: String,
    /// Display name.
    pub name: String,
    /// Mesh address.
    pub ipv4: Option<Ipv4Addr>,
    /// Mesh address. `::` where the node has no IPv6.
    #[serde(deserialize_with = "or_none")]
    pub ipv6: Ipv6Addr,
    /// State of the circuit: `idle`, `connecting`, `connected`.
    pub state: String,
    /// Cipher of the circuit.
    pub cipher: Option<String>,
    /// The way its datagrams take, while there is one.
    #[serde(default)]
    pub path: Option<Path>,
}

/// The way to a peer.
#[derive(Debug, Clone, Deserialize)]
pub struct Path {
    /// `direct`, `relay` or `disguise`.
    pub kind: String,
    /// Where datagrams go: the peer itself, or the first relay.
    pub remote: Option<SocketAddr>,
    /// Node ids of the relays, the nearest first.
    #[serde(default)]
    pub via: Vec<String>,
    /// Since when, as the daemon writes it.
    #[serde(default)]
    pub since: serde_json::Value,
    /// Why this one was chosen.
    #[serde(default)]
    pub reason: String,
}

/// The unspecified address for null.
fn or_none<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Ipv6Addr, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(Ipv6Addr::UNSPECIFIED))
}

impl Status {
    /// The peer with that node id, in whichever network.
    pub fn peer(&self, node_id: &str) -> Option<&Peer> {
        self.networks.iter().flat_map(|network| &network.peers).find(|peer| peer.node_id == node_id)
    }
}
