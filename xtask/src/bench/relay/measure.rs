//! The figures of one case, taken once.
//!
//! Must not know how the nodes between the ends forward.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meshhold_tests::process::Process;
use meshhold_tests::{Node, wait};

use super::super::figures::Sample;
use super::super::transfer::{self, Load, transfer};
use super::super::{own, ping};
use super::Case;
use super::chain::Chain;

const PINGS: (u32, f64) = (200, 0.005);
/// Mbit/s of the budget.
const RATE: u32 = 100;
/// How long a budget is watched.
const WATCHED: Duration = Duration::from_secs(10);
/// Time for the flood to begin and to end.
const AROUND: Duration = Duration::from_secs(5);
const FLOOD_PORT: &str = "5302";
/// Bytes of a datagram of the flood.
const FLOOD_BYTES: &str = "1200";

/// A case that runs, to be measured once or more often.
pub(super) struct Stand {
    chain: Chain,
    /// `None` where a budget is watched.
    server: Option<Process>,
}

impl Stand {
    pub(super) fn new(case: Case) -> Result<Self> {
        let Case { underlay, middle, hops, budget } = case;
        let chain = Chain::new(underlay, middle, hops, budget.then_some(RATE))?;
        let server = if budget { None } else { Some(transfer::server(&chain.site)?) };
        Ok(Self { chain, server })
    }

    /// One TCP stream of so many seconds and round trips, or how far what a relay lets through is from its budget, in percent,
    /// when far more is sent.
    pub(super) fn measure(&self, seconds: u32) -> Result<Sample> {
        let taken = match self.server {
            Some(_) => throughput(&self.chain, seconds),
            None => held(&self.chain),
        };
        taken.with_context(|| self.chain.site.logs())
    }
}

fn throughput(chain: &Chain, seconds: u32) -> Result<Sample> {
    let trips = ping::ping(&chain.site.a, chain.address, PINGS.0, PINGS.1)?;
    let load = Load { seconds, options: &[], wrapper: &[] };
    let done = transfer(&chain.site, chain.address, &chain.pids()?, load)?;
    chain.prove()?;
    Ok(Sample::from([
        ("tcp1_gbps", done.gbps),
        ("tcp1_cpu", done.busy / done.gigabytes),
        ("relay_cpu_s", done.own),
        ("ping_avg_us", trips.mean),
        ("ping_p99_us", trips.p99),
        ("stolen_pct", done.stolen),
    ]))
}

fn held(chain: &Chain) -> Result<Sample> {
    let relay = chain.relays.first().context("no relay")?;
    let (tool, target) = (own::tool()?, format!("{}:{FLOOD_PORT}", chain.address));
    let bind = format!("0.0.0.0:{FLOOD_PORT}");
    let _receiver = transfer::listen(&chain.site, &tool, &["receive", &bind], FLOOD_PORT)?;
    let millis = (WATCHED + AROUND * 2).as_millis().to_string();
    let _flood = chain.site.a.spawn("flood", &tool, &["flood", &target, FLOOD_BYTES, &millis])?;
    let (begin, refused) = largest(relay)?;
    wait::until_true(AROUND, "the flood is beyond the budget", || Ok(largest(relay)?.1 > refused))?;
    let (first, before) = largest(relay)?;
    let begun = Instant::now();
    std::thread::sleep(WATCHED.saturating_sub(begun.elapsed()));
    let (last, after) = largest(relay)?;
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(after > before && first > begin, "the flood ended before its time");
    chain.prove()?;
    let (bits, rate) = ((last - first) as f64 * 8.0, f64::from(RATE) * 1e6);
    Ok(Sample::from([
        ("budget_mbps", bits / seconds / 1e6),
        ("budget_error_pct", (bits / seconds / rate - 1.0) * 100.0),
    ]))
}

/// Bytes that the busiest leg let through, and how many datagrams it did not.
fn largest(relay: &Node) -> Result<(u64, u64)> {
    let legs = relay.status()?.relay.legs;
    legs.iter().map(|leg| (leg.bytes, leg.over_rate)).max().context("no legs")
}
