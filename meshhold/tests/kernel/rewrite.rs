//! What a passed packet looks like afterwards. (Families can't be changed in a test run: its packets carry a link
//! header that a TUN packet lacks; live tests cover that.)

use meshhold::datapath::ebpf::Program::{Egress, Ingress};

use crate::{
    packets::{ACK, SYN, TCP, UDP, checksums_are_right, icmp, ipv4, ipv4_raw, ipv6, ports, udp},
    support::{
        CALLER4, Kernel, LOCALHOST, NEUTRAL_CALLER4, OWN4, OWN6, PEER4, PEER6, is_root, loopback_service,
        open, policy, usual_scope,
    },
};

#[test]
fn loopback_delivery_changes_addresses_and_nothing_else() {
    if !is_root() {
        return;
    }
    loopback_service();
    for caller in [CALLER4, NEUTRAL_CALLER4] {
        let mut policy = policy(usual_scope());
        policy.networks[0].peers[0].caller4 = caller.into();
        let mut kernel = Kernel::new(&policy);
        for (protocol, port) in [(TCP, 8080), (UDP, 8000)] {
            // So many flags that a checksum passes every carry.
            for flags in 0..=u8::MAX {
                let request = ipv4(PEER4, OWN4, protocol, &ports(protocol, 40_000, port, flags));
                let expected = ipv4(caller, LOCALHOST, protocol, &ports(protocol, 40_000, port, flags));
                assert_eq!(kernel.transform(Ingress, &request), expected);
                assert!(checksums_are_right(&expected));
            }
            let reply = ipv4(LOCALHOST, caller, protocol, &ports(protocol, port, 40_000, SYN | ACK));
            let expected = ipv4(OWN4, PEER4, protocol, &ports(protocol, port, 40_000, SYN | ACK));
            assert_eq!(kernel.transform(Egress, &reply), expected);
        }
    }
}

#[test]
fn a_datagram_without_checksum_stays_without() {
    if !is_root() {
        return;
    }
    loopback_service();
    let mut kernel = Kernel::new(&policy(usual_scope()));
    let request = ipv4_raw(PEER4, OWN4, UDP, &[], 0, &udp(40_000, 8000));
    assert_eq!(
        kernel.transform(Ingress, &request),
        ipv4_raw(CALLER4, LOCALHOST, UDP, &[], 0, &udp(40_000, 8000))
    );
}

#[test]
fn options_and_later_fragments_keep_their_payload() {
    if !is_root() {
        return;
    }
    loopback_service();
    let mut kernel = Kernel::new(&policy(usual_scope()));
    let options = [1; 8];
    let first =
        |source, destination| ipv4_raw(source, destination, UDP, &options, 0x2000, &udp(40_000, 8000));
    // Without a checksum to adjust, first and later fragments differ in their addresses only.
    assert_eq!(kernel.transform(Ingress, &first(PEER4, OWN4)), first(CALLER4, LOCALHOST));
    let later = |source, destination| ipv4_raw(source, destination, UDP, &options, 0x0002, &[0xab; 64]);
    assert_eq!(kernel.transform(Ingress, &later(PEER4, OWN4)), later(CALLER4, LOCALHOST));
}

/// Where nobody takes a datagram, "port unreachable" has to quote what its sender sent.
#[test]
fn a_datagram_that_nobody_takes_stays_untouched() {
    if !is_root() {
        return;
    }
    let mut kernel = Kernel::new(&policy(vec![open(UDP, 0, u16::MAX)]));
    let holder = std::net::UdpSocket::bind("[::]:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    drop(holder);
    for request in [
        ipv4(PEER4, OWN4, UDP, &ports(UDP, 40_000, port, 0)),
        ipv6(PEER6, OWN6, UDP, &ports(UDP, 40_000, port, 0)),
    ] {
        assert_eq!(kernel.transform(Ingress, &request), request);
    }
}

#[test]
fn what_is_not_for_a_loopback_service_stays_untouched() {
    if !is_root() {
        return;
    }
    let mut kernel = Kernel::new(&policy(usual_scope()));
    let echo = ipv4(PEER4, OWN4, 1, &icmp(8, 7));
    assert_eq!(kernel.transform(Ingress, &echo), echo);
    let opened = ipv4(OWN4, PEER4, TCP, &ports(TCP, 50_000, 443, SYN));
    assert_eq!(kernel.transform(Egress, &opened), opened);
    let answer = ipv4(PEER4, OWN4, TCP, &ports(TCP, 443, 50_000, SYN | ACK));
    assert_eq!(kernel.transform(Ingress, &answer), answer);
}
