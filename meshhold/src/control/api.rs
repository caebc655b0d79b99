//! Requests and replies of the control API, and the JSON of `meshlan status`.
//!
//! Owns the stable shapes. No reply carries a secret, but for the one that shares a key. Must not know how the daemon computes them.

pub use super::explanation::{Explanation, Verdict};
pub use super::figures::{Figures, GossipFigures, HandshakeFigures, ProgramCost};
use super::problem::Problem;
use crate::config::keys::{KeyError, KeyReply, KeyRequest};
use crate::datapath::probe::Way;
use crate::forward::{Forward, ForwardError, Origin};
use meshhold_core::reflexive::Nat;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use utoipa::ToSchema;

/// What a client asks for.
#[derive(Debug)]
pub enum Request {
    /// The state of everything.
    Status,
    /// The key store changed on disk: read it again.
    Reload,
    /// Look at the management keys or change them; a change applies live.
    Key(KeyRequest),
    /// Look at the forwarded LAN devices or change them; a change applies live.
    Forward(ForwardRequest),
    /// Why would a packet pass or be dropped?
    Explain(ExplainRequest),
    /// What would become of this very packet?
    ExplainPacket {
        /// From its IP header on.
        packet: Vec<u8>,
        /// Where it is; by its source address where none is named.
        at: Option<Way>,
    },
    /// What was dropped since?
    Drops {
        /// [`DropsReply::seen`] of the last answer; 0 at first.
        seen: u64,
    },
    /// Which paths were tried, and why is each circuit on the one it takes?
    Paths,
    /// What of the world does this node see?
    Netcheck,
    /// What do the kernel programs cost?
    Programs,
    /// What was counted since the start?
    Figures,
    /// Which address does a name, address or node id mean?
    Resolve(String),
}

/// A packet to be asked about.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// Its protocol.
    pub traffic: Traffic,
    /// Where to: an IP address, or a name.
    pub to: String,
    /// To which port; none for ICMP.
    pub port: Option<u16>,
    /// From which member, where it comes in: a name, node id or address. Any where none is named.
    pub from: Option<String>,
}

/// Protocol of a packet to be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    /// The first packet of a TCP connection.
    Tcp,
    /// A UDP datagram.
    Udp,
    /// An echo request.
    Icmp,
}

/// What was dropped lately.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DropsReply {
    /// Those that the kernel told of (a few of each reason in a quarter of a second or more), alike ones together.
    pub drops: Vec<Drop>,
    /// How many it has told of.
    pub seen: u64,
    /// Packets by Reason since the start: all of them.
    pub counters: BTreeMap<String, u64>,
}

/// Packets that met one fate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drop {
    /// The Reason.
    pub reason: String,
    /// `ingress`, `egress`, or `guard` on another interface.
    pub direction: String,
    /// IP protocol number.
    pub protocol: u8,
    /// Source; the port of the first of them. For ICMP the type.
    #[schema(value_type = String)]
    pub from: SocketAddr,
    /// Destination.
    #[schema(value_type = String)]
    pub to: SocketAddr,
    /// Display name of the member at the other end.
    pub peer: Option<String>,
    /// How many.
    pub count: u64,
}

impl Drop {
    /// Whether they belong together: all but the source port is the same.
    pub fn is_like(&self, other: &Self) -> bool {
        let key = |drop: &Self| (drop.from.ip(), drop.to, drop.protocol);
        key(self) == key(other) && self.reason == other.reason && self.direction == other.direction
    }
}

/// Who a peer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerName {
    /// Its node id.
    pub node_id: String,
    /// Its display name.
    pub name: String,
}

/// What a client wants of the forwarded LAN devices.
#[derive(Debug)]
pub enum ForwardRequest {
    /// All of them.
    List,
    /// One more.
    Add(Forward),
    /// One less.
    Remove {
        /// Its display name.
        name: String,
    },
}

/// What the daemon answers.
#[derive(Debug)]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Key`].
    Key(KeyReply),
    /// To [`Request::Forward`]: the devices as they are then, an entry a network and device.
    Forwards(Vec<DeviceStatus>),
    /// To [`Request::Drops`].
    Drops(DropsReply),
    /// To [`Request::Paths`].
    Paths(Vec<PeerPaths>),
    /// To [`Request::Netcheck`].
    Netcheck(Netcheck),
    /// To [`Request::Programs`].
    Programs(Vec<ProgramCost>),
    /// To [`Request::Figures`].
    Figures(Box<Figures>),
    /// To [`Request::Resolve`].
    Address(IpAddr),
    /// To [`Request::Explain`].
    Explanation(Box<Explanation>),
    /// To [`Request::Reload`]: done, nothing to tell.
    Done,
    /// It was refused.
    Error(Problem),
}

impl From<Result<KeyReply, KeyError>> for Response {
    fn from(result: Result<KeyReply, KeyError>) -> Self {
        result.map_or_else(|error| Self::Error(error.into()), Self::Key)
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        let detail = error.to_string();
        match error {
            KeyError::NotFound(_) => Self::not_found(detail),
            KeyError::Ambiguous(..) | KeyError::Known { .. } => Self::conflict(detail),
            KeyError::Changed(_) => Self::changed(detail),
            KeyError::Invalid(_) => Self::invalid(detail),
            KeyError::Store(_) => Self::failed(detail),
        }
    }
}

impl From<ForwardError> for Problem {
    fn from(error: ForwardError) -> Self {
        let detail = error.to_string();
        match error {
            ForwardError::Invalid(_) => Self::invalid(detail),
            ForwardError::Taken(_) | ForwardError::Full | ForwardError::Configured(_) => {
                Self::conflict(detail)
            }
            ForwardError::Unknown(_) => Self::not_found(detail),
            ForwardError::File(_) => Self::failed(detail),
        }
    }
}

/// What `meshlan status --json` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// A daemon answered.
    pub running: bool,
    /// This node's id (`12D3KooW…`); empty when there is none yet.
    pub node_id: String,
    /// This node's display name.
    pub name: String,
    /// Name of the mesh interface.
    pub interface: String,
    /// How packets are handled.
    pub datapath: DatapathStatus,
    /// The name service.
    #[serde(default)]
    pub dns: DnsStatus,
    /// What this node forwards for others.
    #[serde(default)]
    pub relay: RelayStatus,
    /// One entry a network.
    pub networks: Vec<NetworkStatus>,
    /// What is degraded, a sentence each, with what to do about it.
    pub warnings: Vec<String>,
    /// Packets by Reason since the start; reasons that never occurred are left out.
    pub counters: BTreeMap<String, u64>,
}

/// What a node forwards for others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RelayStatus {
    /// It does.
    pub enabled: bool,
    /// The kernel program is loaded.
    pub kernel: bool,
    /// How many legs: two for each circuit.
    pub count: usize,
    /// The first of them.
    pub legs: Vec<LegStatus>,
}

/// One direction of a circuit that is forwarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LegStatus {
    /// The previous hop.
    #[schema(value_type = String)]
    pub from: SocketAddr,
    /// The next hop.
    #[schema(value_type = String)]
    pub to: SocketAddr,
    /// Who forwards it.
    pub by: RelayHost,
    /// Datagrams forwarded.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Datagrams dropped beyond the rate.
    pub over_rate: u64,
}

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RelayHost {
    /// The kernel program.
    Kernel,
    /// The workers.
    Workers,
}

/// The name service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DnsStatus {
    /// Where it listens, for this host only; none where it couldn't start.
    #[schema(value_type = Option<String>)]
    pub server: Option<SocketAddr>,
    /// What it answers for.
    pub suffix: String,
    /// Programs on this host get its answers: one was asked for as they ask.
    pub handed_over: bool,
    /// Why they don't, a sentence; none while they do, and while that isn't known yet.
    #[serde(default)]
    pub hindrance: Option<String>,
    /// What brings them there.
    #[serde(default)]
    pub remedy: Option<String>,
}

/// How packets are handled on this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DatapathStatus {
    /// Who enforces the policy.
    pub mode: DatapathMode,
    /// Where the kernel programs hang (`tcx`, `clsact`).
    pub hook: Option<String>,
    /// Number of worker threads.
    pub workers: u32,
    /// Flows to LAN devices that this node translates now.
    #[serde(default)]
    pub translations: u32,
    /// Offloads that this node does without: `configuration` for all, `interface`, `send`, `receive`.
    #[serde(default)]
    pub without_offloads: Vec<String>,
}

/// Who enforces the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DatapathMode {
    /// Nobody: there is no mesh interface.
    #[default]
    Off,
    /// The kernel programs.
    Ebpf,
    /// The workers; incoming traffic reaches services that listen on the mesh address only.
    Userspace,
}

/// One network, seen from this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NetworkStatus {
    /// The network's public id, hex.
    pub id: String,
    /// Name of the management key that opened it.
    pub name: String,
    /// IPv4 range as this host sees it, `base/prefix`.
    pub range: String,
    /// Set where this host sees the range elsewhere than members do.
    pub local_view: Option<LocalViewStatus>,
    /// This node's IPv4 address; none while the range is unusable here.
    #[schema(value_type = Option<String>)]
    pub ipv4: Option<Ipv4Addr>,
    /// This node's IPv6 address; none where the mesh interface has no IPv6.
    #[schema(value_type = Option<String>)]
    pub ipv6: Option<Ipv6Addr>,
    /// Open ports (`tcp:22`, `udp:5000-5010`); empty denies everything.
    pub scope: Vec<String>,
    /// Known members, in order of their node ids.
    pub peers: Vec<PeerStatus>,
    /// LAN devices that this node fronts in it.
    #[serde(default)]
    pub devices: Vec<DeviceStatus>,
    /// Nodes and devices that don't answer to their own name, a sentence each.
    #[serde(default)]
    pub conflicts: Vec<String>,
    /// What the user should know of this network: moved addresses, collisions, conflicts.
    pub warnings: Vec<String>,
}

/// A LAN device that this node fronts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceStatus {
    /// Its display name.
    pub name: String,
    /// Its address in the LAN.
    #[schema(value_type = String)]
    pub target: IpAddr,
    /// Its mesh IPv4 address; none while the range is unusable here.
    #[schema(value_type = Option<String>)]
    pub ipv4: Option<Ipv4Addr>,
    /// Its mesh IPv6 address.
    #[schema(value_type = String)]
    pub ipv6: Ipv6Addr,
    /// Where it was added.
    #[schema(value_type = String)]
    pub origin: Origin,
    /// Whether it can be reached through this node.
    pub state: DeviceState,
}

/// Whether a device can be reached through this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// There is a way. Whether the device is on shows a ping.
    Ready,
    /// This host has no route to the target now.
    NoRoute,
    /// The target is this host itself: refused.
    OwnAddress,
    /// The target is a mesh address: refused.
    MeshAddress,
    /// The kernel programs are missing, without which there is no translation.
    NoKernelPrograms,
}

/// A network whose IPv4 range is in use on this host, and is shown at another one here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LocalViewStatus {
    /// Where this host sees it.
    pub range: String,
    /// The range that all members know.
    pub real_range: String,
    /// What used it when the view was chosen.
    pub reason: String,
}

/// One peer in one network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerStatus {
    /// The peer's node id.
    pub node_id: String,
    /// The peer's display name.
    pub name: String,
    /// Its IPv4 address.
    #[schema(value_type = Option<String>)]
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address; none where its node says that it has no IPv6.
    #[schema(value_type = Option<String>)]
    pub ipv6: Option<Ipv6Addr>,
    /// Of its circuit.
    pub state: PeerState,
    /// How its datagrams travel now; none while not connected.
    pub path: Option<PathStatus>,
    /// Round-trip time of the path in use, or of the last handshake, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// AEAD of the circuit.
    pub cipher: Option<String>,
    /// Bytes received from it inside the circuit.
    pub rx_bytes: u64,
    /// Bytes sent to it inside the circuit.
    pub tx_bytes: u64,
    /// How far its clock is ahead of this host's, in seconds, where it told: by its record, or by the last handshake it began.
    #[serde(default)]
    pub clock_ahead_s: Option<i64>,
}

/// State of the circuit to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    /// Known, no circuit wanted now.
    Idle,
    /// A handshake is under way.
    Connecting,
    /// Packets flow.
    Connected,
}

/// How datagrams travel to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PathStatus {
    /// Direct or not.
    pub kind: PathKind,
    /// The address that datagrams go to: the peer's, or that of the first relay.
    #[schema(value_type = String)]
    pub remote: SocketAddr,
    /// The own address that datagrams leave from: the one that the peer sends to. None while the system chooses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub local: Option<IpAddr>,
    /// Node ids of the relays, the next one first.
    pub via: Vec<String>,
    /// Since when, in seconds of the Unix epoch.
    pub since: u64,
    /// Why this one: a part of a sentence.
    pub reason: String,
}

impl std::fmt::Display for PathStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            PathKind::Direct => self.remote.fmt(f),
            PathKind::Relay if self.via.len() > 1 => {
                write!(f, "{} relays, the first at {}", self.via.len(), self.remote)
            }
            PathKind::Relay => write!(f, "a relay at {}", self.remote),
        }
    }
}

/// The paths to one peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerPaths {
    /// The network's id.
    pub network: String,
    /// Who.
    pub peer: PeerName,
    /// What was decided, oldest first; the last one holds.
    pub decisions: Vec<PathStatus>,
    /// All that were tried.
    pub tried: Vec<TriedPath>,
}

/// One path that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TriedPath {
    /// Direct or not.
    pub kind: PathKind,
    /// Where its datagrams go.
    #[schema(value_type = String)]
    pub remote: SocketAddr,
    /// Node ids of the relays, the next one first.
    pub via: Vec<String>,
    /// Smoothed round-trip time, in milliseconds; none before the first answer.
    pub rtt_ms: Option<f64>,
    /// Probes sent.
    pub sent: u32,
    /// Probes answered.
    pub answered: u32,
}

/// What `netcheck --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Netcheck {
    /// Kind of NAT before this node.
    #[schema(value_type = String)]
    pub nat: Nat,
    /// Where others see this node.
    #[schema(value_type = Vec<String>)]
    pub mapped: Vec<SocketAddr>,
    /// Relays with a link, the nearest first.
    pub relays: Vec<RelaySeen>,
    /// The port mapping that a router granted.
    pub port_mapping: Option<PortMapping>,
    /// Whether UDP gets through: none where there is nobody to try it with.
    pub udp: Option<bool>,
    /// Longest packet inside a circuit, in bytes, by the narrowest path in use; none without a circuit.
    pub path_mtu: Option<u16>,
}

/// A relay, as this node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RelaySeen {
    /// Its node id.
    pub node_id: String,
    /// Round-trip time in milliseconds.
    pub rtt_ms: f64,
}

/// A port mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortMapping {
    /// `pcp`, `nat-pmp` or `upnp`.
    pub protocol: String,
    /// Address and port outside.
    #[schema(value_type = String)]
    pub external: SocketAddr,
}

/// Kind of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// Straight to the peer.
    Direct,
    /// Through relays.
    Relay,
}
