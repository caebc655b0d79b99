//! Datagrams at a rate: junk or the content of files, from this host's address or from many that aren't its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::flood::Random;

/// Between bursts.
const TICK: Duration = Duration::from_millis(5);
const TICKS_PER_SECOND: u64 = 200;
/// Raw IP with a header of ours; of an IPv4 one the kernel fills in length and checksum.
const IPPROTO_RAW: i32 = 255;
const HEADERS: u16 = 28;
const UDP_HEADER: u16 = 8;
/// Forged sources are so many addresses from the first on.
const SOURCES: u64 = 64;
const JUNK: usize = 256;
const JUNK_LENGTH: usize = 148;

/// Where datagrams seem to come from.
enum Sender {
    Own(UdpSocket),
    Forged { socket: Socket, first: IpAddr, server: SocketAddr },
}

/// Sends for `seconds`, each of `files` in turn, or junk without any; `source` is `own` or the first forged address.
pub(crate) fn run(server: SocketAddr, rate: u64, seconds: u64, source: &str, files: &[&str]) -> Result<()> {
    let sender = Sender::new(server, source)?;
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let payloads = payloads(files, &mut random)?;
    let (begun, mut sent) = (Instant::now(), 0_u64);
    println!("storming");
    for tick in 0..seconds * TICKS_PER_SECOND {
        for payload in payloads
            .iter()
            .cycle()
            .skip(sent as usize % payloads.len())
            .take((rate / TICKS_PER_SECOND) as usize)
        {
            // A full queue is the network's business.
            let _ = sender.send(payload, &mut random);
            sent += 1;
        }
        let due = TICK * u32::try_from(tick + 1)?;
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    println!("sent {sent} in {} ms", begun.elapsed().as_millis());
    Ok(())
}

fn payloads(files: &[&str], random: &mut Random) -> Result<Vec<Vec<u8>>> {
    if !files.is_empty() {
        let read = |file: &&str| std::fs::read(file).with_context(|| format!("cannot read {file}"));
        return files.iter().map(read).collect();
    }
    let mut junk = || {
        let mut bytes = vec![0; JUNK_LENGTH];
        random.fill(&mut bytes);
        bytes
    };
    Ok((0..JUNK).map(|_| junk()).collect())
}

impl Sender {
    fn new(server: SocketAddr, source: &str) -> Result<Self> {
        if source == "own" {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(server)?;
            return Ok(Self::Own(socket));
        }
        let first: IpAddr = source.parse().with_context(|| format!("not an address: {source}"))?;
        ensure!(first.is_ipv4() == server.is_ipv4(), "{source} can't send to {server}");
        let socket = Socket::new(Domain::for_address(server), Type::RAW, Some(Protocol::from(IPPROTO_RAW)))
            .context("cannot open a raw socket (root?)")?;
        Ok(Self::Forged { socket, first, server })
    }

    fn send(&self, payload: &[u8], random: &mut Random) -> Result<()> {
        match self {
            Self::Own(socket) => socket.send(payload)?,
            Self::Forged { socket, first, server } => {
                let drawn = random.next();
                let (at, port) = (drawn % SOURCES, u16::try_from(1024 + (drawn >> 32) % 60_000)?);
                let packet = match (first, server) {
                    (IpAddr::V4(first), SocketAddr::V4(server)) => {
                        let source = Ipv4Addr::from_bits(first.to_bits() + u32::try_from(at)?);
                        forged4(SocketAddrV4::new(source, port), *server, payload)?
                    }
                    (IpAddr::V6(first), SocketAddr::V6(server)) => {
                        let source = Ipv6Addr::from_bits(first.to_bits() + u128::from(at));
                        forged6(SocketAddrV6::new(source, port, 0, 0), *server, payload)?
                    }
                    _ => bail!("two families"),
                };
                // A raw IPv6 socket takes no port.
                socket.send_to(&packet, &SockAddr::from(SocketAddr::new(server.ip(), 0)))?
            }
        };
        Ok(())
    }
}

/// IPv4 and UDP headers without checksums, and the payload.
fn forged4(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Result<Vec<u8>> {
    let length = HEADERS + u16::try_from(payload.len())?;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(udp(from.port(), to.port(), payload)?);
    Ok(packet)
}

/// IPv6 and UDP headers, where the latter's checksum is no choice, and the payload.
fn forged6(from: SocketAddrV6, to: SocketAddrV6, payload: &[u8]) -> Result<Vec<u8>> {
    let mut datagram = udp(from.port(), to.port(), payload)?;
    let length = u16::try_from(datagram.len())?;
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let sum = sum(&addresses) + sum(&datagram) + u64::from(length) + 17;
    let folded = (0..4).fold(sum, |sum, _| (sum >> 16) + (sum & 0xffff));
    let checksum = match !u16::try_from(folded)? {
        0 => u16::MAX,
        checksum => checksum,
    };
    datagram.splice(6..8, checksum.to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([17, 64]);
    packet.extend(addresses);
    packet.extend(datagram);
    Ok(packet)
}

/// A UDP datagram without a checksum.
fn udp(from: u16, to: u16, payload: &[u8]) -> Result<Vec<u8>> {
    let length = UDP_HEADER + u16::try_from(payload.len())?;
    let mut datagram: Vec<u8> = [from, to, length, 0].into_iter().flat_map(u16::to_be_bytes).collect();
    datagram.extend(payload);
    Ok(datagram)
}

fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let last = rest.first().map_or(0, |byte| u64::from(*byte) << 8);
    words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum::<u64>() + last
}
