//! Runs a command on a node and shows it as a user would have typed it, with what it printed.

use anyhow::{Result, ensure};
use meshhold_tests::Node;
use meshhold_tests::process::{Finished, finish};

/// A node whose commands are shown.
pub(super) struct Stage<'a>(pub(super) &'a Node);

impl Stage<'_> {
    /// `meshhold <arguments>`; yields what it printed on standard output.
    pub(super) fn meshhold(&self, arguments: &[&str]) -> Result<String> {
        self.show(&format!("meshhold {}", quote(arguments)));
        succeed(self.0.try_meshhold(arguments, "")?)
    }

    /// `meshhold <arguments> < file`, with `input` as the file.
    pub(super) fn meshhold_reading(&self, arguments: &[&str], input: &str, file: &str) -> Result<String> {
        self.show(&format!("meshhold {} < {file}", quote(arguments)));
        succeed(self.0.try_meshhold(arguments, input)?)
    }

    /// A shell command that must succeed.
    pub(super) fn shell(&self, command: &str) -> Result<String> {
        self.shell_shown(command, command)
    }

    /// A shell command with options that would only distract.
    pub(super) fn shell_shown(&self, shown: &str, command: &str) -> Result<String> {
        self.show(shown);
        succeed(self.run(command)?)
    }

    /// A shell command that may fail; whether it succeeded.
    pub(super) fn tries(&self, command: &str) -> Result<bool> {
        self.show(command);
        let finished = self.run(command)?;
        print(&finished);
        Ok(finished.status.success())
    }

    fn run(&self, command: &str) -> Result<Finished> {
        finish(self.0.host.namespace().command("sh").args(["-c", command]), "")
    }

    fn show(&self, command: &str) {
        println!("{}# {command}", self.0.host.name);
    }
}

/// A remark between commands.
pub(super) fn note(text: &str) {
    println!("  ({text})");
}

fn succeed(finished: Finished) -> Result<String> {
    print(&finished);
    ensure!(finished.status.success(), "the command failed: {}", finished.status);
    Ok(finished.stdout)
}

fn print(finished: &Finished) {
    for line in finished.stdout.lines().chain(finished.stderr.lines()) {
        println!("    {line}");
    }
}

fn quote(arguments: &[&str]) -> String {
    let quoted = |word: &&str| if word.contains(' ') { format!("\"{word}\"") } else { (*word).to_owned() };
    arguments.iter().map(quoted).collect::<Vec<_>>().join(" ")
}
