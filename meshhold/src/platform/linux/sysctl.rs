//! Per-interface kernel settings of the mesh interface. They vanish with it.
//!
//! Owns which settings and why. Must not know addresses or routes, and touches no other interface.
//!
//! IPv4 settings and the address generation mode go by netlink, which also works where `/proc/sys` is
//! read-only (containers, hardened units); the few IPv6 ones without a netlink attribute go by `/proc/sys`.

use std::{fs, io, path::PathBuf};

use rtnetlink::{
    LinkUnspec,
    packet_core::{DefaultNla, Emitable as _},
    packet_route::link::{AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage},
};

/// `IFLA_INET_CONF` of linux/if_link.h.
const INET_CONF: u16 = 1;

/// Name, attribute number (`IPV4_DEVCONF_*` of linux/ip.h) and value.
const IPV4: [(&str, u16, u32); 5] = [
    // Nothing from the mesh is routed onwards by the host.
    ("forwarding", 1, 0),
    ("accept_redirects", 4, 0),
    ("send_redirects", 6, 0),
    // Strict: only sources that are routed to the mesh.
    ("rp_filter", 8, 1),
    // 127/8 may cross this interface (caller addresses), and this one only.
    ("route_localnet", 26, 1),
];

/// File below `/proc/sys/net/ipv6/conf/<interface>/` and value.
const IPV6: [(&str, &str); 5] = [
    ("disable_ipv6", "0"),
    ("accept_ra", "0"),
    ("autoconf", "0"),
    ("forwarding", "0"),
    ("accept_redirects", "0"),
];

/// The request that applies the IPv4 settings.
pub(super) fn ipv4_request(index: u32) -> LinkMessage {
    let conf: Vec<DefaultNla> = IPV4
        .iter()
        .map(|(_, number, value)| DefaultNla::new(*number, value.to_ne_bytes().to_vec()))
        .collect();
    let mut bytes = vec![0; conf.as_slice().buffer_len()];
    conf.as_slice().emit(&mut bytes);
    let spec = AfSpecUnspec::Inet(vec![AfSpecInet::Other(DefaultNla::new(INET_CONF, bytes))]);
    with_spec(index, spec)
}

/// The request that keeps the kernel from making up a link-local address. Before the interface goes up.
pub(super) fn no_link_local_request(index: u32) -> LinkMessage {
    with_spec(index, AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]))
}

/// Names of the IPv4 settings that are not as they should be.
pub(super) fn ipv4_differing(link: &LinkMessage) -> Vec<&'static str> {
    let conf = specs(link).find_map(|spec| match spec {
        AfSpecUnspec::Inet(parts) => parts.iter().find_map(|part| match part {
            AfSpecInet::DevConf(conf) => Some(conf),
            _ => None,
        }),
        _ => None,
    });
    let value = |name: &str| {
        let conf = conf?;
        let value = match name {
            "forwarding" => conf.forwarding,
            "accept_redirects" => conf.accept_redirects,
            "send_redirects" => conf.send_redirects,
            "rp_filter" => conf.rp_filter,
            _ => conf.route_localnet,
        };
        u32::try_from(value).ok()
    };
    IPV4.iter().filter(|(name, _, wanted)| value(name) != Some(*wanted)).map(|(name, ..)| *name).collect()
}

/// Whether the kernel makes up no link-local address.
pub(super) fn has_no_link_local(link: &LinkMessage) -> bool {
    let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    specs(link).any(|spec| matches!(spec, AfSpecUnspec::Inet6(parts) if parts.contains(&none)))
}

fn specs(link: &LinkMessage) -> impl Iterator<Item = &AfSpecUnspec> {
    let specs = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::AfSpecUnspec(specs) => Some(specs),
        _ => None,
    });
    specs.flatten()
}

/// Whether a setting that can be read in `/proc/sys` is not as it should be. Their changes are not told by netlink.
pub fn differs(interface: &str) -> bool {
    let other =
        |path: PathBuf, wanted: &str| fs::read_to_string(path).is_ok_and(|found| found.trim() != wanted);
    let ipv4 = |(name, _, wanted): &(&str, u16, u32)| {
        other(["/proc/sys/net/ipv4/conf", interface, name].iter().collect(), &wanted.to_string())
    };
    let ipv6 = |(name, wanted): &(&str, &str)| other(ipv6_path(interface, name), wanted);
    IPV4.iter().any(ipv4) || IPV6.iter().any(ipv6)
}

/// Applies the IPv6 settings that can be applied and adds the changed ones to `changed`; tells whether IPv6 works on the
/// interface.
pub(super) fn apply_ipv6(interface: &str, changed: &mut Vec<String>) -> bool {
    for (name, value) in IPV6 {
        // A read-only /proc/sys leaves the defaults. They are harmless: without a link-local address and
        // behind the ingress program no router advertisement or redirect arrives.
        match write(interface, name, value) {
            Ok(true) => changed.push(format!("setting {name} (IPv6)")),
            Ok(false) => {}
            Err(error) => tracing::debug!(interface, name, %error, "IPv6 setting left as it is"),
        }
    }
    ipv6_works(interface)
}

pub(super) fn ipv6_works(interface: &str) -> bool {
    let Ok(text) = fs::read_to_string(ipv6_path(interface, "disable_ipv6")) else { return false };
    text.trim() == "0"
}

/// True where it was something else before.
fn write(interface: &str, name: &str, value: &str) -> io::Result<bool> {
    let path = ipv6_path(interface, name);
    if fs::read_to_string(&path)?.trim() == value {
        return Ok(false);
    }
    fs::write(path, value).map(|()| true)
}

fn ipv6_path(interface: &str, name: &str) -> PathBuf {
    ["/proc/sys/net/ipv6/conf", interface, name].iter().collect()
}

fn with_spec(index: u32, spec: AfSpecUnspec) -> LinkMessage {
    let mut message = LinkUnspec::new_with_index(index).build();
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![spec]));
    message
}
