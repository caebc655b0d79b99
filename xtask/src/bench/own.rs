//! The rows that need nothing installed: the cable itself, our nodes, and the bounds.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::process::finish;
use meshhold_tests::{Node, Settings, wait};

use super::rows::Peer;
use super::site::{Site, Tunnel};
use crate::cargo;

/// Everything, as the load programs use several ports.
const OPEN: [&str; 2] = ["tcp:1-65535", "udp:1-65535"];
const CIRCUIT_LIMIT: Duration = Duration::from_secs(10);
const COPY_INTERFACE: &str = "copy0";
const COPY_PORT: u16 = 7000;

/// No tunnel at all.
pub(super) struct Raw;

impl Peer for Raw {
    fn version(&self) -> Option<String> {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
        Some(format!("kernel {}", release.trim()))
    }

    fn start(&self, site: &Site) -> Result<Tunnel> {
        Ok(Tunnel { address: Some(site.b.ipv4.into()), ..Tunnel::default() })
    }
}

/// Two nodes of a network.
pub(super) struct Meshhold {
    /// As the status shows it.
    pub(super) cipher: &'static str,
    /// Bound to that cipher by configuration, else it must come by negotiation.
    pub(super) forced: bool,
}

impl Peer for Meshhold {
    fn version(&self) -> Option<String> {
        let how = if self.forced { "bound to" } else { "negotiated" };
        Some(format!("{}, {how} {}", env!("CARGO_PKG_VERSION"), self.cipher))
    }

    fn start(&self, site: &Site) -> Result<Tunnel> {
        let cipher = self.forced.then_some("chacha20-poly1305");
        let mut b = Node::new(site.b.clone(), Settings { cipher, ..Settings::default() })?;
        let key = b.mint(&OPEN)?;
        let mut a = Node::new(site.a.clone(), Settings { cipher, ..Settings::knowing(&[&b])? })?;
        a.join(&key, &OPEN)?;
        b.start_and_wait()?;
        a.start_and_wait()?;
        a.wait_peer_up(&b)?;
        let id = b.id()?;
        let agreed = wait::until(CIRCUIT_LIMIT, "the circuit has a cipher", || {
            Ok(a.status()?.peer(&id).and_then(|peer| peer.cipher.clone()))
        })?;
        // Without AES instructions the negotiation goes the other way; the table must not hide that.
        ensure!(agreed == self.cipher, "the circuit uses {agreed}, not {}", self.cipher);
        let address = Some(b.addresses()?.0.into());
        Ok(Tunnel { address, nodes: vec![a, b], ..Tunnel::default() })
    }
}

/// A bound: `benchtool copy`.
pub(super) struct Copier {
    pub(super) mode: &'static str,
    pub(super) cipher: &'static str,
}

impl Peer for Copier {
    fn version(&self) -> Option<String> {
        Some(format!("bare {} copier, {}", self.mode, self.cipher))
    }

    fn start(&self, site: &Site) -> Result<Tunnel> {
        let mut processes = Vec::new();
        let [a, b] = site.hosts();
        for (host, other) in [(a, b), (b, a)] {
            let ends = [host, other].map(|end| format!("{}:{COPY_PORT}", end.ipv4));
            let arguments = ["copy", self.mode, self.cipher, COPY_INTERFACE, &ends[0], &ends[1]];
            processes.push(host.spawn("copy", &tool()?, &arguments)?);
        }
        // 60,000: what a super-packet may have so that its datagrams fit one call.
        let address = Some(site.address(COPY_INTERFACE, "mtu 1420 gso_max_size 60000")?);
        Ok(Tunnel { address, processes, ..Tunnel::default() })
    }
}

/// The bench's helper program.
pub(super) fn tool() -> Result<String> {
    let path = cargo::target_dir().join("release/benchtool");
    path.to_str().map(str::to_owned).context("the target folder's path is not UTF-8")
}

/// First line that a program prints about itself.
pub(super) fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let finished = finish(std::process::Command::new(program).args(arguments), "").ok()?;
    let text = if finished.stdout.trim().is_empty() { finished.stderr } else { finished.stdout };
    text.lines().next().map(|line| line.trim().to_owned())
}
