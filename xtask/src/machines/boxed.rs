//! A system without a machine: its user space with its own systemd in namespaces, on this machine's kernel and at its speed.
//!
//! For all that isn't about kernels or disks. What it changes is kept beside the image, so that it can boot again; of this
//! machine's own settings it sees those of its network namespace only.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::lab::Host;
use meshhold_tests::process::{Process, output};
use meshhold_tests::wait;

use super::guest::Guest;

const STARTED: Duration = Duration::from_secs(30);
const SCRIPT: &str = include_str!("guest/box.sh");

/// A running system; dropping it ends all its processes.
#[derive(Debug)]
pub(super) struct Boxed {
    process: Process,
}

impl Boxed {
    /// Starts a system on `host`.
    pub(super) fn start(host: &Host, system: &System) -> Result<(Self, Guest)> {
        let script = host.directory().join("box.sh");
        std::fs::write(&script, SCRIPT)?;
        std::fs::create_dir_all(&system.changes)?;
        // As it is before a boot; with the same address of the card after each.
        for command in
            ["address flush dev eth0", "link set eth0 down", "link set eth0 address 52:54:00:90:00:77"]
        {
            host.namespace().ip(command)?;
        }
        let System { disk, changes, delivery, seen_at } = system;
        let words = [&script, disk, changes, delivery, seen_at].map(|path| path.to_string_lossy());
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        let mut process = host.spawn("box", "bash", &words)?;
        let pid = wait::until(STARTED, "the system's first process runs", || {
            ensure!(process.is_running()?, "it has ended: {}", process.log()?);
            init(process.pid())
        })?;
        Ok((Self { process }, Guest::inside(pid)))
    }
}

impl Boxed {
    /// Waits until it has switched itself off.
    pub(super) fn wait_off(&mut self, limit: Duration) -> Result<()> {
        self.process.wait(limit).map(drop)
    }
}

/// What a box is made of.
#[derive(Clone, Debug)]
pub(super) struct System {
    pub(super) disk: PathBuf,
    /// Where what it writes is kept.
    pub(super) changes: PathBuf,
    /// What the lab brings along, and where the system sees it.
    pub(super) delivery: PathBuf,
    pub(super) seen_at: PathBuf,
}

impl System {
    /// Counts a boot.
    pub(super) fn boots(&self) -> Result<u32> {
        let counter = self.changes.with_extension("boots");
        let last = std::fs::read_to_string(&counter).ok().and_then(|text| text.parse().ok()).unwrap_or(0_u32);
        std::fs::write(&counter, (last + 1).to_string())?;
        Ok(last + 1)
    }
}

/// The child of `unshare --fork`, once it is systemd.
fn init(parent: u32) -> Result<Option<u32>> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    let Some(child) = children.split_whitespace().next() else { return Ok(None) };
    let name = std::fs::read_to_string(format!("/proc/{child}/comm")).context("it ended at once")?;
    Ok(if name.trim() == "systemd" { Some(child.parse()?) } else { None })
}

/// Takes the carrier off the box's cable, or gives it back: the other end is `peer` in the LAN's namespace.
pub(super) fn cable(lan: &meshhold_tests::lab::Namespace, peer: &str, plugged: bool) -> Result<()> {
    let state = if plugged { "up" } else { "down" };
    output(lan.command("ip").args(["link", "set", peer, state])).map(drop)
}
