//! Junk for parsers: datagrams of every length and first byte, and messages that a control socket must refuse.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};

/// Largest UDP payload over IPv4; over IPv6 20 bytes more would fit.
const LARGEST: usize = 65_507;
const DATAGRAMS: u64 = 20_000;
const OVERSIZED: usize = 8 << 20;

pub(crate) fn run(server: SocketAddr) -> Result<()> {
    let socket = sender(server)?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut junk = vec![0; LARGEST];
    for number in 0..DATAGRAMS {
        let size = size_of(number, &mut random);
        let datagram = junk.get_mut(..size).unwrap_or_default();
        random.fill(datagram);
        if let Some(first) = datagram.first_mut() {
            *first = u8::try_from(number % 256)?;
        }
        // A full queue or an ICMP error is the network's business.
        let _ = socket.send(datagram);
    }
    println!("sent {DATAGRAMS}");
    Ok(())
}

pub(crate) fn files(server: SocketAddr, files: &[&str]) -> Result<()> {
    let socket = sender(server)?;
    for file in files {
        let _ = socket.send(&std::fs::read(file).with_context(|| format!("cannot read {file}"))?);
    }
    println!("sent {}", files.len());
    Ok(())
}

pub(crate) fn unix(path: &str) -> Result<()> {
    let mut random = Random(0xdead_beef_cafe);
    let mut noise = vec![0; 4096];
    random.fill(&mut noise);
    let messages: [Vec<u8>; 8] = [
        Vec::new(),
        b"\n".to_vec(),
        b"{".to_vec(),
        b"{\"request\":\"status\",\"request\":\"status\"}\n".to_vec(),
        vec![b'['; OVERSIZED],
        vec![b'a'; OVERSIZED],
        u32::MAX.to_be_bytes().repeat(1024),
        noise,
    ];
    for message in &messages {
        let mut stream = UnixStream::connect(path).with_context(|| format!("cannot connect to {path}"))?;
        // Being cut off in the middle is a fine answer.
        let _ = stream.write_all(message);
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    println!("sent {}", messages.len());
    Ok(())
}

fn sender(server: SocketAddr) -> Result<UdpSocket> {
    let socket = if server.is_ipv4() {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?
    } else {
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?
    };
    socket.connect(server)?;
    Ok(socket)
}

/// Mostly around the sizes where headers end; every sixteenth anything up to the largest.
fn size_of(number: u64, random: &mut Random) -> usize {
    let range = if number.is_multiple_of(16) { LARGEST } else { 1500 };
    usize::try_from(random.next() % (range as u64 + 1)).unwrap_or_default()
}

/// Xorshift: the same junk in each run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let value = self.next().to_ne_bytes();
            chunk.iter_mut().zip(value).for_each(|(byte, random)| *byte = random);
        }
    }
}
