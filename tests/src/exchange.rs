//! Checked content between two members, both ways, by TCP and UDP at once; the lab's helper does the checking.
//!
//! Owns the paths that are tried, their limits, and the sum of what was found.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};

use crate::node::Node;
use crate::process::Process;
use crate::service;

/// Ports that the server's end must open, TCP and UDP.
pub const PORTS: [&str; 2] = ["tcp:4000-4009", "udp:4000-4009"];
const FIRST_PORT: u16 = 4000;
/// Of 8 bytes, so many travel by UDP.
const BY_UDP: u64 = 2;

/// Largest UDP payload over IPv4 and over IPv6.
const LARGEST: [&str; 2] = ["65507", "65527"];
/// UDP payloads of whole packets: on the IPv4 route to caller addresses (1392 bytes), and by IPv6 (1420 bytes).
const SEGMENTS: [&str; 2] = ["1364", "1372"];

/// One way to a service.
#[derive(Debug)]
pub struct Path {
    /// What it is called in figures.
    pub name: &'static str,
    address: IpAddr,
    port: u16,
    largest: &'static str,
    segment: &'static str,
    _server: Process,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Bytes that arrived as they were sent, by TCP and UDP.
    pub bytes: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that came.
    pub received: u64,
    /// Datagrams with other content, or with another size.
    pub altered: u64,
    /// Datagrams with other DSCP or ECN.
    pub remarked: u64,
    /// Datagrams that came again.
    pub repeated: u64,
    /// BLAKE3 of each stream's content, the same at both ends.
    pub hashes: Vec<String>,
}

/// Starts services on `server` and yields the ways to them: both families, on loopback and on the mesh address.
///
/// On an interface without offloads Linux itself drops super-packets of UDP_SEGMENT whose family changes (it loses the place
/// of their checksum when their head grows), so with `changed_bursts` false that path carries none.
pub fn paths(server: &Node, changed_bursts: bool) -> Result<Vec<Path>> {
    let (own4, own6) = server.addresses()?;
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let [largest4, largest6] = LARGEST;
    let [segment4, segment6] = SEGMENTS;
    let changed = if changed_bursts { segment4 } else { "0" };
    let wanted = [
        ("IPv4 to loopback", own4.into(), loopback, largest4, segment4),
        ("IPv4 to the mesh address", own4.into(), own4.into(), largest4, segment4),
        ("IPv6 to the mesh address", own6.into(), own6.into(), largest6, segment6),
        ("IPv6 to IPv4 loopback", own6.into(), loopback, largest4, changed),
    ];
    let start = |(port, (name, address, bind, largest, segment))| {
        let server = service::bytes(&server.host, bind, port)?;
        Ok(Path { name, address, port, largest, segment, _server: server })
    };
    (FIRST_PORT..).zip(wanted).map(start).collect()
}

impl Path {
    /// Exchanges `bytes` in all, half of them in each direction.
    pub fn exchange(&self, from: &Node, seed: u64, bytes: u64) -> Result<Found> {
        let udp = bytes / 2 * BY_UDP / 8;
        let (tcp, udp, seed) = ((bytes / 2 - udp).to_string(), udp.to_string(), seed.to_string());
        let (address, port) = (self.address.to_string(), self.port.to_string());
        let arguments = ["exchange", &address, &port, &seed, &tcp, &udp, self.largest, self.segment];
        let printed = from.host.tool(&arguments).with_context(|| self.name)?;
        let mut found = Found::default();
        for line in printed.lines() {
            println!("{} seed {seed}: {line}", self.name);
            found.read(line).with_context(|| format!("not a report: {line}"))?;
        }
        ensure!(found.hashes.len() == 2 && found.sent > 0, "not a report: {printed}");
        Ok(found)
    }
}

impl Found {
    /// `tcp up bytes 7 hash …` or `udp down sent 7 received 7 …`
    fn read(&mut self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split(' ').skip(2).collect();
        for pair in words.chunks(2) {
            let [name, value] = pair else { anyhow::bail!("no value") };
            match *name {
                "hash" => self.hashes.push((*value).to_owned()),
                "bytes" => self.bytes += value.parse::<u64>()?,
                "sent" => self.sent += value.parse::<u64>()?,
                "received" => self.received += value.parse::<u64>()?,
                "altered" => self.altered += value.parse::<u64>()?,
                "remarked" => self.remarked += value.parse::<u64>()?,
                "repeated" => self.repeated += value.parse::<u64>()?,
                _ => anyhow::bail!("unknown: {name}"),
            }
        }
        Ok(())
    }

    /// Adds what another exchange found.
    pub fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.sent += other.sent;
        self.received += other.received;
        self.altered += other.altered;
        self.remarked += other.remarked;
        self.repeated += other.repeated;
        self.hashes.extend(other.hashes);
    }

    /// Datagrams that never came.
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }
}
