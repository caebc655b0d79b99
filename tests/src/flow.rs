//! A long TCP connection from one host to another, and how long it ever stood still.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};

use crate::lab::Host;
use crate::process::Process;
use crate::wait;

const PATIENCE: Duration = Duration::from_secs(20);
/// Echoes that show that a flow goes on.
const SOME: usize = 20;

/// A connection to an echo server, with an exchange every few milliseconds.
#[derive(Debug)]
pub struct Flow {
    process: Process,
}

impl Flow {
    /// Connects and waits until echoes come.
    pub fn start(from: &Host, address: &str, port: &str) -> Result<Self> {
        from.tool(&["await", address, port, "5000"])?;
        let flow = Self { process: from.spawn_tool("flow", &["flow", address, port])? };
        flow.wait(SOME)?;
        Ok(flow)
    }

    /// As [`Self::start`], but a download from a server that pours: a beat for each 10 ms in which bytes came.
    pub fn download(from: &Host, address: &str, port: &str) -> Result<Self> {
        from.tool(&["await", address, port, "5000"])?;
        let flow = Self { process: from.spawn_tool("download", &["drink", address, port])? };
        flow.wait(SOME)?;
        Ok(flow)
    }

    /// The longest pause in milliseconds that ended after `since`, once the flow has gone on for a while from now.
    pub fn pause_since(&mut self, since: SystemTime, limit: Duration) -> Result<u64> {
        let (since, now) = (unix_ms(since)?, unix_ms(SystemTime::now())?);
        wait::until_true(limit, "the flow goes on", || {
            ensure!(self.process.is_running()?, "the flow has ended: {}", self.process.log()?);
            Ok(self.echoes()?.iter().filter(|beat| **beat > now).count() >= SOME)
        })?;
        let echoes = self.echoes()?;
        let pauses = echoes.iter().zip(echoes.iter().skip(1)).filter(|(_, next)| **next > since);
        Ok(pauses.map(|(one, next)| next.saturating_sub(*one)).max().unwrap_or_default())
    }

    /// The longest pause so far in milliseconds, after more echoes have come.
    pub fn longest_pause(&mut self) -> Result<u64> {
        self.wait(self.echoes()?.len() + SOME)?;
        ensure!(self.process.is_running()?, "the flow has ended: {}", self.process.log()?);
        let echoes = self.echoes()?;
        let pauses = echoes.iter().zip(echoes.iter().skip(1)).map(|(one, next)| next.saturating_sub(*one));
        Ok(pauses.max().unwrap_or_default())
    }

    fn wait(&self, wanted: usize) -> Result<()> {
        wait::until_true(PATIENCE, "the flow goes on", || Ok(self.echoes()?.len() >= wanted))
    }

    /// When each came, in Unix milliseconds.
    fn echoes(&self) -> Result<Vec<u64>> {
        let log = self.process.log()?;
        // The last line may be half written.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().filter_map(|line| line.strip_prefix("beat ")).map(|at| Ok(at.parse()?)).collect()
    }
}

fn unix_ms(time: SystemTime) -> Result<u64> {
    Ok(u64::try_from(time.duration_since(UNIX_EPOCH)?.as_millis())?)
}
