//! `cargo xtask test`: builds all tests once, runs them layer by layer, and adds up what passed.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{cargo, setup};

/// The package whose tests share one machine.
const LAB: &str = "meshhold-tests";
/// Programs of it that wait most of their time, for what must come within many seconds: two of them run at a time. The others
/// hold the daemon to shorter times or to rates.
const WAITING: [&str; 16] = [
    "bootstrap",
    "gateway",
    "collisions",
    "ping",
    "policy",
    "connect",
    "views",
    "crash",
    "explain",
    "lan_guard",
    "secrets",
    "dht",
    "names",
    "live_keys",
    "sites",
    "networks",
];

/// Counts over all runs.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    broken: Vec<String>,
    figures: Vec<String>,
    /// What the failed tests printed, shown again at the end of the log.
    failures: Vec<String>,
    /// The lines read are about failed tests.
    in_failures: bool,
}

/// A test program.
struct Program {
    package: String,
    name: String,
    executable: PathBuf,
    folder: PathBuf,
}

pub(crate) fn run() -> Result<()> {
    let mut tally = Tally::default();
    tests(&mut tally)?;
    tally.close()
}

/// Runs everything into `tally`. An error means that the tests couldn't be run at all.
pub(crate) fn tests(tally: &mut Tally) -> Result<()> {
    cargo::need_root("test")?;
    setup::run()?;
    let begin = Instant::now();
    let programs = build()?;
    println!("built in {:.0?}", begin.elapsed());
    let (lab, units): (Vec<_>, Vec<_>) = programs.into_iter().partition(|program| program.package == LAB);
    cargo::say("units: core, common, daemon, kernel programs by test run");
    for program in &units {
        program.run(&["--show-output"], tally)?;
    }
    tally.run("doc tests", cargo::command(&["test", "--workspace", "--doc", "--quiet"]))?;
    let arguments = ["--test-threads=1", "--show-output"];
    let (waiting, lab): (Vec<_>, Vec<_>) =
        lab.into_iter().partition(|program| WAITING.contains(&program.name.as_str()));
    cargo::say("lab: real nodes in namespaces, one test at a time");
    for program in &lab {
        program.run(&arguments, tally)?;
    }
    cargo::say("lab: what waits, two programs at a time");
    in_pairs(&waiting, &arguments, tally);
    println!("\nall done in {:.0?}", begin.elapsed());
    Ok(())
}

/// What each of them printed comes whole, when it has ended.
fn in_pairs(programs: &[Program], arguments: &[&str], tally: &mut Tally) {
    let next = AtomicUsize::new(0);
    let (ended, outcomes) = mpsc::channel();
    std::thread::scope(|scope| {
        for ended in [ended.clone(), ended] {
            let next = &next;
            scope.spawn(move || {
                while let Some(program) = programs.get(next.fetch_add(1, Relaxed)) {
                    let mut lines = Vec::new();
                    let outcome = execute(program.command(arguments), |line| lines.push(line));
                    // The other end waits for both of us.
                    let _ = ended.send((program, lines, outcome));
                }
            });
        }
        for (program, lines, outcome) in outcomes {
            let before = (tally.passed, tally.failed);
            lines.iter().for_each(|line| tally.show(line));
            match outcome {
                Ok(ended) => tally.judge(&program.title(), ended, before),
                Err(error) => tally.check(&program.title(), Err(error)),
            }
        }
    });
}

/// Hands over each line that the program prints. Yields how it ended, and after what time.
fn execute(mut command: Command, mut line: impl FnMut(String)) -> Result<(ExitStatus, Duration)> {
    let begin = Instant::now();
    // Errors in tests carry their context; a backtrace of each would bury it.
    let command = command.env("RUST_LIB_BACKTRACE", "0").stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let output = child.stdout.take().context("the test's output is piped")?;
    for read in BufReader::new(output).lines() {
        line(read?);
    }
    Ok((child.wait()?, begin.elapsed()))
}

/// Builds everything once, so that dependencies are compiled with one set of features.
fn build() -> Result<Vec<Program>> {
    let arguments = ["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"];
    // The lab drives the daemon's own program, and the tests of the daemon's package needn't cause its build.
    cargo::run(&["build", "--workspace", "--all-targets"])?;
    let output = cargo::command(&arguments).stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "building the tests failed");
    let messages = String::from_utf8(output.stdout)?;
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    let mut programs: Vec<Program> = artifacts.filter_map(|artifact: Value| program(&artifact)).collect();
    programs.sort_by(|one, other| (&one.package, &one.name).cmp(&(&other.package, &other.name)));
    Ok(programs)
}

fn program(artifact: &Value) -> Option<Program> {
    artifact.pointer("/profile/test")?.as_bool().filter(|test| *test)?;
    let manifest = PathBuf::from(artifact.get("manifest_path")?.as_str()?);
    let folder = manifest.parent()?.to_owned();
    Some(Program {
        package: package(artifact.get("package_id")?.as_str()?)?,
        name: artifact.pointer("/target/name")?.as_str()?.to_owned(),
        executable: artifact.get("executable")?.as_str()?.into(),
        folder,
    })
}

/// `path+file:///…/tests#meshhold-tests@0.1.0`, or `path+file:///…/xtask#0.1.0` where folder and name agree.
fn package(id: &str) -> Option<String> {
    let (path, fragment) = id.split_once('#')?;
    let name = fragment.split_once('@').map_or_else(|| path.rsplit('/').next(), |(name, _)| Some(name));
    name.map(str::to_owned)
}

impl Program {
    fn run(&self, arguments: &[&str], tally: &mut Tally) -> Result<()> {
        tally.run(&self.title(), self.command(arguments))
    }

    fn title(&self) -> String {
        format!("{} {}", self.package, self.name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.executable);
        command.args(arguments).current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder);
        command
    }
}

impl Tally {
    /// Runs a test program, showing what it prints and counting its results.
    fn run(&mut self, name: &str, command: Command) -> Result<()> {
        let before = (self.passed, self.failed);
        let outcome = execute(command, |line| self.show(&line))?;
        self.judge(name, outcome, before);
        Ok(())
    }

    fn show(&mut self, line: &str) {
        println!("{line}");
        self.read(line);
    }

    fn read(&mut self, line: &str) {
        if let Some((passed, failed)) = result(line) {
            self.passed += passed;
            self.failed += failed;
            self.in_failures = false;
        }
        self.in_failures |= line == "failures:";
        if self.in_failures {
            self.failures.push(line.to_owned());
        }
        if let Some(figure) = line.strip_prefix("figure: ") {
            self.figures.push(figure.to_owned());
        }
    }

    /// Closes a program that began with these counts. One that ended badly without counting a failure has crashed.
    fn judge(&mut self, name: &str, (status, took): (ExitStatus, Duration), (passed, failed): (u64, u64)) {
        if !status.success() {
            self.broken.push(format!("{name} ({status})"));
            if self.failed == failed {
                self.failed += 1;
            }
        }
        println!("{name}: {} passed in {took:.1?}", self.passed - passed);
    }

    /// Counts a check that is no test.
    pub(crate) fn check(&mut self, name: &str, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(error) => {
                println!("{name}: {error:#}");
                self.failed += 1;
                self.broken.push(name.to_owned());
            }
        }
    }

    /// Prints the figures, what broke and why, and the closing line; fails if anything failed.
    pub(crate) fn close(self) -> Result<()> {
        for line in &self.failures {
            println!("{line}");
        }
        for figure in &self.figures {
            println!("figure: {figure}");
        }
        for cause in causes(&self.failures) {
            println!("said: {cause}");
        }
        for broken in &self.broken {
            println!("broken: {broken}");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed > 0 {
            std::process::exit(1);
        }
        Ok(())
    }
}

/// What failed tests say themselves, without the logs of their nodes: whoever reads only the end of the output wants that.
fn causes(failures: &[String]) -> impl Iterator<Item = &String> {
    const LINES: usize = 5;
    let is_cause = |line: &str| line.starts_with("Error: ") || line.contains(" panicked at ");
    let starts = failures.iter().enumerate().filter(move |(_, line)| is_cause(line)).map(|(at, _)| at);
    starts.flat_map(|at| failures.iter().skip(at).take(LINES).filter(|line| !line.is_empty()))
}

/// `test result: ok. 3 passed; 0 failed; …`
fn result(line: &str) -> Option<(u64, u64)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let number = |word: &str| {
        counts
            .split("; ")
            .find_map(|count| count.strip_suffix(word))
            .and_then(|number| number.trim().parse().ok())
    };
    Some((number("passed")?, number("failed")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.0s";
        assert_eq!(result(line), Some((12, 3)));
        assert_eq!(result("test result: ok. 0 passed; 0 failed; 0 ignored"), Some((0, 0)));
        assert_eq!(result("test connect ... ok"), None);
    }

    #[test]
    fn failures_are_kept_for_the_end() {
        let mut tally = Tally::default();
        let log = [
            "test a ... FAILED",
            "failures:",
            "---- a stdout ----",
            "test result: FAILED. 0 passed; 1 failed",
            "x",
        ];
        log.into_iter().for_each(|line| tally.read(line));
        assert_eq!(
            (tally.failed, tally.failures),
            (1, vec!["failures:".to_owned(), "---- a stdout ----".to_owned()])
        );
    }

    #[test]
    fn what_a_failed_test_said_is_told_last() {
        let log = [
            "---- a stdout ----",
            "INFO up",
            "Error: not within 20s",
            "",
            "Caused by:",
            "    a found 1420",
            "",
            "INFO",
        ];
        let log = log.map(str::to_owned);
        assert_eq!(
            causes(&log).collect::<Vec<_>>(),
            ["Error: not within 20s", "Caused by:", "    a found 1420"]
        );
    }

    #[test]
    fn packages_are_named() {
        assert_eq!(package("path+file:///x/tests#meshhold-tests@0.1.0").as_deref(), Some("meshhold-tests"));
        assert_eq!(package("path+file:///x/xtask#0.1.0").as_deref(), Some("xtask"));
    }
}
