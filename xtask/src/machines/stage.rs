//! The stage of the machine lab: a LAN with a second member and an outsider in namespaces, and the machine with a tap on it.
//!
//! Owns what is where and how the machine comes up. Must not know what is tried on it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meshhold_tests::lab::{Host, Lab, Lifetime};
use meshhold_tests::process::Process;
use meshhold_tests::service::Sshd;
use meshhold_tests::{Node, Settings, wait};
use serde_json::Value;

use super::boxed::{self, Boxed};
use super::guest::Guest;
use super::image::{self, Image};
use super::traffic::{self, Sessions};
use crate::qemu::{Boot, Disk, Machine};

/// An emulated machine's cable in the namespace with the bridge.
const TAP: &str = "tap0";
/// From power on to the agent's first answer, on a machine that has much else to do.
const BOOT: Duration = Duration::from_secs(1200);
/// From the package's installation to the first answers to pings.
const MESH: Duration = Duration::from_secs(240);
/// What costs an emulated machine time and has nothing to do with its network is left out.
const APPEND: &str = "root=/dev/vda rw net.ifnames=0 quiet mitigations=off audit=0 apparmor=0 \
    systemd.mask=systemd-binfmt.service systemd.mask=apt-daily.timer systemd.mask=apt-daily-upgrade.timer \
    systemd.default_timeout_start_sec=900 systemd.default_device_timeout_sec=900 systemd.mask=e2scrub_reap.service systemd.mask=modprobe@drm.service systemd.mask=dpkg-db-backup.timer";
const MEMORY_MIB: u32 = 1024;
/// What the machine opens to members: ssh, and a service on each loopback.
const OPEN: [&str; 3] = ["tcp:22", "tcp:8000", "tcp:8001"];
/// The key's name on the machine.
const NETWORK: &str = "Home";
/// Where the machine sees what the lab brought along.
const DELIVERY: &str = "/mnt/lab";

/// Everything that rows act on.
pub(super) struct Stage {
    pub(super) lab: Lab,
    pub(super) nas: Node,
    pub(super) outsider: Host,
    pub(super) sshd: Sshd,
    pub(super) guest: Guest,
    machine: Body,
    pub(super) pace: Pace,
    /// Mesh addresses, IPv4 and IPv6.
    pub(super) nas_addresses: [IpAddr; 2],
    pub(super) machine_addresses: [IpAddr; 2],
    /// While they run.
    pub(super) sessions: Option<Sessions>,
    pub(super) knocking: Vec<Process>,
    scripts: PathBuf,
}

/// How long things may take: an emulated machine is ten times slower, and gets what nobody else wants of the processors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The longest pause of a session that isn't a fault, in seconds.
    pub(super) pause: f64,
    /// How long a session may stand still before it counts as broken.
    pub(super) broken: Duration,
    /// Within which everything must be as it was.
    pub(super) settled: Duration,
}

const EMULATED: Pace =
    Pace { pause: 10.0, broken: Duration::from_secs(120), settled: Duration::from_secs(90) };
const BOXED: Pace = Pace { pause: 1.0, broken: Duration::from_secs(20), settled: Duration::from_secs(40) };

/// What the system runs on.
enum Body {
    Emulated(Machine),
    /// The name of its cable's other end too.
    Boxed {
        _system: Boxed,
        peer: String,
    },
}

/// The packages that are tried.
pub(super) struct Packages {
    pub(super) first: PathBuf,
    pub(super) other: PathBuf,
}

impl Stage {
    /// Boots the image (in a box: without a machine) and installs the package; the machine is a member and answers when this
    /// returns.
    pub(super) fn new(image: &Image, boxed: bool, meshhold: &Path, packages: &Packages) -> Result<Self> {
        let lab = Lab::new("machines", meshhold, Lifetime::Scoped)?;
        let mut nas = Node::new(lab.host("nas")?, Settings::default())?;
        let outsider = lab.host("outsider")?;
        let key = nas.mint(&["tcp:22"])?;
        nas.start_and_wait()?;
        let sshd = Sshd::start(&nas.host, &["127.0.0.1"], 22)?;
        let scripts = traffic::scripts(lab.directory())?;
        let delivery = deliver(&lab, &nas, &key, packages, &scripts)?;
        let (machine, guest) =
            if boxed { put_in_box(&lab, image, &delivery)? } else { boot(&lab, image, &delivery)? };
        let nas_addresses = nas.both_addresses()?;
        let mut stage = Self {
            lab,
            nas,
            outsider,
            sshd,
            guest,
            machine,
            pace: if boxed { BOXED } else { EMULATED },
            nas_addresses,
            machine_addresses: nas_addresses,
            sessions: None,
            knocking: Vec::new(),
            scripts,
        };
        stage.wait_booted()?;
        stage.install()?;
        Ok(stage)
    }

    fn install(&mut self) -> Result<()> {
        self.guest.run(&format!(
            "[ -e {DELIVERY}/deliver.sh ] || {{ mkdir -p {DELIVERY} && mount -o ro /dev/vdb {DELIVERY}; }}; sh {DELIVERY}/deliver.sh"
        ))?;
        self.guest.run(&format!("dpkg --force-confold -i {DELIVERY}/first.deb"))?;
        let allow = OPEN.map(|port| format!("--allow {port}")).join(" ");
        self.guest.run(&format!(
            "meshhold mgmt-keys add --name {NETWORK} --caps mesh-route --never-expires {allow} --key - < /run/home.key"
        ))?;
        self.guest.wait(MESH, "meshhold meshlan status --json | grep -q '\"running\": *true'")?;
        self.machine_addresses = self.own_addresses()?;
        let [ipv4, ipv6] = self.machine_addresses;
        let eth0 = ["10.90.0.77", "fd00:90::77"];
        for (address, via) in [ipv4, ipv6].into_iter().zip(eth0) {
            self.outsider.namespace().ip(&format!("route add {address} via {via}"))?;
        }
        self.guest.run(&format!(
            "mkdir -p /etc/lab && echo ADDRESSES='{}' > /etc/lab/addresses",
            self.spoken_to()
        ))?;
        wait::until(MESH, "the mesh is there", || self.wait_mesh().map(Some)).map(drop)
    }

    /// Mesh addresses that the machine sends to: the other member's, and those of its devices.
    fn spoken_to(&self) -> String {
        let next = |address: IpAddr| match address {
            IpAddr::V4(address) => IpAddr::V4((u32::from(address) + 1).into()),
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) + 1).into()),
        };
        let all: Vec<String> = self
            .nas_addresses
            .into_iter()
            .flat_map(|one| [one, next(one)])
            .map(|one| one.to_string())
            .collect();
        all.join(" ")
    }

    /// The machine's mesh addresses, as it says.
    pub(super) fn own_addresses(&mut self) -> Result<[IpAddr; 2]> {
        let printed = self.guest.run("meshhold meshlan status --json")?;
        let status: Value =
            serde_json::from_str(&printed).with_context(|| format!("no status: {printed}"))?;
        let mut networks = status["networks"].as_array().into_iter().flatten();
        let network = networks.find(|network| network["name"] == NETWORK);
        let network = network.with_context(|| format!("not in the network: {printed}"))?;
        let address = |family: &str| -> Result<IpAddr> {
            let text = network[family].as_str().with_context(|| format!("no {family}: {printed}"))?;
            Ok(text.parse()?)
        };
        Ok([address("ipv4")?, address("ipv6")?])
    }

    /// Waits until the system has come up; yields how long ago it began to, in seconds.
    pub(super) fn wait_booted(&mut self) -> Result<f64> {
        let Self { machine, guest, .. } = self;
        machine.wait_until("the machine's system has come up", || {
            // `degraded` is up as well: a row looks at failed units.
            let state = guest.ask_within(Duration::from_secs(20), "systemctl is-system-running || true")?;
            Ok(["running", "degraded"].contains(&state.output.trim()).then_some(()))
        })?;
        let up = guest.run("cut -d' ' -f1 /proc/uptime")?;
        Ok(up.trim().parse()?)
    }

    /// Waits until pings pass both ways by both families; yields how long that took.
    pub(super) fn wait_mesh(&mut self) -> Result<Duration> {
        let (begin, limit) = (Instant::now(), self.pace.settled);
        for address in self.machine_addresses {
            wait::until_true(limit, &format!("the machine answers pings to {address}"), || {
                self.nas.host.succeeds("ping", &["-n", "-c1", "-W1", &address.to_string()])
            })?;
        }
        for address in self.nas_addresses {
            self.guest.wait(limit, &format!("ping -n -c1 -W2 {address}"))?;
        }
        Ok(begin.elapsed())
    }

    /// Sessions both ways that live; new ones where the last have ended.
    pub(super) fn with_sessions(&mut self) -> Result<()> {
        if self.sessions.is_none() {
            self.sessions = Some(Sessions::start(self)?);
        }
        if self.knocking.is_empty() {
            let knock = self.scripts.join("knock.py");
            self.knocking = traffic::knock(&self.outsider, &knock, self)?;
        }
        self.guest.run("systemctl start lab-talk").map(drop)
    }

    /// The end of the machine's cable in the namespace with the bridge.
    pub(super) fn cable_end(&self) -> &str {
        match &self.machine {
            Body::Emulated(_) => TAP,
            Body::Boxed { peer, .. } => peer,
        }
    }

    /// Path of one of the lab's scripts on this side.
    pub(super) fn script(&self, name: &str) -> String {
        self.scripts.join(name).to_string_lossy().into_owned()
    }

    /// Boots again: what the machine's disk has is what it finds.
    pub(super) fn reboot(&mut self, how: &str) -> Result<f64> {
        self.sessions = None;
        let before = self.guest.run("cat /proc/sys/kernel/random/boot_id")?;
        match (how, &self.machine) {
            ("power cut", Body::Emulated(machine)) => machine.command("system_reset")?,
            (command, _) => drop(self.guest.ask(command)?),
        }
        let Self { machine, guest, .. } = self;
        machine.wait_until("the machine has started again", || {
            let now = guest.ask_within(Duration::from_secs(5), "cat /proc/sys/kernel/random/boot_id")?;
            Ok((now.output.len() == before.len() && now.output != before).then_some(()))
        })?;
        self.wait_booted()
    }

    /// Pulls the machine's cable, or plugs it in.
    pub(super) fn cable(&self, plugged: bool) -> Result<()> {
        match &self.machine {
            Body::Emulated(machine) => {
                machine.command(if plugged { "set_link n0 on" } else { "set_link n0 off" })
            }
            Body::Boxed { peer, .. } => boxed::cable(self.lab.lan(), peer, plugged),
        }
    }

    /// Starts the daemon anew after a row that failed, so that the next one is judged for itself.
    pub(super) fn heal(&mut self) {
        self.sessions = None;
        let healed = self.guest.run("systemctl reset-failed meshhold; systemctl restart meshhold");
        if let Err(error) = healed.and_then(|_| self.wait_mesh()) {
            println!("    not healed: {error:#}");
        }
    }

    /// The machine's own words on the daemon, for a row that failed.
    pub(super) fn account(&mut self) -> String {
        let look = "ip -br address; ip rule; ip -6 rule; ip route show table all | grep -vE '^(ff|multicast)' | head -60; \
                    meshhold meshlan status | head -40; journalctl -u meshhold -o short-precise --no-pager -n 60 | cut -c1-300";
        self.guest.ask(look).map_or_else(|error| format!("{error:#}"), |answer| answer.output)
    }
}

fn deliver(lab: &Lab, nas: &Node, key: &str, packages: &Packages, scripts: &Path) -> Result<PathBuf> {
    const FILES: [(&str, &str); 4] = [
        ("deliver.sh", include_str!("guest/deliver.sh")),
        ("talk.service", include_str!("guest/talk.service")),
        ("web.service", include_str!("guest/web.service")),
        ("web6.service", include_str!("guest/web6.service")),
    ];
    let folder = lab.directory().join("delivery");
    std::fs::create_dir_all(&folder)?;
    for (name, content) in FILES {
        std::fs::write(folder.join(name), content)?;
    }
    for name in ["talk.py", "stamp.py"] {
        std::fs::copy(scripts.join(name), folder.join(name))?;
    }
    let ssh = nas.host.directory().join("ssh");
    std::fs::copy(ssh.join("identity"), folder.join("identity"))?;
    std::fs::copy(ssh.join("authorized"), folder.join("authorized"))?;
    std::fs::copy(&packages.first, folder.join("first.deb"))?;
    std::fs::copy(&packages.other, folder.join("other.deb"))?;
    std::fs::write(folder.join("home.key"), key)?;
    let config = format!("node:\n  name: machine\nbootstrap_peers:\n  - {}\n", nas.multiaddr()?);
    std::fs::write(folder.join("config.yaml"), config)?;
    Ok(folder)
}

fn put_in_box(lab: &Lab, image: &Image, delivery: &Path) -> Result<(Body, Guest)> {
    let host = lab.host("machine")?;
    let (system, guest) = Boxed::start(&host, &image.disk, delivery, DELIVERY)?;
    let [.., number] = host.ipv4.octets();
    Ok((Body::Boxed { _system: system, peer: format!("p{number}") }, guest))
}

fn boot(lab: &Lab, image: &Image, delivery: &Path) -> Result<(Body, Guest)> {
    let disk = lab.directory().join("delivery.ext4");
    image::file_system(delivery, &disk, "256M")?;
    for command in [
        format!("tuntap add {TAP} mode tap"),
        format!("link set {TAP} master br0"),
        format!("link set {TAP} up"),
    ] {
        lab.lan().ip(&command)?;
    }
    let folder = lab.directory();
    let socket = folder.join("agent");
    let tap = format!("tap,id=n0,ifname={TAP},script=no,downscript=no");
    let mut arguments = Guest::arguments(&socket);
    let network = ["-netdev", &tap, "-device", "virtio-net-pci,netdev=n0,mac=52:54:00:90:00:77,romfile="];
    arguments.extend(network.map(Into::into));
    arguments.extend(["-device", "virtio-rng-pci"].map(Into::into));
    let boot = Boot {
        kernel: image.kernel.clone(),
        initrd: image.initrd.clone(),
        append: APPEND.to_owned(),
        memory_mib: MEMORY_MIB,
        disks: vec![Disk::scratch(&image.disk), Disk::read_only(&disk)],
        arguments,
        console: folder.join("console.txt"),
        again: true,
    };
    let mut machine = Body::Emulated(boot.start_by(lab.lan().command("qemu-system-x86_64"))?);
    let mut guest = Guest::new(&socket);
    machine.wait_until("the machine's agent answers", || {
        ensure!(socket.exists(), "qemu has no socket yet");
        guest.ask_within(Duration::from_secs(20), "true").map(Some)
    })?;
    Ok((machine, guest))
}

impl Body {
    /// Waits for something that a boot brings.
    fn wait_until<T>(&mut self, what: &str, probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        match self {
            Self::Emulated(machine) => machine.wait_until(BOOT, what, probe),
            Self::Boxed { .. } => wait::until(BOOT, what, probe),
        }
    }
}
