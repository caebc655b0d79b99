//! A system without a machine: its user space with its own systemd in namespaces, on this machine's kernel and at its speed.
//!
//! For all that isn't about kernels, boots or disks. What it changes is in memory and gone with it; of this machine's own
//! settings it sees those of its network namespace only.

use std::path::Path;
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
    _process: Process,
}

impl Boxed {
    /// Starts the system of the image `disk` on `host`; what is in `delivery` it sees at `seen_at`.
    pub(super) fn start(host: &Host, disk: &Path, delivery: &Path, seen_at: &str) -> Result<(Self, Guest)> {
        let script = host.directory().join("box.sh");
        std::fs::write(&script, SCRIPT)?;
        let words = [script.as_path(), disk, delivery, Path::new(seen_at)].map(|path| path.to_string_lossy());
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        let mut process = host.spawn("box", "bash", &words)?;
        let pid = wait::until(STARTED, "the system's first process runs", || {
            ensure!(process.is_running()?, "it has ended: {}", process.log()?);
            init(process.pid())
        })?;
        Ok((Self { _process: process }, Guest::inside(pid)))
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
