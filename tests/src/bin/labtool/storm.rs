//! Datagrams at a rate: junk or the content of files, from this host's address or from many that aren't its own.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::flood::Random;

/// Between bursts.
const TICK: Duration = Duration::from_millis(5);
const TICKS_PER_SECOND: u64 = 200;
/// Raw IPv4 with a header of ours; the kernel fills in length and checksum.
const IPPROTO_RAW: i32 = 255;
const HEADERS: u16 = 28;
/// Forged sources are so many addresses from the first on.
const SOURCES: u64 = 64;
const JUNK: usize = 256;
const JUNK_LENGTH: usize = 148;

/// Where datagrams seem to come from.
enum Sender {
    Own(UdpSocket),
    Forged { socket: Socket, first: Ipv4Addr, server: SocketAddrV4 },
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
        let SocketAddr::V4(server) = server else { bail!("sources are forged for IPv4 only") };
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))
            .context("cannot open a raw socket (root?)")?;
        let first = source.parse().with_context(|| format!("not an IPv4 address: {source}"))?;
        Ok(Self::Forged { socket, first, server })
    }

    fn send(&self, payload: &[u8], random: &mut Random) -> Result<()> {
        match self {
            Self::Own(socket) => socket.send(payload)?,
            Self::Forged { socket, first, server } => {
                let drawn = random.next();
                let source = Ipv4Addr::from_bits(first.to_bits() + u32::try_from(drawn % SOURCES)?);
                let port = u16::try_from(1024 + (drawn >> 32) % 60_000)?;
                let packet = forged(SocketAddrV4::new(source, port), *server, payload)?;
                socket.send_to(&packet, &SockAddr::from(*server))?
            }
        };
        Ok(())
    }
}

/// IPv4 and UDP headers without checksums, and the payload.
fn forged(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Result<Vec<u8>> {
    let length = HEADERS + u16::try_from(payload.len())?;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend((length - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    Ok(packet)
}
