//! Requests and replies of the control API, and the JSON of `meshlan status`.
//!
//! Owns the stable shapes. No reply carries a secret. Must not know how the daemon computes them.

use crate::config::keys::{KeyError, KeyReply, KeyRequest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a client asks for. One JSON line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// The state of everything.
    Status,
    /// The key store changed on disk: read it again.
    Reload,
    /// Look at the management keys or change them; a change applies live.
    Key(KeyRequest),
}

/// What the daemon answers. One JSON line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Key`].
    Key(KeyReply),
    /// To [`Request::Reload`]: done, nothing to tell.
    Done,
    /// It failed; a sentence for the user.
    Error(String),
}

impl From<Result<KeyReply, KeyError>> for Response {
    fn from(result: Result<KeyReply, KeyError>) -> Self {
        result.map_or_else(|error| Self::Error(error.to_string()), Self::Key)
    }
}

/// What `meshlan status --json` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// One entry a network.
    pub networks: Vec<NetworkStatus>,
    /// What is degraded, a sentence each, with what to do about it.
    pub warnings: Vec<String>,
    /// Packets by Reason since the start; reasons that never occurred are left out.
    pub counters: BTreeMap<String, u64>,
}

/// How packets are handled on this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DatapathStatus {
    /// Who enforces the policy.
    pub mode: DatapathMode,
    /// Where the kernel programs hang (`tcx`, `clsact`).
    pub hook: Option<String>,
    /// Number of worker threads.
    pub workers: u32,
}

/// Who enforces the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    pub ipv4: Option<Ipv4Addr>,
    /// This node's IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Open ports (`tcp:22`, `udp:5000-5010`); empty denies everything.
    pub scope: Vec<String>,
    /// Known members, in order of their node ids.
    pub peers: Vec<PeerStatus>,
    /// What the user should know of this network: moved addresses, collisions, conflicts.
    pub warnings: Vec<String>,
}

/// A network whose IPv4 range is in use on this host, and is shown at another one here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalViewStatus {
    /// Where this host sees it.
    pub range: String,
    /// The range that all members know.
    pub real_range: String,
    /// What used it when the view was chosen.
    pub reason: String,
}

/// One peer in one network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The peer's node id.
    pub node_id: String,
    /// The peer's display name.
    pub name: String,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Of its circuit.
    pub state: PeerState,
    /// How its datagrams travel now; none while not connected.
    pub path: Option<PathStatus>,
    /// Round-trip time of the last handshake or keepalive, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// AEAD of the circuit.
    pub cipher: Option<String>,
    /// Bytes received from it inside the circuit.
    pub rx_bytes: u64,
    /// Bytes sent to it inside the circuit.
    pub tx_bytes: u64,
}

/// State of the circuit to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStatus {
    /// Direct or not.
    pub kind: PathKind,
    /// The address that datagrams go to.
    pub remote: SocketAddr,
}

/// Kind of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// Straight to the peer.
    Direct,
}
