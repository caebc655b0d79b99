//! Round trips, by ping(8).

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use meshhold_tests::Host;
use std::net::IpAddr;

use super::figures::quantile;
use super::site::run;

const LIMIT: Duration = Duration::from_secs(20);

/// Round trips in microseconds, and how many requests had no answer.
#[derive(Debug, PartialEq)]
pub(super) struct Trips {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) lost_percent: f64,
}

/// `count` requests, one every `gap` seconds.
pub(super) fn ping(host: &Host, address: IpAddr, count: u32, gap: f64) -> Result<Trips> {
    let mut command = host.namespace().command("ping");
    command.args(arguments(address, count, gap));
    let output = run(command, LIMIT)?;
    parse(&String::from_utf8_lossy(&output.stdout), count)
}

/// Requests beside something else.
pub(super) struct Beside {
    child: Child,
    count: u32,
}

impl Beside {
    pub(super) fn start(host: &Host, address: IpAddr, count: u32, gap: f64) -> Result<Self> {
        let mut command = host.namespace().command("ping");
        command.args(arguments(address, count, gap)).stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Self { child: command.spawn().context("cannot start ping")?, count })
    }

    /// Waits for the last answer.
    pub(super) fn finish(self) -> Result<Trips> {
        let output = self.child.wait_with_output()?;
        parse(&String::from_utf8_lossy(&output.stdout), self.count)
    }
}

fn arguments(address: IpAddr, count: u32, gap: f64) -> Vec<String> {
    let deadline = (f64::from(count) * gap).ceil() as u32 + 3;
    let (count, gap, deadline) = (count.to_string(), gap.to_string(), deadline.to_string());
    let address = address.to_string();
    ["-n", "-i", &gap, "-c", &count, "-W", "1", "-w", &deadline, &address].map(str::to_owned).into()
}

fn parse(printed: &str, count: u32) -> Result<Trips> {
    let times = printed.lines().filter_map(|line| {
        let time = line.split_once(" time=")?.1.split(' ').next()?;
        Some(time.parse::<f64>().ok()? * 1000.0)
    });
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    let lost_percent = 100.0 - times.len() as f64 * 100.0 / f64::from(count.max(1));
    let p50 = quantile(&times, 0.5).context("no ping was answered")?;
    let p99 = quantile(&times, 0.99).context("no ping was answered")?;
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    Ok(Trips { mean, p50, p99, lost_percent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let printed = "64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=0.250 ms\nnothing\n\
            64 bytes from 10.0.0.2: icmp_seq=2 ttl=64 time=0.150 ms\n\
            64 bytes from 10.0.0.2: icmp_seq=3 ttl=64 time=1 ms\n";
        let trips = parse(printed, 4).unwrap();
        assert!((trips.mean - 1400.0 / 3.0).abs() < 0.01);
        assert_eq!((trips.p50, trips.p99, trips.lost_percent), (250.0, 1000.0, 25.0));
        assert!(parse("nothing", 4).is_err());
    }
}
