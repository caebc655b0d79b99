//! Topology: one LAN (a bridge in a namespace) and hosts on it, each with an own network and mount namespace.
//!
//! Namespaces have no names: they live as long as the process that holds them, so that a killed test leaves nothing.

use std::cell::Cell;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::process::{Process, finish, output};
use crate::wait;

/// Hard limit of one test.
const TEST_LIMIT: Duration = Duration::from_secs(240);
const READY_LIMIT: Duration = Duration::from_secs(10);
const LOG_TAIL: usize = 40;

/// Own sysfs, bpffs and /run for each host: daemons must not meet there, nor touch the real machine's.
const HOLD: &str = "mount -t sysfs sysfs /sys && mount -t bpf bpf /sys/fs/bpf && mount -t tmpfs tmpfs /run \
    && mkdir -p /run/sshd && for all in all default; do echo 0 > /proc/sys/net/ipv6/conf/$all/accept_dad; done \
    && ip link set lo up && echo ready && exec sleep infinity";

/// How long the lab's processes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until the lab is dropped or its process dies.
    Scoped,
    /// Until somebody ends them.
    Kept,
}

/// A LAN with hosts.
#[derive(Debug)]
pub struct Lab {
    name: String,
    meshhold: PathBuf,
    lifetime: Lifetime,
    directory: TempDir,
    lan: Namespace,
    hosts: Cell<u8>,
    failed: Cell<bool>,
    _watchdog: Option<mpsc::Sender<()>>,
}

/// Runs one lab test: builds the lab, and prints all logs if the test fails.
pub fn run(name: &str, test: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    run_within(TEST_LIMIT, name, test)
}

/// As [`run`], with another hard limit than other tests.
pub fn run_within(limit: Duration, name: &str, test: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let mut lab = Lab::new(name, &sibling("meshhold")?, Lifetime::Scoped)?;
    lab._watchdog = Some(watch(limit, name));
    let outcome = test(&lab);
    lab.failed.set(outcome.is_err());
    outcome
}

impl Lab {
    /// An empty LAN; `meshhold` is the daemon's executable.
    pub fn new(name: &str, meshhold: &Path, lifetime: Lifetime) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix(&format!("meshhold-{name}-")).tempdir()?;
        let lan = Namespace::new("lan", directory.path(), lifetime)?;
        for command in [
            "link add br0 type bridge mcast_snooping 0",
            "link set br0 address 02:00:00:00:00:fe",
            "link set br0 up",
        ] {
            lan.ip(command)?;
        }
        let (hosts, failed) = (Cell::new(0), Cell::new(false));
        let meshhold = meshhold.to_owned();
        Ok(Self { name: name.to_owned(), meshhold, lifetime, directory, lan, hosts, failed, _watchdog: None })
    }

    /// Adds a host to the LAN: `eth0` with 10.90.0.N/24 and fd00:90::N/64.
    pub fn host(&self, name: &str) -> Result<Host> {
        let number = self.hosts.get() + 1;
        self.hosts.set(number);
        let host = Host::new(name, number, self.directory.path(), &self.meshhold, self.lifetime)?;
        let (Host { ipv4, ipv6, .. }, pid) = (&host, host.namespace.pid());
        self.lan.ip(&format!("link add p{number} type veth peer name eth0 netns {pid}"))?;
        self.lan.ip(&format!("link set p{number} master br0 up"))?;
        host.plug_in()?;
        println!("{}: {name} = {ipv4}, {ipv6} on br0 (namespaces of process {pid})", self.name);
        Ok(host)
    }

    /// A machine without MeshHold on a LAN of its own behind `gateway`: there 192.168.N.1 and fd00:168:N::1 on `lanN`, here
    /// 192.168.N.2 and fd00:168:N::2 on `eth0`, and no route to anywhere else.
    pub fn device(&self, gateway: &Host, name: &str) -> Result<Host> {
        let number = self.hosts.get() + 1;
        self.hosts.set(number);
        let mut host = Host::new(name, number, self.directory.path(), &self.meshhold, self.lifetime)?;
        host.ipv4 = Ipv4Addr::new(192, 168, number, 2);
        host.ipv6 = Ipv6Addr::new(0xfd00, 0x168, number.into(), 0, 0, 0, 0, 2);
        host.gateway = Some(gateway.namespace.clone());
        let pid = host.namespace.pid();
        gateway.namespace.ip(&format!("link add lan{number} type veth peer name eth0 netns {pid}"))?;
        gateway.namespace.ip(&format!("address add 192.168.{number}.1/24 dev lan{number}"))?;
        gateway.namespace.ip(&format!("address add fd00:168:{number}::1/64 dev lan{number} nodad"))?;
        gateway.namespace.ip(&format!("link set lan{number} up"))?;
        host.plug_in()?;
        println!("{}: {name} = {}, {} behind {}", self.name, host.ipv4, host.ipv6, gateway.name);
        Ok(host)
    }

    /// A second cable from `host` to the LAN: `eth1` with 10.90.0.(N + 100), not up yet.
    pub fn uplink(&self, host: &Host) -> Result<Ipv4Addr> {
        let ([a, b, c, number], pid) = (host.ipv4.octets(), host.namespace.pid());
        let address = Ipv4Addr::new(a, b, c, number + 100);
        self.lan.ip(&format!("link add q{number} type veth peer name eth1 netns {pid}"))?;
        self.lan.ip(&format!("link set q{number} master br0 up"))?;
        host.namespace.ip(&format!("address add {address}/24 dev eth1"))?;
        Ok(address)
    }

    /// [`Host::chain`] beside the LAN, which it is not connected to.
    pub fn chain(&self, relays: u8) -> Result<Vec<Host>> {
        Host::chain(self.directory(), &self.meshhold, relays)
    }

    /// The namespace with the bridge, where everything on the wire can be seen.
    pub fn lan(&self) -> &Namespace {
        &self.lan
    }

    /// Where the hosts' files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Leaves files in place when the lab is dropped.
    pub fn keep_files(&mut self) {
        self.directory.disable_cleanup(true);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.failed.get() || std::thread::panicking() {
            print_logs(self.directory.path());
        }
    }
}

/// A machine on the LAN, or at the end of a cable.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its name in the lab.
    pub name: String,
    /// Underlay IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Underlay IPv6 address.
    pub ipv6: Ipv6Addr,
    /// The daemon's executable.
    pub meshhold: PathBuf,
    directory: PathBuf,
    namespace: Arc<Namespace>,
    /// The machine at the other end of its cable lives as long.
    gateway: Option<Arc<Namespace>>,
}

impl Host {
    /// A host that is on no network yet; number N has 10.90.0.N and fd00:90::N. Its folder is made in `parent`.
    fn new(name: &str, number: u8, parent: &Path, meshhold: &Path, lifetime: Lifetime) -> Result<Self> {
        let directory = parent.join(name);
        std::fs::create_dir(&directory)?;
        let namespace = Arc::new(Namespace::new(name, &directory, lifetime)?);
        let ipv4 = Ipv4Addr::new(10, 90, 0, number);
        let ipv6 = Ipv6Addr::new(0xfd00, 0x90, 0, 0, 0, 0, 0, number.into());
        Ok(Self {
            name: name.to_owned(),
            ipv4,
            ipv6,
            meshhold: meshhold.to_owned(),
            directory,
            namespace,
            gateway: None,
        })
    }

    /// Two hosts, `a` and `b`, with nothing but a veth pair between them.
    pub fn pair(directory: &Path, meshhold: &Path) -> Result<(Self, Self)> {
        let a = Self::new("a", 1, directory, meshhold, Lifetime::Scoped)?;
        let b = Self::new("b", 2, directory, meshhold, Lifetime::Scoped)?;
        let other = b.namespace.pid();
        a.namespace.ip(&format!("link add eth0 type veth peer name eth0 netns {other}"))?;
        a.plug_in()?;
        b.plug_in()?;
        Ok((a, b))
    }

    /// `a`, so many relays `r1`, `r2`, …, and `b`, with a veth pair between neighbours: cable N is `right` at its left end with
    /// 10.91.N.1/24 and `left` at the other with 10.91.N.2/24. No IPv6, and no route to anything further away.
    pub fn chain(directory: &Path, meshhold: &Path, relays: u8) -> Result<Vec<Self>> {
        let inner = (1..=relays).map(|number| format!("r{number}"));
        let names = ["a".to_owned()].into_iter().chain(inner).chain(["b".to_owned()]);
        let mut hosts: Vec<Self> = Vec::new();
        for (cable, name) in (0..).zip(names) {
            let mut host = Self::new(&name, cable, directory, meshhold, Lifetime::Scoped)?;
            (host.ipv4, host.ipv6) = (Ipv4Addr::new(10, 91, cable, 2), Ipv6Addr::UNSPECIFIED);
            match hosts.last_mut() {
                Some(left) => left.connect(&host, cable)?,
                None => host.ipv4 = Ipv4Addr::new(10, 91, 1, 1),
            }
            hosts.push(host);
        }
        Ok(hosts)
    }

    fn connect(&self, right: &Self, cable: u8) -> Result<()> {
        let pid = right.namespace.pid();
        self.namespace.ip(&format!("link add right type veth peer name left netns {pid}"))?;
        for (host, interface, end) in [(self, "right", 1), (right, "left", 2)] {
            host.namespace.ip(&format!("address add 10.91.{cable}.{end}/24 dev {interface}"))?;
            host.namespace.ip(&format!("link set {interface} up"))?;
        }
        Ok(())
    }

    /// Gives `eth0` the host's addresses and brings it up.
    fn plug_in(&self) -> Result<()> {
        self.namespace.ip(&format!("address add {}/24 dev eth0", self.ipv4))?;
        self.namespace.ip(&format!("address add {}/64 dev eth0 nodad", self.ipv6))?;
        self.namespace.ip("link set eth0 up").map(drop)
    }

    /// The host's own folder for configuration, data and logs.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The namespaces it lives in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Runs a program on the host and yields its output; a failure is an error.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        output(self.namespace.command(program).args(arguments))
            .with_context(|| format!("on host {}", self.name))
    }

    /// Runs a program on the host and tells whether it succeeded.
    pub fn succeeds(&self, program: &str, arguments: &[&str]) -> Result<bool> {
        Ok(finish(self.namespace.command(program).args(arguments), "")?.status.success())
    }

    /// Sends so many pings and yields how many replies and errors came back.
    pub fn ping(&self, address: IpAddr, count: u32) -> Result<(u32, u32)> {
        let command = format!("ping -n -q -i 0.002 -W 1 -c {count} {address} 2>&1 || true");
        let printed = self.run("sh", &["-c", &command])?;
        let number = |suffix: &str| {
            let words = printed.split(", ").find_map(|part| part.strip_suffix(suffix));
            words.and_then(|words| words.split_whitespace().last()?.trim_start_matches('+').parse().ok())
        };
        let received = number(" received").with_context(|| format!("no count: {printed}"))?;
        Ok((received, number(" errors").unwrap_or_default()))
    }

    /// Starts a program in the background; its output goes to `<label>.log` in the host's folder.
    pub fn spawn(&self, label: &str, program: &str, arguments: &[&str]) -> Result<Process> {
        let mut command = self.namespace.command(program);
        command.args(arguments);
        self.namespace.spawn(command, label, &self.log_path(label))
    }

    /// Runs the lab's helper on the host.
    pub fn tool(&self, arguments: &[&str]) -> Result<String> {
        self.run(&labtool()?, arguments)
    }

    /// Starts the lab's helper in the background.
    pub fn spawn_tool(&self, label: &str, arguments: &[&str]) -> Result<Process> {
        self.spawn(label, &labtool()?, arguments)
    }

    /// A UDP socket of this host, for the test itself.
    pub fn udp_socket(&self, bind: SocketAddr) -> Result<UdpSocket> {
        let file = File::open(format!("/proc/{}/ns/net", self.namespace.pid()))?;
        // The namespace is left with the thread that entered it; the socket stays there.
        let inside = std::thread::spawn(move || -> Result<UdpSocket> {
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
            Ok(UdpSocket::bind(bind)?)
        });
        let Ok(socket) = inside.join() else { bail!("the thread in {} panicked", self.name) };
        socket.with_context(|| format!("cannot bind {bind} on host {}", self.name))
    }

    /// Where the output of the background process `label` goes.
    pub fn log_path(&self, label: &str) -> PathBuf {
        self.directory.join(format!("{label}.log"))
    }
}

/// A network and a mount namespace, held by a sleeping process.
#[derive(Debug)]
pub struct Namespace {
    holder: Process,
    lifetime: Lifetime,
}

impl Namespace {
    fn new(name: &str, directory: &Path, lifetime: Lifetime) -> Result<Self> {
        let mut command = Command::new("setpriv");
        if lifetime == Lifetime::Scoped {
            command.args(["--pdeathsig", "KILL"]);
        }
        command.args([
            "--",
            "unshare",
            "--net",
            "--mount",
            "--propagation",
            "private",
            "--",
            "sh",
            "-c",
            HOLD,
        ]);
        let mut holder = Process::spawn(command, name, &directory.join(format!("{name}-holder.log")))?;
        if lifetime == Lifetime::Kept {
            holder.detach();
        }
        wait::until_true(READY_LIMIT, &format!("namespaces of {name} are ready"), || {
            ensure!(holder.is_running()?, "cannot make namespaces (root?): {}", holder.log()?);
            Ok(holder.log()?.contains("ready"))
        })?;
        Ok(Self { holder, lifetime })
    }

    /// Process id that `nsenter -t` takes.
    pub fn pid(&self) -> u32 {
        self.holder.pid()
    }

    /// A command that will run inside, and die with this process unless the lab is kept.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid().to_string(), "-n", "-m", "--", "setpriv"]);
        if self.lifetime == Lifetime::Scoped {
            command.args(["--pdeathsig", "KILL"]);
        }
        command.args(["--", program]);
        command
    }

    /// Starts a command made by [`Self::command`] in the background.
    pub fn spawn(&self, command: Command, label: &str, log: &Path) -> Result<Process> {
        let mut process = Process::spawn(command, label, log)?;
        if self.lifetime == Lifetime::Kept {
            process.detach();
        }
        Ok(process)
    }

    /// Runs `ip` with the words of `arguments`.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        output(self.command("ip").args(arguments.split_whitespace()))
    }
}

/// The lab's helper program.
pub fn labtool() -> Result<String> {
    let path = sibling("labtool")?;
    path.to_str().map(str::to_owned).context("the target folder's path is not UTF-8")
}

/// What `cargo xtask bench` loads and compares with; its bare tunnel is a TUN device with another end.
pub fn benchtool() -> Result<String> {
    let path = sibling("benchtool")?;
    path.to_str().map(str::to_owned).context("the target folder's path is not UTF-8")
}

/// What goes before a daemon's command line so that it runs as on a kernel without IPv6.
pub fn without_ipv6() -> Result<Vec<&'static str>> {
    Ok(vec![labtool()?.leak(), "without-ipv6"])
}

/// A program of this build: `$MESHHOLD_BIN` for the daemon, else the file next to the running test.
fn sibling(name: &str) -> Result<PathBuf> {
    if let (true, Some(path)) = (name == "meshhold", std::env::var_os("MESHHOLD_BIN")) {
        return Ok(path.into());
    }
    let test = std::env::current_exe()?;
    let folder = test.ancestors().nth(2).context("the test has no target folder")?;
    let path = folder.join(name);
    ensure!(path.is_file(), "{} is missing: run `cargo build -p meshhold -p meshhold-tests`", path.display());
    Ok(path)
}

/// Ends the whole test run when a test exceeds its limit: all its processes die with it.
fn watch(limit: Duration, name: &str) -> mpsc::Sender<()> {
    let (alive, over) = mpsc::channel();
    let name = name.to_owned();
    std::thread::spawn(move || {
        if over.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{name}: not over after {limit:?}, giving up");
            std::process::exit(101);
        }
    });
    alive
}

fn print_logs(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            print_logs(&path);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            print_tail(&path);
        }
    }
}

fn print_tail(path: &Path) {
    let Ok(text) = std::fs::read(path) else { return };
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    println!("---- {} (last {LOG_TAIL} of {} lines)", path.display(), lines.len());
    for line in lines.iter().skip(lines.len().saturating_sub(LOG_TAIL)) {
        println!("{line}");
    }
}
