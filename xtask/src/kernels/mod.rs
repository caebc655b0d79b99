//! `cargo xtask kernels`: boots the kernels that Debian serves, one after the other and two at a time, and tries in each what the
//! kernel programs promise.
//!
//! Owns what is expected of a kernel, and the table. Which kernels there are says `packages`, what runs in them `init.sh`.

mod initramfs;
mod packages;

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use self::packages::{Kernel, Release};
use crate::qemu::{self, Boot};
use crate::{cargo, setup};

/// Debian packages that the task needs, beside qemu's.
const TOOLS: [&str; 5] = ["binutils", "cpio", "debian-archive-keyring", "xz-utils", "zstd"];
/// Machines at a time.
const AT_A_TIME: usize = 2;
/// A kernel takes seconds on a machine with nothing else to do.
const LIMIT: Duration = Duration::from_secs(600);
const MEMORY_MIB: u32 = 768;
/// What the guest's lines start with.
const MARK: &str = "RESULT ";
/// Linux from here on has tcx.
const TCX: (u32, u32) = (6, 6);

/// What every kernel must show, beside its hook.
const EXPECTED: [(&str, &str); 11] = [
    ("mode", "ebpf"),
    ("loopback-4", "reached"),
    ("loopback-6", "reached"),
    ("native-6", "reached"),
    ("closed-4", "silent"),
    ("closed-6", "silent"),
    ("explain", "pass"),
    ("relay", "kernel"),
    ("policy", "ok"),
    ("budget", "ok"),
    ("complaints", "0"),
];

/// Which kernels.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Four kernels only, of the ages that differ most
    #[arg(long)]
    quick: bool,
    /// Kernels whose release starts so (6.12, 6.1.0-57); all flavours
    #[arg(long, conflicts_with = "quick")]
    only: Option<String>,
    /// Shows which kernels there are, and boots none
    #[arg(long)]
    list: bool,
}

/// What became of a kernel.
struct Outcome {
    release: Release,
    lines: Vec<(String, String)>,
    took: Duration,
    /// Why it isn't what it should be.
    faults: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let kernels = chosen(arguments)?;
    if arguments.list {
        kernels.iter().for_each(|release| println!("{release}"));
        return Ok(());
    }
    let outcomes = try_all(&kernels)?;
    let failed = outcomes.iter().filter(|outcome| !outcome.faults.is_empty()).count();
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    ensure!(failed == 0, "kernels fail; their consoles lie in {}", folder().display());
    Ok(())
}

fn chosen(arguments: &Arguments) -> Result<Vec<Release>> {
    setup::debian(&TOOLS)?;
    qemu::install()?;
    let all = packages::list(&folder())?;
    let chosen = match (&arguments.only, arguments.quick) {
        (Some(start), _) => {
            all.into_iter().filter(|release| release.to_string().starts_with(start)).collect()
        }
        (None, true) => packages::few(&all),
        (None, false) => packages::many(&all),
    };
    ensure!(!chosen.is_empty(), "Debian serves no such kernel");
    Ok(chosen)
}

fn folder() -> std::path::PathBuf {
    cargo::target_dir().join("kernels")
}

fn try_all(releases: &[Release]) -> Result<Vec<Outcome>> {
    let folder = folder();
    let base = initramfs::base(&folder)?;
    let kernels = packages::fetch(releases, &folder)?;
    let waiting = Mutex::new(kernels.iter());
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(kernel) = next(&waiting) {
                    let outcome = Outcome::of(kernel, &base);
                    println!("Linux {}: {}", kernel.release, outcome.summary());
                    outcomes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    outcomes.sort_by(|one, other| one.release.cmp(&other.release));
    table(&outcomes);
    Ok(outcomes)
}

fn next<'a>(waiting: &Mutex<std::slice::Iter<'a, Kernel>>) -> Option<&'a Kernel> {
    waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next()
}

impl Outcome {
    fn of(kernel: &Kernel, base: &Path) -> Self {
        let begin = Instant::now();
        let (lines, faults) = match boot(kernel, base) {
            Ok(console) => {
                let lines = results(&console);
                let faults = faults(&kernel.release, &lines);
                (lines, faults)
            }
            Err(error) => (Vec::new(), vec![format!("{error:#}")]),
        };
        Self { release: kernel.release.clone(), lines, took: begin.elapsed(), faults }
    }

    fn summary(&self) -> String {
        if self.faults.is_empty() { "ok".to_owned() } else { self.faults.join("; ") }
    }

    fn get(&self, name: &str) -> &str {
        value(&self.lines, name).unwrap_or("-")
    }
}

/// Boots it and yields what its console showed.
fn boot(kernel: &Kernel, base: &Path) -> Result<String> {
    let initrd = initramfs::with_modules(base, kernel)?;
    let boot = Boot {
        kernel: kernel.image.clone(),
        initrd,
        // On a busy machine the guest counts too few ticks and takes its timer for broken.
        append: "quiet no_timer_check rdinit=/init".to_owned(),
        memory_mib: MEMORY_MIB,
        disks: Vec::new(),
        arguments: vec!["-nic".into(), "none".into()],
        console: kernel.folder.join("console"),
        again: false,
    };
    boot.start()?.wait_off(LIMIT).with_context(|| format!("Linux {}", kernel.release))
}

/// Names and values that the guest printed.
fn results(console: &str) -> Vec<(String, String)> {
    let lines = console.lines().filter_map(|line| line.split_once(MARK)?.1.split_once(' '));
    lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

fn value<'a>(lines: &'a [(String, String)], name: &str) -> Option<&'a str> {
    lines.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn faults(release: &Release, lines: &[(String, String)]) -> Vec<String> {
    let hook = if release.series() >= TCX { "tcx" } else { "clsact" };
    let expected = [("hook", hook)].into_iter().chain(EXPECTED);
    let mut faults: Vec<String> = expected
        .filter_map(|(name, wanted)| {
            let found = value(lines, name).unwrap_or("not there");
            (found != wanted).then(|| format!("{name} is {found}, not {wanted}"))
        })
        .collect();
    faults.extend(lines.iter().filter(|(name, _)| name == "warning").map(|(_, text)| text.clone()));
    faults
}

/// A row a kernel; the last columns are the instructions that its verifier walked through, by program.
fn table(outcomes: &[Outcome]) {
    const COLUMNS: [&str; 9] = [
        "hook",
        "loopback-4",
        "loopback-6",
        "native-6",
        "closed-4",
        "closed-6",
        "policy",
        "relay",
        "explain",
    ];
    let programs: Vec<&str> = outcomes
        .iter()
        .max_by_key(|outcome| outcome.lines.len())
        .map(|outcome| verified(outcome).map(|(name, _)| name).collect())
        .unwrap_or_default();
    println!("\n| kernel | {} | {} | s |", COLUMNS.join(" | "), programs.join(" | "));
    println!("|{}", "---|".repeat(COLUMNS.len() + programs.len() + 2));
    for outcome in outcomes {
        let shown = COLUMNS.map(|column| outcome.get(column)).join(" | ");
        let counts: Vec<&str> = programs
            .iter()
            .map(|name| verified(outcome).find(|(known, _)| known == name).map_or("-", |(_, count)| count))
            .collect();
        println!("| {} | {shown} | {} | {} |", outcome.release, counts.join(" | "), outcome.took.as_secs());
    }
}

fn verified(outcome: &Outcome) -> impl Iterator<Item = (&str, &str)> {
    let lines = outcome.lines.iter().filter(|(name, _)| name == "verified");
    lines.filter_map(|(_, value)| value.split_once(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_shows_less_fails() {
        let release = Release::parse("6.1.0-57-cloud-amd64").unwrap();
        let all = EXPECTED.iter().fold("RESULT hook clsact\n".to_owned(), |text, (name, value)| {
            text + &format!("[    1.2] noise\nRESULT {name} {value}\n")
        });
        assert_eq!(faults(&release, &results(&all)), Vec::<String>::new());
        let closed = all.replace("closed-6 silent", "closed-6 reached");
        assert_eq!(faults(&release, &results(&closed)), ["closed-6 is reached, not silent"]);
        let newer = Release::parse("6.12.95+deb12-cloud-amd64").unwrap();
        assert_eq!(faults(&newer, &results(&all)), ["hook is clsact, not tcx"]);
        assert_eq!(faults(&release, &[]).len(), EXPECTED.len() + 1);
    }
}
