//! What the data path should hold, computed whole by the daemon and applied as a difference.
//!
//! Owns the vocabulary between the control plane and both enforcers (kernel maps and user space).
//! Must not know how either of them stores it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Everything that the enforcers need: one entry a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The networks of this node, by ascending `index`.
    pub networks: Vec<NetworkPolicy>,
}

/// One network as the enforcers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Small number of the network on this node, stable while the daemon runs (0-based).
    pub index: u16,
    /// The network's IPv4 range: base address and prefix length.
    pub range: (Ipv4Addr, u8),
    /// The network's IPv6 prefix, always a /32: `fd12` and 16 bits of network.
    pub prefix6: (Ipv6Addr, u8),
    /// This node's own IPv4 address; `None` while the range is unusable here.
    pub own4: Option<Ipv4Addr>,
    /// This node's own IPv6 address.
    pub own6: Ipv6Addr,
    /// The mesh interface has no IPv6: IPv6 packets for services must become IPv4 ones.
    pub without_ipv6: bool,
    /// Open ports. Empty denies everything.
    pub scope: Vec<PortRange>,
    /// The other members whose addresses are known.
    pub peers: Vec<PeerPolicy>,
    /// LAN devices that this node forwards.
    pub devices: Vec<DevicePolicy>,
}

/// A LAN device that this node forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePolicy {
    /// Its mesh IPv4 address; `None` while the range is unusable here.
    pub ipv4: Option<Ipv4Addr>,
    /// Its mesh IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Its address in the LAN.
    pub target: IpAddr,
    /// How to get there; `None` where there is no way now.
    pub way: Option<DeviceWay>,
}

/// The way to a LAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceWay {
    /// Index of the interface.
    pub interface: u32,
    /// Its name.
    pub name: String,
    /// Own address towards the device; of the target's family.
    pub source: IpAddr,
    /// Largest packets to [`DevicePolicy::ipv4`] and [`DevicePolicy::ipv6`] that reach the device, in bytes.
    pub mtus: [u16; 2],
    /// Largest TCP segments to announce for flows to these, in bytes.
    pub segments: [u32; 2],
}

/// Inclusive range of open ports of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// IP protocol number: 6 (TCP) or 17 (UDP).
    pub protocol: u8,
    /// First open port.
    pub first: u16,
    /// Last open port, `>= first`.
    pub last: u16,
}

/// One peer's addresses, mesh side and local side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerPolicy {
    /// Number of the peer on this node, unique over all networks, stable while the daemon runs.
    pub index: u32,
    /// The peer's mesh IPv4 address.
    pub ipv4: Ipv4Addr,
    /// The peer's mesh IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Caller address (127.64.0.0/10) that local services see for the peer's IPv4 flows; unspecified for a device that it
    /// fronts, which never calls.
    pub caller4: Ipv4Addr,
    /// Caller address that IPv4-only local services see for the peer's IPv6 flows.
    pub caller6: Ipv4Addr,
}
