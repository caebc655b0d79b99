//! Where one row runs: two hosts, the cable between them, and the processes of a tunnel.
//!
//! The namespaces have no names and die with this program, by whatever cause; so does everything started in them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use meshhold_tests::process::{Process, output};
use meshhold_tests::{Host, Node, wait};
use tempfile::TempDir;

use crate::cargo;

/// Addresses inside the tunnel, for programs that take any.
pub(super) const INNER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 202, 0, 1), Ipv4Addr::new(10, 202, 0, 2)];
pub(super) const START_LIMIT: Duration = Duration::from_secs(20);
const LOG_TAIL: usize = 400;

/// What the hosts are connected by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Underlay {
    /// A veth pair as it comes: super-packets cross it whole
    Veth,
    /// Every frame crosses singly, as on a card without offloads; merged at the receiver
    Wire,
}

impl fmt::Display for Underlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Veth { "veth" } else { "wire" })
    }
}

impl Underlay {
    fn set(self, host: &Host, interface: &str) -> Result<()> {
        if self == Self::Wire {
            let singly = format!("-K {interface} tso off tx-udp-segmentation off gso off gro on");
            host.run("ethtool", &singly.split(' ').collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

fn directory() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("meshhold-bench-").tempdir()?)
}

/// The daemon that is measured.
fn program() -> PathBuf {
    cargo::target_dir().join("release/meshhold")
}

/// Fresh namespaces for one row.
pub(super) struct Site {
    pub(super) a: Host,
    pub(super) b: Host,
    /// What lies between them, from a to b.
    pub(super) hops: Vec<Host>,
    _directory: TempDir,
}

impl Site {
    pub(super) fn new(underlay: Underlay) -> Result<Self> {
        let directory = directory()?;
        let (a, b) = Host::pair(directory.path(), &program())?;
        for host in [&a, &b] {
            underlay.set(host, "eth0")?;
        }
        Ok(Self { a, b, hops: Vec::new(), _directory: directory })
    }

    /// So many hosts in a row between a and b, that forward nothing yet.
    pub(super) fn chain(underlay: Underlay, hops: u8) -> Result<Self> {
        let directory = directory()?;
        let mut hosts = Host::chain(directory.path(), &program(), hops)?;
        for pair in hosts.windows(2) {
            for (host, interface) in pair.iter().zip(["right", "left"]) {
                underlay.set(host, interface)?;
            }
        }
        let (b, a) = (hosts.pop().context("a chain has ends")?, hosts.remove(0));
        Ok(Self { a, b, hops: hosts, _directory: directory })
    }

    /// Both hosts.
    pub(super) fn hosts(&self) -> [&Host; 2] {
        [&self.a, &self.b]
    }

    /// The ends of all logs, in one line.
    pub(super) fn logs(&self) -> String {
        let folders = self.hosts().into_iter().chain(&self.hops).map(Host::directory);
        let entries = folders.filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
        let logs =
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "log"));
        let tails = logs.filter_map(|path| {
            let text = std::fs::read_to_string(&path).ok()?;
            let tail: Vec<char> = text.trim().chars().rev().take(LOG_TAIL).collect();
            let tail: String = tail.into_iter().rev().collect();
            Some(format!("{}: {}", path.file_name()?.to_string_lossy(), tail.replace('\n', " / ")))
        });
        format!("logs: {}", tails.collect::<Vec<_>>().join(" | "))
    }

    /// Waits until both ends of a tunnel have their interface, then gives it the inner addresses and brings it up.
    pub(super) fn address(&self, interface: &str, settings: &str) -> Result<IpAddr> {
        for (host, inner) in self.hosts().into_iter().zip(INNER) {
            wait::until_true(START_LIMIT, &format!("{} has {interface}", host.name), || {
                host.succeeds("ip", &["link", "show", interface])
            })?;
            host.namespace().ip(&format!("address add {inner}/24 dev {interface}"))?;
            host.namespace().ip(&format!("link set {interface} {settings} up"))?;
        }
        Ok(INNER[1].into())
    }
}

/// A row that runs.
#[derive(Default)]
pub(super) struct Tunnel {
    /// Of host b, as host a must use it.
    pub(super) address: Option<IpAddr>,
    pub(super) processes: Vec<Process>,
    pub(super) nodes: Vec<Node>,
}

impl Tunnel {
    /// Process ids of the tunnel's own programs.
    pub(super) fn pids(&self) -> Result<Vec<u32>> {
        let nodes = self.nodes.iter().map(Node::pid);
        self.processes.iter().map(|process| Ok(process.pid())).chain(nodes).collect()
    }

    /// Waits until b answers a ping of a.
    pub(super) fn wait_up(&self, site: &Site) -> Result<IpAddr> {
        let address = self.address.context("the tunnel has no address")?;
        wait::until_true(START_LIMIT, &format!("a pings {address}"), || {
            site.a.succeeds("ping", &["-n", "-c1", "-W1", &address.to_string()])
        })?;
        Ok(address)
    }
}

/// Runs a command to its end without polling, which would disturb what is measured; kills it after `limit`.
pub(super) fn run(mut command: Command, limit: Duration) -> Result<Output> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let pid = child.id().to_string();
    let (done, over) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if over.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            // It may have ended just now.
            let _ = output(Command::new("kill").args(["-s", "KILL", &pid]));
        }
    });
    let finished = child.wait_with_output();
    drop(done);
    ensure!(watchdog.join().is_ok(), "the watchdog panicked");
    Ok(finished?)
}
