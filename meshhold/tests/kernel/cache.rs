//! What has been decided serves again, and for no moment longer than it may.

use std::time::{Duration, Instant};

use meshhold::datapath::{
    ebpf::Program::{self, Egress, Ingress},
    policy::{Policy, PortRange},
};
use meshhold_common::Reason;

use crate::{
    packets::{ACK, SYN, TCP, UDP, ipv4, ipv6, ports},
    specimens::zoo,
    support::{CALLER4, Kernel, LOCALHOST, OWN4, OWN6, PEER4, PEER6, is_root, policy, usual_scope},
    tables::Memory,
};

/// Packets of known flows in the usual policy, in and out, and what opened those that are ours.
fn known() -> Vec<(Program, Vec<u8>)> {
    let mut packets = Vec::new();
    for (protocol, port) in [(TCP, 8080), (UDP, 5353)] {
        packets.extend([
            (Egress, ipv4(OWN4, PEER4, protocol, &ports(protocol, 50_000, 443, SYN))),
            (Egress, ipv4(OWN4, PEER4, protocol, &ports(protocol, 50_000, 443, ACK))),
            (Ingress, ipv4(PEER4, OWN4, protocol, &ports(protocol, 443, 50_000, ACK))),
            (Ingress, ipv4(PEER4, OWN4, protocol, &ports(protocol, 9, port, ACK))),
            (Ingress, ipv6(PEER6, OWN6, protocol, &ports(protocol, 9, port, ACK))),
            (Egress, ipv4(LOCALHOST, CALLER4, protocol, &ports(protocol, port, 9, ACK))),
            (Egress, ipv6(OWN6, PEER6, protocol, &ports(protocol, port, 9, ACK))),
        ]);
    }
    packets
}

/// Runs everything until it has been kept.
fn keep(kernel: &mut Kernel) {
    for _ in 0..3 {
        for (program, packet) in known() {
            assert!(kernel.passes(program, &packet));
        }
    }
}

fn changed(change: impl FnOnce(&mut Policy)) -> Policy {
    let mut policy = policy(usual_scope());
    change(&mut policy);
    policy
}

#[test]
fn nothing_kept_outlives_a_change_of_the_policy() {
    if !is_root() {
        return;
    }
    let mut kernel = Kernel::new(&policy(usual_scope()));
    let gone = [
        ("peer", changed(|policy| policy.networks[0].peers.clear())),
        ("network", changed(|policy| drop(policy.networks.remove(0)))),
        (
            "address",
            changed(|policy| {
                policy.networks[0].own4 = Some([198, 18, 0, 2].into());
                policy.networks[0].own6 = "fd12:1:86dd:2::1".parse().unwrap();
            }),
        ),
    ];
    for (what, without) in gone {
        kernel.0.apply(&policy(usual_scope())).unwrap();
        keep(&mut kernel);
        kernel.0.apply(&without).unwrap();
        for (program, packet) in known().iter().filter(|(program, _)| *program == Ingress) {
            assert!(!kernel.passes(*program, packet), "{what}");
        }
    }
    kernel.0.apply(&policy(usual_scope())).unwrap();
    keep(&mut kernel);
    kernel.0.apply(&policy(Vec::<PortRange>::new())).unwrap();
    let ours = |packet: &[u8]| packet.windows(2).any(|port| port == 50_000_u16.to_be_bytes());
    for (program, packet) in known() {
        assert_eq!(kernel.passes(program, &packet), ours(&packet), "{program:?} {packet:02x?}");
    }
}

#[test]
fn another_caller_address_counts_at_once() {
    if !is_root() {
        return;
    }
    let mut kernel = Kernel::new(&policy(usual_scope()));
    keep(&mut kernel);
    let request = |source, to| ipv4(source, to, TCP, &ports(TCP, 9, 8080, ACK));
    assert_eq!(kernel.transform(Ingress, &request(PEER4, OWN4)), request(CALLER4, LOCALHOST));
    let other = [127, 64, 7, 7];
    kernel.0.apply(&changed(|policy| policy.networks[0].peers[0].caller4 = other.into())).unwrap();
    assert_eq!(kernel.transform(Ingress, &request(PEER4, OWN4)), request(other, LOCALHOST));
}

#[test]
fn a_kept_flow_of_ours_never_admits_a_new_connection() {
    if !is_root() {
        return;
    }
    let mut kernel = Kernel::new(&policy(usual_scope()));
    keep(&mut kernel);
    let answer = |flags| ipv4(PEER4, OWN4, TCP, &ports(TCP, 443, 50_000, flags));
    assert_eq!(kernel.reason(Ingress, &answer(ACK)), Reason::PassFlow);
    assert_eq!(kernel.reason(Ingress, &answer(SYN)), Reason::PortDenied);
    assert_eq!(kernel.reason(Ingress, &answer(SYN | ACK)), Reason::PassFlow);
}

#[test]
fn a_service_that_starts_later_is_reached() {
    if !is_root() {
        return;
    }
    let scope = vec![crate::support::open(UDP, 0, u16::MAX)];
    let mut kernel = Kernel::new(&policy(scope));
    // For a service on 127.0.0.1 an IPv6 datagram is translated.
    let holder = std::net::UdpSocket::bind("[::]:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    drop(holder);
    let request = ipv6(PEER6, OWN6, UDP, &ports(UDP, 9, port, 0));
    assert_eq!(kernel.transform(Ingress, &request), request);
    let _service = std::net::UdpSocket::bind(("127.0.0.1", port)).unwrap();
    // Longer than a tick on any kernel.
    let deadline = Instant::now() + Duration::from_secs(6);
    while kernel.transform(Ingress, &request) == request {
        assert!(Instant::now() < deadline, "the new service is not reached");
        std::thread::yield_now();
    }
}

/// The same source in user space: with places and without, the same verdicts.
#[test]
fn verdicts_do_not_depend_on_what_is_kept() {
    let policy = policy(usual_scope());
    let packets: Vec<(Program, Vec<u8>)> =
        known().into_iter().chain(zoo().into_iter().flat_map(|specimen| specimen.packets())).collect();
    let mut plain = Memory::new(&policy);
    let mut keeping = Memory::new(&policy).keeping();
    for _ in 0..3 {
        for (program, packet) in &packets {
            let expected = plain.run(*program, packet);
            assert_eq!(keeping.run(*program, packet), expected, "{program:?} {packet:02x?}");
        }
    }
    assert!(keeping.kept() > 0);
}
