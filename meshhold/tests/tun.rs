//! The workers on real TUN interfaces, in two network namespaces of this test, with the kernel's own TCP and UDP on top.
//!
//! Needs root, `ip` and `iperf3`. The namespaces carry the process id in their names and are removed at the end.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::Arc;

use meshhold::datapath::workers::tun::Offload;
use meshhold::datapath::workers::{TunQueues, WorkerEvent, Workers, WorkersConfig};
use meshhold_common::Reason;
use meshhold_core::session::Cipher;
use support::{LANES, own4, own6, session, table};

const NODE: &str = "MESHHOLD_TEST_NODE";
const INTERFACE: &str = "mesh0";

/// One namespace with the workers of one node in a process of its own.
struct Side {
    namespace: String,
    child: Child,
    stdin: ChildStdin,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

fn underlay(node: u8) -> Ipv4Addr {
    [192, 0, 2, node].into()
}

fn run(line: &str) -> Output {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Two namespaces joined by a veth pair.
struct Namespaces([String; 2]);

impl Namespaces {
    fn new(test: &str) -> Self {
        let names = [1, 2].map(|node| format!("mh{}{test}{node}", std::process::id()));
        let this = Self(names);
        let [a, b] = &this.0;
        for name in [a, b] {
            run(&format!("ip netns add {name}"));
            run(&format!("ip -n {name} link set lo up"));
        }
        run(&format!("ip -n {a} link add veth0 type veth peer name veth0 netns {b}"));
        for (node, name) in [(1, a), (2, b)] {
            run(&format!("ip -n {name} addr add {}/24 dev veth0", underlay(node)));
            run(&format!("ip -n {name} link set veth0 up"));
        }
        this
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

impl Side {
    fn start(namespaces: &Namespaces, node: u8, offload: bool) -> Self {
        let namespace = namespaces.0[usize::from(node) - 1].clone();
        let mut child = Command::new("ip")
            .args(["netns", "exec", &namespace])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "node", "--ignored", "--nocapture"])
            .env(NODE, format!("{node} {offload}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let stdin = child.stdin.take().unwrap();
        let mut side = Self { namespace, child, stdin, lines };
        side.wait_for("ready");
        side
    }

    fn wait_for(&mut self, word: &str) -> String {
        self.lines.by_ref().map(Result::unwrap).find(|line| line.contains(word)).expect(word)
    }

    fn exec(&self, line: &str) -> Output {
        run(&format!("ip netns exec {} {line}", self.namespace))
    }

    /// Ends the node and returns the line with its counters.
    fn finish(mut self) -> String {
        self.stdin.write_all(b"stop\n").unwrap();
        let counters = self.wait_for("counters");
        self.child.wait().unwrap();
        counters
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test of its own: one node, run by the tests below inside a namespace.
#[test]
#[ignore = "run by the other tests"]
fn node() {
    let setting = std::env::var(NODE).unwrap();
    let (node, offload) = setting.split_once(' ').unwrap();
    let node: u8 = node.parse().unwrap();
    let queues = TunQueues::create(INTERFACE, usize::from(LANES), offload == "true").unwrap();
    assert_eq!(queues.offload() == Offload::None, offload == "false");
    run(&format!("ip addr add {}/18 dev {INTERFACE}", own4(node)));
    run(&format!("ip addr add {}/32 dev {INTERFACE} nodad", own6(node)));
    run(&format!("ip link set {INTERFACE} mtu 1420 up"));
    let config = WorkersConfig {
        relay: false,
        interface_may_come: false,
        interface: Some(queues),
        listen: "[::]:7777".parse().unwrap(),
        count: usize::from(LANES),
        mtu: 1420,
        offload: offload == "true",
    };
    let (mut workers, _control, mut events) = Workers::start(config).unwrap();
    let remote = SocketAddr::from((underlay(3 - node), 7777));
    let cipher = Cipher::Aes256Gcm;
    workers.publish(Arc::new(table(node, &[&session(node, 0, cipher)], Some(remote), None)));
    println!("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    if line == "lose\n" {
        run(&format!("ip link del {INTERFACE}"));
        for _ in 0..LANES {
            while !matches!(events.blocking_recv(), Some(WorkerEvent::Failed { .. })) {}
        }
    }
    let counters = workers.counters();
    let named = Reason::ALL.iter().filter(|reason| counters[**reason as usize] > 0);
    let named: Vec<_> =
        named.map(|reason| format!("{}={}", reason.as_str(), counters[*reason as usize])).collect();
    println!("counters {}", named.join(" "));
    workers.stop();
}

/// Serves one iperf3 run in `server` and returns the client's JSON.
fn iperf(server: &Side, client: &Side, address: &str, options: &str) -> serde_json::Value {
    let listener = Command::new("ip")
        .args(["netns", "exec", &server.namespace, "iperf3", "-s", "-1", "--forceflush"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut listener = Killed(listener);
    let lines = BufReader::new(listener.0.stdout.take().unwrap()).lines();
    let mut lines = lines.map(Result::unwrap);
    assert!(lines.any(|line| line.contains("Server listening")));
    let output = client.exec(&format!("iperf3 -J -t 1 -c {address} {options}"));
    serde_json::from_slice(&output.stdout).unwrap()
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn carries_everything(test: &str, offload: bool) {
    let namespaces = Namespaces::new(test);
    let (a, b) = (Side::start(&namespaces, 1, offload), Side::start(&namespaces, 2, offload));
    for address in [own4(2).to_string(), own6(2).to_string()] {
        for options in ["", "-R", "-P 4"] {
            let result = iperf(&b, &a, &address, options);
            let bits = result["end"]["sum_received"]["bits_per_second"].as_f64().unwrap();
            let retransmits = result["end"]["sum_sent"]["retransmits"].as_u64().unwrap_or(0);
            println!("{test} TCP {address} {options}: {:.2} Gbit/s, {retransmits} retransmits", bits / 1e9);
            assert!(bits > 1e6, "{result}");
        }
        for options in ["-u -b 20M -l 200", "-u -b 50M -l 1300", "-u -b 20M -l 8000"] {
            let result = iperf(&b, &a, &address, options);
            let lost = result["end"]["sum"]["lost_percent"].as_f64().unwrap();
            println!("{test} UDP {address} {options}: {lost:.2} % lost");
            assert!(lost < 50.0, "{result}");
        }
    }
    for (side, name) in [(a, "a"), (b, "b")] {
        let counters = side.finish();
        println!("{test} {name} {counters}");
        for reason in
            [Reason::BadTag, Reason::Malformed, Reason::SpoofedSource, Reason::TooBig, Reason::NoSession]
        {
            assert!(!counters.contains(reason.as_str()), "{counters}");
        }
    }
}

#[test]
fn with_offload() {
    carries_everything("o", true);
}

#[test]
fn without_offload() {
    carries_everything("p", false);
}

#[test]
fn a_deleted_interface_is_reported_and_survived() {
    let namespaces = Namespaces::new("d");
    let mut side = Side::start(&namespaces, 1, true);
    side.stdin.write_all(b"lose\n").unwrap();
    side.wait_for("counters");
}
