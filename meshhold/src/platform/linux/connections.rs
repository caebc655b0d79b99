//! Which connections this host has, and which of them it began itself.
//!
//! Owns the reading of `/proc/net`. Must not know who asks.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use super::listeners;

/// Of a socket whose other end is known (net/tcp_states.h).
const ESTABLISHED: &str = "01";
/// States of TCP in which no more data flows: time wait, closed, listening, a handshake that nobody has taken yet.
const OVER: [&str; 4] = ["06", "07", "0A", "0C"];
/// Where the kernel takes ports for connections from.
const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// As it is by default.
const USUAL: RangeInclusive<u16> = 32_768..=60_999;

/// A socket with another end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Or UDP.
    pub tcp: bool,
    /// This host's end.
    pub local: SocketAddr,
    /// The other one.
    pub remote: SocketAddr,
}

/// All that there are now.
#[derive(Debug)]
pub struct Connections {
    /// In no order.
    pub all: Vec<Connection>,
    /// Ports on which a service waits: TCP or not, and the port.
    served: BTreeSet<(bool, u16)>,
    ephemeral: RangeInclusive<u16>,
}

impl Connections {
    /// Looks at all sockets of this network namespace.
    pub fn read() -> Self {
        let served = [true, false].into_iter();
        let served = served.flat_map(|tcp| listeners::ports(tcp).into_iter().map(move |port| (tcp, port)));
        Self {
            served: served.collect(),
            all: [connected(true), connected(false)].concat(),
            ephemeral: fs::read_to_string(LOCAL_PORTS).ok().and_then(|text| range(&text)).unwrap_or(USUAL),
        }
    }

    /// Whether this host began it, as far as can be told: the kernel chose the port, and no service waits there.
    pub fn is_outgoing(&self, connection: &Connection) -> bool {
        let port = connection.local.port();
        self.ephemeral.contains(&port) && !self.served.contains(&(connection.tcp, port))
    }
}

fn connected(tcp: bool) -> Vec<Connection> {
    let files = if tcp { ["tcp", "tcp6"] } else { ["udp", "udp6"] };
    let text = |file| fs::read_to_string(format!("/proc/self/net/{file}")).unwrap_or_default();
    let read = |file| text(file).lines().skip(1).filter_map(|line| parse(line, tcp)).collect::<Vec<_>>();
    files.into_iter().flat_map(read).collect()
}

/// `sl local_address rem_address st …`
fn parse(line: &str, tcp: bool) -> Option<Connection> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    let flows = if tcp { !OVER.contains(&state) } else { state == ESTABLISHED };
    let canonical = |text| {
        let address = listeners::address(text)?;
        Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
    };
    Some(Connection { tcp, local: canonical(local)?, remote: canonical(remote)? }).filter(|_| flows)
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut bounds = text.split_whitespace().map(str::parse);
    Some(bounds.next()?.ok()?..=bounds.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn both_ends_of_a_connection_are_seen_and_the_one_that_began_it_is_told() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(bind).unwrap();
            let caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let _accepted = listener.accept().unwrap();
            let udp = UdpSocket::bind(bind).unwrap();
            udp.connect(listener.local_addr().unwrap()).unwrap();
            let seen = Connections::read();
            let (near, far) = (caller.local_addr().unwrap(), caller.peer_addr().unwrap());
            let outgoing = Connection { tcp: true, local: near, remote: far };
            let incoming = Connection { tcp: true, local: far, remote: near };
            assert!(seen.all.contains(&outgoing) && seen.is_outgoing(&outgoing));
            assert!(seen.all.contains(&incoming) && !seen.is_outgoing(&incoming));
            let udp = Connection { tcp: false, local: udp.local_addr().unwrap(), remote: far };
            assert!(seen.all.contains(&udp) && seen.is_outgoing(&udp));
        }
    }

    #[test]
    fn the_range_of_ports_is_read() {
        assert_eq!(range("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(range(""), None);
    }
}
