//! All circuits of a hub under load at once: a TCP stream on each, first towards the hub, then from it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use meshhold_tests::Host;
use meshhold_tests::process::Process;
use serde_json::Value;

use super::super::figures::Sample;
use super::super::machine::{self, Time};
use super::super::own;
use super::star::{Member, Star};

const PORT: u16 = 5400;
/// From the first program's start to the streams': so much, and so much more for each program.
const LEAD: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(40));
/// Between looks at the hub's memory.
const LOOK: Duration = Duration::from_millis(100);
/// Beyond the streams' length: what is queued must drain.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the hub's idle memory is taken after.
const SETTLE: Duration = Duration::from_secs(1);

/// One stream to come.
struct Flow<'a> {
    from: &'a Host,
    to: Ipv4Addr,
}

/// What came of all streams.
#[derive(Debug)]
struct Outcome {
    /// Mbit/s of each stream.
    rates: Vec<f64>,
    gigabytes: f64,
    /// The longest stream.
    seconds: f64,
    passed: Time,
    /// Processor seconds of the hub.
    hub: f64,
    /// Most resident memory of the hub that was seen, in MiB.
    resident: f64,
}

/// A hub and `count` others, from their start to the figures.
pub(super) fn measure(count: usize, seconds: u32) -> Result<Sample> {
    let begun = Instant::now();
    let star = Star::new(count)?;
    let mut sample = Sample::from([("start_s", begun.elapsed().as_secs_f64())]);
    let pid = star.hub.node.pid()?;
    let members = std::iter::once(&star.hub).chain(&star.others);
    let sinks: Vec<Process> = members.map(sink).collect::<Result<_>>()?;
    std::thread::sleep(SETTLE);
    sample.insert("rss_idle_mib", machine::resident(&[pid])?);
    let towards = star.others.iter().map(|other| Flow { from: &other.node.host, to: star.hub.address });
    let from = star.others.iter().map(|other| Flow { from: &star.hub.node.host, to: other.address });
    let outcome = exchange(pid, towards.collect(), seconds).context("towards the hub")?;
    outcome.note(&mut sample, ["in_gbps", "in_least", "in_most", "in_cpu", "in_hub", "in_rss_mib"]);
    let outcome = exchange(pid, from.collect(), seconds).context("from the hub")?;
    outcome.note(&mut sample, ["out_gbps", "out_least", "out_most", "out_cpu", "out_hub", "out_rss_mib"]);
    sample.insert("rss_peak_mib", machine::peak(pid)?);
    drop(sinks);
    Ok(sample)
}

impl Outcome {
    fn note(&self, sample: &mut Sample, names: [&'static str; 6]) {
        let least = self.rates.iter().copied().reduce(f64::min).unwrap_or_default();
        let most = self.rates.iter().copied().reduce(f64::max).unwrap_or_default();
        let gbps = self.gigabytes * 8.0 / self.seconds;
        let [busy, hub] = [self.passed.busy, self.hub].map(|seconds| seconds / self.gigabytes);
        sample.extend(names.into_iter().zip([gbps, least, most, busy, hub, self.resident]));
        let stolen = sample.entry("stolen_pct").or_default();
        *stolen = stolen.max(self.passed.percent(self.passed.stolen));
    }
}

fn sink(member: &Member) -> Result<Process> {
    let bind = format!("0.0.0.0:{PORT}");
    member.node.host.spawn("sink", &own::tool()?, &["sink", &bind])
}

/// Starts all programs, waits for their common start, and watches the hub until the last has ended.
fn exchange(hub: u32, flows: Vec<Flow<'_>>, seconds: u32) -> Result<Outcome> {
    let lead = LEAD.0 + LEAD.1 * u32::try_from(flows.len())?;
    let start = SystemTime::now().duration_since(UNIX_EPOCH)? + lead;
    let begun = Instant::now() + lead;
    let mut programs: Vec<Process> =
        flows.iter().enumerate().map(|(at, flow)| flow.start(at, start, seconds)).collect::<Result<_>>()?;
    std::thread::sleep(begun.saturating_duration_since(Instant::now()));
    let before = (machine::time()?, machine::own_time(&[hub])?);
    let limit = Duration::from_secs(seconds.into()) + PATIENCE;
    let mut resident = 0.0_f64;
    while any_runs(&mut programs)? {
        ensure!(begun.elapsed() < limit, "the streams are not over after {limit:?}");
        resident = resident.max(machine::resident(&[hub])?);
        std::thread::sleep(LOOK);
    }
    let passed = machine::time()?.since(before.0);
    let hub = machine::own_time(&[hub])? - before.1;
    let streams: Vec<(f64, f64)> =
        programs.iter().map(|program| read(&program.log()?)).collect::<Result<_>>()?;
    let gigabytes = streams.iter().map(|(bytes, _)| bytes / 1e9).sum();
    let seconds = streams.iter().map(|(_, seconds)| *seconds).fold(0.0, f64::max);
    let rates = streams.iter().map(|(bytes, seconds)| bytes * 8.0 / 1e6 / seconds).collect();
    Ok(Outcome { rates, gigabytes, seconds, passed, hub, resident })
}

impl Flow<'_> {
    fn start(&self, at: usize, start: Duration, seconds: u32) -> Result<Process> {
        let (to, start) = (format!("{}:{PORT}", self.to), start.as_millis().to_string());
        let millis = (seconds * 1000).to_string();
        self.from.spawn(&format!("pour-{at}"), &own::tool()?, &["pour", &to, &start, &millis])
    }
}

fn any_runs(programs: &mut [Process]) -> Result<bool> {
    for program in programs {
        if program.is_running()? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Bytes that arrived, and seconds.
fn read(printed: &str) -> Result<(f64, f64)> {
    let report: Value = serde_json::from_str(printed.trim())
        .with_context(|| format!("a stream gave no figures: {printed}"))?;
    let number = |name| report.get(name).and_then(Value::as_f64);
    number("bytes").zip(number("seconds")).with_context(|| format!("a stream lacks figures: {printed}"))
}
