//! What the lab asks of a running system: shell commands over a virtio serial port, which needs no network.
//!
//! The other end is `guest/agent.py`. Where the system has no machine of its own, they are run in its namespaces.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use meshhold_tests::process::{Finished, finish};
use meshhold_tests::wait;
use serde_json::{Value, json};

/// How long one command may take on a slow machine.
const COMMAND: Duration = Duration::from_secs(300);

/// Systemd's own tools give up on each other after 25 s, which is little for an emulated machine.
const ENVIRONMENT: &str = "export SYSTEMD_BUS_TIMEOUT=600s";

/// The way in.
#[derive(Debug)]
pub(super) enum Guest {
    /// To the agent.
    Port(Port),
    /// To the namespaces of the process with this id.
    Inside(u32),
}

/// The way to the agent.
#[derive(Debug)]
pub(super) struct Port {
    socket: PathBuf,
    connection: Option<BufReader<UnixStream>>,
    number: u64,
}

/// How a command ended.
#[derive(Debug)]
pub(super) struct Answer {
    /// Exit code; negative: the signal that ended it.
    pub(super) code: i32,
    /// What it printed, errors included.
    pub(super) output: String,
}

impl Guest {
    /// qemu's arguments for the port, whose other end is `socket`.
    pub(super) fn arguments(socket: &Path) -> Vec<OsString> {
        let chardev = format!("socket,id=agent,path={},server=on,wait=off", socket.display());
        let words = [
            "-device",
            "virtio-serial-pci",
            "-chardev",
            &chardev,
            "-device",
            "virtserialport,chardev=agent,name=lab",
        ];
        words.map(OsString::from).into()
    }

    pub(super) fn new(socket: &Path) -> Self {
        Self::Port(Port { socket: socket.to_owned(), connection: None, number: 0 })
    }

    /// Into the namespaces of a system's first process.
    pub(super) fn inside(pid: u32) -> Self {
        Self::Inside(pid)
    }

    /// Runs a shell command to its end.
    pub(super) fn ask(&mut self, command: &str) -> Result<Answer> {
        self.ask_within(COMMAND, command)
    }

    /// As [`Self::ask`], for something that may have no answer.
    pub(super) fn ask_within(&mut self, limit: Duration, command: &str) -> Result<Answer> {
        let answer = match self {
            Self::Port(port) => port.ask(limit, command),
            Self::Inside(pid) => enter(*pid, command),
        };
        answer.with_context(|| format!("in the machine: {command}"))
    }

    /// A command that must succeed; yields what it printed.
    pub(super) fn run(&mut self, command: &str) -> Result<String> {
        let Answer { code, output, .. } = self.ask(command)?;
        if code != 0 {
            bail!("in the machine, `{command}` ended with {code}: {output}");
        }
        Ok(output)
    }

    /// Waits until a command succeeds; yields how long that took.
    pub(super) fn wait(&mut self, limit: Duration, command: &str) -> Result<Duration> {
        let (begin, mut last) = (Instant::now(), String::new());
        let outcome = wait::until_true(limit, command, || {
            let Answer { code, output, .. } = self.ask(command)?;
            last = output;
            Ok(code == 0)
        });
        outcome.with_context(|| format!("the last answer was: {}", last.trim()))?;
        Ok(begin.elapsed())
    }
}

impl Port {
    fn ask(&mut self, limit: Duration, command: &str) -> Result<Answer> {
        let answer = self.exchange(limit, command);
        if answer.is_err() {
            // Half an answer may be on its way.
            self.connection = None;
        }
        answer
    }

    fn exchange(&mut self, limit: Duration, command: &str) -> Result<Answer> {
        self.number += 1;
        let request = json!({ "id": self.number, "run": format!("{ENVIRONMENT}; {command}") });
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => BufReader::new(UnixStream::connect(&self.socket).context("no socket of qemu's")?),
        };
        writeln!(connection.get_mut(), "{request}")?;
        let deadline = Instant::now() + limit;
        let answer = loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            connection.get_mut().set_read_timeout(Some(left))?;
            let mut line = String::new();
            let read =
                connection.read_line(&mut line).with_context(|| format!("no answer within {limit:?}"))?;
            ensure!(read > 0, "the machine is gone");
            // What was asked before a reboot may be answered now.
            if let Some(answer) = Answer::read(&line, self.number) {
                break answer;
            }
        };
        self.connection = Some(connection);
        Ok(answer)
    }
}

fn enter(pid: u32, command: &str) -> Result<Answer> {
    let mut inside = Command::new("nsenter");
    inside.args([
        "--target",
        &pid.to_string(),
        "--mount",
        "--net",
        "--pid",
        "--uts",
        "--ipc",
        "--cgroup",
        "--root",
        "--wdns=/",
    ]);
    inside.args(["env", "-i", "PATH=/usr/sbin:/usr/bin", "HOME=/root", "sh", "-c", command]);
    let Finished { status, stdout, stderr } = finish(&mut inside, "")?;
    Ok(Answer { code: status.code().unwrap_or(-1), output: stdout + &stderr })
}

impl Answer {
    /// The answer to request `number`, if the line is that.
    fn read(line: &str, number: u64) -> Option<Self> {
        let answer: Value = serde_json::from_str(line).ok()?;
        let code = answer["code"].as_i64().and_then(|code| i32::try_from(code).ok())?;
        let output = answer["output"].as_str()?.to_owned();
        (answer["id"].as_u64() == Some(number)).then_some(Self { code, output })
    }
}
