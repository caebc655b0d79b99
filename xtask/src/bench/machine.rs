//! The machine under the measurement: its processors' time, how idle it is, and what it is.
//!
//! Must not know what runs on it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::own::first_line;

/// Ticks a second in /proc: 100 on every architecture that Debian's kernels run on.
const USER_HZ: f64 = 100.0;
const IDLE_SHARE: f64 = 8.0;
const IDLE_WINDOW: Duration = Duration::from_millis(300);
const FLAGS: [&str; 6] = ["aes", "vaes", "pclmulqdq", "vpclmulqdq", "avx2", "avx512f"];

/// Seconds of all processors since boot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Time {
    /// User, system and interrupts.
    pub(super) busy: f64,
    /// With idle time, and what the hypervisor took.
    pub(super) total: f64,
    /// What the hypervisor took.
    pub(super) stolen: f64,
}

/// The machine's time now.
pub(super) fn time() -> Result<Time> {
    parse_time(&read("/proc/stat")?).context("/proc/stat has no cpu line")
}

fn parse_time(stat: &str) -> Option<Time> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<f64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    let [user, nice, system, idle, waiting, irq, softirq, stolen] = ticks.get(..8)?.try_into().ok()?;
    let busy = user + nice + system + irq + softirq;
    let [busy, total, stolen] = [busy, busy + idle + waiting + stolen, stolen].map(|ticks| ticks / USER_HZ);
    Some(Time { busy, total, stolen })
}

impl Time {
    /// From `earlier` to this.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            busy: self.busy - earlier.busy,
            total: self.total - earlier.total,
            stolen: self.stolen - earlier.stolen,
        }
    }

    /// Percent of the total.
    pub(super) fn percent(self, part: f64) -> f64 {
        part * 100.0 / self.total.max(f64::EPSILON)
    }
}

/// Seconds that these processes have used.
pub(super) fn own_time(pids: &[u32]) -> Result<f64> {
    let mut seconds = 0.0;
    for pid in pids {
        let stat = read(&format!("/proc/{pid}/stat"))?;
        seconds += parse_own(&stat).with_context(|| format!("cannot understand /proc/{pid}/stat"))?;
    }
    Ok(seconds)
}

/// `utime` and `stime`: fields 14 and 15, counted after the name, which may hold anything.
fn parse_own(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / USER_HZ)
}

/// Resident memory of these processes in MiB.
pub(super) fn resident(pids: &[u32]) -> Result<f64> {
    pids.iter().map(|pid| memory(*pid, "VmRSS:")).sum()
}

/// The most that was ever resident of a process, in MiB.
pub(super) fn peak(pid: u32) -> Result<f64> {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, field: &str) -> Result<f64> {
    let status = read(&format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap_or_default() / 1024.0)
}

/// Waits until the machine stands idle twice in a row, or `limit` has passed; yields how busy it was last, in percent.
pub(super) fn wait_idle(limit: Duration) -> Result<f64> {
    let deadline = Instant::now() + limit;
    let mut quiet = 0;
    loop {
        let share = busy_share()?;
        quiet = if share <= IDLE_SHARE { quiet + 1 } else { 0 };
        if quiet == 2 || Instant::now() > deadline {
            return Ok(share);
        }
    }
}

fn busy_share() -> Result<f64> {
    let before = time()?;
    std::thread::sleep(IDLE_WINDOW);
    let passed = time()?.since(before);
    Ok(passed.percent(passed.busy))
}

/// What the figures depend on.
pub(super) fn facts() -> Result<Value> {
    let cpu = read("/proc/cpuinfo")?;
    let field = |name: &str| {
        cpu.lines()
            .find_map(|line| Some(line.strip_prefix(name)?.split_once(':')?.1.trim()))
            .unwrap_or("unknown")
    };
    let flags: Vec<&str> = field("flags").split(' ').filter(|flag| FLAGS.contains(flag)).collect();
    let memory = read("/proc/meminfo")?;
    let kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0.0_f64);
    Ok(json!({
        "cpu": field("model name"),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "flags": flags,
        "memory_gib": (kib / 1024.0 / 102.4).round() / 10.0,
        "kernel": read("/proc/sys/kernel/osrelease")?.trim(),
        "iperf3": first_line("iperf3", &["--version"]),
        "load": read("/proc/loadavg")?.trim(),
    }))
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(Path::new(path)).with_context(|| format!("cannot read {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_time_counts_interrupts_as_busy_and_the_hypervisor_as_neither() {
        let time = parse_time("cpu  100 50 200 1000 30 10 40 70 0 0\ncpu0 1 1 1 1 1 1 1 1\n");
        assert_eq!(time, Some(Time { busy: 4.0, total: 15.0, stolen: 0.7 }));
        assert_eq!(parse_time("intr 1"), None);
    }

    #[test]
    fn process_names_may_hold_anything() {
        let stat = "12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 250 0 0";
        assert_eq!(parse_own(stat), Some(4.0));
    }
}
