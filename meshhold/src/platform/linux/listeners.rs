//! Which sockets of this host wait, on which port and in which program.
//!
//! Owns the reading of `/proc`. Must not know who asks.

use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use utoipa::ToSchema;

/// State of a TCP socket that listens, and of a UDP socket that is not connected (net/tcp_states.h).
const LISTEN: &str = "0A";
const UNCONNECTED: &str = "07";

/// A socket that waits for somebody.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
pub struct Listener {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Its port.
    pub port: u16,
    /// The address that it is bound to.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Name of the program that holds it, as far as this process may see it.
    pub program: Option<String>,
}

/// A line of `/proc/net/{tcp,udp}*`: a socket, and the number by which its program holds it.
struct Socket {
    at: SocketAddr,
    inode: u64,
}

/// All sockets of this host that wait, by protocol and port. Looks through all processes: not for the daemon's loop.
pub fn all() -> Vec<Listener> {
    let programs = programs();
    let of = |protocol, tcp| {
        let listener = |socket: Socket| Listener {
            protocol,
            port: socket.at.port(),
            address: socket.at.ip(),
            program: programs.get(&socket.inode).cloned(),
        };
        waiting(tcp).into_iter().map(listener).collect::<Vec<_>>()
    };
    let mut all = [of("tcp", true), of("udp", false)].concat();
    all.sort_unstable();
    all.dedup();
    all
}

/// Addresses on which something waits on `port`, over TCP or UDP.
pub fn on_port(tcp: bool, port: u16) -> Vec<SocketAddr> {
    let waiting = waiting(tcp).into_iter().map(|socket| socket.at);
    let mut found: Vec<SocketAddr> = waiting.filter(|at| at.port() == port).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Ports on which something waits.
pub(super) fn ports(tcp: bool) -> BTreeSet<u16> {
    waiting(tcp).into_iter().map(|socket| socket.at.port()).collect()
}

fn waiting(tcp: bool) -> Vec<Socket> {
    let (files, state) = if tcp { (["tcp", "tcp6"], LISTEN) } else { (["udp", "udp6"], UNCONNECTED) };
    let text = |file| fs::read_to_string(format!("/proc/self/net/{file}")).unwrap_or_default();
    let read = |file| text(file).lines().skip(1).filter_map(|line| socket(line, state)).collect::<Vec<_>>();
    files.into_iter().flat_map(read).collect()
}

/// `sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode …`, addresses as words in machine order.
fn socket(line: &str, state: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, found, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?.parse().ok()?);
    (*found == state).then_some(Socket { at: address(local)?, inode })
}

/// An address and a port as `/proc/net` has them.
pub(super) fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    Some(SocketAddr::new(parse(address)?, u16::from_str_radix(port, 16).ok()?))
}

/// Names of programs by the sockets that they hold.
fn programs() -> HashMap<u64, String> {
    let mut programs = HashMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        let Ok(descriptors) = fs::read_dir(path.join("fd")) else { continue };
        let Ok(name) = fs::read_to_string(path.join("comm")) else { continue };
        for link in descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()) {
            let inode =
                link.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            inode.map(|inode| programs.insert(inode, name.trim().to_owned()));
        }
    }
    programs
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
            let seen = all().into_iter().find(|one| (one.protocol, one.port) == ("tcp", own.port())).unwrap();
            assert!(seen.address == own.ip() && seen.program.is_some(), "{seen:?}");
            let socket = std::net::UdpSocket::bind((tcp.ip(), 0)).unwrap();
            let own = socket.local_addr().unwrap();
            assert!(on_port(false, own.port()).contains(&own), "{own}");
        }
    }
}
