//! Flows that are known, their first packets, and packets that are denied; then the same over larger tables.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use meshhold::datapath::policy::{PeerPolicy, Policy, PortRange};

use crate::{
    packets::{ACK, SYN, TCP, UDP, ipv4, ipv6, ports},
    report::{Bar, Report},
    runner::{Cost, Runner},
    support::{LOCALHOST, NEUTRAL_CALLER4, NEUTRAL_CALLER6, OWN4, OWN6, PEER4, PEER6, open, policy},
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
/// Between the smallest tables and the largest.
const GROWTH: f64 = 1.25;

/// One kind of packet.
type Kind = (&'static str, Cost);

pub(crate) fn measure(runner: &mut Runner, report: &mut Report) {
    let _socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, NATIVE)).unwrap();
    runner.apply(&sized(1, 1));
    for (what, cost) in known(runner) {
        report.add("Packet of a known flow", what, cost, Bar::Units(KNOWN));
    }
    let scanned = scanned(runner);
    for (what, cost) in denied(runner).into_iter().chain([scanned]) {
        report.add("Denied packet without event", what, cost, Bar::Units(DENIED));
    }
    for (what, cost) in first() {
        report.add("First packet of a flow", what, cost, Bar::Units(FIRST));
    }
    sizes(runner, report);
}

/// Small and large tables.
fn sizes(runner: &mut Runner, report: &mut Report) {
    let scopes =
        [1, 256, 65_000].map(|ports| (format!("{ports} entries open a port each"), sized(ports, 1), 1));
    let peers = [1, 100, 10_000].map(|peers| (format!("{peers} peers"), sized(1, peers), 1));
    let flows = [1, 1_024, 65_536].map(|flows| (format!("{flows} flows"), sized(1, 1), flows));
    for steps in [scopes, peers, flows] {
        let mut smallest: Option<[f64; 2]> = None;
        for (what, policy, flows) in steps {
            runner.apply(&policy);
            fill(runner, flows);
            let costs = [sum(&known(runner)), sum(&denied(runner))];
            let [known, denied] = *smallest.get_or_insert(costs.map(|cost| cost.units()));
            let bars = [Bar::Times(GROWTH, known), Bar::Times(GROWTH, denied)];
            for ((kind, cost), bar) in ["known", "denied"].into_iter().zip(costs).zip(bars) {
                report.add(
                    "Size of the tables, all kinds of packets together",
                    format!("{what}: {kind}"),
                    cost,
                    bar,
                );
            }
        }
    }
}

fn sum(kinds: &[Kind]) -> Cost {
    kinds.iter().fold(Cost::default(), |sum, (_, cost)| Cost {
        empty: cost.empty,
        unit: sum.unit + cost.unit / kinds.len() as f64,
        nanoseconds: sum.nanoseconds + cost.nanoseconds / kinds.len() as f64,
    })
}

/// Opens this many flows of ours.
fn fill(runner: &mut Runner, flows: u32) {
    for block in 0..flows.div_ceil(32_768) as u16 {
        let packet = ipv4(OWN4, PEER4, TCP, &ports(TCP, 10_000, 20_000 + block, SYN));
        runner.run("egress_next", &packet, flows.min(32_768));
    }
}

fn known(runner: &mut Runner) -> Vec<Kind> {
    for protocol in [TCP, UDP] {
        assert!(runner.run("egress", &ipv4(OWN4, PEER4, protocol, &ports(protocol, OURS, THEIRS, SYN)), 1));
        assert!(runner.run("egress", &ipv6(OWN6, PEER6, protocol, &ports(protocol, OURS, THEIRS, SYN)), 1));
    }
    let mut costs = Vec::new();
    for (protocol, what) in [(TCP, "in, IPv4 TCP to loopback"), (UDP, "in, IPv4 UDP to loopback")] {
        let port = if protocol == TCP { SERVICE } else { NATIVE };
        let request = ipv4(PEER4, OWN4, protocol, &ports(protocol, 40_000, port, ACK));
        assert!(runner.rewrites("ingress", &request), "{what}");
        costs.push((what, runner.cost("ingress_back", "only_back", &request)));
    }
    for (protocol, what) in [(TCP, "out, IPv4 TCP from loopback"), (UDP, "out, IPv4 UDP from loopback")] {
        let port = if protocol == TCP { SERVICE } else { NATIVE };
        let answer = ipv4(LOCALHOST, NEUTRAL_CALLER4, protocol, &ports(protocol, port, 40_000, ACK));
        assert!(runner.rewrites("egress", &answer), "{what}");
        costs.push((what, runner.cost("egress_back", "only_back", &answer)));
    }
    let six = ipv6(PEER6, OWN6, TCP, &ports(TCP, 40_000, SERVICE, ACK));
    let turns = runner.cost("there_and_back", "only_turn", &six);
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
        costs.push((what, runner.cost(program, "empty", &packet)));
    }
    costs
}

/// Over all ports, so for a scope of few: in a large one most would be open.
fn scanned(runner: &mut Runner) -> Kind {
    let scan = |first| ipv4(PEER4, OWN4, UDP, &ports(UDP, 40_000, first, 0));
    ("in, IPv4 UDP, always another port of ours", runner.cost_of_first("ingress_scan", "only_next", scan))
}

fn denied(runner: &mut Runner) -> Vec<Kind> {
    let anew = |first| ipv4(PEER4, OWN4, UDP, &ports(UDP, first, CLOSED, 0));
    let cases = [
        ("in, IPv4 TCP SYN", "ingress", ipv4(PEER4, OWN4, TCP, &ports(TCP, 40_000, CLOSED, SYN))),
        ("in, IPv4 TCP, no flow", "ingress", ipv4(PEER4, OWN4, TCP, &ports(TCP, 40_000, CLOSED, ACK))),
        ("in, IPv4 UDP", "ingress", ipv4(PEER4, OWN4, UDP, &ports(UDP, 40_000, CLOSED, 0))),
        ("in, IPv6 UDP", "ingress", ipv6(PEER6, OWN6, UDP, &ports(UDP, 40_000, CLOSED, 0))),
        ("out, IPv4 TCP from a closed port", "egress", ipv4(OWN4, PEER4, TCP, &ports(TCP, CLOSED, 9, ACK))),
        (
            "out, loopback, closed port",
            "egress",
            ipv4(LOCALHOST, NEUTRAL_CALLER4, TCP, &ports(TCP, CLOSED, 9, ACK)),
        ),
    ];
    let mut costs = Vec::new();
    for (what, program, packet) in cases {
        assert!(!runner.run(program, &packet, 1), "{what}");
        costs.push((what, runner.cost(program, "empty", &packet)));
    }
    let theirs = runner.cost_of_first("ingress_next", "only_next", anew);
    costs.push(("in, IPv4 UDP, always another port of theirs", theirs));
    costs
}

/// Where a first packet comes from, and where it goes.
struct First {
    what: &'static str,
    version: u8,
    out: bool,
    protocol: u8,
    /// Ours, where it comes in.
    port: u16,
    back: bool,
}

impl First {
    fn packet(&self, first: u16) -> Vec<u8> {
        let (from, to) = (first, if self.out { THEIRS } else { self.port });
        let payload = ports(self.protocol, from, to, SYN);
        match (self.version, self.out) {
            (4, true) => ipv4(OWN4, PEER4, self.protocol, &payload),
            (4, false) => ipv4(PEER4, OWN4, self.protocol, &payload),
            (_, true) => ipv6(OWN6, PEER6, self.protocol, &payload),
            (_, false) => ipv6(PEER6, OWN6, self.protocol, &payload),
        }
    }
}

/// Each kind into tables of its own, that have room for all the flows.
fn first() -> Vec<Kind> {
    let kind = |what, version, out, protocol, port, back| First { what, version, out, protocol, port, back };
    let kinds = [
        kind("in, IPv4 TCP SYN to loopback", 4, false, TCP, SERVICE, true),
        kind("in, IPv4 UDP to loopback", 4, false, UDP, NATIVE, true),
        kind("in, IPv6 UDP to a native service", 6, false, UDP, NATIVE, false),
        kind("out, IPv4 TCP SYN", 4, true, TCP, 0, false),
        kind("out, IPv4 UDP", 4, true, UDP, 0, false),
        kind("out, IPv6 UDP", 6, true, UDP, 0, false),
    ];
    let cost = |kind: First| {
        let mut runner = Runner::new();
        runner.apply(&sized(1, 1));
        let (program, above) = match (kind.out, kind.back) {
            (true, _) => ("egress_next", "only_next"),
            (false, true) => ("ingress_next_back", "only_next_back"),
            (false, false) => ("ingress_next", "only_next"),
        };
        (kind.what, runner.cost_of_first(program, above, |first| kind.packet(first)))
    };
    kinds.into_iter().map(cost).collect()
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
    network.peers[0].caller4 = NEUTRAL_CALLER4.into();
    network.peers[0].caller6 = NEUTRAL_CALLER6.into();
    network.peers.extend((1..peers).map(|index| PeerPolicy {
        index: index + 10,
        ipv4: Ipv4Addr::from_bits(u32::from_be_bytes([198, 18, 1, 0]) + index),
        ipv6: Ipv6Addr::from_bits(u128::from_be_bytes(PEER6) + (u128::from(index) << 64)),
        caller4: Ipv4Addr::from_bits(u32::from_be_bytes([127, 64, 1, 0]) + index),
        caller6: Ipv4Addr::from_bits(u32::from_be_bytes([127, 96, 1, 0]) + index),
    }));
    policy
}
