//! Figures, bars, and how they are printed.

use crate::runner::Cost;

/// What is asked of a figure.
#[derive(Clone, Copy)]
pub(crate) enum Bar {
    None,
    /// At most this many units.
    Units(f64),
    /// At most this many times the units given first.
    Times(f64, f64),
}

/// One line of a table.
struct Line {
    table: &'static str,
    what: String,
    cost: Cost,
    bar: Bar,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Report {
    lines: Vec<Line>,
}

impl Cost {
    pub(crate) fn units(&self) -> f64 {
        self.nanoseconds / self.unit
    }
}

impl Line {
    /// The bar in words, and whether it holds.
    fn judge(&self) -> (String, bool) {
        let units = self.cost.units();
        match self.bar {
            Bar::None => (String::new(), true),
            Bar::Units(most) => (format!("{most} units"), units <= most),
            Bar::Times(most, smallest) => {
                (format!("{:.2} of {most} x", units / smallest), units <= most * smallest)
            }
        }
    }
}

impl Report {
    pub(crate) fn add(&mut self, table: &'static str, what: impl Into<String>, cost: Cost, bar: Bar) {
        self.lines.push(Line { table, what: what.into(), cost, bar });
    }

    /// Prints a Markdown table for each table, and how many bars were missed.
    pub(crate) fn print(&self) {
        let least = |value: fn(&Cost) -> f64| {
            self.lines.iter().map(|line| value(&line.cost)).fold(f64::INFINITY, f64::min)
        };
        let (empty, unit) = (least(|cost| cost.empty), least(|cost| cost.unit));
        println!("Empty program {empty:.0} ns; reference program {unit:.0} ns above it: 1 unit.");
        let mut table = "";
        for line in &self.lines {
            if line.table != table {
                table = line.table;
                println!("\n| {table} | ns | units | bar |\n|---|---:|---:|---|");
            }
            let (bar, held) = line.judge();
            let missed = if held { "" } else { ", **missed**" };
            println!(
                "| {} | {:.0} | {:.2} | {bar}{missed} |",
                line.what,
                line.cost.nanoseconds,
                line.cost.units()
            );
        }
        let missed = self.lines.iter().filter(|line| !line.judge().1).count();
        println!("\n{missed} bars missed");
    }

    pub(crate) fn json(&self) -> String {
        let lines = self.lines.iter().map(|line| {
            let Cost { empty, unit, nanoseconds } = line.cost;
            serde_json::json!({
                "table": line.table,
                "what": line.what,
                "empty_ns": empty,
                "unit_ns": unit,
                "ns": nanoseconds,
                "units": line.cost.units(),
                "held": line.judge().1,
            })
        });
        serde_json::Value::from_iter(lines).to_string()
    }
}
