//! The real firewalld and the real ufw on a host of the lab, and their commands as their users write them.
//!
//! The packages' files lie in the target folder (`cargo xtask setup` unpacks them there): installed, they would shut the
//! machine itself. Owns where they keep their settings.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::{Host, labtool};
use crate::process::Process;
use crate::resolver::BUS;
use crate::wait;

const PATIENCE: Duration = Duration::from_secs(20);

/// A running firewalld; ends when dropped, and leaves its rules.
#[derive(Debug)]
pub struct Firewalld {
    _bus: Process,
    _firewalld: Process,
}

impl Firewalld {
    /// With the settings of its package: everything is shut but ssh, mDNS and DHCP's answers.
    pub fn start(host: &Host) -> Result<Self> {
        let root = unpacked("firewalld", "usr/sbin/firewalld")?;
        let folder = host.directory();
        let (bus, settings) = (folder.join("firewall-bus.conf"), folder.join("firewalld"));
        std::fs::write(&bus, BUS)?;
        host.run(
            "sh",
            &[
                "-ec",
                &format!("mkdir -p /run/dbus; cp -a {}/etc/firewalld {}", root.display(), settings.display()),
            ],
        )?;
        let bus = host.spawn(
            "firewall-bus",
            "dbus-daemon",
            &[&format!("--config-file={}", bus.display()), "--nofork"],
        )?;
        let socket = "/run/dbus/system_bus_socket";
        wait::until_true(PATIENCE, "the bus listens", || host.succeeds("test", &["-S", socket]))?;
        tool(host, "firewall-cmd", &format!("{} {}/usr/bin/firewall-cmd", python(&root), root.display()))?;
        let start = format!(
            "exec {} {1}/usr/sbin/firewalld --nofork --nopid --system-config {2} --default-config {1}/usr/lib/firewalld --log-file {3}",
            python(&root),
            root.display(),
            settings.display(),
            folder.join("firewalld.log").display()
        );
        let firewalld = host.spawn("firewalld-output", "sh", &["-c", &start])?;
        wait::until_true(PATIENCE, "firewalld runs", || Ok(command(host, "firewall-cmd --state").is_ok()))?;
        Ok(Self { _bus: bus, _firewalld: firewalld })
    }
}

/// Turns ufw on, with the settings of its package: what comes in is shut.
pub fn ufw(host: &Host) -> Result<()> {
    let unpacked = unpacked("ufw", "usr/sbin/ufw")?;
    let root = host.directory().join("ufw");
    // What its install script does.
    let script =
        "cp -a $0 $1; cd $1; cp usr/share/ufw/*.init usr/share/ufw/ufw.conf usr/share/ufw/*.rules etc/ufw
        cp usr/share/ufw/iptables/*.rules etc/ufw";
    host.run("sh", &["-ec", script, &unpacked.to_string_lossy(), &root.to_string_lossy()])?;
    tool(
        host,
        "ufw",
        &format!("{} {1}/usr/sbin/ufw --rootdir={1} --datadir={1}", python(&root), root.display()),
    )?;
    command(host, "ufw --force enable").map(drop)
}

/// Runs a line as the host's user would in a shell.
pub fn command(host: &Host, line: &str) -> Result<String> {
    let path = format!("PATH={}:{}", tools(host).display(), std::env::var("PATH").unwrap_or_default());
    host.run("env", &[&path, "sh", "-ec", line])
}

/// A short name for a long command.
fn tool(host: &Host, name: &str, words: &str) -> Result<()> {
    std::fs::create_dir_all(tools(host))?;
    let file = tools(host).join(name);
    std::fs::write(&file, format!("#!/bin/sh\nexec {words} \"$@\"\n"))?;
    host.run("chmod", &["755", &file.to_string_lossy()]).map(drop)
}

fn tools(host: &Host) -> PathBuf {
    host.directory().join("tools")
}

/// Debian's own Python, which the packages' modules are made for.
fn python(root: &Path) -> String {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    format!(
        "env PYTHONPATH={}/usr/lib/python3/dist-packages LD_LIBRARY_PATH={1} GI_TYPELIB_PATH={1}/girepository-1.0 /usr/bin/python3",
        root.display(),
        libraries.display()
    )
}

fn unpacked(name: &str, program: &str) -> Result<PathBuf> {
    let tool = labtool()?;
    let target = Path::new(&tool).ancestors().nth(2).context("no target folder")?;
    let root = target.join("debian").join(name);
    ensure!(root.join(program).exists(), "run `cargo xtask setup`: {} is missing", root.display());
    Ok(root)
}
