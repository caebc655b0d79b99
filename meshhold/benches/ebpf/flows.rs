//! Flows that are known, their first packets, and packets that are denied; then the same over larger tables.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use meshhold::datapath::policy::{PeerPolicy, Policy, PortRange};

use crate::{
    packets::{ACK, SYN, TCP, UDP, ipv4, ipv6, ports},
    report::Report,
    runner::Runner,
    support::{CALLER4, LOCALHOST, OWN4, OWN6, PEER4, PEER6, open, policy},
};

/// Open in every policy here, for services on loopback.
const SERVICE: u16 = 22;
/// Open in every policy here; a socket on all IPv6 addresses is bound to it.
const NATIVE: u16 = 5353;
/// Never open here: our end of the flows that this node opens.
const OURS: u16 = 9999;
const THEIRS: u16 = 443;
/// Never open here.
const CLOSED: u16 = 9998;

const KNOWN: f64 = 1.5;
const DENIED: f64 = 1.5;
const FIRST: f64 = 6.0;

/// One kind of packet: what it is called, and what it costs above an empty program.
type Cost = (&'static str, f64);

pub(crate) fn measure(runner: &mut Runner, report: &mut Report) {
    let _socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, NATIVE)).unwrap();
    runner.apply(&sized(1, 1));
    let empty = report.empty();
    for (what, cost) in known(runner, empty) {
        report.add("Packet of a known flow", what.to_owned(), cost, Some(KNOWN));
    }
    for (what, cost) in denied(runner, empty) {
        report.add("Denied packet without event", what.to_owned(), cost, Some(DENIED));
    }
    for (what, cost) in first(runner) {
        report.add("First packet of a flow", what.to_owned(), cost, Some(FIRST));
    }
    sizes(runner, report);
}

/// Small and large tables: what is common to all flows, by one example each.
fn sizes(runner: &mut Runner, report: &mut Report) {
    let scopes = [1, 256, 65_534].map(|ports| (format!("{ports} ports open"), sized(ports, 1), 1));
    let peers = [100, 10_000].map(|peers| (format!("{peers} peers"), sized(1, peers), 1));
    let flows = [1_024, 65_536].map(|flows| (format!("{flows} flows"), sized(1, 1), flows));
    let all = [("65534 ports, 10000 peers, 65536 flows".to_owned(), sized(65_534, 10_000), 65_536)];
    for (what, policy, flows) in scopes.into_iter().chain(peers).chain(flows).chain(all) {
        runner.apply(&policy);
        fill(runner, flows);
        let empty = report.empty();
        let mean = |costs: &[Cost]| costs.iter().map(|(_, cost)| cost).sum::<f64>() / costs.len() as f64;
        let (known, denied) = (mean(&known(runner, empty)), mean(&denied(runner, empty)));
        report.add("Table sizes, mean of a known flow", what.clone(), known, Some(KNOWN));
        report.add("Table sizes, mean of a denied packet", what, denied, Some(DENIED));
    }
}

/// Opens this many flows of ours.
fn fill(runner: &mut Runner, flows: u32) {
    for block in 0..flows.div_ceil(32_768) as u16 {
        let packet = ipv4(OWN4, PEER4, TCP, &ports(TCP, 10_000, 20_000 + block, SYN));
        runner.run("egress_next", &packet, flows.min(32_768));
    }
}

fn known(runner: &mut Runner, empty: f64) -> Vec<Cost> {
    for protocol in [TCP, UDP] {
        assert!(runner.run("egress", &ipv4(OWN4, PEER4, protocol, &ports(protocol, OURS, THEIRS, SYN)), 1));
        assert!(runner.run("egress", &ipv6(OWN6, PEER6, protocol, &ports(protocol, OURS, THEIRS, SYN)), 1));
    }
    let mut costs = Vec::new();
    for (protocol, what) in [(TCP, "in, IPv4 TCP to loopback"), (UDP, "in, IPv4 UDP to loopback")] {
        let port = if protocol == TCP { SERVICE } else { NATIVE };
        let request = ipv4(PEER4, OWN4, protocol, &ports(protocol, 40_000, port, ACK));
        assert!(runner.rewrites("ingress", &request), "{what}");
        costs.push((what, runner.cost("ingress_back", &request) - runner.cost("only_back", &request)));
    }
    for (protocol, what) in [(TCP, "out, IPv4 TCP from loopback"), (UDP, "out, IPv4 UDP from loopback")] {
        let port = if protocol == TCP { SERVICE } else { NATIVE };
        let answer = ipv4(LOCALHOST, CALLER4, protocol, &ports(protocol, port, 40_000, ACK));
        assert!(runner.rewrites("egress", &answer), "{what}");
        costs.push((what, runner.cost("egress_back", &answer) - runner.cost("only_back", &answer)));
    }
    let six = ipv6(PEER6, OWN6, TCP, &ports(TCP, 40_000, SERVICE, ACK));
    let turns = runner.cost("there_and_back", &six) - runner.cost("only_turn", &six);
    costs.push(("IPv6 TCP to and from IPv4 loopback, mean of in and out", turns));
    let plain = [
        ("in, IPv4 TCP, ours", "ingress", ipv4(PEER4, OWN4, TCP, &ports(TCP, THEIRS, OURS, ACK))),
        ("in, IPv4 UDP, ours", "ingress", ipv4(PEER4, OWN4, UDP, &ports(UDP, THEIRS, OURS, ACK))),
        ("in, IPv6 TCP, ours", "ingress", ipv6(PEER6, OWN6, TCP, &ports(TCP, THEIRS, OURS, ACK))),
        ("in, IPv6 UDP to a native service", "ingress", ipv6(PEER6, OWN6, UDP, &ports(UDP, 4000, NATIVE, 0))),
        ("out, IPv4 TCP, ours", "egress", ipv4(OWN4, PEER4, TCP, &ports(TCP, OURS, THEIRS, ACK))),
        ("out, IPv4 UDP, ours", "egress", ipv4(OWN4, PEER4, UDP, &ports(UDP, OURS, THEIRS, ACK))),
        ("out, IPv6 TCP, ours", "egress", ipv6(OWN6, PEER6, TCP, &ports(TCP, OURS, THEIRS, ACK))),
        ("out, IPv6 UDP of a native service", "egress", ipv6(OWN6, PEER6, UDP, &ports(UDP, NATIVE, 4000, 0))),
    ];
    for (what, program, packet) in plain {
        assert!(runner.run(program, &packet, 1), "{what}");
        costs.push((what, runner.cost(program, &packet) - empty));
    }
    costs
}

fn denied(runner: &mut Runner, empty: f64) -> Vec<Cost> {
    let scan = |first| ipv4(PEER4, OWN4, UDP, &ports(UDP, 40_000, first, 0));
    let cases = [
        ("in, IPv4 TCP SYN", "ingress", ipv4(PEER4, OWN4, TCP, &ports(TCP, 40_000, CLOSED, SYN))),
        ("in, IPv4 TCP, no flow", "ingress", ipv4(PEER4, OWN4, TCP, &ports(TCP, 40_000, CLOSED, ACK))),
        ("in, IPv4 UDP", "ingress", ipv4(PEER4, OWN4, UDP, &ports(UDP, 40_000, CLOSED, 0))),
        ("in, IPv6 UDP", "ingress", ipv6(PEER6, OWN6, UDP, &ports(UDP, 40_000, CLOSED, 0))),
        ("out, IPv4 TCP from a closed port", "egress", ipv4(OWN4, PEER4, TCP, &ports(TCP, CLOSED, 9, ACK))),
        ("out, loopback, closed port", "egress", ipv4(LOCALHOST, CALLER4, TCP, &ports(TCP, CLOSED, 9, ACK))),
    ];
    let mut costs = Vec::new();
    for (what, program, packet) in cases {
        assert!(!runner.run(program, &packet, 1), "{what}");
        costs.push((what, runner.cost(program, &packet) - empty));
    }
    let scanned = runner.cost_of_first("ingress_scan", scan);
    costs.push(("in, IPv4 UDP, always another port of ours", scanned - runner.cost("only_next", &scan(0))));
    costs
}

fn first(runner: &mut Runner) -> Vec<Cost> {
    let mut costs = Vec::new();
    let mut add = |what, program, baseline, version: u8, out: bool, protocol, port: u16, flags| {
        let packet = |first: u16| {
            let (local, remote) = if out { (first, THEIRS) } else { (port, first) };
            let payload = if out {
                ports(protocol, local, remote, flags)
            } else {
                ports(protocol, remote, local, flags)
            };
            match (version, out) {
                (4, true) => ipv4(OWN4, PEER4, protocol, &payload),
                (4, false) => ipv4(PEER4, OWN4, protocol, &payload),
                (_, true) => ipv6(OWN6, PEER6, protocol, &payload),
                (_, false) => ipv6(PEER6, OWN6, protocol, &payload),
            }
        };
        let cost = runner.cost_of_first(program, packet) - runner.cost(baseline, &packet(0));
        costs.push((what, cost));
    };
    let (back, only_back) = ("ingress_next_back", "only_next_back");
    add("in, IPv4 TCP SYN to loopback", back, only_back, 4, false, TCP, SERVICE, SYN);
    add("in, IPv4 UDP to loopback", back, only_back, 4, false, UDP, NATIVE, 0);
    add("in, IPv6 UDP to a native service", "ingress_next", "only_next", 6, false, UDP, NATIVE, 0);
    add("out, IPv4 TCP SYN", "egress_next", "only_next", 4, true, TCP, 0, SYN);
    add("out, IPv4 UDP", "egress_next", "only_next", 4, true, UDP, 0, 0);
    add("out, IPv6 UDP", "egress_next", "only_next", 6, true, UDP, 0, 0);
    costs
}

/// A policy with this many open ports for each protocol, in as many entries, and this many peers.
fn sized(open_ports: u32, peers: u32) -> Policy {
    let mut scope = vec![open(TCP, SERVICE, SERVICE), open(UDP, NATIVE, NATIVE)];
    let candidates = (1..=u16::MAX).filter(|port| ![SERVICE, NATIVE, OURS, CLOSED].contains(port));
    for port in candidates.take(open_ports as usize - 1) {
        scope.extend([TCP, UDP].map(|protocol| PortRange { protocol, first: port, last: port }));
    }
    let mut policy = policy(scope);
    let network = &mut policy.networks[0];
    network.peers.extend((1..peers).map(|index| PeerPolicy {
        index: index + 10,
        ipv4: Ipv4Addr::from_bits(u32::from_be_bytes([198, 18, 1, 0]) + index),
        ipv6: Ipv6Addr::from_bits(u128::from_be_bytes(PEER6) + (u128::from(index) << 64)),
        caller4: Ipv4Addr::from_bits(u32::from_be_bytes([127, 64, 1, 0]) + index),
        caller6: Ipv4Addr::from_bits(u32::from_be_bytes([127, 96, 1, 0]) + index),
    }));
    policy
}
