//! Default deny, exhaustively: every port of both protocols in both families.

use std::collections::BTreeSet;

use meshhold::datapath::{ebpf::Program, policy::PortRange};

use crate::{
    packets::{SYN, TCP, UDP, ipv4, ipv6, ports},
    support::{Kernel, OWN4, OWN6, PEER4, PEER6, is_root, open, policy, usual_scope},
};

/// Ports that pass, by protocol and IP version.
fn scan(kernel: &mut Kernel) -> BTreeSet<(u8, u8, u16)> {
    let mut passed = BTreeSet::new();
    for protocol in [TCP, UDP] {
        for port in 0..=u16::MAX {
            let payload = ports(protocol, 40_000, port, SYN);
            for (version, packet) in
                [(4, ipv4(PEER4, OWN4, protocol, &payload)), (6, ipv6(PEER6, OWN6, protocol, &payload))]
            {
                if kernel.passes(Program::Ingress, &packet) {
                    passed.insert((protocol, version, port));
                }
            }
        }
    }
    kernel.assert_conserved();
    passed
}

fn expected(scope: &[PortRange]) -> BTreeSet<(u8, u8, u16)> {
    let ports = scope.iter().flat_map(|range| (range.first..=range.last).map(|port| (range.protocol, port)));
    ports.flat_map(|(protocol, port)| [(protocol, 4, port), (protocol, 6, port)]).collect()
}

#[test]
fn an_empty_scope_drops_every_port() {
    if is_root() {
        assert_eq!(scan(&mut Kernel::new(&policy(Vec::new()))), BTreeSet::new());
    }
}

#[test]
fn exactly_the_scope_passes() {
    if is_root() {
        let mut scope = usual_scope();
        scope.extend([open(TCP, 0, 0), open(TCP, 65_535, 65_535), open(UDP, 127, 129)]);
        assert_eq!(scan(&mut Kernel::new(&policy(scope.clone()))), expected(&scope));
    }
}

#[test]
fn a_live_change_opens_and_closes_exactly_what_it_says() {
    if !is_root() {
        return;
    }
    let mut kernel = Kernel::new(&policy(usual_scope()));
    for scope in [vec![open(TCP, 443, 443)], Vec::new(), usual_scope(), vec![open(UDP, 0, u16::MAX)]] {
        kernel.0.apply(&policy(scope.clone())).unwrap();
        let sample = |kernel: &mut Kernel| {
            let mut passed = BTreeSet::new();
            for (protocol, port) in [(TCP, 22), (TCP, 443), (TCP, 8050), (UDP, 5353), (UDP, 1), (UDP, 65_535)] {
                if kernel.passes(Program::Ingress, &ipv4(PEER4, OWN4, protocol, &ports(protocol, 9, port, SYN))) {
                    passed.insert((protocol, 4, port));
                }
            }
            passed
        };
        let passed = sample(&mut kernel);
        let expected = expected(&scope);
        for (protocol, port) in [(TCP, 22), (TCP, 443), (TCP, 8050), (UDP, 5353), (UDP, 1), (UDP, 65_535)] {
            assert_eq!(passed.contains(&(protocol, 4, port)), expected.contains(&(protocol, 4, port)), "{protocol} {port}");
        }
    }
}
