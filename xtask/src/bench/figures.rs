//! Samples, and what becomes of them: medians with their range, and ratios.
//!
//! Must not know how figures are taken or printed.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use super::machine;
use super::rows::{Cipher, Kind, Row};
use super::site::Underlay;

/// The figures of one row in one round, by name.
pub(super) type Sample = BTreeMap<&'static str, f64>;

/// The middle of several samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
    pub(super) count: usize,
}

/// A row with all its samples.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) cipher: Cipher,
    pub(super) version: String,
    pub(super) samples: Vec<Sample>,
    pub(super) failures: Vec<String>,
}

/// Everything measured so far.
pub(super) struct Results {
    pub(super) topology: &'static str,
    pub(super) underlay: Underlay,
    pub(super) seconds: u32,
    pub(super) facts: Value,
    pub(super) lines: Vec<Line>,
}

impl Results {
    pub(super) fn new(
        rows: &[Row],
        topology: &'static str,
        underlay: Underlay,
        seconds: u32,
    ) -> Result<Self> {
        let lines = rows.iter().map(Line::new).collect();
        Ok(Self { topology, underlay, seconds, facts: machine::facts()?, lines })
    }

    pub(super) fn add(&mut self, row: &Row, outcome: Result<Sample>) {
        let Some(line) = self.lines.iter_mut().find(|line| line.name == row.name) else { return };
        match outcome {
            Ok(sample) => line.samples.push(sample),
            Err(error) => line.failures.push(format!("{error:#}")),
        }
    }

    /// Whether anything was measured.
    pub(super) fn any(&self) -> bool {
        self.lines.iter().any(|line| !line.samples.is_empty())
    }

    /// How often the most measured row was measured.
    pub(super) fn rounds(&self) -> usize {
        self.lines.iter().map(|line| line.samples.len()).max().unwrap_or_default()
    }

    /// Over all samples of all rows.
    pub(super) fn overall(&self, figure: &str) -> Option<Spread> {
        spread(
            self.lines.iter().flat_map(|line| &line.samples).filter_map(|sample| sample.get(figure).copied()),
        )
    }

    /// A figure of the cable without a tunnel.
    pub(super) fn raw(&self, figure: &str) -> Option<f64> {
        Some(self.lines.iter().find(|line| line.kind == Kind::Raw)?.spread(figure)?.median)
    }

    /// The highest figure among the other programs, and whose it is.
    pub(super) fn best_peer(&self, figure: &str) -> Option<(&'static str, f64)> {
        let peers = self.lines.iter().filter(|line| line.kind == Kind::Peer);
        let figures = peers.filter_map(|line| Some((line.name, line.spread(figure)?.median)));
        figures.max_by(|one, other| one.1.total_cmp(&other.1))
    }

    /// A figure of the bound with this cipher.
    pub(super) fn bound(&self, cipher: Cipher, figure: &str) -> Option<f64> {
        let bound = self.lines.iter().find(|line| line.kind == Kind::Bound && line.cipher == cipher);
        Some(bound?.spread(figure)?.median)
    }

    pub(super) fn json(&self) -> Value {
        let lines: serde_json::Map<_, _> =
            self.lines.iter().map(|line| (line.name.to_owned(), line.json(self))).collect();
        json!({
            "topology": self.topology,
            "underlay": self.underlay.to_string(),
            "seconds": self.seconds,
            "machine": self.facts,
            "rows": lines,
        })
    }
}

impl Line {
    fn new(row: &Row) -> Self {
        let version = row.peer.version().unwrap_or_else(|| "not installed".to_owned());
        let (samples, failures) = (Vec::new(), Vec::new());
        Self { name: row.name, kind: row.kind, cipher: row.cipher, version, samples, failures }
    }

    pub(super) fn spread(&self, figure: &str) -> Option<Spread> {
        spread(self.samples.iter().filter_map(|sample| sample.get(figure).copied()))
    }

    fn json(&self, all: &Results) -> Value {
        let names: std::collections::BTreeSet<_> =
            self.samples.iter().flat_map(|sample| sample.keys()).collect();
        let figures: serde_json::Map<_, _> = names
            .into_iter()
            .filter_map(|name| {
                let Spread { median, least, most, count } = self.spread(name)?;
                Some(((*name).to_owned(), json!({"median": median, "min": least, "max": most, "n": count})))
            })
            .collect();
        let tcp = self.spread("tcp1_gbps").map(|spread| spread.median);
        let ratio = |to: Option<f64>| Some(tcp? / to.filter(|to| *to > 0.0)?);
        json!({
            "version": self.version,
            "figures": figures,
            "tcp1_to_raw": ratio(all.raw("tcp1_gbps")),
            "tcp1_to_best_peer": ratio(all.best_peer("tcp1_gbps").map(|(_, figure)| figure)),
            "tcp1_to_bound": ratio(all.bound(self.cipher, "tcp1_gbps")),
            "rounds": self.samples,
            "failures": self.failures,
        })
    }
}

/// Median, least and most; `None` of nothing.
pub(super) fn spread(figures: impl Iterator<Item = f64>) -> Option<Spread> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let (least, most, count) = (*figures.first()?, *figures.last()?, figures.len());
    let (low, high) = (*figures.get((count - 1) / 2)?, *figures.get(count / 2)?);
    Some(Spread { median: f64::midpoint(low, high), least, most, count })
}

/// The element below which `share` of the sorted figures lie.
pub(super) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().checked_sub(1)?)).copied()
}

/// A few figures, for somebody who waits.
pub(super) fn brief(sample: &Sample) -> String {
    let shown = ["tcp1_gbps", "reverse_gbps", "tcp4_gbps", "tcp1_cpu", "udp_kpps", "ping_p50_us"];
    let figures = shown.iter().filter_map(|name| Some(format!("{name} {:.2}", sample.get(name)?)));
    figures.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_have_their_range() {
        let of = |figures: &[f64]| spread(figures.iter().copied());
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0, count: 3 }));
        assert_eq!(of(&[4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn quantiles_stay_inside() {
        let figures: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(quantile(&figures, 0.5), Some(50.0));
        assert_eq!(quantile(&figures, 0.99), Some(99.0));
        assert_eq!(quantile(&figures, 1.0), Some(99.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
