//! `cargo xtask bench --relay`: what relays carry, by the kernel and by the workers, beside plain IP forwarding of the same
//! sealed datagrams, the direct circuit and the bare cable; over several hops; and how exactly a rate budget holds.
//!
//! Owns the cases and the order of the runs. Must not know how a case is set up or measured.

mod chain;
mod measure;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use self::measure::Stand;
use self::report::Results;
use super::figures::Sample;
use super::site::Underlay;
use super::{Arguments, machine, undisturbed};
use crate::cargo;

/// Longest path.
const HOPS: u8 = 4;

/// What lies between the ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Middle {
    /// Routers, and no tunnel at all.
    Raw,
    /// Nothing.
    Direct,
    /// Routers that forward our datagrams.
    Forward,
    /// Relays that do it in the kernel.
    Kernel,
    /// Relays without any capability.
    Workers,
}

/// What is measured in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    underlay: Underlay,
    middle: Middle,
    hops: u8,
    /// A flood against a budget, instead of throughput.
    budget: bool,
}

impl Middle {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Direct => "direct",
            Self::Forward => "forward",
            Self::Kernel => "kernel",
            Self::Workers => "workers",
        }
    }
}

impl Case {
    fn name(self) -> String {
        let (underlay, middle) = (self.underlay, self.middle.name());
        let what = if self.budget { "budget".to_owned() } else { self.hops.to_string() };
        format!("{underlay}-{middle}-{what}")
    }

    /// Whether two cases stand at the same time and are measured in turn: what is to be compared.
    fn goes_with(&self, other: &Self) -> bool {
        let kind = |case: &Self| (case.underlay, case.hops.max(1), case.budget);
        kind(self) == kind(other)
    }
}

/// In the order of the first round.
fn all() -> Vec<Case> {
    use Middle::{Direct, Forward, Kernel, Raw, Workers};
    let mut cases = Vec::new();
    for underlay in [Underlay::Veth, Underlay::Wire] {
        let case = |(middle, hops)| Case { underlay, middle, hops, budget: false };
        cases.extend([(Raw, 1), (Direct, 0), (Forward, 1), (Kernel, 1), (Workers, 1)].map(case));
        cases
            .extend((2..=HOPS).flat_map(|hops| [(Forward, hops), (Kernel, hops), (Workers, hops)]).map(case));
    }
    let budget = |middle| Case { underlay: Underlay::Veth, middle, hops: 1, budget: true };
    cases.extend([Kernel, Workers].map(budget));
    cases
}

/// Measures every case in every round; prints the tables and writes them beside the figures as JSON.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    cargo::run(&["build", "--release", "--locked", "-p", "meshhold", "-p", "meshhold-bench"])?;
    let cases = choose(&arguments.peers)?;
    let stem = stem(arguments)?;
    let mut results = Results::new(&cases, arguments.seconds)?;
    for group in cases.chunk_by(Case::goes_with) {
        compare(group, arguments, &mut results, &stem)?;
    }
    print!("{}", results.markdown());
    println!("\nwritten: {0}.md, {0}.json", stem.display());
    ensure!(results.any(), "no case could be measured");
    Ok(())
}

/// Measures in turn what stands at the same time, as the machine's speed changes from minute to minute.
fn compare(group: &[Case], arguments: &Arguments, results: &mut Results, stem: &Path) -> Result<()> {
    let mut stands: Vec<_> = group.iter().map(|case| (*case, Stand::new(*case))).collect();
    for round in 1..=arguments.rounds {
        for (case, stand) in &stands {
            let outcome = match stand {
                Ok(stand) => undisturbed(|| one(stand, arguments)),
                Err(error) => Err(anyhow!("{error:#}")),
            };
            eprintln!("round {round}: {}: {}", case.name(), report::brief(&outcome));
            results.add(*case, round, outcome);
        }
        // Each round begins one case further on, so that no case always follows the same one.
        stands.rotate_left(1);
        results.write(stem)?;
    }
    Ok(())
}

/// One case once, on an idle machine.
fn one(stand: &Stand, arguments: &Arguments) -> Result<Sample> {
    let busy = machine::wait_idle(Duration::from_secs(arguments.idle_wait))?;
    let mut sample = stand.measure(arguments.seconds)?;
    sample.insert("busy_pct", busy);
    Ok(sample)
}

/// The cases whose names begin with one of these, or all.
fn choose(names: &[String]) -> Result<Vec<Case>> {
    let cases = all();
    for name in names {
        let known = cases.iter().any(|case| case.name().starts_with(name.as_str()));
        let all = || cases.iter().map(|case| case.name()).collect::<Vec<_>>().join(", ");
        ensure!(known, "no case begins with {name}; there are {}", all());
    }
    let wanted = |case: &Case| names.iter().any(|name| case.name().starts_with(name.as_str()));
    Ok(cases.into_iter().filter(|case| names.is_empty() || wanted(case)).collect())
}

fn stem(arguments: &Arguments) -> Result<PathBuf> {
    let out = arguments.out.clone().unwrap_or_else(|| cargo::target_dir().join("bench"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    Ok(out.join("relay"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_chosen_by_how_their_names_begin() {
        let chosen = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            Ok::<_, anyhow::Error>(choose(&names)?.into_iter().map(Case::name).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&["veth-kernel-1"]).unwrap(), ["veth-kernel-1"]);
        assert_eq!(chosen(&["wire-workers"]).unwrap().len(), usize::from(HOPS));
        assert_eq!(chosen(&[]).unwrap().len(), 30);
        let refused = chosen(&["disguise"]).unwrap_err().to_string();
        assert!(refused.contains("veth-direct-0") && refused.contains("veth-workers-budget"), "{refused}");
    }
}
