//! What the kernel programs cost: nanoseconds a packet by test runs, above an empty program, and in units of a
//! program that parses the headers and does one hash lookup. `--json FILE` writes the figures as well.
//!
//! Needs root. Runs in network and mount namespaces of its own.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a benchmark has nobody to report to but the terminal")]

mod flows;
#[path = "../../tests/kernel/packets.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod packets;
mod reasons;
mod relay;
mod report;
mod runner;
#[path = "../../tests/kernel/specimens.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod specimens;
#[path = "../../tests/kernel/support.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod support;

use std::process::Command;

use self::{report::Report, runner::Runner};

/// Tells the second run that it is the one inside the namespaces.
const INSIDE: &str = "MESHHOLD_BENCH_NAMESPACE";

fn main() {
    // `cargo bench` says so; `cargo test --benches` only wants to know that it starts.
    if !std::env::args().any(|argument| argument == "--bench") || !support::is_root() {
        return;
    }
    if std::env::var_os(INSIDE).is_none() {
        let status = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "--"])
            .args(std::env::args_os())
            .env(INSIDE, "1")
            .status()
            .unwrap();
        std::process::exit(status.code().unwrap_or(1));
    }
    let mut runner = Runner::new();
    let mut report = Report::default();
    flows::measure(&mut runner, &mut report);
    reasons::measure(&mut runner, &mut report);
    relay::measure(&mut runner, &mut report);
    report.print();
    let mut arguments = std::env::args().skip_while(|argument| argument != "--json").skip(1);
    if let Some(file) = arguments.next() {
        std::fs::write(&file, report.json()).unwrap();
    }
}
