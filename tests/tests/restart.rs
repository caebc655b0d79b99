//! A restart, a crash and an upgrade of either end: what is connected goes on.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use meshhold_tests::flow::Flow;
use meshhold_tests::process::Process;
use meshhold_tests::service::{self, Sshd};
use meshhold_tests::{Node, Settings, run, scenario, wait};

/// A flow that stands still for longer has been cut, for whoever waits for it.
const LIMIT: Duration = Duration::from_secs(15);
/// Longest pause, on top of the time in which no daemon was ready and that which TCP waits by then: its pauses double.
const PAUSE: Duration = Duration::from_millis(1_000);
/// Seconds that iperf3 runs; everything else is over before.
const LOAD: &str = "600";

/// How a daemon comes to be another one.
#[derive(Debug, Clone, Copy)]
enum End {
    /// SIGTERM and a start.
    Restart,
    /// SIGKILL and a start.
    Crash,
    /// Another executable, with maps of another layout: the flows that were pinned are lost.
    Upgrade,
}

impl End {
    const ALL: [Self; 3] = [Self::Restart, Self::Crash, Self::Upgrade];

    /// Yields how long no daemon was ready.
    fn make(self, node: &mut Node) -> Result<Duration> {
        let start = Instant::now();
        match self {
            Self::Crash => node.kill()?,
            Self::Restart | Self::Upgrade => node.stop()?,
        }
        if let Self::Upgrade = self {
            let other = node.host.directory().join("meshhold-next");
            if !other.exists() {
                fs::copy(&node.host.meshhold, &other)?;
            }
            node.host.meshhold = other;
            forget_flows(node)?;
        }
        node.start_and_wait()?;
        Ok(start.elapsed())
    }
}

/// As a program with another layout of these maps would.
fn forget_flows(node: &Node) -> Result<()> {
    node.host
        .run("sh", &["-c", "rm /sys/fs/bpf/meshhold/*/v1/FLOWS /sys/fs/bpf/meshhold/*/v1/OPENED"])
        .map(drop)
}

#[test]
fn tcp_flows_go_on_over_restarts_crashes_and_upgrades_of_either_end() -> Result<()> {
    run("restart", |lab| {
        let (mut a, mut b) = scenario::pair(lab, &["tcp:22", "tcp:80", "tcp:5201"])?;
        let (loopback, any): (IpAddr, IpAddr) = ("127.0.0.1".parse()?, "::".parse()?);
        let _echo = service::echo(&a.host, "tcp", loopback, 80)?;
        let sshd = Sshd::start(&a.host, &["127.0.0.1"], 22)?;
        let mut iperf3 = a.host.spawn("iperf3-server", "iperf3", &["-s", "-1", "-B", &any.to_string()])?;
        let [ipv4, ipv6] = a.both_addresses()?;
        let mut flows = Vec::new();
        for address in [ipv4, ipv6] {
            flows.push(Flow::start(&b.host, &address.to_string(), "80")?);
        }
        let mut ssh = Session::open(&sshd, &b, ipv4)?;
        let arguments = ["-c", &ipv4.to_string(), "--bidir", "-b", "4M", "-t", LOAD, "--forceflush"];
        let mut load = b.host.spawn("iperf3", "iperf3", &arguments)?;
        wait::until_true(LIMIT, "iperf3 transfers", || Ok(load.log()?.contains("connected to")))?;
        let mut pauses = Vec::new();
        for end in End::ALL {
            for (who, node) in [("server", &mut a), ("caller", &mut b)] {
                let since = SystemTime::now();
                let away = end.make(node)?;
                for flow in &mut flows {
                    let pause =
                        flow.pause_since(since, LIMIT).with_context(|| format!("{end:?} of the {who}"))?;
                    println!("figure: {end:?} of the {who}, {away:?}: a flow stood still for {pause} ms");
                    ensure!(
                        Duration::from_millis(pause) <= PAUSE + 2 * away,
                        "{end:?} of the {who}: {pause} ms"
                    );
                    pauses.push(pause);
                }
                ssh.goes_on().with_context(|| format!("{end:?} of the {who}"))?;
                ensure!(load.is_running()? && iperf3.is_running()?, "{end:?} of the {who}: {}", load.log()?);
            }
        }
        pauses.sort_unstable();
        println!("figure: pauses in ms: {pauses:?}");
        Ok(())
    })
}

/// A shell over ssh that prints something all the time.
struct Session(Process);

impl Session {
    fn open(sshd: &Sshd, from: &Node, to: IpAddr) -> Result<Self> {
        let talk = "while echo tick; do sleep 0.1; done";
        let command = format!("exec ssh -tt {} root@{to} '{talk}'", sshd.options());
        let mut session = Self(from.host.spawn("ssh", "sh", &["-c", &command])?);
        session.goes_on()?;
        Ok(session)
    }

    fn goes_on(&mut self) -> Result<()> {
        let so_far = self.0.log()?.len();
        wait::until_true(LIMIT, "the ssh session goes on", || {
            ensure!(self.0.is_running()?, "ssh has ended: {}", self.0.log()?);
            Ok(self.0.log()?.len() > so_far + 20)
        })
    }
}

/// Between two daemons, and where the interface was deleted too, a service's segments to a caller must not be answered
/// by the own host: it knows no such connection and would reset it.
#[test]
fn a_flow_survives_the_interface_itself() -> Result<()> {
    run("interface-gone", |lab| {
        let (mut a, b) = scenario::pair(lab, &["tcp:80"])?;
        let _echo = service::echo(&a.host, "tcp", "127.0.0.1".parse()?, 80)?;
        let mut flow = Flow::start(&b.host, &a.addresses()?.0.to_string(), "80")?;
        let resets = |node: &Node| node.host.run("nstat", &["-asz", "TcpEstabResets"]);
        let before = resets(&a)?;
        let since = SystemTime::now();
        a.stop()?;
        a.host.namespace().ip("link del mesh0")?;
        let refused = a.host.run("sh", &["-c", "ip route get 127.64.0.9 from 127.0.0.1 2>&1 || true"])?;
        ensure!(refused.contains("No route to host"), "packets to callers go elsewhere: {refused}");
        a.start_and_wait()?;
        let pause = flow.pause_since(since, LIMIT)?;
        println!("figure: the interface was deleted between two daemons: {pause} ms");
        ensure!(before == resets(&a)?, "{before} became {}", resets(&a)?);
        Ok(())
    })
}

/// The interface that waits is taken whatever its queues were like.
#[test]
fn the_next_daemon_may_have_other_queues() -> Result<()> {
    run("queues", |lab| {
        let (mut a, b) = scenario::pair(lab, &["tcp:80"])?;
        let _echo = service::echo(&a.host, "tcp", "127.0.0.1".parse()?, 80)?;
        let mut flow = Flow::start(&b.host, &a.addresses()?.0.to_string(), "80")?;
        for offload in [false, true] {
            let since = SystemTime::now();
            a.stop()?;
            a.configure(Settings { offload: Some(offload), ..Default::default() })?;
            a.start_and_wait()?;
            flow.pause_since(since, LIMIT)?;
            ensure!(a.status()?.datapath.mode == "ebpf", "{:?}", a.status()?.datapath);
        }
        Ok(())
    })
}

/// Says what a service tells its manager, a line each.
const MANAGER: &str = "
import socket
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.bind('\\0meshhold-lab')
print('listening', flush=True)
while True:
    print(manager.recv(4096).decode().replace('\\n', ' '), flush=True)
";

#[test]
fn the_manager_hears_when_the_mesh_is_ready_that_it_lives_and_when_it_ends() -> Result<()> {
    run("notify", |lab| {
        let wrapper = vec!["env", "NOTIFY_SOCKET=@meshhold-lab", "WATCHDOG_USEC=2000000"];
        let mut node = Node::new(lab.host("a")?, Settings { wrapper, ..Settings::default() })?;
        node.mint(&["tcp:80"])?;
        let manager = node.host.spawn("manager", "python3", &["-c", MANAGER])?;
        let hears = |word: &str, times: usize| {
            wait::until_true(LIMIT, &format!("{times} x {word}"), || {
                Ok(manager.log()?.lines().filter(|line| line.contains(word)).count() >= times)
            })
        };
        hears("listening", 1)?;
        node.start()?;
        hears("READY=1", 1)?;
        let addresses = node.host.namespace().ip("address show dev mesh0")?;
        ensure!(addresses.contains("inet ") && addresses.contains("inet6 "), "ready too early: {addresses}");
        hears("WATCHDOG=1", 2)?;
        node.signal("HUP")?;
        hears("RELOADING=1", 1)?;
        hears("READY=1", 2)?;
        node.stop()?;
        hears("STOPPING=1", 1)
    })
}
