//! Ways between members that may be anywhere: relays without a key, pings that go on, and the path that `status` shows.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::lab::{Host, Lab};
use crate::node::{Node, Settings};
use crate::process::Process;
use crate::status::Path;
use crate::wait;

/// Two running relays on the bridge that hold no key and know each other.
pub fn relays(lab: &Lab) -> Result<[Node; 2]> {
    let mut first = Node::new(lab.host("r1")?, Settings::relay())?;
    let mut second = Node::new(lab.host("r2")?, Settings::relay())?;
    second.configure(Settings { bootstrap: vec![first.multiaddr()?], ..Settings::relay() })?;
    first.start_and_wait()?;
    second.start_and_wait()?;
    Ok([first, second])
}

/// The path that `from` shows for `to`.
pub fn shown(from: &Node, to: &str) -> Result<Option<Path>> {
    Ok(from.status()?.peer(to).and_then(|peer| peer.path.clone()))
}

/// Waits until `from` shows a path to `to` that is wanted.
pub fn wait_shown(limit: Duration, from: &Node, to: &str, wanted: impl Fn(&Path) -> bool) -> Result<Path> {
    let mut last = None;
    let what = format!("a path of another kind from {}", from.host.name);
    let found = wait::until(limit, &what, || {
        last = shown(from, to)?;
        Ok(last.clone().filter(&wanted))
    });
    found.with_context(|| format!("the last that was shown: {last:?}"))
}

/// Echo requests every 20 ms, until dropped.
#[derive(Debug)]
pub struct Pings {
    process: Process,
    begun: Instant,
}

impl Pings {
    /// The clock runs from now.
    pub fn start(from: &Host, to: IpAddr) -> Result<Self> {
        let begun = Instant::now();
        let label = format!("pings-{}", to.to_string().replace([':', '.'], "_"));
        let process = from.spawn(&label, "stdbuf", &["-oL", "ping", "-n", "-i", "0.02", &to.to_string()])?;
        Ok(Self { process, begun })
    }

    /// Since the first request.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// How many were answered so far.
    pub fn answered(&self) -> Result<usize> {
        Ok(self.process.log()?.matches(" bytes from ").count())
    }

    /// The numbers that weren't answered before the last one that was.
    pub fn lost(&self) -> Result<Vec<usize>> {
        let log = self.process.log()?;
        let answers = log.lines().filter(|line| line.contains(" bytes from "));
        let number = |line: &str| line.split("icmp_seq=").nth(1)?.split(' ').next()?.parse::<usize>().ok();
        let numbers: BTreeSet<usize> = answers.filter_map(number).collect();
        let last = numbers.last().copied().unwrap_or_default();
        Ok((1..last).filter(|number| !numbers.contains(number)).collect())
    }

    /// Waits for one more answer than now, and yields how long that took.
    pub fn next(&self, limit: Duration) -> Result<Duration> {
        let (begun, before) = (Instant::now(), self.answered()?);
        wait::until_true(limit, "a ping is answered", || Ok(self.answered()? > before))?;
        Ok(begun.elapsed())
    }
}
