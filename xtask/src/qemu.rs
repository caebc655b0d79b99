//! A virtual machine by qemu without hardware support (TCG): a kernel and an initrd, disks, a serial console that goes to a file.
//!
//! It ends with its guard, by its own process id. Knows nothing of what runs inside.

#![allow(dead_code, reason = "the tasks that boot machines use it")]

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use meshhold_tests::process::Process;
use meshhold_tests::wait;

use crate::setup;

/// Debian packages that this needs.
const PACKAGES: [&str; 2] = ["qemu-system-x86", "seabios"];
/// TCG of qemu 7.2 gets cmpxchg16b wrong: kernels corrupt their slabs with it.
const PROCESSOR: &str = "max,-cx16,-la57";
/// The guest gives way to everything else on this machine.
const NICE: &str = "15";
/// Console of the guest, and what it does after a panic: it ends.
const APPEND: &str = "console=ttyS0 panic=-1";

/// What is booted.
#[derive(Debug, Clone)]
pub(crate) struct Boot {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    /// Words for the kernel's command line, beside the console's.
    pub(crate) append: String,
    pub(crate) memory_mib: u32,
    /// Raw images: `vda`, `vdb`, … in the guest.
    pub(crate) disks: Vec<Disk>,
    /// More of qemu's own arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Where everything that the guest's console shows goes.
    pub(crate) console: PathBuf,
    /// Whether it starts again where the guest asks for that; else it ends.
    pub(crate) again: bool,
}

/// A raw image, which stays as it is.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    image: PathBuf,
    mode: &'static str,
}

/// A running machine; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Machine {
    process: Process,
    console: PathBuf,
    monitor: PathBuf,
}

/// Installs qemu where it is missing.
pub(crate) fn install() -> Result<()> {
    setup::debian(&PACKAGES)
}

impl Boot {
    /// Starts it on this machine's network (of which it gets nothing unless `arguments` say so).
    pub(crate) fn start(&self) -> Result<Machine> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
        self.start_by(command)
    }

    /// As [`Self::start`], by a command that runs qemu somewhere else: in a namespace.
    pub(crate) fn start_by(&self, mut qemu: Command) -> Result<Machine> {
        let monitor = self.console.with_extension("monitor");
        qemu.args(["-accel", "tcg", "-cpu", PROCESSOR, "-smp", "1"])
            .args(["-display", "none", "-nodefaults"])
            .args((!self.again).then_some("-no-reboot"))
            .args(["-m", &self.memory_mib.to_string()])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initrd)
            .args(["-append", &format!("{APPEND} {}", self.append)])
            .args(["-serial", &format!("file:{}", self.console.display())])
            .args(["-monitor", &format!("unix:{},server,nowait", monitor.display())]);
        for disk in &self.disks {
            let Disk { image, mode } = disk;
            qemu.args(["-drive", &format!("file={},if=virtio,format=raw,{mode}", image.display())]);
        }
        let mut command = Command::new("nice");
        command.args(["-n", NICE]).arg(qemu.get_program()).args(qemu.get_args()).args(&self.arguments);
        let process = Process::spawn(command, "qemu", &self.console.with_extension("qemu"))?;
        Ok(Machine { process, console: self.console.clone(), monitor })
    }
}

impl Disk {
    /// The guest can't write.
    pub(crate) fn read_only(image: &Path) -> Self {
        Self { image: image.to_owned(), mode: "readonly=on" }
    }

    /// The guest writes, and all that is gone with the machine.
    pub(crate) fn scratch(image: &Path) -> Self {
        Self { image: image.to_owned(), mode: "snapshot=on" }
    }
}

impl Machine {
    /// What the console has shown so far, without carriage returns.
    pub(crate) fn console(&self) -> Result<String> {
        let bytes = std::fs::read(&self.console)
            .with_context(|| format!("cannot read the console's log {}", self.console.display()))?;
        Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
    }

    /// Waits until the machine has switched itself off, and yields what its console showed.
    pub(crate) fn wait_off(&mut self, limit: Duration) -> Result<String> {
        if let Err(error) = self.process.wait(limit) {
            bail!("{error:#}; the console's end:\n{}", tail(&self.console().unwrap_or_default()));
        }
        self.console()
    }

    /// Waits until `probe` yields something; a machine that ends meanwhile is an error.
    pub(crate) fn wait_until<T>(
        &mut self,
        limit: Duration,
        what: &str,
        mut probe: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let process = &mut self.process;
        let found = wait::until(limit, what, || {
            if process.is_running()? { probe().map(|found| found.map(Some)) } else { Ok(Some(None)) }
        });
        match found {
            Ok(Some(found)) => Ok(found),
            Ok(None) => bail!(
                "the machine ended before this: {what}\n{}{}",
                self.process.log().unwrap_or_default(),
                tail(&self.console().unwrap_or_default())
            ),
            Err(error) => {
                bail!("{error:#}; the console's end:\n{}", tail(&self.console().unwrap_or_default()))
            }
        }
    }

    /// Gives a line to qemu's monitor: `set_link n0 off`.
    pub(crate) fn command(&self, line: &str) -> Result<()> {
        let mut monitor = UnixStream::connect(&self.monitor)
            .with_context(|| format!("no monitor of qemu at {}", self.monitor.display()))?;
        writeln!(monitor, "{line}").with_context(|| format!("cannot tell qemu's monitor `{line}`"))
    }
}

/// The last lines of a console.
fn tail(text: &str) -> String {
    const LINES: usize = 25;
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(LINES)).map(|line| format!("    {line}\n")).collect()
}
