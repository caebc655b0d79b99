//! How a packet from the mesh stands before this host's own rules, routes and services once the programs have let it in.
//!
//! Owns the guess where it is delivered; the kernel programs decide by the same sockets (`meshhold-ebpf/src/socket.rs`).
//! Must not know firewalls.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A packet for a service of this node, as it comes out of the mesh.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming {
    /// The peer's mesh address.
    pub(crate) source: IpAddr,
    /// Our own.
    pub(crate) destination: IpAddr,
    /// What stands for the peer at services on loopback; none where nothing is rewritten.
    pub(crate) caller: Option<Ipv4Addr>,
    /// By UDP, and not by TCP.
    pub(crate) udp: bool,
}

/// The same packet, as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Arrival {
    /// Its source then.
    pub(crate) source: IpAddr,
    /// Its destination then.
    pub(crate) destination: IpAddr,
}

impl Arrival {
    /// By the loopback interface, and not by the mesh interface.
    pub(crate) fn is_by_loopback(&self) -> bool {
        self.destination == IpAddr::V6(Ipv6Addr::LOCALHOST)
    }
}

impl Incoming {
    /// Where `waiting` are the addresses that services on its port listen on.
    pub(crate) fn arrival(&self, waiting: &[IpAddr]) -> Arrival {
        let untouched = Arrival { source: self.source, destination: self.destination };
        let Some(caller) = self.caller.map(IpAddr::V4) else { return untouched };
        let waits = |ip: IpAddr| waiting.contains(&ip);
        let [any4, any6] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let here = waits(self.destination);
        if self.destination.is_ipv4() && here {
            return Arrival { source: caller, ..untouched };
        }
        if self.destination.is_ipv6() && (here || waits(any6)) {
            return untouched;
        }
        let localhost6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        if self.destination.is_ipv6() && waits(localhost6) {
            return Arrival { destination: localhost6, ..untouched };
        }
        // A datagram that nobody takes stays as it is, for the sake of the "port unreachable".
        if self.udp && ![LOCALHOST, any4, any6].into_iter().any(waits) {
            return untouched;
        }
        Arrival { source: caller, destination: LOCALHOST }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bind_has_its_way() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (own4, own6) = ("198.18.0.1", "fd12::1");
        // Destination, protocol, bind; source and destination before the host.
        for (to, udp, bind, source, destination) in [
            (own4, false, "127.0.0.1", "127.64.0.9", "127.0.0.1"),
            (own4, false, "0.0.0.0", "127.64.0.9", "127.0.0.1"),
            (own4, false, own4, "127.64.0.9", own4),
            (own4, false, "192.0.2.1", "127.64.0.9", "127.0.0.1"),
            (own4, true, "192.0.2.1", "198.18.0.2", own4),
            (own6, false, "127.0.0.1", "127.64.0.9", "127.0.0.1"),
            (own6, true, "0.0.0.0", "127.64.0.9", "127.0.0.1"),
            (own6, false, "::", "fd12::2", own6),
            (own6, true, "::1", "fd12::2", "::1"),
        ] {
            let peer = if to == own4 { "198.18.0.2" } else { "fd12::2" };
            let caller = Some(Ipv4Addr::new(127, 64, 0, 9));
            let incoming = Incoming { source: ip(peer), destination: ip(to), caller, udp };
            let expected = Arrival { source: ip(source), destination: ip(destination) };
            assert_eq!(incoming.arrival(&[ip(bind)]), expected, "{to} {bind}");
            let plain = Incoming { caller: None, ..incoming }.arrival(&[ip(bind)]);
            assert_eq!(plain, Arrival { source: ip(peer), destination: ip(to) }, "in user space");
        }
    }
}
