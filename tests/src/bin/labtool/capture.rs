//! Writes every network-layer packet of a namespace to a file, each with its length in front (4 bytes, big-endian).

use std::fs::File;
use std::io::{Read, Write};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// `ETH_P_ALL` in network byte order, as packet(7) wants it.
const ALL_PROTOCOLS: i32 = 0x0003_u16.to_be() as i32;
const BUFFER: usize = 8 << 20;

pub(crate) fn run(file: &str) -> Result<()> {
    let mut socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(ALL_PROTOCOLS)))
        .context("cannot open a packet socket (root?)")?;
    socket.set_recv_buffer_size(BUFFER)?;
    let mut file = File::create(file).with_context(|| format!("cannot create {file}"))?;
    println!("capturing");
    let mut packet = vec![0; 65_536 + 64];
    loop {
        let length = socket.read(&mut packet)?;
        let data = packet.get(..length).unwrap_or_default();
        let mut record = u32::try_from(data.len())?.to_be_bytes().to_vec();
        record.extend_from_slice(data);
        file.write_all(&record)?;
    }
}
