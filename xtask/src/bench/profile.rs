//! `cargo xtask bench --profile`: where the processor time of one gigabyte through our node pair goes, by function and by
//! system call.
//!
//! Owns the tools' options and how their output is read. Must not know how a tunnel is started.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::process::{Process, finish, output};

use super::install::find;
use super::site::{Site, Tunnel};
use super::transfer::{self, Load, Transfer, transfer};

/// Samples a second and processor; a prime, so that it does not beat with anything periodic.
const FREQUENCY: &str = "997";
const FUNCTIONS: usize = 40;
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// strace does not say when it has attached.
const ATTACH: Duration = Duration::from_secs(1);

/// What is profiled.
struct Subject<'a> {
    site: &'a Site,
    address: IpAddr,
    pids: Vec<u32>,
    seconds: u32,
}

/// Both tables as Markdown.
pub(super) fn profile(site: &Site, tunnel: &Tunnel, seconds: u32) -> Result<String> {
    ensure!(
        find("perf").is_some() || find("strace").is_some(),
        "neither perf (Debian: linux-perf) nor strace is here"
    );
    let address = tunnel.wait_up(site)?;
    let _server = transfer::server(site)?;
    let subject = Subject { site, address, pids: tunnel.pids()?, seconds };
    let functions = match find("perf") {
        Some(_) => subject.functions()?,
        None => "By function: perf is not installed (Debian: linux-perf).\n".to_owned(),
    };
    Ok(format!("{functions}\n{}", subject.calls()?))
}

impl Subject<'_> {
    fn transfer(&self, wrapper: &[&str]) -> Result<Transfer> {
        let load = Load { seconds: self.seconds, options: &[], wrapper };
        transfer(self.site, self.address, &self.pids, load)
    }

    fn file(&self, name: &str) -> String {
        self.site.a.directory().join(name).to_string_lossy().into_owned()
    }

    fn functions(&self) -> Result<String> {
        let (data, event) = (self.file("perf.data"), event()?);
        let wrapper = ["perf", "record", "-q", "-a", "-e", event, "-F", FREQUENCY, "-o", &data, "--"];
        let cost = self.transfer(&wrapper)?;
        let mut report = Command::new("perf");
        report.args([
            "report",
            "-i",
            &data,
            "--stdio",
            "--no-children",
            "-t",
            "|",
            "--sort",
            "comm,dso,symbol",
        ]);
        let samples = read_report(&output(&mut report)?);
        Ok(functions_table(&samples, &cost, event))
    }

    fn calls(&self) -> Result<String> {
        let tids = self.threads()?;
        let summary = self.file("calls");
        let traced = self.transfer(&["perf", "trace", "-a", "-s", "-o", &summary, "--"]);
        let calls = read_trace(&std::fs::read_to_string(&summary).unwrap_or_default(), &tids);
        match traced {
            Ok(cost) if !calls.is_empty() => Ok(calls_table(&calls, &cost, "perf trace -s")),
            _ => self.calls_by_strace(&summary),
        }
    }

    /// strace stops every call, so only the numbers of calls are worth reading.
    fn calls_by_strace(&self, summary: &str) -> Result<String> {
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-o", summary]);
        for pid in &self.pids {
            command.args(["-p", &pid.to_string()]);
        }
        let mut strace = Process::spawn(command, "strace", Path::new(&self.file("strace.log")))?;
        std::thread::sleep(ATTACH);
        let cost = self.transfer(&[]);
        strace.signal("INT")?;
        strace.wait(STOP_LIMIT)?;
        let calls = read_strace(&std::fs::read_to_string(summary).context("strace wrote nothing")?);
        Ok(calls_table(&calls, &cost?, "strace -c -f, which slows what it counts"))
    }

    /// Thread ids of the tunnel's processes.
    fn threads(&self) -> Result<Vec<u32>> {
        let mut tids = Vec::new();
        for pid in &self.pids {
            for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
                tids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
            }
        }
        Ok(tids)
    }
}

/// Cycles where the machine counts them; virtual machines often don't.
fn event() -> Result<&'static str> {
    let probe = finish(Command::new("perf").args(["stat", "-x,", "-e", "cycles", "true"]), "")?;
    let counted = probe.status.success() && !probe.stderr.contains("not supported");
    Ok(if counted { "cycles" } else { "cpu-clock" })
}

/// Share of the samples, by thread name, program and function.
#[derive(Debug, PartialEq)]
struct Sampled {
    percent: f64,
    thread: String,
    program: String,
    function: String,
}

fn read_report(text: &str) -> Vec<Sampled> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sampled = lines.filter_map(|line| {
        let mut fields = line.split('|').map(str::trim);
        let percent = fields.next()?.trim_end_matches('%').parse().ok()?;
        let (thread, program) = (fields.next()?.to_owned(), fields.next()?.to_owned());
        let function = fields.next()?.trim_start_matches("[k] ").trim_start_matches("[.] ").to_owned();
        // The idle task.
        (thread != "swapper").then_some(Sampled { percent, thread, program, function })
    });
    sampled.collect()
}

fn functions_table(samples: &[Sampled], cost: &Transfer, event: &str) -> String {
    let all: f64 = samples.iter().map(|sample| sample.percent).sum();
    let per_gigabyte = cost.busy / cost.gigabytes;
    let line = |name: &str, percent: f64| {
        let share = percent / all.max(f64::EPSILON);
        format!("| {name} | {:.1} | {:.3} |\n", share * 100.0, share * per_gigabyte)
    };
    let mut threads: BTreeMap<&str, f64> = BTreeMap::new();
    for sample in samples {
        *threads.entry(&sample.thread).or_default() += sample.percent;
    }
    let mut threads: Vec<_> = threads.into_iter().collect();
    threads.sort_by(|one, other| other.1.total_cmp(&one.1));
    let mut text = format!(
        "One TCP stream, {:.2} Gbit/s, {per_gigabyte:.2} CPU seconds a GB of the whole machine, by perf record -e {event}.\n\n\
         | thread | % | CPU s/GB |\n| --- | --- | --- |\n",
        cost.gbps
    );
    threads.iter().take(FUNCTIONS / 4).for_each(|(thread, percent)| text.push_str(&line(thread, *percent)));
    text.push_str("\n| function | % | CPU s/GB |\n| --- | --- | --- |\n");
    for sample in samples.iter().take(FUNCTIONS) {
        let name = format!("{}: {} ({})", sample.thread, sample.function, sample.program);
        text.push_str(&line(&name, sample.percent));
    }
    text
}

/// Calls, failed calls and milliseconds in them, by name.
type Calls = BTreeMap<String, (f64, f64, f64)>;

/// Adds up the summaries of these threads: ` worker-0 (123), 99 events, …`, then a line a system call.
fn read_trace(text: &str, tids: &[u32]) -> Calls {
    let mut calls = Calls::new();
    let mut ours = false;
    for line in text.lines() {
        if let Some(tid) = heading(line) {
            ours = tids.contains(&tid);
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(name), true) = (words.first(), ours) else { continue };
        let numbers: Vec<f64> = words.iter().skip(1).filter_map(|word| word.parse().ok()).collect();
        if let [count, failed, millis, ..] = numbers.as_slice() {
            add(&mut calls, name, (*count, *failed, *millis));
        }
    }
    calls
}

fn heading(line: &str) -> Option<u32> {
    let (before, _) = line.split_once("), ")?;
    before.rsplit_once('(')?.1.parse().ok()
}

/// `% time, seconds, usecs/call, calls, errors or nothing, syscall`.
fn read_strace(text: &str) -> Calls {
    let mut calls = Calls::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some((name, numbers)), 5..=6) = (words.split_last(), words.len()) else { continue };
        let numbers: Vec<f64> = numbers.iter().filter_map(|word| word.parse().ok()).collect();
        if let ([_, seconds, _, count, failed @ ..], false) = (numbers.as_slice(), *name == "total") {
            let failed = failed.first().copied().unwrap_or_default();
            add(&mut calls, name, (*count, failed, seconds * 1000.0));
        }
    }
    calls
}

fn add(calls: &mut Calls, name: &str, (count, failed, millis): (f64, f64, f64)) {
    let sum = calls.entry(name.to_owned()).or_default();
    *sum = (sum.0 + count, sum.1 + failed, sum.2 + millis);
}

fn calls_table(calls: &Calls, cost: &Transfer, tool: &str) -> String {
    let mut sorted: Vec<_> = calls.iter().collect();
    sorted.sort_by(|one, other| other.1.0.total_cmp(&one.1.0));
    let mut text = format!(
        "System calls of both nodes, at {:.2} Gbit/s, by {tool}.\n\n\
         | call | calls/GB | failed/GB | kB a call | ms/GB, waiting included |\n| --- | --- | --- | --- | --- |\n",
        cost.gbps
    );
    for (name, (count, failed, millis)) in sorted {
        let per_gigabyte = [count, failed, millis].map(|figure| figure / cost.gigabytes);
        let kilobytes = 1e6 / per_gigabyte[0].max(f64::EPSILON);
        text.push_str(&format!(
            "| {name} | {:.0} | {:.0} | {kilobytes:.1} | {:.1} |\n",
            per_gigabyte[0], per_gigabyte[1], per_gigabyte[2]
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_without_the_idle_task() {
        let text = "# Overhead|Command|Shared Object|Symbol\n 9.50%  |worker-0  |meshhold  |[.] seal  |- -\n\
            50.00%  |swapper  |[kernel.kallsyms]  |[k] halt  |- -\n";
        let expected = Sampled {
            percent: 9.5,
            thread: "worker-0".to_owned(),
            program: "meshhold".to_owned(),
            function: "seal".to_owned(),
        };
        assert_eq!(read_report(text), [expected]);
    }

    #[test]
    fn summaries_of_our_threads_are_added_up() {
        let text = " worker-0 (11), 58 events, 90.6%\n\n   syscall calls errors total min avg max stddev\n   read 8 1 0.300 0.028 0.037 0.070 13.08%\n\
            iperf3 (12), 4 events\n   read 100 0 9.0 0 0 0 1%\n worker-1 (13), 2 events\n   read 2 0 0.1 0 0 0 1%\n";
        assert_eq!(read_trace(text, &[11, 13]), Calls::from([("read".to_owned(), (10.0, 1.0, 0.4))]));
    }

    #[test]
    fn strace_leaves_the_column_of_errors_empty() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n------ ---- --- --- --- ---\n 60.00 0.5 10 50 read\n 40.00 0.25 10 20 5 epoll_wait\n100.00 0.75 70 5 total\n";
        let expected =
            [("read".to_owned(), (50.0, 0.0, 500.0)), ("epoll_wait".to_owned(), (20.0, 5.0, 250.0))];
        assert_eq!(read_strace(text), Calls::from(expected));
    }
}
