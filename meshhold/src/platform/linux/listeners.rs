//! Which sockets of this host wait on a port.
//!
//! Owns the reading of `/proc/net`. Must not know who asks.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// State of a TCP socket that listens, and of a UDP socket that is not connected (net/tcp_states.h).
const LISTEN: &str = "0A";
const UNCONNECTED: &str = "07";

/// Addresses on which something waits on `port`, over TCP or UDP.
pub fn on_port(tcp: bool, port: u16) -> Vec<SocketAddr> {
    let (files, state) = if tcp { (["tcp", "tcp6"], LISTEN) } else { (["udp", "udp6"], UNCONNECTED) };
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(format!("/proc/self/net/{file}")).unwrap_or_default();
        found.extend(
            text.lines().skip(1).filter_map(|line| waiting(line, state)).filter(|at| at.port() == port),
        );
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// `sl local_address rem_address st …`, addresses as words in machine order.
fn waiting(line: &str, state: &str) -> Option<SocketAddr> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, _, found) = (fields.next()?, fields.next()?, fields.next()?);
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    (found == state).then_some(SocketAddr::new(parse(address)?, port))
}

fn parse(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(8 * at..8 * at + 8)?, 16).ok()?.to_ne_bytes());
    if hex.len() == 8 {
        return word(0).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    }
    let mut octets = [0; 16];
    for (at, chunk) in octets.chunks_exact_mut(4).enumerate() {
        chunk.copy_from_slice(&word(at)?);
    }
    Some(IpAddr::V6(Ipv6Addr::from(octets)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_this_process_are_seen() {
        for bind in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let tcp = std::net::TcpListener::bind(bind).unwrap().local_addr().unwrap();
            let listener = std::net::TcpListener::bind((tcp.ip(), 0)).unwrap();
            let own = listener.local_addr().unwrap();
            assert!(on_port(true, own.port()).contains(&own), "{own}");
            let socket = std::net::UdpSocket::bind((tcp.ip(), 0)).unwrap();
            let own = socket.local_addr().unwrap();
            assert!(on_port(false, own.port()).contains(&own), "{own}");
        }
    }
}
