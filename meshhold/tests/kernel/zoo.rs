//! Every specimen of the zoo has its reason, in the kernel and in user space.

use std::collections::BTreeSet;

use meshhold::datapath::ebpf::Program::{Barrier, Egress, Guard};
use meshhold_common::{Address, Reason, guard};

use crate::{
    packets::{ACK, SYN, TCP, UDP, ipv4, ipv6, ports, tcp, udp},
    specimens::zoo,
    support::{
        CALLER4, CALLER6, Kernel, LOCALHOST, OTHER_OWN4, OWN4, OWN6, PEER4, is_root, policy, usual_scope,
    },
    tables::Memory,
};

fn ethernet(kind: u16, packet: &[u8]) -> Vec<u8> {
    [&[2; 12], &kind.to_be_bytes()[..], packet].concat()
}

#[test]
fn every_specimen_has_its_reason_in_the_kernel() {
    if !is_root() {
        return;
    }
    let mut met = BTreeSet::new();
    for specimen in zoo() {
        let mut kernel = Kernel::new(&policy(usual_scope()));
        for (program, packet) in &specimen.before {
            kernel.reason(*program, packet);
        }
        assert_eq!(kernel.reason(specimen.program, &specimen.packet), specimen.reason, "{}", specimen.what);
        kernel.assert_conserved();
        met.insert(specimen.reason);
    }
    // Those of other programs: below, and in `device`.
    let elsewhere = BTreeSet::from([
        Reason::RewriteFailed,
        Reason::LanGuard,
        Reason::Barrier,
        Reason::PassForward,
        Reason::DeviceUnreachable,
        Reason::NoTranslation,
        Reason::HopLimit,
    ]);
    let all: BTreeSet<Reason> = Reason::ALL.iter().copied().filter(|reason| reason.is_classifier()).collect();
    assert_eq!(&all - &met, elsewhere);
}

#[test]
fn every_specimen_has_its_reason_in_user_space() {
    for specimen in zoo() {
        let mut tables = Memory::new(&policy(usual_scope()));
        for (program, packet) in &specimen.before {
            let _ = tables.run(*program, packet);
        }
        assert_eq!(tables.run(specimen.program, &specimen.packet).0, specimen.reason, "{}", specimen.what);
    }
}

/// A test run's packet has the wrong EtherType for the change of families that an IPv6 caller's answer needs.
#[test]
fn a_refused_rewrite_drops_the_packet() {
    if is_root() {
        let mut kernel = Kernel::new(&policy(usual_scope()));
        let answer = ipv4(LOCALHOST, CALLER6, TCP, &tcp(22, 9, ACK));
        assert_eq!(kernel.reason(Egress, &answer), Reason::RewriteFailed);
    }
}

#[test]
fn the_guard_drops_mesh_addresses_and_nothing_else() {
    let outside: [u8; 4] = [192, 0, 2, 1];
    let outside6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let cases: [(&str, [u8; 4], [u8; 4], bool); 6] = [
        ("to our address", outside, OWN4, true),
        ("from a peer's", PEER4, outside, true),
        ("to a caller address", outside, CALLER4, true),
        ("from a caller address", CALLER6, outside, true),
        ("to another network", outside, OTHER_OWN4, true),
        ("unrelated", outside, [203, 0, 113, 9], false),
    ];
    let policy = policy(usual_scope());
    let mut tables = Memory::new(&policy);
    for (what, source, destination, dropped) in cases {
        assert_eq!(guard(&mut tables, &Address::v4(source), &Address::v4(destination)), dropped, "{what}");
    }
    assert!(guard(&mut tables, &Address::v6(outside6), &Address::v6(OWN6)));
    if !is_root() {
        return;
    }
    let mut kernel = Kernel::new(&policy);
    for (what, source, destination, dropped) in cases {
        let frame = ethernet(0x0800, &ipv4(source, destination, TCP, &ports(TCP, 1, 22, SYN)));
        assert_eq!(kernel.passes(Guard, &frame), !dropped, "{what}");
    }
    assert_eq!(
        kernel.reason(Guard, &ethernet(0x86dd, &ipv6(outside6, OWN6, UDP, &udp(1, 5353)))),
        Reason::LanGuard
    );
    assert!(kernel.passes(Guard, &ethernet(0x86dd, &ipv6(outside6, outside6, UDP, &udp(1, 5353)))));
    let arp = |target: [u8; 4]| {
        ethernet(
            0x0806,
            &[&[0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2], &outside[..], &[0; 6], &target].concat(),
        )
    };
    assert!(!kernel.passes(Guard, &arp(OWN4)));
    assert!(kernel.passes(Guard, &arp([192, 0, 2, 7])));
    kernel.assert_conserved();
}

/// The same on the way out. The range that this node couldn't have is somebody else's here, and no business of the barrier.
#[test]
fn the_barrier_drops_mesh_addresses_and_nothing_else() {
    if !is_root() {
        return;
    }
    let outside: [u8; 4] = [192, 0, 2, 1];
    let outside6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let cases: [(&str, [u8; 4], [u8; 4], bool); 6] = [
        ("from our address", OWN4, outside, true),
        ("to a peer's", outside, PEER4, true),
        ("to a caller address", outside, CALLER4, true),
        ("from a caller address", CALLER6, outside, true),
        ("to another network", outside, OTHER_OWN4, true),
        ("unrelated", outside, [203, 0, 113, 9], false),
    ];
    let mut policy = policy(usual_scope());
    let mut kernel = Kernel::new(&policy);
    for (what, source, destination, dropped) in cases {
        let frame = ethernet(0x0800, &ipv4(source, destination, TCP, &ports(TCP, 1, 22, SYN)));
        assert_eq!(kernel.passes(Barrier, &frame), !dropped, "{what}");
    }
    let frame6 = |from, to| ethernet(0x86dd, &ipv6(from, to, UDP, &udp(1, 5353)));
    assert_eq!(kernel.reason(Barrier, &frame6(outside6, OWN6)), Reason::Barrier);
    assert!(kernel.passes(Barrier, &frame6(outside6, outside6)));
    kernel.assert_conserved();
    let other = ethernet(0x0800, &ipv4(outside, OTHER_OWN4, UDP, &udp(1, 5353)));
    policy.networks.retain(|network| network.own4 != Some(OTHER_OWN4.into()));
    kernel.0.apply(&policy).unwrap();
    assert!(kernel.passes(Barrier, &other), "a network that was left");
    assert_eq!(kernel.reason(Barrier, &frame6(OWN6, outside6)), Reason::Barrier);
}
