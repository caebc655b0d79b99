//! `cargo xtask bench --circuits`: one node with many peers: 1, 10 and 100 active circuits, and 10,000 peers that are
//! known and idle.
//!
//! Owns the cases and the order of the runs. Must not know how a case is set up or measured.

mod known;
mod neighbours;
mod report;
mod star;
mod streams;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use self::neighbours::Neighbours;
use self::report::Results;
use super::figures::Sample;
use super::{Arguments, machine};
use crate::cargo;

/// What is measured in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    /// So many nodes that all exchange data with one.
    Circuits(usize),
    /// One active circuit, and so many other peers that are known and idle.
    Known(usize),
}

const CASES: [Case; 5] =
    [Case::Circuits(1), Case::Circuits(10), Case::Circuits(100), Case::Known(0), Case::Known(10_000)];

impl Case {
    fn name(self) -> String {
        match self {
            Self::Circuits(count) => format!("circuits-{count}"),
            Self::Known(count) => format!("known-{count}"),
        }
    }

    fn measure(self, seconds: u32) -> Result<Sample> {
        match self {
            Self::Circuits(count) => streams::measure(count, seconds),
            Self::Known(count) => known::measure(count, seconds),
        }
    }
}

/// Measures every case in every round; prints the tables and writes them beside the figures as JSON.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    cargo::run(&["build", "--release", "--locked", "-p", "meshhold", "-p", "meshhold-bench"])?;
    let cases = choose(&arguments.peers)?;
    let stem = stem(arguments)?;
    let _room = Neighbours::make_room()?;
    let mut results = Results::new(cases.iter().map(|case| case.name()), arguments.seconds)?;
    for round in 1..=arguments.rounds {
        for case in &cases {
            let busy = machine::wait_idle(Duration::from_secs(arguments.idle_wait))?;
            let outcome = case.measure(arguments.seconds).map(|mut sample| {
                sample.insert("busy_pct", busy);
                sample
            });
            eprintln!("round {round}: {}: {}", case.name(), report::brief(&outcome));
            results.add(&case.name(), outcome);
        }
        results.write(&stem)?;
    }
    print!("{}", results.markdown());
    println!("\nwritten: {0}.md, {0}.json", stem.display());
    ensure!(results.any(), "no case could be measured");
    Ok(())
}

/// The cases named, or all.
fn choose(names: &[String]) -> Result<Vec<Case>> {
    let known: Vec<String> = CASES.iter().map(|case| case.name()).collect();
    for name in names {
        ensure!(known.contains(name), "no case is called {name}; there are {}", known.join(", "));
    }
    Ok(CASES.into_iter().filter(|case| names.is_empty() || names.contains(&case.name())).collect())
}

fn stem(arguments: &Arguments) -> Result<PathBuf> {
    let out = arguments.out.clone().unwrap_or_else(|| cargo::target_dir().join("bench"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    Ok(out.join("circuits"))
}
