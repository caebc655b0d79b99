//! What the cases gave, as Markdown and JSON.
//!
//! Must not know how a figure was taken.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::figures::{Sample, Spread, spread};
use super::super::{machine, table};

/// Heading, figure, decimals.
type Column = (&'static str, &'static str, usize);

const CIRCUITS: &[Column] = &[
    ("to the hub Gbit/s", "in_gbps", 2),
    ("per circuit least Mbit/s", "in_least", 1),
    ("most", "in_most", 1),
    ("CPU s/GB", "in_cpu", 2),
    ("of it hub", "in_hub", 2),
    ("from the hub Gbit/s", "out_gbps", 2),
    ("per circuit least Mbit/s", "out_least", 1),
    ("most", "out_most", 1),
    ("CPU s/GB", "out_cpu", 2),
    ("of it hub", "out_hub", 2),
    ("hub's RSS MiB idle", "rss_idle_mib", 1),
    ("receiving", "in_rss_mib", 1),
    ("sending", "out_rss_mib", 1),
    ("peak", "rss_peak_mib", 1),
    ("all up after s", "start_s", 1),
];
const KNOWN: &[Column] = &[
    ("peers known", "known", 0),
    ("RSS MiB", "rss_mib", 1),
    ("peak", "rss_peak_mib", 1),
    ("idle CPU %", "idle_cpu_pct", 2),
    ("known after s", "known_after_s", 1),
    ("status ms", "status_ms", 0),
    ("ping p50 µs", "ping_p50_us", 0),
    ("p99", "ping_p99_us", 0),
    ("TCP 1 Gbit/s", "tcp1_gbps", 2),
    ("CPU s/GB", "tcp1_cpu", 2),
];

/// A case with all its samples.
struct Line {
    name: String,
    samples: Vec<Sample>,
    failures: Vec<String>,
}

/// Everything measured so far.
pub(super) struct Results {
    seconds: u32,
    facts: Value,
    lines: Vec<Line>,
}

impl Results {
    pub(super) fn new(names: impl Iterator<Item = String>, seconds: u32) -> Result<Self> {
        let lines = names.map(|name| Line { name, samples: Vec::new(), failures: Vec::new() });
        Ok(Self { seconds, facts: machine::facts()?, lines: lines.collect() })
    }

    pub(super) fn add(&mut self, name: &str, outcome: Result<Sample>) {
        let Some(line) = self.lines.iter_mut().find(|line| line.name == name) else { return };
        match outcome {
            Ok(sample) => line.samples.push(sample),
            Err(error) => line.failures.push(format!("{error:#}")),
        }
    }

    /// Whether anything was measured.
    pub(super) fn any(&self) -> bool {
        self.lines.iter().any(|line| !line.samples.is_empty())
    }

    pub(super) fn write(&self, stem: &Path) -> Result<()> {
        for (extension, text) in [("md", self.markdown()), ("json", format!("{:#}\n", self.json()))] {
            let path = stem.with_extension(extension);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    pub(super) fn markdown(&self) -> String {
        let rounds = self.lines.iter().map(|line| line.samples.len()).max().unwrap_or_default();
        let most = |name| {
            let figures =
                self.lines.iter().flat_map(|line| &line.samples).filter_map(|sample| sample.get(name));
            figures.copied().fold(0.0, f64::max)
        };
        let mut text = format!(
            "One hub, every other node in a namespace of its own on the same machine; medians (min..max) of {rounds} \
             rounds, {} s a run. Machine: {}; busy before a case: at most {:.0} %; taken by the hypervisor during one: \
             at most {:.0} %.\n\n",
            self.seconds,
            table::machine(&self.facts),
            most("busy_pct"),
            most("stolen_pct"),
        );
        self.table(&mut text, CIRCUITS);
        self.table(&mut text, KNOWN);
        if let Some(bytes) = self.bytes_per_peer() {
            text.push_str(&format!("RSS of an idle known peer: {bytes:.0} bytes.\n"));
        }
        for line in &self.lines {
            for failure in &line.failures {
                text.push_str(&format!("- {} failed: {}\n", line.name, failure.replace('\n', " ")));
            }
        }
        text
    }

    /// The cases that have the first of these figures.
    fn table(&self, text: &mut String, columns: &[Column]) {
        let has = |line: &&Line| columns.first().is_some_and(|(_, figure, _)| line.spread(figure).is_some());
        let lines: Vec<&Line> = self.lines.iter().filter(has).collect();
        if lines.is_empty() {
            return;
        }
        let headings: Vec<&str> = columns.iter().map(|(heading, ..)| *heading).collect();
        text.push_str(&format!(
            "| case | {} |\n|{}\n",
            headings.join(" | "),
            " --- |".repeat(columns.len() + 1)
        ));
        for line in lines {
            let cells: Vec<String> = columns.iter().map(|column| line.cell(column)).collect();
            text.push_str(&format!("| {} | {} |\n", line.name, cells.join(" | ")));
        }
        text.push('\n');
    }

    /// From the case with the fewest known peers to the one with the most.
    fn bytes_per_peer(&self) -> Option<f64> {
        let figures = |line: &Line| Some((line.spread("known")?.median, line.spread("rss_mib")?.median));
        let known: Vec<(f64, f64)> = self.lines.iter().filter_map(figures).collect();
        let few = known.iter().copied().min_by(|one, other| one.0.total_cmp(&other.0))?;
        let many = known.iter().copied().max_by(|one, other| one.0.total_cmp(&other.0))?;
        (many.0 > few.0).then(|| (many.1 - few.1) * f64::from(1 << 20) / (many.0 - few.0))
    }

    fn json(&self) -> Value {
        let cases: serde_json::Map<_, _> =
            self.lines.iter().map(|line| (line.name.clone(), line.json())).collect();
        json!({
            "seconds": self.seconds,
            "machine": self.facts,
            "cases": cases,
            "bytes_per_known_peer": self.bytes_per_peer(),
        })
    }
}

impl Line {
    fn spread(&self, figure: &str) -> Option<Spread> {
        spread(self.samples.iter().filter_map(|sample| sample.get(figure).copied()))
    }

    fn cell(&self, (_, figure, places): &Column) -> String {
        match self.spread(figure) {
            None => "–".to_owned(),
            Some(Spread { median, least, most, count }) if count > 1 => {
                format!("{median:.places$} ({least:.places$}..{most:.places$})")
            }
            Some(Spread { median, .. }) => format!("{median:.places$}"),
        }
    }

    fn json(&self) -> Value {
        json!({"rounds": self.samples, "failures": self.failures})
    }
}

/// All figures of one run, for somebody who waits.
pub(super) fn brief(outcome: &Result<Sample>) -> String {
    match outcome {
        Ok(sample) => {
            let figures = sample.iter().map(|(name, figure)| format!("{name} {figure:.2}"));
            figures.collect::<Vec<_>>().join(", ")
        }
        Err(error) => format!("{error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(names: &[&str]) -> Results {
        let names = names.iter().map(|name| (*name).to_owned());
        Results::new(names, 2).unwrap()
    }

    #[test]
    fn an_idle_peer_costs_the_growth_per_peer() {
        let mut results = results(&["known-0", "known-10000", "circuits-1"]);
        results.add("known-0", Ok(Sample::from([("known", 1.0), ("rss_mib", 10.0)])));
        assert_eq!(results.bytes_per_peer(), None);
        results.add("known-10000", Ok(Sample::from([("known", 1025.0), ("rss_mib", 12.0)])));
        assert_eq!(results.bytes_per_peer(), Some(2048.0));
        assert!(results.markdown().contains("known peer: 2048 bytes"));
    }

    #[test]
    fn tables_hold_what_was_measured_and_what_failed() {
        let mut results = results(&["circuits-1", "circuits-10"]);
        results.add("circuits-1", Ok(Sample::from([("in_gbps", 3.0)])));
        results.add("circuits-1", Ok(Sample::from([("in_gbps", 4.0)])));
        results.add("circuits-10", Err(anyhow::anyhow!("no\nroom")));
        let text = results.markdown();
        assert!(text.contains("| circuits-1 | 3.50 (3.00..4.00) | – |"), "{text}");
        assert!(text.contains("- circuits-10 failed: no room\n") && !text.contains("known-"), "{text}");
        assert_eq!(results.json()["cases"]["circuits-1"]["rounds"][1]["in_gbps"], 4.0);
    }
}
