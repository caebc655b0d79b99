//! The grammar of the command line.

use crate::config::keys::Capability;
use crate::config::secret::SecretText;
use crate::datapath::probe::Way;
use clap::{ArgGroup, Parser, Subcommand};
use meshhold_core::key::Ipv4Range;
use meshhold_core::scope::PortRule;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A flat, encrypted LAN for all your nodes, wherever they are.
#[derive(Debug, Parser)]
#[command(name = "meshhold", version)]
pub(super) struct Args {
    /// Configuration file [default: /etc/meshhold/config.yaml]
    #[arg(long, global = true, env = "MESHHOLD_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the node
    Daemon,
    /// Make, join, change and remove keys
    MgmtKeys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Look at the mesh LAN
    Meshlan {
        #[command(subcommand)]
        command: MeshlanCommand,
    },
    /// Say what this node sees of the Internet: NAT, relays, port mapping, path MTU
    Netcheck,
    /// Say what keeps this node from doing its work, and what mends it; exit code 1 where something doesn't work
    Doctor,
    /// Keep mesh addresses off all interfaces before the daemon runs: for a boot, before there is a network
    Barrier,
    /// Take away what a node that ended left on this host: interface, programs, routes, and what keeps mesh addresses off
    /// the other interfaces. Keys stay. Refuses while the daemon runs
    Cleanup,
    /// Print a link to the Web UI, good for one login within 60 seconds
    #[command(args_conflicts_with_subcommands = true)]
    Web {
        /// Open it in a browser
        #[arg(long)]
        open: bool,
        #[command(subcommand)]
        command: Option<WebCommand>,
    },
    /// Print this node's id; makes the identity if there is none yet
    Id,
    /// Make a swarm key, which closes the underlay to all who don't hold it
    Keygen,
}

#[derive(Debug, Subcommand)]
pub(super) enum WebCommand {
    /// Set the password of the Web UI; asks for it, or reads it from stdin
    SetPassword,
}

#[derive(Debug, Subcommand)]
pub(super) enum MeshlanCommand {
    /// Show addresses, peers and what is degraded
    Status {
        /// Show every path that was tried, and why each circuit takes the one it does
        #[arg(long)]
        paths: bool,
    },
    /// Follow what is dropped, until Ctrl-C
    Drops {
        /// End after this time, e.g. 30s or 5m
        #[arg(long = "for", value_name = "TIME", value_parser = super::time::parse_duration)]
        limit: Option<Duration>,
    },
    /// Ask a member or device for echoes, and say where it fails; exit code 1 without any
    Ping {
        /// A name, IP address or node id
        to: String,
        /// How many
        #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        count: u16,
    },
    /// Say why a packet would pass or be dropped; exit code 1 where it would be dropped
    Explain(ExplainArgs),
    /// Front LAN devices that don't run MeshHold
    Forwards {
        #[command(subcommand)]
        command: ForwardsCommand,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// Its protocol, or 'packet' for one in hexadecimal
    pub(super) kind: Kind,
    /// Where to: 198.18.3.17:22 or nas.mesh:22, IPv6 in brackets; without a port for icmp. For packet: all of it from the
    /// IP header on, as `tcpdump -x` prints it
    #[arg(value_name = "ADDRESS[:PORT]|HEX")]
    pub(super) to: String,
    /// From which member, where it comes in: its name, node id or address [default: any]
    #[arg(long, value_name = "PEER")]
    pub(super) from: Option<String>,
    /// Where the packet is: out of the mesh, into it, or on another interface [default: by its source]
    #[arg(long, value_name = "PLACE")]
    pub(super) at: Option<Way>,
}

/// What is to be explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    Tcp,
    Udp,
    Icmp,
    Packet,
}

#[derive(Debug, Subcommand)]
pub(super) enum ForwardsCommand {
    /// Give a LAN device a mesh address and a name in every network of this node
    Add {
        /// Display name, e.g. 'Office printer'
        name: String,
        /// Its address in the LAN, e.g. 192.168.1.40
        #[arg(value_parser = target)]
        target: IpAddr,
    },
    /// Show all devices
    List,
    /// Front a device no longer
    Rm {
        /// Display name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Make a network's key, or join with one
    Add(AddArgs),
    /// Show all keys
    List,
    /// Show one key, without the secret
    Show {
        /// Key id or a unique start of it
        id: String,
        /// Print the secret too
        #[arg(long)]
        reveal: bool,
    },
    /// Replace the open ports or the name
    #[command(group = ArgGroup::new("change").required(true).multiple(true))]
    Edit {
        /// Key id or a unique start of it
        id: String,
        /// Open these ports and no others, e.g. tcp:22 or udp:5000-5010 (repeatable)
        #[arg(long, value_name = "PROTOCOL:PORTS", group = "change", conflicts_with = "deny_all")]
        allow: Vec<PortRule>,
        /// Close all ports
        #[arg(long, group = "change")]
        deny_all: bool,
        /// The new name
        #[arg(long, group = "change")]
        name: Option<String>,
    },
    /// Leave the network and forget the key
    Rm {
        /// Key id or a unique start of it
        id: String,
    },
    /// Print the secret key string, for another node to join with
    Share {
        /// Key id or a unique start of it
        id: String,
    },
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("expiry").required(true))]
#[command(group = ArgGroup::new("source"))]
pub(super) struct AddArgs {
    /// Display name
    #[arg(long)]
    pub(super) name: String,
    /// What the key permits: mesh-route for a network, admin or view for a program that uses the API
    #[arg(long, value_delimiter = ',', default_value = "mesh-route")]
    pub(super) caps: Vec<Capability>,
    /// The key stays valid until it is removed
    #[arg(long, group = "expiry")]
    never_expires: bool,
    /// The key ends after this time, e.g. 30d, 12h or 45m
    #[arg(long, value_name = "TIME", group = "expiry", value_parser = super::time::parse_duration)]
    pub(super) expires_in: Option<Duration>,
    /// Open these ports of this node, e.g. tcp:22 or udp:5000-5010 (repeatable; none: expose nothing)
    #[arg(long, value_name = "PROTOCOL:PORTS")]
    pub(super) allow: Vec<PortRule>,
    /// Join with this key; '-' reads it from stdin. Other users can see it in the process list: prefer --key-file
    #[arg(long, value_name = "SECRET", group = "source", value_parser = |text: &str| Ok::<_, String>(SecretText::new(text.to_owned())))]
    pub(super) key: Option<SecretText>,
    /// Join with the key in this file
    #[arg(long, value_name = "FILE", group = "source")]
    pub(super) key_file: Option<PathBuf>,
    /// IPv4 range of the new network [default: a free /18 of meshlan.ipv4_range]
    #[arg(long, value_name = "RANGE", conflicts_with = "source")]
    pub(super) ipv4_range: Option<Ipv4Range>,
}

/// A device keeps its address; whose a name is may change, and a name server may lie.
fn target(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        format!("a device is forwarded to its IP address in the LAN, such as 192.168.1.40; look up that of '{text}' (`getent hosts {text}`) and make the router give it the same always")
    })
}
