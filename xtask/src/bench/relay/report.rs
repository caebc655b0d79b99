//! What the cases gave, as Markdown and JSON.
//!
//! Must not know how a figure was taken.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::figures::{Sample, Spread, spread};
use super::super::site::Underlay;
use super::super::{machine, table};
use super::{Case, Middle};

/// Gbit/s of one stream.
const TCP: &str = "tcp1_gbps";

/// A case with its samples by their rounds.
struct Line {
    case: Case,
    samples: BTreeMap<u32, Sample>,
    failures: Vec<String>,
}

/// Everything measured so far.
pub(super) struct Results {
    seconds: u32,
    facts: Value,
    lines: Vec<Line>,
}

impl Results {
    pub(super) fn new(cases: &[Case], seconds: u32) -> Result<Self> {
        let lines =
            cases.iter().map(|case| Line { case: *case, samples: BTreeMap::new(), failures: Vec::new() });
        Ok(Self { seconds, facts: machine::facts()?, lines: lines.collect() })
    }

    pub(super) fn add(&mut self, case: Case, round: u32, outcome: Result<Sample>) {
        let Some(line) = self.lines.iter_mut().find(|line| line.case == case) else { return };
        match outcome {
            Ok(sample) => drop(line.samples.insert(round, sample)),
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
        let mut text = format!(
            "Nodes in a row, each in namespaces of its own on the same machine, whose cores all of them share; medians \
             (min..max) of {rounds} interleaved rounds, {} s a TCP run; a ratio is the median of the rounds' own. Cases with as \
             many hops stand at the same time. `forward`: the hops route the same sealed datagrams and run nothing. \
             Machine: {}; busy before a case: at most {:.0} %; taken by the hypervisor during one, after as many as two repetitions: at most {:.0} %.\n\n",
            self.seconds,
            table::machine(&self.facts),
            self.most("busy_pct"),
            self.most("stolen_pct"),
        );
        for underlay in [Underlay::Veth, Underlay::Wire] {
            self.throughput(&mut text, underlay);
        }
        self.budgets(&mut text);
        for line in &self.lines {
            for failure in &line.failures {
                text.push_str(&format!("- {} failed: {}\n", line.case.name(), failure.replace('\n', " ")));
            }
        }
        text
    }

    fn most(&self, figure: &str) -> f64 {
        let samples = self.lines.iter().flat_map(|line| line.samples.values());
        samples.filter_map(|sample| sample.get(figure)).copied().fold(0.0, f64::max)
    }

    fn throughput(&self, text: &mut String, underlay: Underlay) {
        let here = |line: &&Line| line.case.underlay == underlay && line.spread(TCP).is_some();
        let mut lines = self.lines.iter().filter(here).peekable();
        if lines.peek().is_none() {
            return;
        }
        text.push_str(&format!(
            "| {underlay} | hops | TCP Gbit/s | × raw | × forward | × direct | ping avg µs | p99 | CPU s/GB, all | relays' \
             CPU s |\n|{}\n",
            " --- |".repeat(10)
        ));
        for line in lines {
            let ratios = [(Middle::Raw, 1), (Middle::Forward, line.case.hops), (Middle::Direct, 0)];
            let ratios = ratios.map(|(middle, hops)| match self.ratio(line, middle, hops) {
                Some(ratio) => format!("{ratio:.3}"),
                None => "–".to_owned(),
            });
            let cells = [("ping_avg_us", 0), ("ping_p99_us", 0), ("tcp1_cpu", 2), ("relay_cpu_s", 2)];
            let cells = cells.map(|(figure, places)| line.cell(figure, places));
            text.push_str(&format!(
                "| {} | {} | {} | {} | {} |\n",
                line.case.middle.name(),
                line.case.hops,
                line.cell(TCP, 2),
                ratios.join(" | "),
                cells.join(" | ")
            ));
        }
        text.push('\n');
    }

    /// A case's throughput to that of another on the same underlay: the median of the rounds' ratios.
    fn ratio(&self, line: &Line, middle: Middle, hops: u8) -> Option<f64> {
        let to = Case { middle, hops, budget: false, ..line.case };
        let to = self.lines.iter().find(|line| line.case == to)?;
        let rounds = line.samples.iter().filter_map(|(round, sample)| {
            let other = to.samples.get(round)?.get(TCP).filter(|other| **other > 0.0)?;
            Some(sample.get(TCP)? / other)
        });
        Some(spread(rounds)?.median)
    }

    fn budgets(&self, text: &mut String) {
        let mut lines = self.lines.iter().filter(|line| line.spread("budget_mbps").is_some()).peekable();
        if lines.peek().is_none() {
            return;
        }
        text.push_str("| a flood against a budget | Mbit/s over 10 s | error % |\n| --- | --- | --- |\n");
        for line in lines {
            let [rate, error] = ["budget_mbps", "budget_error_pct"].map(|figure| line.cell(figure, 2));
            text.push_str(&format!("| {} | {rate} | {error} |\n", line.case.middle.name()));
        }
        text.push('\n');
    }

    fn json(&self) -> Value {
        let cases: serde_json::Map<_, _> =
            self.lines.iter().map(|line| (line.case.name(), self.case(line))).collect();
        json!({"seconds": self.seconds, "machine": self.facts, "cases": cases})
    }

    fn case(&self, line: &Line) -> Value {
        json!({
            "to_raw": self.ratio(line, Middle::Raw, 1),
            "to_forward": self.ratio(line, Middle::Forward, line.case.hops),
            "to_direct": self.ratio(line, Middle::Direct, 0),
            "rounds": line.samples.values().collect::<Vec<_>>(),
            "failures": line.failures,
        })
    }
}

impl Line {
    fn spread(&self, figure: &str) -> Option<Spread> {
        spread(self.samples.values().filter_map(|sample| sample.get(figure).copied()))
    }

    fn cell(&self, figure: &str, places: usize) -> String {
        match self.spread(figure) {
            None => "–".to_owned(),
            Some(Spread { median, least, most, count }) if count > 1 => {
                format!("{median:.places$} ({least:.places$}..{most:.places$})")
            }
            Some(Spread { median, .. }) => format!("{median:.places$}"),
        }
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

    #[test]
    fn relays_are_compared_with_as_many_routers_on_the_same_underlay() {
        let case = |underlay, middle, hops| Case { underlay, middle, hops, budget: false };
        let kernel = case(Underlay::Veth, Middle::Kernel, 2);
        let cases = [
            (kernel, 4.0),
            (case(Underlay::Veth, Middle::Forward, 1), 16.0),
            (case(Underlay::Veth, Middle::Forward, 2), 5.0),
            (case(Underlay::Wire, Middle::Forward, 2), 2.0),
            (case(Underlay::Veth, Middle::Direct, 0), 8.0),
        ];
        let mut results = Results::new(&cases.map(|(case, _)| case), 1).unwrap();
        for (case, gbps) in cases {
            // A faster machine in the second round changes no ratio.
            for (round, speed) in [(1, 1.0), (2, 3.0)] {
                results.add(case, round, Ok(Sample::from([(TCP, gbps * speed)])));
            }
        }
        results.add(kernel, 3, Err(anyhow::anyhow!("cannot\nstart")));
        let text = results.markdown();
        assert!(
            text.contains("| kernel | 2 | 8.00 (4.00..12.00) | – | 0.800 | 0.500 | – | – | – | – |"),
            "{text}"
        );
        assert!(text.contains("- veth-kernel-2 failed: cannot start\n"), "{text}");
        assert_eq!(results.json()["cases"]["veth-kernel-2"]["to_forward"], 0.8);
        assert_eq!(results.json()["cases"]["veth-kernel-2"]["to_raw"], Value::Null);
    }
}
