//! Packets that nobody sent, to ask the rules about.
//!
//! Owns their layout: the first packet of a TCP connection, a datagram, an echo request, and what can be read of others.
//! Must not know the rules.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::workers::offload::checksum::{finish, fold, pseudo, put_u16, write_ipv4};
use super::workers::offload::header::{Layout, TCP, UDP};

/// Where a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// It comes out of the mesh.
    In,
    /// It goes into the mesh.
    Out,
    /// It comes by another interface.
    Lan,
}

/// A packet to be asked about, from its IP header on; it may be malformed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it is.
    pub way: Way,
    /// All of it.
    pub bytes: Vec<u8>,
}

impl Packet {
    /// By its version field.
    pub fn is_ipv6(&self) -> bool {
        self.bytes.first().is_some_and(|first| first >> 4 == 6)
    }

    /// Its source address, where it has one.
    pub fn source(&self) -> Option<IpAddr> {
        self.address(12, 8)
    }

    /// Its destination address, where it has one.
    pub fn destination(&self) -> Option<IpAddr> {
        self.address(16, 24)
    }

    /// The IP protocol and the destination port of a TCP segment or a UDP datagram that is whole.
    pub fn service(&self) -> Option<(u8, u16)> {
        let layout = Layout::of(&self.bytes).filter(|layout| !layout.fragment)?;
        let port = self.bytes.get(layout.transport() + 2..)?.first_chunk()?;
        [TCP, UDP].contains(&layout.protocol).then_some((layout.protocol, u16::from_be_bytes(*port)))
    }

    fn address(&self, at4: usize, at6: usize) -> Option<IpAddr> {
        if self.is_ipv6() {
            return self.bytes.get(at6..)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets));
        }
        self.bytes.get(at4..)?.first_chunk::<4>().map(|octets| IpAddr::from(*octets))
    }
}

/// What the packet asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP connection to this port.
    Tcp(u16),
    /// A UDP datagram to this port.
    Udp(u16),
    /// An echo.
    Icmp,
}

/// A port that callers use.
const FROM: u16 = 50_000;
const TTL: u8 = 64;
const SYN: u8 = 0x02;

/// The packet, with right checksums. `None` where the addresses are of two families.
pub fn packet(kind: Kind, source: IpAddr, destination: IpAddr) -> Option<Vec<u8>> {
    let (protocol, payload) = payload(kind, source.is_ipv6());
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, TTL, protocol, 0, 0];
            header.extend(source.octets().into_iter().chain(destination.octets()));
            let total = header.len() + payload.len();
            put_u16(&mut header, 2, total as u16);
            write_ipv4(&mut header);
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, TTL];
            header.extend(source.octets().into_iter().chain(destination.octets()));
            put_u16(&mut header, 4, payload.len() as u16);
            header
        }
        _ => return None,
    };
    let transport = packet.len();
    packet.extend(payload);
    let layout = Layout::of(&packet)?;
    let offset = match kind {
        Kind::Tcp(_) => 16,
        Kind::Udp(_) => 6,
        Kind::Icmp => 2,
    };
    if layout.v6 || kind != Kind::Icmp {
        let length = (packet.len() - transport) as u32;
        let start = fold(pseudo(&packet, &layout) + length);
        put_u16(&mut packet, transport + offset, start);
    }
    finish(&mut packet, transport, offset)?;
    Some(packet)
}

fn payload(kind: Kind, v6: bool) -> (u8, Vec<u8>) {
    let [a, b] = FROM.to_be_bytes();
    match kind {
        Kind::Tcp(port) => {
            let [c, d] = port.to_be_bytes();
            (TCP, vec![a, b, c, d, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 0xff, 0xff, 0, 0, 0, 0])
        }
        Kind::Udp(port) => {
            let [c, d] = port.to_be_bytes();
            (UDP, vec![a, b, c, d, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        }
        Kind::Icmp => {
            let (protocol, request) = if v6 { (58, 128) } else { (1, 8) };
            (protocol, vec![request, 0, 0, 0, a, b, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::workers::offload::checksum::{is_valid, sum};

    #[test]
    fn checksums_are_right_in_both_families() {
        let ends: [[IpAddr; 2]; 2] = [
            ["198.18.0.1".parse().unwrap(), "198.18.0.17".parse().unwrap()],
            ["fd12:1::1".parse().unwrap(), "fd12:1::2".parse().unwrap()],
        ];
        for [source, destination] in ends {
            for kind in [Kind::Tcp(22), Kind::Udp(53)] {
                let packet = packet(kind, source, destination).unwrap();
                let layout = Layout::of(&packet).unwrap();
                assert!(layout.total() == packet.len() && is_valid(&packet, &layout), "{kind:?} {source}");
            }
            let echo = packet(Kind::Icmp, source, destination).unwrap();
            let layout = Layout::of(&echo).unwrap();
            let length = (echo.len() - layout.transport()) as u32;
            let above = if layout.v6 { pseudo(&echo, &layout) + length } else { 0 };
            assert_eq!(fold(above + sum(&echo[layout.transport()..])), 0xffff);
        }
        assert_eq!(packet(Kind::Icmp, ends[0][0], ends[1][0]), None);
    }
}
