//! Local addresses at which other nodes may reach this one.
//!
//! Owns which addresses qualify and their order. Must not know ports, records or links.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rtnetlink::packet_route::{AddressFamily, address::AddressFlags};

use super::{
    error::NetError,
    list::{Address, Interface, overlap},
    net::{InterfaceSetup, Net},
    routes::MAIN_TABLE,
};

/// Most addresses that are offered.
pub const MOST_CANDIDATES: usize = 16;

/// The mesh default space, which proxy tools also use for fake addresses (RFC 2544 benchmarking).
const FAKE_IP: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(198, 18, 0, 0)), 15);
/// Carrier-grade NAT (RFC 6598): rarely reachable, but sometimes all there is.
const SHARED: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)), 10);

/// Names that container engines, hypervisors and other overlays give to their interfaces.
const FOREIGN_NAMES: [&str; 27] = [
    "docker",
    "br-",
    "veth",
    "virbr",
    "vnet",
    "cni",
    "cali",
    "flannel",
    "cilium",
    "lxc",
    "lxd",
    "incusbr",
    "podman",
    "kube",
    "vmnet",
    "vboxnet",
    "tailscale",
    "wg",
    "tun",
    "tap",
    "utun",
    "zt",
    "nebula",
    "wt",
    "ham",
    "dummy",
    "ifb",
];
/// Kinds of device that don't carry the underlay, unless the default route leads there.
const FOREIGN_KINDS: [&str; 6] = ["tun", "wireguard", "dummy", "vxlan", "geneve", "ifb"];

impl Net {
    /// Usable local addresses, best first, at most [`MOST_CANDIDATES`].
    ///
    /// Left out are loopback, link-local, multicast, deprecated and duplicate addresses, the mesh itself,
    /// 198.18.0.0/15, and interfaces of containers, hypervisors and other overlays. One of these that carries a
    /// default route is the host's uplink all the same: `eth0` of a container, `tap0` of a rootless one.
    pub async fn candidates(&self, mesh: &InterfaceSetup) -> Result<Vec<IpAddr>, NetError> {
        Ok(self.places(mesh).await?.into_iter().map(|(ip, _)| ip).collect())
    }

    /// The addresses of interfaces that are up: what packets leave from so that answers come back.
    pub async fn live_addresses(&self) -> Result<BTreeSet<IpAddr>, NetError> {
        let up = self.interfaces().await?.into_iter().filter(|interface| interface.up);
        let up: BTreeSet<u32> = up.map(|interface| interface.index).collect();
        let addresses = self.addresses().await?.into_iter().map(|(address, _)| address);
        Ok(addresses.filter(|address| up.contains(&address.interface)).map(|address| address.ip).collect())
    }

    /// The same addresses, each with the index of its interface.
    pub async fn places(&self, mesh: &InterfaceSetup) -> Result<Vec<(IpAddr, u32)>, NetError> {
        let interfaces = self.interfaces().await?;
        let addresses: Vec<Address> =
            self.addresses().await?.into_iter().map(|(address, _)| address).collect();
        let mut uplinks = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let routes = self.routes(family).await?;
            let default = routes.iter().filter(|route| route.destination.1 == 0 && route.table == MAIN_TABLE);
            uplinks.extend(default.flat_map(|route| &route.devices));
        }
        Ok(choose(&interfaces, &addresses, &uplinks, mesh))
    }
}

fn choose(
    interfaces: &[Interface],
    addresses: &[Address],
    uplinks: &BTreeSet<u32>,
    mesh: &InterfaceSetup,
) -> Vec<(IpAddr, u32)> {
    let usable: BTreeSet<u32> = interfaces
        .iter()
        .filter(|interface| interface.name != mesh.interface && is_underlay(interface, interfaces, uplinks))
        .map(|interface| interface.index)
        .collect();
    let mut ranked: Vec<(u8, bool, IpAddr, u32)> = addresses
        .iter()
        .filter(|address| usable.contains(&address.interface) && is_reachable(address, mesh))
        .map(|address| (rank(address), !uplinks.contains(&address.interface), address.ip, address.interface))
        .collect();
    ranked.sort_unstable();
    let mut chosen: Vec<_> = ranked.into_iter().map(|(_, _, ip, interface)| (ip, interface)).collect();
    chosen.dedup_by_key(|(ip, _)| *ip);
    chosen.truncate(MOST_CANDIDATES);
    chosen
}

fn is_underlay(interface: &Interface, all: &[Interface], uplinks: &BTreeSet<u32>) -> bool {
    let kind = interface.kind.as_deref().unwrap_or_default();
    if interface.loopback {
        return false;
    }
    if uplinks.contains(&interface.index) {
        return true;
    }
    if FOREIGN_KINDS.contains(&kind) {
        return false;
    }
    // A bridge over a hardware port is a LAN of the host, whatever its name (OpenWrt's `br-lan`); one over
    // virtual ports alone holds containers.
    if kind == "bridge" {
        return all.iter().any(|port| port.controller == Some(interface.index) && port.kind.is_none());
    }
    !FOREIGN_NAMES.iter().any(|prefix| interface.name.starts_with(prefix))
}

fn is_reachable(address: &Address, mesh: &InterfaceSetup) -> bool {
    let unusable = AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed;
    if address.ip.is_ipv6() && address.flags.intersects(unusable) {
        return false;
    }
    let special = match address.ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_multicast(),
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast()
        }
    };
    let within = |range: (IpAddr, u8)| overlap(range, (address.ip, address.ip_width()));
    let in_mesh = mesh.networks.iter().any(|network| {
        within((network.range.0.into(), network.range.1))
            || within((network.prefix6.0.into(), network.prefix6.1))
    });
    !special && !within(FAKE_IP) && !in_mesh
}

/// Lower is tried earlier: public, private, temporary (it changes soon), carrier-grade NAT.
fn rank(address: &Address) -> u8 {
    match address.ip {
        IpAddr::V4(ip) if ip.is_private() => 2,
        IpAddr::V4(_) if overlap(SHARED, (address.ip, 32)) => 5,
        IpAddr::V4(_) => 0,
        // For IPv6 the kernel's SECONDARY bit means TEMPORARY (RFC 8981).
        IpAddr::V6(_) if address.flags.contains(AddressFlags::Secondary) => 4,
        IpAddr::V6(ip) if is_unique_local(ip) => 3,
        IpAddr::V6(_) => 1,
    }
}

fn is_unique_local(ip: Ipv6Addr) -> bool {
    ip.octets().first().is_some_and(|first| first & 0xfe == 0xfc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::linux::net::NetworkAddresses;

    const NONE: AddressFlags = AddressFlags::empty();

    fn interface(index: u32, name: &str, kind: Option<&str>, controller: Option<u32>) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            controller,
            loopback: name == "lo",
            ..Interface::default()
        }
    }

    fn mesh() -> InterfaceSetup {
        let network = NetworkAddresses {
            own4: None,
            range: (Ipv4Addr::new(10, 77, 0, 0), 16),
            own6: "fd12:1::1".parse().unwrap(),
            prefix6: ("fd12:1::".parse().unwrap(), 32),
        };
        InterfaceSetup {
            interface: String::from("mesh0"),
            mtu: 1420,
            gso_max: 60_000,
            callers: (Ipv4Addr::new(127, 64, 0, 0), 12),
            networks: vec![network],
        }
    }

    #[test]
    fn each_kind_of_interface_is_judged() {
        let cases = [
            ("eth0", None, false, true),
            ("wlp3s0", None, false, true),
            ("lo", None, false, false),
            ("mesh0", Some("tun"), false, false),
            ("eth0", Some("veth"), false, true),
            ("veth1a2b", Some("veth"), false, false),
            ("veth1a2b", Some("veth"), true, true),
            ("docker0", Some("bridge"), false, false),
            ("br-a1b2c3", Some("bridge"), false, false),
            ("lan", Some("bridge"), false, false),
            ("lan", Some("bridge"), true, true),
            ("tailscale0", Some("tun"), false, false),
            ("tap0", Some("tun"), true, true),
            ("mesh0", Some("tun"), true, false),
            ("wg0", Some("wireguard"), false, false),
            ("wg0", Some("wireguard"), true, true),
            ("cni0", Some("bridge"), false, false),
            ("bond0", Some("bond"), false, true),
            ("eth0.7", Some("vlan"), false, true),
            ("ppp0", None, true, true),
        ];
        for (name, kind, uplink, expected) in cases {
            let address = Address { interface: 7, ip: [192, 168, 1, 2].into(), prefix: 24, flags: NONE };
            let uplinks = if uplink { BTreeSet::from([7]) } else { BTreeSet::new() };
            let chosen = choose(&[interface(7, name, kind, None)], &[address], &uplinks, &mesh());
            assert_eq!(!chosen.is_empty(), expected, "{name} {kind:?} uplink {uplink}");
        }
    }

    #[test]
    fn a_bridge_over_hardware_is_a_lan() {
        let interfaces = [interface(1, "br-lan", Some("bridge"), None), interface(2, "eth0", None, Some(1))];
        let address = Address { interface: 1, ip: [192, 168, 1, 2].into(), prefix: 24, flags: NONE };
        assert_eq!(choose(&interfaces, &[address], &BTreeSet::new(), &mesh()), [(address.ip, 1)]);
    }

    #[test]
    fn addresses_are_filtered_ordered_and_bounded() {
        let listed = [
            ("fe80::1", NONE),
            ("2001:db8::de9", AddressFlags::Deprecated),
            ("2001:db8::7e", AddressFlags::Tentative),
            ("169.254.3.4", NONE),
            ("198.19.0.1", NONE),
            ("10.77.3.4", NONE),
            ("fd12:1:2::1", NONE),
            ("100.64.9.9", NONE),
            ("2001:db8::aaaa", AddressFlags::Secondary),
            ("fd00::5", NONE),
            ("192.168.1.2", NONE),
            ("2001:db8::5", NONE),
            ("203.0.113.5", NONE),
        ];
        let mut addresses: Vec<Address> = listed
            .iter()
            .map(|(ip, flags)| Address { interface: 1, ip: ip.parse().unwrap(), prefix: 24, flags: *flags })
            .collect();
        let interfaces = [interface(1, "eth0", None, None)];
        let chosen = choose(&interfaces, &addresses, &BTreeSet::new(), &mesh());
        let expected: Vec<(IpAddr, u32)> =
            ["203.0.113.5", "2001:db8::5", "192.168.1.2", "fd00::5", "2001:db8::aaaa", "100.64.9.9"]
                .iter()
                .map(|ip| (ip.parse().unwrap(), 1))
                .collect();
        assert_eq!(chosen, expected);

        for last in 0..40 {
            addresses.push(Address { interface: 1, ip: [203, 0, 113, last].into(), prefix: 24, flags: NONE });
        }
        assert_eq!(choose(&interfaces, &addresses, &BTreeSet::new(), &mesh()).len(), MOST_CANDIDATES);
    }
}
