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
const UPSTREAM: &str = "127.0.0.99";
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow send_type="signal"/>
<allow receive_sender="*"/></policy></busconfig>"#;
const USER: &str = "systemd-resolve:x:991:991::/:/usr/sbin/nologin\n";

/// The running resolver.
#[derive(Debug)]
pub struct Resolver {
    host: Host,
    root: PathBuf,
    upstream: Process,
    _bus: Process,
    _resolved: Process,
}

impl Resolver {
    /// Starts it on `host`.
    pub fn start(host: &Host) -> Result<Self> {
        let root = unpacked()?;
        prepare(host)?;
        let upstream = host.spawn_tool("upstream", &["dns", UPSTREAM, "53", FOREIGN])?;
        let configuration = host.directory().join("bus.conf").to_string_lossy().into_owned();
        let bus =
            host.spawn("bus", "dbus-daemon", &[&format!("--config-file={configuration}"), "--nofork"])?;
        let socket = "/run/dbus/system_bus_socket";
        wait::until_true(PATIENCE, "the bus listens", || host.succeeds("test", &["-S", socket]))?;
        let program = root.join("lib/systemd/systemd-resolved");
        let variables = variables(&root);
        let resolved = host.spawn("resolved", "env", &[&variables, &program.to_string_lossy()])?;
        let resolver = Self { host: host.clone(), root, upstream, _bus: bus, _resolved: resolved };
        wait::until_true(PATIENCE, "resolved answers", || {
            Ok(resolver.run("resolvectl", &["status"]).is_ok())
        })?;
        Ok(resolver)
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

/// Own copies of the files that name the user and the name services, over the machine's; what /run needs.
fn prepare(host: &Host) -> Result<()> {
    let folder = host.directory();
    std::fs::write(folder.join("bus.conf"), BUS)?;
    for (file, line) in [("passwd", USER), ("group", "systemd-resolve:x:991:\n")] {
        let original = format!("/etc/{file}");
        let text = std::fs::read_to_string(&original)?;
        over(host, &original, &(text + line))?;
    }
    over(
        host,
        "/etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files resolve [!UNAVAIL=return] dns\n",
    )?;
    let settings =
        format!("[Resolve]\nDNS={UPSTREAM}\nDNSStubListener=no\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\n");
    let file = folder.join("resolved.conf");
    std::fs::write(&file, settings)?;
    let script = format!(
        "mkdir -p /run/dbus /run/systemd/resolved.conf.d /run/systemd/resolve && chown 991:991 /run/systemd/resolve && \
         cp {} /run/systemd/resolved.conf.d/lab.conf",
        file.display()
    );
    host.run("sh", &["-c", &script]).map(drop)
}

fn over(host: &Host, original: &str, text: &str) -> Result<()> {
    let copy = host.directory().join(original.replace('/', "_"));
    std::fs::write(&copy, text)?;
    host.run("mount", &["--bind", &copy.to_string_lossy(), original]).map(drop)
}
