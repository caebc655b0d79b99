//! A real systemd-resolved on a host of the lab, with a bus of its own and without systemd.
//!
//! Owns what that needs: a bus, a user, and a name server for everything foreign. The packages' files lie in the target folder
//! (`cargo xtask setup` unpacks them there): their install scripts would change the machine's own resolver.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::{Host, labtool};
use crate::process::Process;
use crate::wait;

const PATIENCE: Duration = Duration::from_secs(10);
/// What the foreign name server answers to everything.
pub const FOREIGN: &str = "192.0.2.99";
/// Where the foreign name server listens.
pub const UPSTREAM: &str = "127.0.0.99";
/// Lets everybody do everything.
pub(crate) const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow send_type="signal"/>
<allow receive_sender="*"/></policy></busconfig>"#;
const FOLDER: &str = "/run/systemd/resolve";
const USER: &str = "systemd-resolve:x:991:991::/:/usr/sbin/nologin\n";

/// The resolver of a host, running or not.
#[derive(Debug)]
pub struct Resolver {
    host: Host,
    root: PathBuf,
    upstream: Process,
    _bus: Process,
    resolved: Option<Process>,
}

impl Resolver {
    /// Starts it on `host`.
    pub fn start(host: &Host) -> Result<Self> {
        let mut resolver = Self::stopped(host)?;
        resolver.launch()?;
        Ok(resolver)
    }

    /// Everything but resolved itself, which [`Self::launch`] starts.
    pub fn stopped(host: &Host) -> Result<Self> {
        let root = unpacked()?;
        prepare(host)?;
        let upstream = host.spawn_tool("upstream", &["dns", UPSTREAM, "53", FOREIGN])?;
        let configuration = host.directory().join("bus.conf").to_string_lossy().into_owned();
        let bus =
            host.spawn("bus", "dbus-daemon", &[&format!("--config-file={configuration}"), "--nofork"])?;
        let socket = "/run/dbus/system_bus_socket";
        wait::until_true(PATIENCE, "the bus listens", || host.succeeds("test", &["-S", socket]))?;
        Ok(Self { host: host.clone(), root, upstream, _bus: bus, resolved: None })
    }

    /// Starts resolved and waits until it answers.
    pub fn launch(&mut self) -> Result<()> {
        let program = self.root.join("lib/systemd/systemd-resolved");
        // Its own folder, as its unit's RuntimeDirectory.
        self.host.run("sh", &["-c", &format!("mkdir -p {FOLDER} && chown 991:991 {FOLDER}")])?;
        let resolved =
            self.host.spawn("resolved", "env", &[&variables(&self.root), &program.to_string_lossy()])?;
        self.resolved = Some(resolved);
        wait::until_true(PATIENCE, "resolved answers", || Ok(self.run("resolvectl", &["status"]).is_ok()))
    }

    /// Ends resolved, and takes its folder away as systemd does.
    pub fn end(&mut self) -> Result<()> {
        self.resolved.take().context("resolved doesn't run")?.terminate(PATIENCE)?;
        self.host.run("rm", &["-r", FOLDER]).map(drop)
    }

    /// What goes before a daemon's command line so that it finds `resolvectl`.
    pub fn wrapper(&self) -> Vec<&'static str> {
        let path = format!(
            "PATH={}:{}",
            self.root.join("usr/bin").display(),
            std::env::var("PATH").unwrap_or_default()
        );
        vec!["env", path.leak(), variables(&self.root).leak()]
    }

    /// Runs a program that uses the resolver and yields its output.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let unpacked = self.root.join("usr/bin").join(program);
        let program =
            if unpacked.exists() { unpacked.to_string_lossy().into_owned() } else { program.to_owned() };
        let variables = variables(&self.root);
        self.host.run("env", &[&[variables.as_str(), &program], arguments].concat())
    }

    /// Lets programs of the host pass resolved by: they ask `nameserver`, as another program wrote into `/etc`.
    pub fn bypass(&self, nameserver: &str) -> Result<()> {
        lookups(&self.host, "files dns", nameserver)
    }

    /// What resolved is set to, for each interface.
    pub fn state(&self) -> Result<String> {
        let parts = ["dns", "domain", "llmnr", "mdns", "dnssec"];
        parts.into_iter().map(|part| self.run("resolvectl", &["--no-pager", part])).collect()
    }

    /// Names that were asked of the foreign name server.
    pub fn foreign_questions(&self) -> Result<String> {
        self.upstream.log()
    }
}

fn variables(root: &Path) -> String {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    format!("LD_LIBRARY_PATH={0}:{0}/systemd", libraries.display())
}

fn unpacked() -> Result<PathBuf> {
    let tool = labtool()?;
    let target = Path::new(&tool).ancestors().nth(2).context("no target folder")?;
    let root = target.join("debian/resolved");
    ensure!(
        root.join("lib/systemd/systemd-resolved").exists(),
        "run `cargo xtask setup`: {} is missing",
        root.display()
    );
    Ok(root)
}

/// A layer of its own over `/etc`, with the files that name the user and the name services; what /run needs.
fn prepare(host: &Host) -> Result<()> {
    let layer = "mkdir -p /run/etc/upper /run/etc/work && \
        mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc";
    host.run("sh", &["-c", layer])?;
    std::fs::write(host.directory().join("bus.conf"), BUS)?;
    for (file, line) in [("/etc/passwd", USER), ("/etc/group", "systemd-resolve:x:991:\n")] {
        let text = std::fs::read_to_string(file)?;
        write(host, file, &(text + line))?;
    }
    lookups(host, "files resolve [!UNAVAIL=return] dns", UPSTREAM)?;
    host.run("mkdir", &["-p", "/run/dbus", "/run/systemd/resolved.conf.d"])?;
    let settings = format!("[Resolve]\nDNS={UPSTREAM}\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\n");
    write(host, "/run/systemd/resolved.conf.d/lab.conf", &settings)
}

/// Makes programs look names up by these services of `/etc/nsswitch.conf` and this name server.
fn lookups(host: &Host, services: &str, nameserver: &str) -> Result<()> {
    let services = format!("passwd: files\ngroup: files\nhosts: {services}\n");
    write(host, "/etc/nsswitch.conf", &services)?;
    write(host, "/etc/resolv.conf", &format!("nameserver {nameserver}\n"))
}

/// A new file in the place of what is there, a link or not.
fn write(host: &Host, path: &str, text: &str) -> Result<()> {
    let copy = host.directory().join(path.replace('/', "_"));
    std::fs::write(&copy, text)?;
    host.run("cp", &["--remove-destination", &copy.to_string_lossy(), path]).map(drop)
}
