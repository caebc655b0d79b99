//! Figures, bars, and how they are printed.

use crate::{
    packets::{ACK, TCP, ipv4, tcp},
    runner::Runner,
    support::{OWN4, PEER4},
};
use meshhold_common::{Address, maps::FlowKey};

/// One line of the table.
struct Line {
    group: &'static str,
    what: String,
    nanoseconds: f64,
    bar: Option<f64>,
}

/// All of it.
pub(crate) struct Report {
    empty: f64,
    unit: f64,
    lines: Vec<Line>,
}

impl Report {
    /// Measures what everything else is compared with.
    pub(crate) fn new(runner: &mut Runner) -> Self {
        let packet = ipv4(PEER4, OWN4, TCP, &tcp(443, 9999, ACK));
        runner.refer(FlowKey {
            local: Address::v4(OWN4),
            remote: Address::v4(PEER4),
            local_port: 9999,
            remote_port: 443,
            protocol: TCP,
            pad: [0; 3],
        });
        assert!(runner.run("reference", &packet, 1));
        let empty = runner.cost("empty", &packet);
        let unit = runner.cost("reference", &packet) - empty;
        Self { empty, unit, lines: Vec::new() }
    }

    /// The cost of an empty program.
    pub(crate) const fn empty(&self) -> f64 {
        self.empty
    }

    /// Adds what a packet costs above an empty program; at most `bar` units are allowed.
    pub(crate) fn add(&mut self, group: &'static str, what: String, nanoseconds: f64, bar: Option<f64>) {
        self.lines.push(Line { group, what, nanoseconds, bar });
    }

    pub(crate) fn print(&self) {
        println!(
            "Empty program {:.0} ns, reference program {:.0} ns above it (1.00 unit).",
            self.empty, self.unit
        );
        let mut group = "";
        for line in &self.lines {
            if line.group != group {
                group = line.group;
                println!("\n| {group} | ns above empty | units | bar |\n|---|---:|---:|---:|");
            }
            let units = line.nanoseconds / self.unit;
            let bar = line.bar.map_or_else(String::new, |bar| {
                format!("{bar}{}", if units <= bar { "" } else { " MISSED" })
            });
            println!("| {} | {:.0} | {units:.2} | {bar} |", line.what, line.nanoseconds);
        }
    }

    pub(crate) fn json(&self) -> String {
        let lines: Vec<_> = self
            .lines
            .iter()
            .map(|line| {
                serde_json::json!({
                    "group": line.group,
                    "what": line.what,
                    "nanoseconds": line.nanoseconds,
                    "units": line.nanoseconds / self.unit,
                    "bar": line.bar,
                })
            })
            .collect();
        serde_json::json!({ "empty_ns": self.empty, "unit_ns": self.unit, "lines": lines }).to_string()
    }
}
