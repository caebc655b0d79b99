//! All figures of one running tunnel, taken once: load programs on a, their counterparts on b.
//!
//! Must not know which program the tunnel is.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::figures::Sample;
use super::ping::{self, Beside, Trips};
use super::site::{Site, Tunnel, run};
use super::transfer::{self, Load, Transfer, listen, transfer};
use super::{machine, own};

const UDP_PORT: &str = "5302";
const UDP_BYTES: &str = "200";
/// The search makes at most 26 trials of 0.3 s, each with time for the last datagrams to arrive.
const PROBE_LIMIT: Duration = Duration::from_secs(40);
/// Time for paths and path MTUs to settle.
const SETTLE: Duration = Duration::from_millis(700);
const IDLE_LIMIT: Duration = Duration::from_secs(3);
const IDLE_PINGS: (u32, f64) = (300, 0.005);
/// Pings a second beside a load.
const BESIDE: u32 = 20;

/// What is measured, and for how long.
struct Subject<'a> {
    site: &'a Site,
    address: IpAddr,
    pids: Vec<u32>,
    seconds: u32,
    sample: Sample,
}

pub(super) fn everything(site: &Site, tunnel: &Tunnel, seconds: u32, udp: bool) -> Result<Sample> {
    let address = tunnel.wait_up(site)?;
    std::thread::sleep(SETTLE);
    let sample = Sample::new();
    let mut subject = Subject { site, address, pids: tunnel.pids()?, seconds, sample };
    let _server = transfer::server(site)?;
    subject.idle_ping()?;
    subject.tcp(&[], ["tcp1_gbps", "tcp1_cpu", "tcp1_own", "tcp1_retrans"])?;
    subject.tcp(&["-R"], ["reverse_gbps", "reverse_cpu", "reverse_own", "reverse_retrans"])?;
    subject.tcp_beside_ping()?;
    if udp {
        subject.udp()?;
    }
    let resident = machine::resident(&subject.pids)?;
    subject.sample.insert("rss_mib", resident);
    Ok(subject.sample)
}

impl Subject<'_> {
    fn wait_idle(&mut self) -> Result<()> {
        let busy = machine::wait_idle(IDLE_LIMIT)?;
        self.note_most("busy_pct", busy);
        Ok(())
    }

    fn note_most(&mut self, name: &'static str, figure: f64) {
        let most = self.sample.entry(name).or_default();
        *most = most.max(figure);
    }

    fn idle_ping(&mut self) -> Result<()> {
        self.wait_idle()?;
        let trips = ping::ping(&self.site.a, self.address, IDLE_PINGS.0, IDLE_PINGS.1)?;
        self.trips(&trips, ["ping_p50_us", "ping_p99_us", "ping_lost_pct"]);
        Ok(())
    }

    fn trips(&mut self, trips: &Trips, names: [&'static str; 3]) {
        self.sample.extend(names.into_iter().zip([trips.p50, trips.p99, trips.lost_percent]));
    }

    fn tcp_beside_ping(&mut self) -> Result<()> {
        self.wait_idle()?;
        let count = self.seconds * BESIDE;
        let beside = Beside::start(&self.site.a, self.address, count, 1.0 / f64::from(BESIDE))?;
        self.tcp_now(&["-P", "4"], ["tcp4_gbps", "tcp4_cpu", "tcp4_own", "tcp4_retrans"])?;
        let trips = beside.finish()?;
        self.trips(&trips, ["load_ping_p50_us", "load_ping_p99_us", "load_ping_lost_pct"]);
        Ok(())
    }

    /// The highest rate of small datagrams that passes, then a flood of them with a ping beside it.
    fn udp(&mut self) -> Result<()> {
        let (tool, target) = (own::tool()?, format!("{}:{UDP_PORT}", self.address));
        let bind = format!("0.0.0.0:{UDP_PORT}");
        let _receiver = listen(self.site, &tool, &["receive", &bind], UDP_PORT)?;
        self.wait_idle()?;
        let found = self.load(&tool, &["probe", &target, UDP_BYTES])?;
        self.sample.insert("udp_kpps", number(&found, "kpps")?);
        self.wait_idle()?;
        let count = self.seconds * BESIDE;
        let millis = (self.seconds * 1000).to_string();
        let beside = Beside::start(&self.site.a, self.address, count, 1.0 / f64::from(BESIDE))?;
        let flooded = self.load(&tool, &["flood", &target, UDP_BYTES, &millis])?;
        for (figure, name) in
            [("flood_offered_kpps", "offered_kpps"), ("flood_kpps", "kpps"), ("flood_gbps", "goodput_gbps")]
        {
            self.sample.insert(figure, number(&flooded, name)?);
        }
        self.trips_beside_flood(beside);
        Ok(())
    }

    /// All pings may be lost in a flood, which is a result too.
    fn trips_beside_flood(&mut self, beside: Beside) {
        match beside.finish() {
            Ok(trips) => {
                self.trips(&trips, ["flood_ping_p50_us", "flood_ping_p99_us", "flood_ping_lost_pct"])
            }
            Err(_) => drop(self.sample.insert("flood_ping_lost_pct", 100.0)),
        }
    }

    /// Runs the load program on a.
    fn load(&self, tool: &str, arguments: &[&str]) -> Result<Value> {
        let mut command = self.site.a.namespace().command(tool);
        command.args(arguments);
        let output = run(command, PROBE_LIMIT)?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!("{arguments:?} gave no figures: {}", String::from_utf8_lossy(&output.stderr).trim())
        })
    }

    /// An iperf3 run; figures: Gbit/s, CPU seconds a GB of the machine, of the tunnel's processes, retransmissions a GB.
    fn tcp(&mut self, options: &[&str], names: [&'static str; 4]) -> Result<()> {
        self.wait_idle()?;
        self.tcp_now(options, names)
    }

    fn tcp_now(&mut self, options: &[&str], names: [&'static str; 4]) -> Result<()> {
        let load = Load { seconds: self.seconds, options, wrapper: &[] };
        let Transfer { gigabytes, gbps, retransmitted, busy, own, stolen } =
            transfer(self.site, self.address, &self.pids, load)?;
        let figures = [gbps, busy / gigabytes, own / gigabytes, retransmitted / gigabytes];
        self.sample.extend(names.into_iter().zip(figures));
        self.note_most("stolen_pct", stolen);
        Ok(())
    }
}

fn number(report: &Value, name: &str) -> Result<f64> {
    report.get(name).and_then(Value::as_f64).with_context(|| format!("no {name} in {report}"))
}
