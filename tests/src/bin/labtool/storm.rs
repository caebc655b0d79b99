//! Datagrams at a rate: junk or the content of files, from this host's address or from many that aren't its own.
//!
//! The sender shares its processors with what is tested, so it is cheap: what has one source goes out by UDP_SEGMENT, and
//! arrives as the kernel joins a flow's datagrams on their way in.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::flood::Random;

/// Most datagrams of one system call: of the longest that fit a link, 64 KiB.
const TRAIN: usize = 50;
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

/// What a datagram holds, and its part of a checksum: summed up once, as a flood shall cost its sender little.
struct Payload {
    bytes: Vec<u8>,
    sum: u64,
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        let sum = sum(&bytes);
        Self { bytes, sum }
    }
}

/// Where datagrams seem to come from.
enum Sender {
    Own(UdpSocket),
    Forged { socket: Socket, first: IpAddr, server: SocketAddr },
}

/// Sends for `seconds`, each of `files` for a tick in turn, or junk without any; `source` is `own` or the first forged
/// address.
pub(crate) fn run(server: SocketAddr, rate: u64, seconds: u64, source: &str, files: &[&str]) -> Result<()> {
    let sender = Sender::new(server, source)?;
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let payloads = payloads(files, &mut random)?;
    let count = (rate / TICKS_PER_SECOND) as usize;
    let begun = Instant::now();
    println!("storming");
    for (tick, burst) in (1..=seconds * TICKS_PER_SECOND).zip(payloads.iter().cycle()) {
        for from in (0..count).step_by(TRAIN) {
            let train = burst.iter().cycle().skip(from).take(TRAIN.min(count - from));
            sender.send(train, &mut random)?;
        }
        std::thread::sleep((TICK * u32::try_from(tick)?).saturating_sub(begun.elapsed()));
    }
    println!("sent {} in {} ms", count as u64 * seconds * TICKS_PER_SECOND, begun.elapsed().as_millis());
    Ok(())
}

/// What to send in the ticks that come, over and over; all of one tick has one length.
fn payloads(files: &[&str], random: &mut Random) -> Result<Vec<Vec<Payload>>> {
    if !files.is_empty() {
        let read = |file: &&str| {
            let bytes = std::fs::read(file).with_context(|| format!("cannot read {file}"))?;
            Ok(vec![bytes.into()])
        };
        return files.iter().map(read).collect();
    }
    let mut junk = || {
        let mut bytes = vec![0; JUNK_LENGTH];
        random.fill(&mut bytes);
        bytes.into()
    };
    Ok(vec![(0..JUNK).map(|_| junk()).collect()])
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

    /// Payloads of one length.
    fn send<'a>(&self, train: impl Iterator<Item = &'a Payload>, random: &mut Random) -> Result<()> {
        match self {
            Self::Own(socket) => {
                let payloads: Vec<IoSlice<'_>> = train.map(|payload| IoSlice::new(&payload.bytes)).collect();
                let segment = u16::try_from(payloads.first().map_or(0, |payload| payload.len()))?;
                let offload = [ControlMessage::UdpGsoSegments(&segment)];
                match sendmsg::<()>(socket.as_raw_fd(), &payloads, &offload, MsgFlags::empty(), None) {
                    // The network's business.
                    Ok(_) | Err(Errno::ENOBUFS | Errno::ECONNREFUSED) => {}
                    Err(error) => bail!("sending a train of datagrams: {error}"),
                }
            }
            Self::Forged { socket, first, server } => {
                for payload in train {
                    let packet = forged(*first, *server, payload, random.next())?;
                    // A raw IPv6 socket takes no port.
                    // A full queue is the network's business.
                    let _ = socket.send_to(&packet, &SockAddr::from(SocketAddr::new(server.ip(), 0)));
                }
            }
        }
        Ok(())
    }
}

/// From an address and a port that were `drawn`.
fn forged(first: IpAddr, server: SocketAddr, payload: &Payload, drawn: u64) -> Result<Vec<u8>> {
    let (at, port) = (drawn % SOURCES, u16::try_from(1024 + (drawn >> 32) % 60_000)?);
    match (first, server) {
        (IpAddr::V4(first), SocketAddr::V4(server)) => {
            let source = Ipv4Addr::from_bits(first.to_bits() + u32::try_from(at)?);
            forged4(SocketAddrV4::new(source, port), server, &payload.bytes)
        }
        (IpAddr::V6(first), SocketAddr::V6(server)) => {
            let source = Ipv6Addr::from_bits(first.to_bits() + u128::from(at));
            forged6(SocketAddrV6::new(source, port, 0, 0), server, payload)
        }
        _ => bail!("two families"),
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
fn forged6(from: SocketAddrV6, to: SocketAddrV6, payload: &Payload) -> Result<Vec<u8>> {
    let mut datagram = udp(from.port(), to.port(), &payload.bytes)?;
    let length = u16::try_from(datagram.len())?;
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let header = datagram.get(..UDP_HEADER.into()).unwrap_or_default();
    let sum = sum(&addresses) + sum(header) + payload.sum + u64::from(length) + 17;
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
