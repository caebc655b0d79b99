//! The flows of this host that were opened into the mesh before the programs in force.
//!
//! Owns which connections count. One that a service here has accepted never does: it must end with its port.

use std::net::{IpAddr, SocketAddr};

use meshhold_common::Address;
use meshhold_common::maps::FlowKey;
use meshhold_common::packet::{TCP, UDP};

use crate::datapath::policy::{NetworkPolicy, Policy};
use crate::platform::linux::connections::{Connection, Connections};

/// Connections of this host to members that this node itself has opened.
pub(super) fn opened(policy: &Policy) -> Vec<FlowKey> {
    let host = Connections::read();
    let outgoing = host.all.iter().filter(|one| host.is_outgoing(one));
    outgoing.filter_map(|one| flow(policy, one)).collect()
}

fn flow(policy: &Policy, connection: &Connection) -> Option<FlowKey> {
    let Connection { tcp, local, remote } = *connection;
    let protocol = if tcp { TCP } else { UDP };
    let network = policy.networks.iter().find(|network| is_between(network, local, remote))?;
    let is_open = |port| {
        let of_protocol = network.scope.iter().filter(|range| range.protocol == protocol);
        of_protocol.into_iter().any(|range| (range.first..=range.last).contains(&port))
    };
    let key = || FlowKey::new(common(local.ip()), common(remote.ip()), local.port(), remote.port(), protocol);
    (!is_open(local.port())).then(key)
}

/// Whether the ends are our own address and one of the network's.
fn is_between(network: &NetworkPolicy, local: SocketAddr, remote: SocketAddr) -> bool {
    match (local.ip(), remote.ip()) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => {
            let (base, prefix) = network.range;
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or_default();
            network.own4 == Some(local) && (remote.to_bits() ^ base.to_bits()) & mask == 0
        }
        (IpAddr::V6(local), IpAddr::V6(remote)) => {
            let (base, prefix) = network.prefix6;
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or_default();
            network.own6 == local && (remote.to_bits() ^ base.to_bits()) & mask == 0
        }
        _ => false,
    }
}

fn common(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(ip) => Address::v4(ip.octets()),
        IpAddr::V6(ip) => Address::v6(ip.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::policy::PortRange;

    #[test]
    fn only_what_runs_between_members_from_a_closed_port_is_a_flow_of_ours() {
        let network = NetworkPolicy {
            index: 0,
            range: ("198.18.0.0".parse().unwrap(), 18),
            prefix6: ("fd12:1::".parse().unwrap(), 32),
            own4: Some("198.18.0.17".parse().unwrap()),
            own6: "fd12:1:0:5::1".parse().unwrap(),
            without_ipv6: false,
            scope: vec![PortRange { protocol: TCP, first: 40_000, last: 40_001 }],
            peers: Vec::new(),
            devices: Vec::new(),
        };
        let policy = Policy { networks: vec![network] };
        let is_flow = |tcp, local: &str, remote: &str| {
            let ends = (local.parse().unwrap(), remote.parse().unwrap());
            flow(&policy, &Connection { tcp, local: ends.0, remote: ends.1 }).is_some()
        };
        assert!(is_flow(true, "198.18.0.17:50000", "198.18.63.1:22"));
        assert!(is_flow(true, "[fd12:1:0:5::1]:50000", "[fd12:1:0:9::1]:22"));
        assert!(is_flow(false, "198.18.0.17:40000", "198.18.63.1:22"), "open for TCP only");
        assert!(!is_flow(true, "198.18.0.17:40000", "198.18.63.1:22"), "a port in scope");
        assert!(!is_flow(true, "198.18.0.17:50000", "198.18.64.1:22"), "another network");
        assert!(!is_flow(true, "198.18.0.18:50000", "198.18.63.1:22"), "not our address");
        assert!(!is_flow(true, "192.0.2.1:50000", "198.18.63.1:22"));
    }
}
