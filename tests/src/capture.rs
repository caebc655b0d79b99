//! What was on the wire: files written by `labtool capture`, one length-prefixed network-layer packet after the other.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::{Host, Namespace, labtool};
use crate::process::Process;
use crate::wait;

const START_LIMIT: Duration = Duration::from_secs(5);

/// A running capture of all interfaces of a namespace.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Starts; every packet seen after the return is in the file.
    pub fn start(namespace: &Namespace, directory: &Path, label: &str) -> Result<Self> {
        let file = directory.join(format!("{label}.frames"));
        let mut command = namespace.command(&labtool()?);
        command.arg("capture").arg(&file);
        let log = directory.join(format!("{label}.log"));
        let mut process = namespace.spawn(command, label, &log)?;
        wait::until_true(START_LIMIT, "the capture runs", || {
            ensure!(process.is_running()?, "capture failed: {}", process.log()?);
            Ok(process.log()?.contains("capturing"))
        })?;
        Ok(Self { process, file })
    }

    /// Starts on a host, whose folder gets the file.
    pub fn on(host: &Host, label: &str) -> Result<Self> {
        Self::start(host.namespace(), host.directory(), label)
    }

    /// All bytes so far.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        Ok(std::fs::read(&self.file)?)
    }

    /// Ends the capture and yields its packets.
    pub fn finish(mut self) -> Result<Vec<Vec<u8>>> {
        self.process.kill()?;
        let bytes = std::fs::read(&self.file)?;
        Ok(split(&bytes))
    }
}

fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let Some((packet, rest)) = rest.split_at_checked(u32::from_be_bytes(*length) as usize) else { break };
        packets.push(packet.to_vec());
        bytes = rest;
    }
    packets
}

/// Source address of an IP packet; `None` for anything else.
pub fn source(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?)),
        6 => Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?)),
        _ => None,
    }
}

/// Whether `needle` occurs in any packet.
pub fn contains(packets: &[Vec<u8>], needle: &[u8]) -> bool {
    packets.iter().any(|packet| has(packet, needle))
}

/// Whether `needle` occurs in `bytes`.
pub fn has(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// Which of `needles` occur in any packet.
pub fn found<'a>(packets: &[Vec<u8>], needles: &[&'a [u8]]) -> Vec<&'a [u8]> {
    needles.iter().copied().filter(|needle| contains(packets, needle)).collect()
}
