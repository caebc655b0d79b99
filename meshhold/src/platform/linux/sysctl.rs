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

/// Attribute number (`IPV4_DEVCONF_*` of linux/ip.h) and value.
const IPV4: [(u16, u32); 5] = [
    (1, 0),  // forwarding: nothing from the mesh is routed onwards by the host
    (4, 0),  // accept_redirects
    (6, 0),  // send_redirects
    (8, 1),  // rp_filter, strict: only sources that are routed to the mesh
    (26, 1), // route_localnet: 127/8 may cross this interface (caller addresses), and this one only
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
    let conf: Vec<DefaultNla> =
        IPV4.iter().map(|(number, value)| DefaultNla::new(*number, value.to_ne_bytes().to_vec())).collect();
    let mut bytes = vec![0; conf.as_slice().buffer_len()];
    conf.as_slice().emit(&mut bytes);
    let spec = AfSpecUnspec::Inet(vec![AfSpecInet::Other(DefaultNla::new(INET_CONF, bytes))]);
    with_spec(index, spec)
}

/// The request that keeps the kernel from making up a link-local address. Before the interface goes up.
pub(super) fn no_link_local_request(index: u32) -> LinkMessage {
    with_spec(index, AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]))
}

/// Applies the IPv6 settings that can be applied; tells whether IPv6 works on the interface.
pub(super) fn apply_ipv6(interface: &str) -> bool {
    for (name, value) in IPV6 {
        // A read-only /proc/sys leaves the defaults. They are harmless: without a link-local address and
        // behind the ingress program no router advertisement or redirect arrives.
        if let Err(error) = write(interface, name, value) {
            tracing::debug!(interface, name, %error, "IPv6 setting left as it is");
        }
    }
    ipv6_works(interface)
}

fn ipv6_works(interface: &str) -> bool {
    let Ok(text) = fs::read_to_string(ipv6_path(interface, "disable_ipv6")) else { return false };
    text.trim() == "0"
}

fn write(interface: &str, name: &str, value: &str) -> io::Result<()> {
    let path = ipv6_path(interface, name);
    if fs::read_to_string(&path)?.trim() == value {
        return Ok(());
    }
    fs::write(path, value)
}

fn ipv6_path(interface: &str, name: &str) -> PathBuf {
    ["/proc/sys/net/ipv6/conf", interface, name].iter().collect()
}

fn with_spec(index: u32, spec: AfSpecUnspec) -> LinkMessage {
    let mut message = LinkUnspec::new_with_index(index).build();
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![spec]));
    message
}
