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
/// Where the kernel reports the beginning of a system call.
const ENTER: &str = "syscalls:sys_enter_";
/// Calls in one run that make one worth counting.
const FREQUENT: f64 = 1000.0;
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Tracers do not say when they have attached.
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

    /// By perf where it can, else by strace, which stops every call.
    fn calls(&self) -> Result<String> {
        if let Ok((text, cost)) = self.trace("perf", &["trace", "-s"])
            && let calls = read_trace(&text)
            && !calls.is_empty()
        {
            let counted = self.count(&calls)?;
            return Ok(counted
                + "\n"
                + &calls_table(&calls, &cost, "perf trace -s, which slows what it watches"));
        }
        let (text, cost) = self.trace("strace", &["-c", "-f"])?;
        Ok(calls_table(&read_strace(&text), &cost, "strace -c -f, which slows what it watches"))
    }

    /// Counts the frequent ones of `calls` without looking at each, which is nearly free.
    fn count(&self, calls: &Calls) -> Result<String> {
        let frequent = calls.iter().filter(|(_, figures)| figures.0 > FREQUENT);
        let events: Vec<String> = frequent.map(|(name, _)| format!("{ENTER}{name}")).collect();
        let (text, cost) = self.trace("perf", &["stat", "-x,", "-e", &events.join(",")])?;
        let mut table = format!(
            "System calls of both nodes, at {:.2} Gbit/s, counted by perf stat.\n\n\
             | call | calls/GB | kB a call |\n| --- | --- | --- |\n",
            cost.gbps
        );
        for (name, count) in read_stat(&text) {
            let per_gigabyte = count / cost.gigabytes;
            table.push_str(&format!("| {name} | {per_gigabyte:.0} | {:.1} |\n", 1e6 / per_gigabyte.max(1.0)));
        }
        Ok(table)
    }

    /// Traces the tunnel's processes during a transfer; what the tracer summed up.
    fn trace(&self, tracer: &str, options: &[&str]) -> Result<(String, Transfer)> {
        let (summary, pids) = (self.file("calls"), self.pids.iter().map(u32::to_string));
        let mut command = Command::new(tracer);
        command.args(options).args(["-o", &summary, "-p", &pids.collect::<Vec<_>>().join(",")]);
        let mut process = Process::spawn(command, tracer, Path::new(&self.file("tracer.log")))?;
        std::thread::sleep(ATTACH);
        let cost = self.transfer(&[]);
        process.signal("INT")?;
        process.wait(STOP_LIMIT)?;
        let text = std::fs::read_to_string(&summary).with_context(|| format!("{tracer} wrote nothing"))?;
        Ok((text, cost?))
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

/// Adds up the summaries of all threads: a line a system call.
fn read_trace(text: &str) -> Calls {
    let mut calls = Calls::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let numbers: Vec<f64> = words.iter().skip(1).map_while(|word| word.parse().ok()).collect();
        if let ([name, ..], [count, failed, millis, ..]) = (words.as_slice(), numbers.as_slice()) {
            add(&mut calls, name, (*count, *failed, *millis));
        }
    }
    calls
}

/// Counts by name, most first: `123,,syscalls:sys_enter_read,…`.
fn read_stat(text: &str) -> Vec<(&str, f64)> {
    let counts = text.lines().filter_map(|line| {
        let mut fields = line.split(',');
        let count = fields.next()?.parse().ok()?;
        Some((fields.nth(1)?.strip_prefix(ENTER)?, count))
    });
    let mut counts: Vec<(&str, f64)> = counts.collect();
    counts.sort_by(|one, other| other.1.total_cmp(&one.1));
    counts
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
    fn summaries_of_all_threads_are_added_up() {
        let text = " worker-0 (11), 58 events, 90.6%\n\n   syscall calls errors total min avg max stddev\n   read 8 1 0.300 0.028 0.037 0.070 13.08%\n\
            worker-1 (13), 2 events\n   read 2 0 0.1 0 0 0 1%\n";
        assert_eq!(read_trace(text), Calls::from([("read".to_owned(), (10.0, 1.0, 0.4))]));
    }

    #[test]
    fn counts_are_sorted() {
        let text = "# started\n\n12,,syscalls:sys_enter_read,100,100.00,,\n30,,syscalls:sys_enter_writev,1,1,,\n<not counted>,,x,0\n";
        assert_eq!(read_stat(text), [("writev", 30.0), ("read", 12.0)]);
    }

    #[test]
    fn strace_leaves_the_column_of_errors_empty() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n------ ---- --- --- --- ---\n 60.00 0.5 10 50 read\n 40.00 0.25 10 20 5 epoll_wait\n100.00 0.75 70 5 total\n";
        let expected =
            [("read".to_owned(), (50.0, 0.0, 500.0)), ("epoll_wait".to_owned(), (20.0, 5.0, 250.0))];
        assert_eq!(read_strace(text), Calls::from(expected));
    }
}
