//! Packets for LAN devices: each outcome of `device_ingress`, and what a forwarded packet looks like. (The way back needs
//! interfaces: the lab's gateway tests go it.)

use std::net::{IpAddr, Ipv4Addr};

use meshhold::datapath::{
    ebpf::Program::{DeviceIngress, Ingress},
    policy::{DevicePolicy, DeviceWay, Policy},
};
use meshhold_common::{Reason, nat::FIRST_PORT};

use crate::{
    packets::{ACK, ICMP, Ip4, SYN, TCP, UDP, checksums_are_right, icmp, ipv4, ipv4_raw, ports, sum},
    support::{Kernel, NOBODY4, OWN4, PEER4, is_root, policy, usual_scope},
};

const DEVICE: Ip4 = [198, 18, 0, 2];
const TARGET: Ip4 = [192, 168, 7, 2];
const GATEWAY: Ip4 = [192, 168, 7, 1];
const RST: u8 = 0x04;
/// The program puts an empty one before the packet.
const LINK_HEADER: usize = 14;

/// The usual policy with a device behind interface 1; `reachable`: there is a way to it.
pub(crate) fn with_device(reachable: bool) -> Policy {
    let mut policy = policy(usual_scope());
    let way = DeviceWay {
        interface: 1,
        name: "lo".to_owned(),
        source: IpAddr::from(GATEWAY),
        mtus: [1500, 1520],
        segments: [1380, 1360],
    };
    policy.networks[0].devices.push(DevicePolicy {
        ipv4: Some(Ipv4Addr::from(DEVICE)),
        ipv6: "fd12:0:0:1::2".parse().unwrap(),
        target: IpAddr::from(TARGET),
        way: reachable.then_some(way),
    });
    policy
}

/// With the last hop that it has.
pub(crate) fn hopless(mut packet: Vec<u8>) -> Vec<u8> {
    packet[8] = 1;
    packet[10..12].fill(0);
    let value = !sum(&[&packet[..20]]);
    packet[10..12].copy_from_slice(&value.to_be_bytes());
    packet
}

pub(crate) fn to_device(protocol: u8, port: u16, flags: u8) -> Vec<u8> {
    ipv4(PEER4, DEVICE, protocol, &ports(protocol, 40_000, port, flags))
}

#[test]
fn each_outcome_has_its_reason() {
    if !is_root() {
        return;
    }
    let cases = [
        (to_device(TCP, 22, SYN), Reason::PassForward),
        (to_device(UDP, 5353, 0), Reason::PassForward),
        (ipv4(PEER4, DEVICE, ICMP, &icmp(8, 7)), Reason::PassForward),
        (to_device(TCP, 23, SYN), Reason::PortDenied),
        (to_device(TCP, 22, RST), Reason::NoTranslation),
        (hopless(to_device(TCP, 22, SYN)), Reason::HopLimit),
        (ipv4(NOBODY4, DEVICE, TCP, &ports(TCP, 40_000, 22, SYN)), Reason::UnknownSource),
        (ipv4(PEER4, DEVICE, ICMP, &icmp(0, 7)), Reason::IcmpType),
        (ipv4_raw(PEER4, DEVICE, UDP, &[], 0x0010, &[0; 16]), Reason::FragmentNoFirst),
    ];
    for (packet, reason) in cases {
        let mut kernel = Kernel::new(&with_device(true));
        assert_eq!(kernel.reason(DeviceIngress, &packet), reason);
        kernel.assert_conserved();
    }
    let mut kernel = Kernel::new(&with_device(false));
    assert_eq!(kernel.reason(DeviceIngress, &to_device(TCP, 22, SYN)), Reason::DeviceUnreachable);
}

#[test]
fn other_packets_are_none_of_its_business() {
    if !is_root() {
        return;
    }
    let mut kernel = Kernel::new(&with_device(true));
    let before = kernel.0.detailed_counters().unwrap();
    let ours = ipv4(PEER4, OWN4, TCP, &ports(TCP, 40_000, 22, SYN));
    assert!(kernel.passes(DeviceIngress, &ours) && kernel.passes(DeviceIngress, &[0; 64]));
    assert_eq!(kernel.0.detailed_counters().unwrap(), before);
    // And without its program nobody reaches this node by the address of a device.
    assert_eq!(kernel.reason(Ingress, &to_device(TCP, 22, SYN)), Reason::NotForUs);
}

#[test]
fn the_device_sees_the_gateway_and_the_same_port_for_one_flow() {
    if !is_root() {
        return;
    }
    for (protocol, port, first, later) in [(TCP, 22, SYN, ACK), (UDP, 5353, 0, 0)] {
        let mut kernel = Kernel::new(&with_device(true));
        let mut from = Vec::new();
        for flags in [first, later] {
            let out = kernel.transform(DeviceIngress, &to_device(protocol, port, flags));
            let packet = &out[LINK_HEADER..];
            assert!(checksums_are_right(packet));
            assert_eq!((&packet[12..16], &packet[16..20], packet[8]), (&GATEWAY[..], &TARGET[..], 63));
            assert_eq!(packet[22..24], port.to_be_bytes());
            from.push(u16::from_be_bytes([packet[20], packet[21]]));
        }
        assert!(from[0] >= FIRST_PORT && from[0] == from[1], "{from:?}");
        assert_eq!(kernel.0.translations().unwrap(), 1);
    }
}

#[test]
fn a_segment_size_that_the_mesh_can_t_carry_is_lowered() {
    if !is_root() {
        return;
    }
    for (announced, want) in [(1460_u16, 1380_u16), (1380, 1380), (536, 536)] {
        for padding in [&[][..], &[1], &[1, 1, 1, 3, 3, 7]] {
            let [a, b] = announced.to_be_bytes();
            let mut options = [padding, &[2, 4, a, b]].concat();
            let at = 40 + padding.len() + 2;
            options.resize(options.len().next_multiple_of(4), 0);
            let mut segment = ports(TCP, 40_000, 22, SYN);
            segment.truncate(20);
            segment[12] = ((20 + options.len()) / 4 * 16) as u8;
            segment.extend(options);
            let mut kernel = Kernel::new(&with_device(true));
            let out = kernel.transform(DeviceIngress, &ipv4(PEER4, DEVICE, TCP, &segment));
            let packet = &out[LINK_HEADER..];
            assert_eq!(packet[at..at + 2], want.to_be_bytes(), "{announced} behind {padding:?}");
            assert!(checksums_are_right(packet));
        }
    }
}

#[test]
fn flows_beyond_the_ports_are_refused_and_come_back_with_them() {
    if !is_root() {
        return;
    }
    let mut kernel = Kernel::new(&with_device(true));
    let flow = |port: u16| ipv4(PEER4, DEVICE, UDP, &ports(UDP, port, 5353, 0));
    let passed = (1..=20_000).filter(|port| kernel.passes(DeviceIngress, &flow(*port))).count();
    // 16,384 ports, found by a dozen tries each: the last few stay free.
    assert!((15_000..=16_384).contains(&passed), "{passed}");
    assert_eq!(kernel.0.translations().unwrap(), passed);
    // Ten minutes later.
    let now = std::fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = now.split(' ').next().unwrap().parse().unwrap();
    for _ in 0..10 {
        kernel.0.sweep_translations(((seconds + 600.0) * 1e9) as u64).unwrap();
    }
    assert_eq!(kernel.0.translations().unwrap(), 0);
    assert!(kernel.passes(DeviceIngress, &flow(30_000)));
}

#[test]
fn closed_connections_make_room_long_before_they_are_forgotten() {
    if !is_root() {
        return;
    }
    let mut kernel = Kernel::new(&with_device(true));
    let segment = |port, flags| ipv4(PEER4, DEVICE, TCP, &ports(TCP, port, 22, flags));
    for port in 1..=16_000 {
        if kernel.passes(DeviceIngress, &segment(port, SYN)) {
            assert!(kernel.passes(DeviceIngress, &segment(port, RST)));
        }
    }
    // Strays of a closed connection may still be on their way for a whole tick of the kernel programs.
    std::thread::sleep(std::time::Duration::from_millis(2_200));
    for port in 20_000..=23_000 {
        assert!(kernel.passes(DeviceIngress, &segment(port, SYN)), "{port}");
        assert!(!kernel.passes(DeviceIngress, &segment(port + 20_000, ACK)), "no first segment");
    }
    assert!(kernel.0.translations().unwrap() <= 16_384);
}
