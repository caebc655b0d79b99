//! Rewritten packets against packets that were made with the other addresses from the start.

use std::net::Ipv4Addr;

use rand_core::{OsRng, RngCore};

use super::*;
use crate::datapath::icmp::{self, MAX_ERROR};
use crate::datapath::workers::offload::checksum::{finish, is_valid, pseudo, write_ipv4};
use crate::datapath::workers::offload::header::{Layout, TCP};

const REAL: Ipv4Addr = Ipv4Addr::new(198, 18, 64, 0);
const SHOWN: Ipv4Addr = Ipv4Addr::new(100, 91, 128, 0);
const PREFIX: u8 = 18;
const OTHER: [u8; 4] = [192, 0, 2, 1];

/// How the transport checksum is left.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Check {
    Full,
    Partial,
    None,
}

fn view() -> LocalView {
    LocalView::new(REAL, SHOWN, PREFIX)
}

fn within(base: Ipv4Addr, host: u32) -> [u8; 4] {
    (base.to_bits() | (host & 0x3fff)).to_be_bytes()
}

/// A packet of `protocol` with `words` words of options between two hosts of the range at `base`.
fn packet(
    base: Ipv4Addr,
    hosts: (u32, u32),
    protocol: u8,
    (options, body, check): (usize, &[u8], Check),
) -> Vec<u8> {
    let header = 20 + options * 4;
    let mut packet = vec![0; header];
    packet[0] = 0x40 | (header / 4) as u8;
    packet[2..4].copy_from_slice(&((header + body.len()) as u16).to_be_bytes());
    packet[4..6].copy_from_slice(&[0x12, 0x34]);
    packet[8..10].copy_from_slice(&[64, protocol]);
    packet[12..16].copy_from_slice(&within(base, hosts.0));
    packet[16..20].copy_from_slice(&within(base, hosts.1));
    write_ipv4(&mut packet);
    packet.extend_from_slice(body);
    if let Some(offset) = field_offset(protocol) {
        let layout = Layout::of(&packet).unwrap();
        let start = fold(pseudo(&packet, &layout) + body.len() as u32);
        let start = if check == Check::None { 0 } else { start };
        put_u16(&mut packet, header + offset, start);
        if check == Check::Full {
            finish(&mut packet, header, offset).unwrap();
        }
    }
    packet
}

fn random_body(least: usize) -> Vec<u8> {
    let mut body = vec![0; least + OsRng.next_u32() as usize % 1500];
    OsRng.fill_bytes(&mut body);
    body
}

fn header_is_valid(packet: &[u8]) -> bool {
    fold(sum(&packet[..usize::from(packet[0] & 15) * 4])) == 0xffff
}

/// Rewrites `packet` there and back; both must be as if made so, up to the two zeroes of a full checksum.
fn goes_there_and_back(make: impl Fn(Ipv4Addr) -> Vec<u8>, partial: bool) {
    let (shown, real) = (make(SHOWN), make(REAL));
    let mut rewritten = shown.clone();
    view().to_real().packet(&mut rewritten, partial);
    assert_eq!(rewritten, real);
    view().to_shown().packet(&mut rewritten, partial);
    assert_eq!(rewritten, shown);
}

#[test]
fn every_kind_of_transport_checksum_follows() {
    for round in 0..3_000 {
        let hosts = (OsRng.next_u32(), OsRng.next_u32());
        let options = round % 11;
        for (protocol, check) in [
            (TCP, Check::Full),
            (TCP, Check::Partial),
            (UDP, Check::Full),
            (UDP, Check::Partial),
            (UDP, Check::None),
            (ICMP, Check::None),
            (47, Check::None),
        ] {
            let mut body = random_body(20);
            // An echo, not an error.
            body[0] = if protocol == ICMP { 8 } else { body[0] };
            let make = |base| packet(base, hosts, protocol, (options, &body, check));
            goes_there_and_back(make, check == Check::Partial);
            let made = make(REAL);
            let valid = is_valid(&made, &Layout::of(&made).unwrap());
            assert!(valid || check != Check::Full, "the packets themselves are right");
        }
    }
}

#[test]
fn a_udp_checksum_never_becomes_the_zero_that_means_none() {
    let hosts = (1, 2);
    let mut met = 0;
    for value in 0..=u16::MAX {
        let mut body = vec![0; 10];
        body[8..10].copy_from_slice(&value.to_be_bytes());
        let mut made = packet(SHOWN, hosts, UDP, (0, &body, Check::Full));
        view().to_real().packet(&mut made, false);
        assert!(is_valid(&made, &Layout::of(&made).unwrap()), "{value}");
        met += u32::from(made[26..28] == [0xff, 0xff]);
    }
    assert!(met > 0, "the case was met");
}

#[test]
fn only_a_first_fragment_has_a_transport_checksum() {
    for (fragment, has) in [(0x2000_u16, true), (0x2001, false), (0x0005, false), (0x4000, true)] {
        let body = random_body(20);
        let make = |base| {
            let mut made = packet(base, (3, 4), UDP, (0, &body, Check::Full));
            put_u16(&mut made, 6, fragment);
            write_ipv4(&mut made[..20]);
            made
        };
        let (shown, real) = (make(SHOWN), make(REAL));
        let mut rewritten = shown.clone();
        view().to_real().packet(&mut rewritten, false);
        assert_eq!(rewritten[..20], real[..20]);
        let want = if has { &real } else { &shown };
        assert_eq!(rewritten[20..], want[20..], "{fragment:x}");
    }
}

#[test]
fn a_broken_checksum_stays_broken() {
    let body = random_body(20);
    let mut made = packet(SHOWN, (3, 4), TCP, (0, &body, Check::Full));
    made[10] ^= 0x55;
    made[30] ^= 0x55;
    view().to_real().packet(&mut made, false);
    assert!(!header_is_valid(&made) && !is_valid(&made, &Layout::of(&made).unwrap()));
}

#[test]
fn errors_quote_what_their_receiver_sent() {
    for _ in 0..2_000 {
        let hosts = (OsRng.next_u32(), OsRng.next_u32());
        for protocol in [TCP, UDP, ICMP] {
            let mut body = random_body(8);
            body[0] = if protocol == ICMP { 8 } else { body[0] };
            let check = if body.len() < 20 { Check::None } else { Check::Full };
            let check = if protocol == ICMP { Check::None } else { check };
            let make = |base| {
                let about = packet(base, hosts, protocol, (0, &body, check));
                let mut error = [0; MAX_ERROR];
                let len = icmp::error(icmp::Error::HostUnreachable, &about, &mut error).unwrap();
                error[..len].to_vec()
            };
            if protocol == TCP && body.len() < 20 {
                continue;
            }
            goes_there_and_back(make, false);
            assert_eq!(fold(sum(&make(REAL)[20..])), 0xffff);
        }
    }
}

#[test]
fn a_quote_may_end_anywhere() {
    let about = packet(SHOWN, (3, 4), UDP, (0, &[7; 64], Check::Full));
    let mut error = [0; MAX_ERROR];
    let whole = icmp::error(icmp::Error::HostUnreachable, &about, &mut error).unwrap();
    for len in 0..whole {
        let mut cut = error[..len].to_vec();
        view().to_real().packet(&mut cut, false);
        assert_eq!(cut.len(), len);
    }
}

#[test]
fn addresses_outside_the_range_have_no_other_name() {
    let to_shown = view().to_shown();
    assert_eq!(to_shown.address([198, 18, 127, 255].into()), Some([100, 91, 191, 255].into()));
    assert_eq!(to_shown.address([198, 18, 128, 0].into()), None);
    assert_eq!(to_shown.address(SHOWN.into()), None, "a shown address is no real one");
    let six = "fd12::1".parse().unwrap();
    assert_eq!(to_shown.address(six), Some(six));
    let mut made = packet(REAL, (3, 4), UDP, (0, &[7; 64], Check::Full));
    made[12..16].copy_from_slice(&OTHER);
    write_ipv4(&mut made[..20]);
    to_shown.packet(&mut made, false);
    assert_eq!((&made[12..16], &made[16..20]), (&OTHER[..], &within(SHOWN, 4)[..]));
    assert!(header_is_valid(&made));
}

#[test]
fn ipv6_and_rubbish_stay_as_they_are() {
    let mut six = vec![0x66; 80];
    view().to_real().packet(&mut six, false);
    assert_eq!(six, vec![0x66; 80]);
    for len in 0..40 {
        let mut rubbish = vec![0x41; len];
        view().to_real().packet(&mut rubbish, true);
        assert_eq!(rubbish, vec![0x41; len]);
    }
}
