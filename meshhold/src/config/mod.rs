//! What an operator sets: `config.yaml`, its defaults and its checks.
//!
//! Owns the shape of the configuration; loading and its error messages stand in [`mod@file`], the checks of
//! single values in `value`, secrets at rest in [`store`] and [`identity`].
//! Must not know the daemon or the command line.

pub mod file;
pub mod identity;
pub mod keys;
pub mod private;
pub mod range;
pub mod secret;
pub mod store;
mod value;

pub use file::ConfigError;
pub use value::SwarmKey;
pub(crate) use value::check_name;

use crate::forward::Forward;
use meshhold_core::key::Ipv4Range;
use meshhold_core::multiaddr::Multiaddr;
use meshhold_core::session::Cipher;
use serde::Deserialize;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where the configuration is looked for when nobody names a file.
pub const DEFAULT_PATH: &str = "/etc/meshhold/config.yaml";

/// The whole configuration, checked. `Default` is what an absent file means.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// This node.
    #[serde(deserialize_with = "value::section")]
    pub node: NodeConfig,
    /// Nodes to link to at start, as multiaddrs.
    #[serde(deserialize_with = "value::bootstrap_peers")]
    pub bootstrap_peers: Vec<Multiaddr>,
    /// Closes the underlay to nodes that don't hold it. Filled from `swarm_key_file` too.
    #[serde(deserialize_with = "value::optional")]
    pub swarm_key: Option<SwarmKey>,
    #[serde(deserialize_with = "value::swarm_key_file")]
    swarm_key_file: Option<SwarmKey>,
    /// How other nodes are found.
    #[serde(deserialize_with = "value::section")]
    pub discovery: DiscoveryConfig,
    /// The control API.
    #[serde(deserialize_with = "value::section")]
    pub api: ApiConfig,
    /// The mesh LAN.
    #[serde(deserialize_with = "value::section")]
    pub meshlan: MeshlanConfig,
    /// What this node forwards for others.
    #[serde(deserialize_with = "value::section")]
    pub relay: RelayConfig,
}

/// Section `relay`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelayConfig {
    /// True: forward sealed datagrams of circuits between nodes that have links to this one.
    pub enabled: bool,
    /// Most circuits.
    pub circuits: u32,
    /// Most circuits that one node may ask for.
    pub circuits_per_source: u32,
    /// Most megabits a second of each direction of a circuit.
    pub rate_mbit: u32,
    /// Most megabits a second of all circuits that one node asked for.
    pub source_rate_mbit: u32,
}

impl RelayConfig {
    /// Most bytes a second of each direction of a circuit.
    pub fn rate(&self) -> u64 {
        u64::from(self.rate_mbit) * 125_000
    }

    /// Most bytes a second of all circuits that one node asked for.
    pub fn source_rate(&self) -> u64 {
        u64::from(self.source_rate_mbit) * 125_000
    }
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            circuits: 16_384,
            circuits_per_source: 4_096,
            rate_mbit: 100_000,
            source_rate_mbit: 100_000,
        }
    }
}

/// Section `node`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// Display name that peers see; the host name unless set.
    #[serde(deserialize_with = "value::name")]
    pub name: String,
    /// Folder of the identity, the keys and the remembered state (mode 0700).
    #[serde(deserialize_with = "value::absolute_path")]
    pub data_dir: PathBuf,
    /// UDP address that circuits and links share.
    #[serde(deserialize_with = "value::listen")]
    pub listen: SocketAddr,
    /// The only cipher that circuits may use; `None` takes the fastest that both ends have.
    #[serde(deserialize_with = "value::cipher")]
    pub cipher: Option<Cipher>,
    /// False: each packet travels singly between the daemon and the kernel, for kernels or drivers that break
    /// super-packets.
    pub offload: bool,
}

/// Section `discovery`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiscoveryConfig {
    /// Announce this node on its LANs, sealed, and listen to others.
    pub lan: bool,
    /// Ask the gateway to let everybody in to the port of `node.listen`.
    pub port_mapping: bool,
    /// Meet other members in the BitTorrent DHT too.
    pub dht: bool,
    /// DHT nodes to begin with, as `host:port`; empty means the well-known ones.
    #[serde(deserialize_with = "value::dht_bootstrap")]
    pub dht_bootstrap: Vec<String>,
}

/// Section `api`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// The control socket, where it isn't the usual one.
    #[serde(deserialize_with = "value::socket_path")]
    pub socket: Option<PathBuf>,
    /// TCP address of the Web UI and the API; none serves the control socket alone.
    #[serde(deserialize_with = "value::listen_addr")]
    pub listen_addr: Option<SocketAddr>,
    /// Further host names, without a port, under which a browser may ask.
    pub hosts: Vec<String>,
    /// Certificate chain, PEM; a self-signed one is made where it is needed and none is named.
    #[serde(deserialize_with = "value::optional_path")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM.
    #[serde(deserialize_with = "value::optional_path")]
    pub tls_key: Option<PathBuf>,
    /// Name or id of the one network whose members may reach the Web UI through the mesh.
    pub mesh_access: Option<String>,
    /// Programs on this host may read `/metrics` without a token.
    pub open_metrics: bool,
}

/// Section `meshlan`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeshlanConfig {
    /// False: link and serve the control API, but create no interface.
    pub enabled: bool,
    /// Name of the mesh interface, at most 15 bytes.
    #[serde(deserialize_with = "value::interface")]
    pub interface: String,
    /// Space that new networks take their IPv4 range from.
    #[serde(deserialize_with = "value::scalar")]
    pub ipv4_range: Ipv4Range,
    /// Inner MTU in bytes, 1280 to 65535.
    #[serde(deserialize_with = "value::mtu")]
    pub mtu: u16,
    /// DNS suffix of the mesh names.
    #[serde(deserialize_with = "value::dns_suffix")]
    pub dns_suffix: String,
    #[serde(deserialize_with = "value::source")]
    source: (),
    #[serde(deserialize_with = "value::dns_upstream")]
    dns_upstream: (),
    /// LAN devices that this node fronts.
    #[serde(deserialize_with = "value::forwards")]
    pub forwards: Vec<Forward>,
}

/// The data folder where none is set.
const DATA_DIR: &str = "/var/lib/meshhold";
/// `RuntimeDirectory=` of the unit file.
const RUNTIME_DIR: &str = "/run/meshhold";
/// Name of the control socket.
const SOCKET: &str = "control.sock";

impl Config {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        file::load(path)
    }

    /// Path of the control socket: `api.socket`, or `control.sock` in the folder that systemd makes for the service, or in
    /// the data folder.
    pub fn socket(&self) -> PathBuf {
        self.api.socket.clone().unwrap_or_else(|| self.usual_socket(Path::new(RUNTIME_DIR)))
    }

    /// Daemon and command line must come to the same answer, though systemd tells the daemon alone. A node with a data
    /// folder of its own isn't that service.
    fn usual_socket(&self, runtime: &Path) -> PathBuf {
        let in_data = self.node.data_dir.join(SOCKET);
        let is_service = self.node.data_dir == Path::new(DATA_DIR) && runtime.is_dir();
        // There a daemon listens that doesn't know of the other folder.
        if is_service && !in_data.exists() { runtime.join(SOCKET) } else { in_data }
    }
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            name: hostname(),
            data_dir: PathBuf::from(DATA_DIR),
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 7777)),
            cipher: None,
            offload: true,
        }
    }
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            socket: None,
            listen_addr: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))),
            hosts: Vec::new(),
            tls_cert: None,
            tls_key: None,
            mesh_access: None,
            open_metrics: false,
        }
    }
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self { lan: true, port_mapping: true, dht: false, dht_bootstrap: Vec::new() }
    }
}

impl Default for MeshlanConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            interface: "mesh0".to_owned(),
            ipv4_range: value::default_space(),
            mtu: 1420,
            dns_suffix: "mesh".to_owned(),
            source: (),
            dns_upstream: (),
            forwards: Vec::new(),
        }
    }
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if check_name(name).is_ok() { name.to_owned() } else { "node".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_has_its_socket_in_the_runtime_folder_and_nobody_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        let missing = folder.path().join("missing");
        assert_eq!(config.usual_socket(&missing), Path::new("/var/lib/meshhold/control.sock"));
        if !Path::new(DATA_DIR).join(SOCKET).exists() {
            assert_eq!(config.usual_socket(folder.path()), folder.path().join(SOCKET));
        }
        config.node.data_dir = PathBuf::from("/srv/node");
        assert_eq!(config.usual_socket(folder.path()), Path::new("/srv/node/control.sock"));
        config.api.socket = Some(PathBuf::from("/srv/api.sock"));
        assert_eq!(config.socket(), Path::new("/srv/api.sock"));
    }
}
