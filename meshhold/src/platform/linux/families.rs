//! Which address families this host's kernel gives to programs, and what follows for where they listen.
//!
//! Owns the look at the kernel. Must not know who listens, or for what.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// `listen`, or its IPv4 half where it means all addresses and the kernel has no IPv6 (`ipv6.disable=1`, or sockets of that
/// family are forbidden to this program).
pub fn listenable(listen: SocketAddr) -> SocketAddr {
    if listen.is_ipv4() || !listen.ip().is_unspecified() || has_ipv6() {
        return listen;
    }
    let instead = SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen.port()));
    tracing::info!("this kernel has no IPv6: listening on {instead} instead of {listen}");
    instead
}

/// Whether a program that listens on `listen` hears what is sent to `ip`, an address of this host.
pub fn serves(listen: IpAddr, ip: IpAddr) -> bool {
    match listen {
        IpAddr::V4(listen) if listen.is_unspecified() => ip.is_ipv4(),
        IpAddr::V6(listen) if listen.is_unspecified() => true,
        listen => listen == ip,
    }
}

fn has_ipv6() -> bool {
    let opened = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP));
    !opened.is_err_and(|error| error.raw_os_error() == Some(libc::EAFNOSUPPORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listened_on_decides_which_addresses_are_told() {
        let cases = [
            ("0.0.0.0", "192.0.2.1", true),
            ("0.0.0.0", "2001:db8::1", false),
            ("::", "192.0.2.1", true),
            ("::", "2001:db8::1", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
        ];
        for (listen, ip, expected) in cases {
            assert_eq!(serves(listen.parse().unwrap(), ip.parse().unwrap()), expected, "{listen} {ip}");
        }
    }

    #[test]
    fn what_was_named_stays() {
        for listen in ["0.0.0.0:7777", "192.0.2.1:7777", "[2001:db8::1]:7777"] {
            let listen = listen.parse().unwrap();
            assert_eq!(listenable(listen), listen);
        }
    }
}
