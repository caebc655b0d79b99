//! The kernel relay between two neighbours in namespaces of their own, with real sockets at both.
//! `relay.py` plays the neighbours.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, UdpSocket},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use meshhold::{
    datapath::{
        ebpf::KernelRelay,
        relay::{Hop, Leg},
    },
    platform::linux::{
        Net, sys,
        tc::{self, Side},
        ways::Way,
    },
};
use meshhold_common::relay::LegState;
use serde_json::{Value, json};

use crate::{
    namespace::{self, sh},
    support::is_root,
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel/relay.py");
/// The relay's port, and those of its neighbours.
const PORT: u16 = 7000;
const LEFT: u16 = 7001;
const RIGHT: u16 = 7002;
const LABEL: u32 = 0xa1b2_c3d4;
const MUCH: u64 = 10_000_000_000;

/// A process in the namespace of a neighbour.
struct Neighbour(Child, ChildStdin, BufReader<ChildStdout>);

impl Neighbour {
    fn new(namespace: &str) -> Self {
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace, "python3", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self(child, input, output)
    }

    fn begin(&mut self, what: &str, arguments: Value) {
        writeln!(self.1, "{}", json!([what, arguments])).unwrap();
    }

    fn end(&mut self) -> Value {
        let mut line = String::new();
        self.2.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn does(&mut self, what: &str, arguments: Value) -> Value {
        self.begin(what, arguments);
        self.end()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One family's addresses: left neighbour, relay to the left, relay to the right, right neighbour.
#[derive(Clone, Copy)]
struct Ends {
    left: &'static str,
    near: &'static str,
    far: &'static str,
    right: &'static str,
}

const FOUR: Ends = Ends { left: "10.1.0.2", near: "10.1.0.1", far: "10.2.0.1", right: "10.2.0.2" };
const SIX: Ends = Ends { left: "fd01::2", near: "fd01::1", far: "fd02::1", right: "fd02::2" };
impl Ends {
    fn hop(self) -> Hop {
        Hop { remote: SocketAddr::new(self.left.parse().unwrap(), LEFT), label: LABEL }
    }

    fn leg(self) -> Leg {
        let to = SocketAddr::new(self.right.parse().unwrap(), RIGHT);
        Leg { from: self.hop(), to, rate: MUCH, source: 7, source_rate: MUCH }
    }

    fn from(self) -> String {
        format!("{} {LEFT}", self.left)
    }

    fn at(self) -> String {
        format!("{} {RIGHT}", self.right)
    }
}

/// The relay, in the namespace of the test, with a socket that gets what goes up.
struct Lab {
    relay: KernelRelay,
    left: Neighbour,
    right: Neighbour,
}

impl Lab {
    fn new() -> Self {
        // Names of namespaces are files there.
        sh("mount -t tmpfs tmpfs /run");
        for (name, near, side) in [("left", "rl", 1), ("right", "rr", 2)] {
            sh(&format!("ip netns add {name}"));
            sh(&format!("ip link add {near} type veth peer name v0 netns {name}"));
            sh(&format!("ip addr add 10.{side}.0.1/24 dev {near}"));
            sh(&format!("ip addr add fd0{side}::1/64 dev {near} nodad"));
            sh(&format!("ip link set {near} up"));
            sh(&format!("ip -n {name} addr add 10.{side}.0.2/24 dev v0"));
            sh(&format!("ip -n {name} addr add fd0{side}::2/64 dev v0 nodad"));
            sh(&format!("ip -n {name} link set v0 up"));
        }
        sh("ip link set lo up");
        let (mut left, mut right) = (Neighbour::new("left"), Neighbour::new("right"));
        for ends in [FOUR, SIX] {
            left.does("open", json!([ends.left, LEFT]));
        }
        for ends in [FOUR, SIX] {
            right.does("open", json!([ends.right, RIGHT]));
        }
        Self { relay: KernelRelay::load(PORT).unwrap(), left, right }
    }

    /// All legs by the ways that the kernel knows; returns what the relay did not take.
    fn apply(&mut self, legs: &[Leg]) -> Vec<Hop> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (ways, own, links) = runtime.block_on(async {
            let net = Net::new().unwrap();
            let targets = legs.iter().map(|leg| leg.to.ip()).collect();
            let links = net.links().await.unwrap();
            (net.ways(&targets).await.unwrap(), net.own_addresses().await.unwrap(), links)
        });
        let legs: Vec<(Leg, Option<Way>)> =
            legs.iter().map(|leg| (*leg, ways.get(&leg.to.ip()).cloned())).collect();
        let own: BTreeSet<IpAddr> = own;
        self.relay.apply(&legs, &own, &links).unwrap()
    }

    fn send(&mut self, ends: Ends, data: &[u8]) {
        self.left.does("send", json!([ends.from(), [ends.near, PORT], hex(data)]));
    }

    /// What arrives at the right neighbour.
    fn arrived(&mut self, ends: Ends, count: usize) -> Vec<Vec<u8>> {
        let taken = self.right.does("take", json!([ends.at(), count, 2.0]));
        let taken: Vec<(String, u16, String)> = serde_json::from_value(taken).unwrap();
        assert!(taken.iter().all(|(host, port, _)| (host.as_str(), *port) == (ends.far, PORT)), "{taken:?}");
        taken.iter().map(|(.., data)| unhex(data)).collect()
    }

    fn state(&self, ends: Ends) -> LegState {
        self.relay.state(ends.hop()).unwrap().unwrap()
    }
}

fn hex(data: &[u8]) -> String {
    data.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// A datagram behind a label, of `length` bytes in all.
fn labelled(label: u32, length: usize, content: u8) -> Vec<u8> {
    let mut data = vec![5, 0, 0, 0];
    data.extend(label.to_be_bytes());
    data.extend((8..length).map(|at| content.wrapping_add((at * 7) as u8)));
    data
}

/// What goes up to user space, with a bound on waiting.
fn going_up(host: &str) -> UdpSocket {
    let socket = UdpSocket::bind((host, PORT)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn comes_up(socket: &UdpSocket, data: &[u8]) {
    let mut got = vec![0; 65_536];
    let length = socket.recv(&mut got).unwrap();
    assert_eq!(&got[..length], data);
}

#[test]
fn both_families_arrive_whole_with_right_checksums_whoever_computes_them() {
    let name = "relay::both_families_arrive_whole_with_right_checksums_whoever_computes_them";
    if !is_root() || !namespace::inside(name) {
        return;
    }
    let mut lab = Lab::new();
    assert_eq!(lab.apply(&[FOUR.leg(), SIX.leg()]), []);
    // The receiver checks what this kernel must complete, and then what the sender has completed.
    sh("ethtool -K rr tx off");
    for offload in ["on", "off"] {
        sh(&format!("ip netns exec left ethtool -K v0 tx {offload}"));
        for ends in [FOUR, SIX] {
            let sent: Vec<Vec<u8>> = (0..20).map(|n| labelled(LABEL, 40 + 70 * n, n as u8)).collect();
            sent.iter().for_each(|data| lab.send(ends, data));
            assert!(lab.arrived(ends, 20) == sent, "{} with offload {offload}", ends.left);
        }
    }
    for ends in [FOUR, SIX] {
        let bytes = 2 * (0..20).map(|n| 40 + 70 * n).sum::<u64>();
        let state = lab.state(ends);
        assert_eq!((state.packets, state.bytes), (40, bytes));
        assert_eq!((state.over_rate, state.expired, state.too_big, state.mixed), (0, 0, 0, 0));
    }
    // Without legs it is nowhere, and nothing is forwarded.
    lab.apply(&[]);
    let up = going_up(FOUR.near);
    lab.send(FOUR, &labelled(LABEL, 100, 1));
    comes_up(&up, &labelled(LABEL, 100, 1));
}

#[test]
fn only_the_plain_datagrams_of_its_legs_are_forwarded() {
    let name = "relay::only_the_plain_datagrams_of_its_legs_are_forwarded";
    if !is_root() || !namespace::inside(name) {
        return;
    }
    let mut lab = Lab::new();
    lab.apply(&[FOUR.leg()]);
    lab.left.does("open", json!([FOUR.left, 7009]));
    let (up, other) = (going_up(FOUR.near), UdpSocket::bind((FOUR.near, 7010)).unwrap());
    other.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let good = labelled(LABEL, 200, 1);
    let mut bad_type = good.clone();
    bad_type[0] = 4;
    let mut flagged = good.clone();
    flagged[1] = 1;
    let own = FOUR.from();
    let foreign = format!("{} 7009", FOUR.left);
    // Source, port, datagram, and where it turns up instead.
    let wrong: [(&str, u16, Vec<u8>, &UdpSocket); 6] = [
        (&own, PORT, labelled(LABEL + 1, 200, 1), &up),
        (&own, PORT, bad_type, &up),
        (&own, PORT, flagged, &up),
        (&foreign, PORT, good.clone(), &up),
        (&own, 7010, good.clone(), &other),
        (&own, PORT, labelled(LABEL, 3000, 1), &up),
    ];
    for (from, port, data, instead) in &wrong {
        lab.left.does("send", json!([from, [FOUR.near, port], hex(data)]));
        comes_up(instead, data);
        lab.send(FOUR, &good);
        assert_eq!(lab.arrived(FOUR, 1), std::slice::from_ref(&good));
    }
    // To another address behind this host, which routes it: not by the relay.
    sh("ip -n left route add default via 10.1.0.1");
    sh("sysctl -qw net.ipv4.conf.rl.forwarding=1");
    lab.left.does("send", json!([own, ["10.99.0.1", PORT], hex(&good)]));
    // Its last hop was the one to here.
    lab.left.does("send", json!([own, [FOUR.near, PORT], hex(&good), 0, 1]));
    lab.send(FOUR, &labelled(LABEL, 201, 1));
    assert_eq!(lab.arrived(FOUR, 1), [labelled(LABEL, 201, 1)]);
    let state = lab.state(FOUR);
    assert_eq!((state.packets, state.expired), (wrong.len() as u64 + 1, 1));
    // Larger than the way on.
    sh("ip link set rr mtu 1280");
    lab.apply(&[FOUR.leg()]);
    lab.send(FOUR, &labelled(LABEL, 1400, 1));
    comes_up(&up, &labelled(LABEL, 1400, 1));
    lab.send(FOUR, &labelled(LABEL, 1252, 1));
    assert_eq!(lab.arrived(FOUR, 1), [labelled(LABEL, 1252, 1)]);
    assert_eq!(lab.state(FOUR).too_big, 1);
}

#[test]
fn super_packets_stay_whole_and_mixed_ones_go_up() {
    let name = "relay::super_packets_stay_whole_and_mixed_ones_go_up";
    if !is_root() || !namespace::inside(name) {
        return;
    }
    let mut lab = Lab::new();
    lab.apply(&[FOUR.leg(), SIX.leg()]);
    for ends in [FOUR, SIX] {
        let mut sent: Vec<Vec<u8>> = (0..40).map(|n| labelled(LABEL, 1200, n)).collect();
        sent.push(labelled(LABEL, 300, 99));
        for checksums in ["on", "off"] {
            sh(&format!("ethtool -K rr tx {checksums}"));
            let to = json!([ends.from(), [ends.near, PORT], hex(&sent.concat()), 1200]);
            lab.left.does("send", to);
            assert!(lab.arrived(ends, 41) == sent, "{} with checksums {checksums}", ends.left);
        }
        assert_eq!(lab.state(ends).packets, 82);
        let up = going_up(ends.near);
        for odd in [1, 20, 40] {
            let mut mixed = sent.clone();
            mixed[odd][7] ^= 1;
            lab.left.does("send", json!([ends.from(), [ends.near, PORT], hex(&mixed.concat()), 1200]));
            mixed.iter().for_each(|data| comes_up(&up, data));
        }
        let state = lab.state(ends);
        assert_eq!((state.packets, state.mixed), (82, 3));
    }
}

#[test]
fn a_rate_holds_and_nothing_is_lost_from_the_counters() {
    let name = "relay::a_rate_holds_and_nothing_is_lost_from_the_counters";
    if !is_root() || !namespace::inside(name) {
        return;
    }
    let seconds: f64 = std::env::var("RELAY_SECONDS").map_or(3.0, |text| text.parse().unwrap());
    let mut lab = Lab::new();
    // By the leg's own budget, and by what its source's legs share.
    for (rate, source_rate) in [(500_000, MUCH), (MUCH, 800_000)] {
        lab.apply(&[]);
        let leg = Leg { rate, source_rate, ..FOUR.leg() };
        lab.apply(&[leg]);
        let data = hex(&labelled(LABEL, 500, 1));
        let sent = lab.left.does("flood", json!([FOUR.from(), [FOUR.near, PORT], data, seconds]));
        let (sent, took): (u64, f64) = serde_json::from_value(sent).unwrap();
        // The same again goes on with the same budget.
        lab.apply(&[leg]);
        let state = lab.state(FOUR);
        let share = state.bytes as f64 / (rate.min(source_rate) as f64 * took);
        println!("{share:.4} of the rate over {took:.2} s, {sent} datagrams sent: {state:?}");
        assert!((0.95..1.05).contains(&share), "{share}");
        assert_eq!(state.packets + state.over_rate, sent);
        assert_eq!(state.bytes, 500 * state.packets);
        let traffic = lab.relay.traffic().unwrap();
        assert_eq!((traffic.len(), traffic[0].1.over_rate), (1, state.over_rate));
        lab.arrived(FOUR, state.packets as usize);
    }
}

#[test]
fn ten_thousand_legs_and_what_it_can_t_take() {
    let name = "relay::ten_thousand_legs_and_what_it_can_t_take";
    if !is_root() || !namespace::inside(name) {
        return;
    }
    let mut lab = Lab::new();
    let leg = |label| Leg { from: Hop { label, ..FOUR.hop() }, ..FOUR.leg() };
    let mut legs: Vec<Leg> = (0..10_000).map(leg).collect();
    // No route; another family.
    let nowhere = Leg { to: "192.0.2.1:1".parse().unwrap(), ..leg(20_000) };
    let other = Leg { to: SIX.leg().to, ..leg(20_001) };
    legs.extend([nowhere, other]);
    assert_eq!(lab.apply(&legs), [nowhere.from, other.from]);
    let tail = hex(&[9; 40]);
    lab.left.does("labels", json!([FOUR.from(), [FOUR.near, PORT], tail, 0, 10_000]));
    assert_eq!(lab.arrived(FOUR, 10_000).len(), 10_000);
    let traffic = lab.relay.traffic().unwrap();
    assert!(traffic.len() == 10_000 && traffic.iter().all(|(_, done)| (done.packets, done.bytes) == (1, 48)));
    // Half of them end, and their places serve others, from zero.
    let kept: Vec<Leg> = (0..5_000).chain(30_000..35_000).map(leg).collect();
    assert_eq!(lab.apply(&kept), []);
    let packets = |label| lab.relay.state(leg(label).from).unwrap().map(|state| state.packets);
    assert_eq!((packets(0), packets(5_000), packets(30_000)), (Some(1), None, Some(0)));
}

/// Before Linux 6.6 nothing ends with the daemon, so the next one does it.
#[test]
fn filters_forward_and_those_of_a_killed_daemon_are_swept() {
    let name = "relay::filters_forward_and_those_of_a_killed_daemon_are_swept";
    if !is_root() || !namespace::inside_by(name, "clsact") {
        return;
    }
    let mut lab = Lab::new();
    let filters =
        || ["rl", "rr"].map(|name| tc::filters(sys::index_of(name).unwrap(), Side::Ingress).unwrap().len());
    assert_eq!(lab.apply(&[FOUR.leg(), SIX.leg()]), []);
    assert_eq!(filters(), [1, 1]);
    for ends in [FOUR, SIX] {
        let good = labelled(LABEL, 100, 1);
        lab.send(ends, &good);
        assert_eq!(lab.arrived(ends, 1), [good]);
        assert_eq!(lab.state(ends).packets, 1);
    }
    assert_eq!(lab.relay.off(), []);
    sh("tc filter del dev rl ingress prio 1");
    assert_eq!(lab.relay.off().len(), 1);
    let next = KernelRelay::load(PORT).unwrap();
    std::mem::forget(std::mem::replace(&mut lab.relay, next));
    assert_eq!(filters(), [0, 1], "it was killed");
    KernelRelay::sweep(PORT + 1);
    assert_eq!(filters(), [0, 1], "another daemon's");
    KernelRelay::sweep(PORT);
    assert_eq!(filters(), [0, 0]);
    assert_eq!(lab.apply(&[FOUR.leg()]), []);
    assert_eq!(filters(), [1, 1]);
    assert_eq!(lab.apply(&[]), []);
    assert_eq!(filters(), [0, 0], "without legs it is on no interface");
}

/// A process that carries packets between two interfaces without link headers.
struct Tunnel(Child);

impl Tunnel {
    /// `tl` here and at a neighbour, with these addresses of theirs.
    fn new(namespace: &str, ends: [Ends; 2]) -> Self {
        let script = SCRIPT.replace("relay.py", "tunnel.py");
        let mut child =
            Command::new("python3").args([&script, namespace]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        sh("ip link set tl up");
        sh(&format!("ip -n {namespace} link set tl up"));
        for Ends { near, left, .. } in ends {
            sh(&format!("ip addr add {near} peer {left} dev tl"));
            sh(&format!("ip -n {namespace} addr add {left} peer {near} dev tl"));
        }
        Self(child)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn interfaces_without_link_headers_on_either_side() {
    let name = "relay::interfaces_without_link_headers_on_either_side";
    if !is_root() || !namespace::inside(name) {
        return;
    }
    let mut lab = Lab::new();
    let tunnels = [
        Ends { left: "10.5.0.2", near: "10.5.0.1", ..FOUR },
        Ends { left: "fd05::2", near: "fd05::1", ..SIX },
    ];
    let _tunnel = Tunnel::new("left", tunnels);
    for ends in tunnels {
        lab.left.does("open", json!([ends.left, LEFT]));
    }
    // And back by it.
    let back = |ends: Ends, of: Ends| {
        let from = Hop { remote: SocketAddr::new(of.right.parse().unwrap(), RIGHT), label: LABEL };
        Leg { from, to: SocketAddr::new(ends.left.parse().unwrap(), LEFT), ..of.leg() }
    };
    let [four, six] = tunnels;
    assert_eq!(lab.apply(&[four.leg(), six.leg(), back(four, FOUR), back(six, SIX)]), []);
    for ends in tunnels {
        let sent: Vec<Vec<u8>> = (0..20).map(|n| labelled(LABEL, 40 + 65 * n, n as u8)).collect();
        sent.iter().for_each(|data| lab.send(ends, data));
        assert!(lab.arrived(ends, 20) == sent, "{}", ends.left);
        assert_eq!(lab.state(ends).packets, 20);
        for data in &sent {
            lab.right.does("send", json!([ends.at(), [ends.far, PORT], hex(data)]));
        }
        let taken = lab.left.does("take", json!([ends.from(), 20, 2.0]));
        let taken: Vec<(String, u16, String)> = serde_json::from_value(taken).unwrap();
        assert!(taken.iter().all(|(host, port, _)| (host.as_str(), *port) == (ends.near, PORT)), "{taken:?}");
        let taken: Vec<Vec<u8>> = taken.iter().map(|(.., data)| unhex(data)).collect();
        assert!(taken == sent, "back to {}", ends.left);
    }
}

#[test]
fn a_next_hop_behind_a_gateway_and_an_interface_that_is_replaced() {
    let name = "relay::a_next_hop_behind_a_gateway_and_an_interface_that_is_replaced";
    if !is_root() || !namespace::inside(name) {
        return;
    }
    let mut lab = Lab::new();
    // The right neighbour routes to addresses that are nowhere on the relay's own links.
    let far = [Ends { right: "10.6.0.2", ..FOUR }, Ends { right: "fd06::2", ..SIX }];
    sh("ip -n right link set lo up");
    sh("ip -n right addr add 10.6.0.2/32 dev lo");
    sh("ip -n right addr add fd06::2/128 dev lo");
    sh("ip route add 10.6.0.0/24 via 10.2.0.2");
    sh("ip route add fd06::/64 via fd02::2");
    for ends in far {
        lab.right.does("open", json!([ends.right, RIGHT]));
    }
    let legs = far.map(Ends::leg);
    assert_eq!(lab.apply(&legs), []);
    let good = labelled(LABEL, 300, 1);
    for ends in far {
        lab.send(ends, &good);
        assert_eq!(lab.arrived(ends, 1), std::slice::from_ref(&good));
        assert_eq!(lab.state(ends).packets, 1);
    }
    // Its program goes with an interface; the next one of the same name gets it anew.
    assert_eq!(lab.relay.off(), []);
    sh("ip link del rl");
    assert_eq!(lab.relay.off().len(), 1);
    sh("ip link add rl type veth peer name v0 netns left");
    for (end, interface) in [("", "rl"), ("-n left ", "v0")] {
        let number = if end.is_empty() { 1 } else { 2 };
        sh(&format!("ip {end}addr add 10.1.0.{number}/24 dev {interface}"));
        sh(&format!("ip {end}addr add fd01::{number}/64 dev {interface} nodad"));
        sh(&format!("ip {end}link set {interface} up"));
    }
    assert_eq!(lab.apply(&legs), []);
    assert_eq!(lab.relay.off(), []);
    for ends in far {
        lab.send(ends, &good);
        assert_eq!(lab.arrived(ends, 1), std::slice::from_ref(&good));
        assert_eq!(lab.state(ends).packets, 2);
    }
}

#[test]
fn the_verifier_accepts_both_programs_within_budget() {
    if !is_root() {
        return;
    }
    let relay = KernelRelay::load(PORT).unwrap();
    let programs = relay.programs();
    assert_eq!(programs.len(), 2);
    for program in programs {
        let info = program.info().unwrap();
        let verified = info.verified_instruction_count().unwrap();
        println!(
            "{}: {verified} instructions verified, {} bytes of machine code",
            info.name_as_str().unwrap_or_default(),
            info.size_jitted()
        );
        assert!(verified <= 50_000);
    }
}
