//! Child processes: each is owned by a guard that ends it by its own id, and writes to a file that a test can read.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait;

/// Longest run of a foreground command before it counts as hung.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const EXIT_POLL: Duration = Duration::from_millis(2);

/// A running process; dropping it kills the process, unless it was detached.
#[derive(Debug)]
pub struct Process {
    child: Child,
    label: String,
    log: PathBuf,
    detached: bool,
}

impl Process {
    /// Starts `command` with its output in the file `log`.
    pub fn spawn(mut command: Command, label: &str, log: &Path) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let errors = output.try_clone()?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().with_context(|| format!("cannot start {label}: {command:?}"))?;
        Ok(Self { child, label: label.to_owned(), log: log.to_owned(), detached: false })
    }

    /// Lets the process outlive this guard.
    pub fn detach(&mut self) {
        self.detached = true;
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Everything it has written so far.
    pub fn log(&self) -> Result<String> {
        let bytes = fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Sends a signal by name (`TERM`, `HUP`).
    pub fn signal(&self, name: &str) -> Result<()> {
        let pid = self.pid().to_string();
        output(Command::new("kill").args(["-s", name, &pid])).map(drop)
    }

    /// SIGTERM, then waits for the exit.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal("TERM")?;
        let what = format!("{} exits after SIGTERM", self.label);
        wait::until(limit, &what, || Ok(self.child.try_wait()?))
    }

    /// SIGKILL, and reaps it.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.label);
        wait::until(limit, &what, || Ok(self.child.try_wait()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.detached {
            return;
        }
        // Already ended is as good as ended now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Output of a finished command.
#[derive(Debug)]
pub struct Finished {
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a command to its end, whatever its status, with `input` on its standard input.
pub fn finish(command: &mut Command, input: &str) -> Result<Finished> {
    let shown = format!("{command:?}");
    let (mut stdin, mut stdout, mut stderr) =
        (tempfile::tempfile()?, tempfile::tempfile()?, tempfile::tempfile()?);
    std::io::Write::write_all(&mut stdin, input.as_bytes())?;
    stdin.rewind()?;
    command.stdin(stdin).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let mut child = command.spawn().with_context(|| format!("cannot start {shown}"))?;
    let deadline = std::time::Instant::now() + COMMAND_LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if std::time::Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("hung for {COMMAND_LIMIT:?}: {shown}");
        }
        std::thread::sleep(EXIT_POLL);
    };
    Ok(Finished { status, stdout: read_back(&mut stdout)?, stderr: read_back(&mut stderr)? })
}

/// Runs a command that must succeed and yields its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    output_with_input(command, "")
}

/// As [`output`], with `input` on its standard input.
pub fn output_with_input(command: &mut Command, input: &str) -> Result<String> {
    let finished = finish(command, input)?;
    if !finished.status.success() {
        bail!("{} from {command:?}\n{}{}", finished.status, finished.stdout, finished.stderr);
    }
    Ok(finished.stdout)
}

fn read_back(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
