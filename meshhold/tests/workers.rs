//! Two nodes' workers with fixed sessions: what arrives, what must not, and what is reported.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod support;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use meshhold::datapath::policy::{NetworkPolicy, PeerPolicy, Policy, PortRange};
use meshhold::datapath::relay::{Hop, Leg};
use meshhold::datapath::table::Table;
use meshhold::datapath::workers::WorkerEvent;
use meshhold::datapath::workers::offload::checksum::is_valid;
use meshhold::datapath::workers::offload::header::{Layout, TCP, UDP};
use meshhold::datapath::workers::offload::virtio;
use meshhold::datapath::workers::tun::Offload;
use meshhold::platform::linux::sys_net;
use meshhold_common::Reason;
use meshhold_core::session::{Cipher, Session};
use support::{Inner, Node, WAIT, connected, own4, own6, session, table, until};

const AES: Cipher = Cipher::Aes256Gcm;

/// A socket in the middle that sees every datagram from the first to the second node.
struct Middle(UdpSocket);

impl Middle {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        Self(socket)
    }

    fn capture(&self) -> Vec<u8> {
        let mut bytes = [0; 2000];
        let len = self.0.recv(&mut bytes).unwrap();
        bytes[..len].to_vec()
    }
}

/// Two nodes, the first of which sends by way of the middle.
fn intercepted() -> (Node, Middle, Node) {
    let (a, b, middle) = (Node::start(Offload::TcpAndUdp), Node::start(Offload::TcpAndUdp), Middle::new());
    let at = middle.0.local_addr().unwrap();
    a.workers.publish(Arc::new(table(1, &[&session(1, 0, AES)], Some(at), None)));
    b.workers.publish(Arc::new(table(2, &[&session(2, 0, AES)], Some(at), None)));
    (a, middle, b)
}

#[test]
fn packets_arrive_unchanged_both_ways() {
    for cipher in [AES, Cipher::ChaCha20Poly1305] {
        let (a, b) = connected(Offload::TcpAndUdp, cipher);
        for queue in 0..2 {
            for protocol in [TCP, UDP] {
                for payload in [1, 700, 1300, 20_000, 60_000] {
                    for inner in [Inner::v4(protocol, payload), Inner::v6(protocol, payload)] {
                        let there = inner.build();
                        a.queues[queue].send(&there).unwrap();
                        assert!(b.read(queue) == there, "{payload} bytes of {protocol} on {queue}");
                        let back = inner.back().build();
                        b.queues[queue].send(&back).unwrap();
                        assert!(a.read(queue) == back, "{payload} bytes of {protocol} back on {queue}");
                    }
                }
            }
        }
        let (sent, received) = (a.workers.activity()[0], b.workers.activity()[0]);
        assert_eq!((sent.tx_packets, sent.tx_bytes), (received.rx_packets, received.rx_bytes));
        assert!(sent.tx_packets > 100);
    }
}

#[test]
fn the_underlay_may_be_ipv6() {
    let (a, mut b) = (Node::start(Offload::TcpAndUdp), Node::start(Offload::TcpAndUdp));
    let at = |node: &Node| Some(SocketAddr::from((Ipv6Addr::LOCALHOST, node.address.port())));
    a.workers.publish(Arc::new(table(1, &[&session(1, 0, AES)], at(&b), None)));
    b.workers.publish(Arc::new(table(2, &[&session(2, 0, AES)], at(&a), None)));
    let packet = Inner::v4(TCP, 30_000).build();
    a.queues[0].send(&packet).unwrap();
    assert!(b.read(0) == packet);
    assert!(matches!(b.event(), WorkerEvent::Confirmed { .. }));
    let told = b.next_event();
    assert!(
        told.iter().all(|event| is_at(event, at(&a).unwrap())),
        "the sender is where it was expected: {told:?}"
    );
}

/// Whether what is told is about a datagram from there: which own address it came to is told once.
fn is_at(event: &WorkerEvent, remote: SocketAddr) -> bool {
    matches!(event, WorkerEvent::Moved { from, .. } | WorkerEvent::Stray { from } if from.remote == remote)
}

#[test]
fn a_path_may_leave_from_a_port_of_its_own() {
    let (mut a, mut b) = (Node::start(Offload::TcpAndUdp), Node::start(Offload::TcpAndUdp));
    let first = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = first.local_addr().unwrap().port();
    let there = SocketAddr::from(([127, 0, 0, 1], port));
    let control = a.workers.adopt(first).unwrap();
    let mut from_port = table(1, &[&session(1, 0, AES)], Some(b.address), None);
    from_port.peers[0].transmit.as_mut().unwrap().path.local_port = port;
    a.workers.publish(Arc::new(from_port));
    b.workers.publish(Arc::new(table(2, &[&session(2, 0, AES)], Some(there), None)));
    for queue in 0..2 {
        for inner in [Inner::v4(TCP, 1), Inner::v6(TCP, 60_000), Inner::v4(UDP, 700)] {
            let packet = inner.build();
            a.queues[queue].send(&packet).unwrap();
            assert!(b.read(queue) == packet, "{} bytes on {queue}", inner.payload);
            let back = inner.back().build();
            b.queues[queue].send(&back).unwrap();
            assert!(a.read(queue) == back, "{} bytes back on {queue}", inner.payload);
        }
    }
    let at = b.address;
    for (node, other) in [(&mut a, at), (&mut b, there)] {
        assert!(matches!(node.event(), WorkerEvent::Confirmed { .. }));
        let told = node.next_event();
        assert!(told.iter().all(|event| is_at(event, other)), "nobody is elsewhere than expected: {told:?}");
    }
    control.set_nonblocking(false).unwrap();
    b.control.send_to(&[1; 20], SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port))).unwrap();
    assert_eq!(control.recv(&mut [0; 40]).unwrap(), 20, "a handshake is not for workers");
    drop(control);
    a.workers.leave(port);
    a.queues[0].send(&Inner::v4(UDP, 100).build()).unwrap();
    a.expect(Reason::NoPath, 1);
    until(|| UdpSocket::bind(("0.0.0.0", port)).is_ok(), || "the port stays open".into());
}

#[test]
fn without_offload_packets_are_whole_and_right() {
    let (a, b) = (Node::start(Offload::TcpAndUdp), Node::start(Offload::None));
    a.workers.publish(Arc::new(table(1, &[&session(1, 0, AES)], Some(b.address), None)));
    b.workers.publish(Arc::new(table(2, &[&session(2, 0, AES)], Some(a.address), None)));
    for inner in [Inner::v4(TCP, 13_000), Inner::v6(UDP, 13_000)] {
        a.queues[0].send(&inner.build()).unwrap();
        for _ in 0..10 {
            let packet = b.read(0);
            assert_eq!(packet.len(), inner.headers() + 1300);
            assert!(is_valid(&packet, &Layout::of(&packet).unwrap()));
            b.queues[0].send(&Inner::v4(UDP, 100).back().build()[virtio::LEN..]).unwrap();
            assert_eq!(a.read(0).len(), virtio::LEN + 128);
        }
    }
}

#[test]
fn small_packets_that_wait_travel_together() {
    let (a, b) = connected(Offload::TcpAndUdp, AES);
    let packet = Inner::v4(UDP, 200).build();
    let total = 64;
    for _ in 0..total {
        a.queues[0].send(&packet).unwrap();
    }
    let (mut payload, mut writes) = (0, 0);
    while payload < 200 * total {
        payload += b.read(0).len() - virtio::LEN - 28;
        writes += 1;
    }
    assert_eq!(payload, 200 * total);
    assert!(writes < total, "{writes} writes for {total} packets");
}

#[test]
fn replayed_altered_and_foreign_datagrams_are_dropped() {
    let (a, middle, mut b) = intercepted();
    let packet = Inner::v4(UDP, 100).build();
    a.queues[0].send(&packet).unwrap();
    let good = middle.capture();
    for at in [0, 1, 2, 3, 8, 15, 16, good.len() - 1] {
        let mut altered = good.clone();
        altered[at] ^= if at == 0 { 3 } else { 0x80 };
        middle.0.send_to(&altered, b.address).unwrap();
    }
    b.expect(Reason::BadTag, 7);
    middle.0.send_to(&good, b.address).unwrap();
    assert_eq!(b.read(0), packet, "the unaltered one passes");
    for n in 1..=10_000 {
        middle.0.send_to(&good, b.address).unwrap();
        if n % 500 == 0 {
            until(|| b.count(Reason::Replay) >= n, || format!("{} replays", b.count(Reason::Replay)));
        }
    }
    b.expect(Reason::Replay, 10_000);
    let mut unknown = good.clone();
    unknown[4] ^= 0x40;
    middle.0.send_to(&unknown, b.address).unwrap();
    b.expect(Reason::NoSession, 1);
    middle.0.send_to(&good[..31], b.address).unwrap();
    b.expect(Reason::Truncated, 1);
    assert!(b.is_silent());
    assert!(matches!(b.event(), WorkerEvent::Confirmed { local_index: 0x2000_0000 }));
    let others: Vec<WorkerEvent> = std::iter::from_fn(|| b.next_event()).collect();
    let middle = middle.0.local_addr().unwrap();
    let strays = others.iter().filter(|event| matches!(event, WorkerEvent::Stray { .. }));
    assert_eq!(strays.count(), 1, "{others:?}");
    assert!(others.iter().all(|event| is_at(event, middle)), "confirmed once, and nobody moved: {others:?}");
}

#[test]
fn inner_addresses_must_be_the_senders_and_ours() {
    let (a, middle, b) = intercepted();
    // A member that lies about its own address: its own worker would not send this.
    let mut liar = table(1, &[&session(1, 0, AES)], middle.0.local_addr().ok(), None);
    let (stolen4, stolen6) = (own4(3), own6(3));
    (liar.networks[0].own4, liar.networks[0].own6) = (Some(stolen4), stolen6);
    let spoofed4 = Inner { from: stolen4.into(), ..Inner::v4(UDP, 50) };
    let spoofed6 = Inner { from: stolen6.into(), ..Inner::v6(UDP, 50) };
    a.queues[0].send(&spoofed4.build()).unwrap();
    a.expect(Reason::SpoofedSource, 1);

    let elsewhere = Inner { to: Ipv4Addr::from(own4(2).to_bits() + 1).into(), ..Inner::v4(UDP, 50) };
    a.queues[0].send(&elsewhere.build()).unwrap();
    middle.0.send_to(&middle.capture(), b.address).unwrap();
    b.expect(Reason::NotForUs, 1);

    let honest = Inner::v4(UDP, 50).build();
    a.queues[0].send(&honest).unwrap();
    middle.0.send_to(&middle.capture(), b.address).unwrap();
    assert_eq!(b.read(0), honest);

    liar.sessions = vec![(7, session(1, 1, AES))];
    liar.peers[0].transmit.as_mut().unwrap().session = liar.sessions[0].1.clone();
    a.workers.publish(Arc::new(liar));
    let at = middle.0.local_addr().ok();
    b.workers.publish(Arc::new(table(2, &[&session(2, 1, AES)], at, None)));
    for (n, spoofed) in [spoofed4, spoofed6].into_iter().enumerate() {
        a.queues[0].send(&spoofed.build()).unwrap();
        middle.0.send_to(&middle.capture(), b.address).unwrap();
        b.expect(Reason::SpoofedSource, n as u64 + 1);
    }
    assert!(b.is_silent());
}

#[test]
fn packets_wait_for_their_session() {
    let (mut a, b) = (Node::start(Offload::TcpAndUdp), Node::start(Offload::TcpAndUdp));
    let (ours, theirs) = (session(1, 0, AES), session(2, 0, AES));
    a.workers.publish(Arc::new(table(1, &[], None, None)));
    b.workers.publish(Arc::new(table(2, &[&theirs], Some(a.address), None)));
    let packets = [Inner::v4(UDP, 30).build(), Inner::v4(TCP, 9000).build()];
    for packet in &packets {
        a.queues[0].send(packet).unwrap();
    }
    assert!(matches!(a.event(), WorkerEvent::Wanted { peer_index: 7 }));
    a.workers.publish(Arc::new(table(1, &[&ours], Some(b.address), None)));
    for packet in &packets {
        assert_eq!(&b.read(0), packet);
    }
}

#[test]
fn what_waits_too_long_is_given_up() {
    let a = Node::start(Offload::TcpAndUdp);
    a.workers.publish(Arc::new(table(1, &[], None, None)));
    a.queues[0].send(&Inner::v4(UDP, 30).build()).unwrap();
    assert_eq!(a.read(0)[virtio::LEN..][20..22], [3, 1], "host unreachable, after five seconds");
    a.expect(Reason::NoSession, 1);
}

#[test]
fn a_peer_with_more_workers_gets_its_lanes_used() {
    let (a, middle, b) = intercepted();
    let lanes = |node| {
        let two = session(node, 3, AES);
        Arc::new(Session { lanes: 8, ..(*two).clone() })
    };
    let at = middle.0.local_addr().ok();
    a.workers.publish(Arc::new(table(1, &[&lanes(1)], at, None)));
    b.workers.publish(Arc::new(table(2, &[&lanes(2)], at, None)));
    let mut used = BTreeSet::new();
    for port in 1..200 {
        let packet = Inner { port, ..Inner::v4(UDP, 20) }.build();
        let queue = usize::from(port) % 2;
        a.queues[queue].send(&packet).unwrap();
        let datagram = middle.capture();
        used.insert(datagram[7] & 15);
        assert_eq!(usize::from(datagram[7] & 15) % 2, queue, "a worker keeps to its lanes");
        if port == 1 {
            // Its counter is new to every lane, but only its own has the key.
            let mut astray = datagram.clone();
            astray[7] ^= 2;
            middle.0.send_to(&astray, b.address).unwrap();
            b.expect(Reason::BadTag, 1);
        }
        middle.0.send_to(&datagram, b.address).unwrap();
        assert_eq!(b.read(queue), packet);
    }
    assert_eq!(used, (0..8).collect());
}

#[test]
fn nobody_there_is_said_at_once() {
    let (a, _b) = connected(Offload::TcpAndUdp, AES);
    let to4 = Inner { to: own4(9).into(), ..Inner::v4(UDP, 30) }.build();
    let to6 = Inner { to: own6(9).into(), ..Inner::v6(UDP, 30) }.build();
    a.queues[0].send(&to4).unwrap();
    assert_eq!(a.read(0)[virtio::LEN..][20..22], [3, 1]);
    a.queues[0].send(&to6).unwrap();
    assert_eq!(a.read(0)[virtio::LEN..][40..42], [1, 3]);
    a.expect(Reason::NoOwner, 2);
    let outside = Inner { to: [192, 0, 2, 1].into(), ..Inner::v4(UDP, 30) }.build();
    let group = Inner { to: [224, 0, 0, 251].into(), ..Inner::v4(UDP, 30) }.build();
    for packet in [outside, group] {
        a.queues[0].send(&packet).unwrap();
    }
    a.expect(Reason::NotMesh, 1);
    a.expect(Reason::Multicast, 1);
    assert!(a.is_silent());
}

#[test]
fn a_new_address_is_reported_when_authentic() {
    let (a, middle, mut b) = intercepted();
    a.queues[0].send(&Inner::v4(UDP, 30).build()).unwrap();
    let good = middle.capture();
    let elsewhere = Middle::new();
    let mut altered = good.clone();
    altered[20] ^= 1;
    elsewhere.0.send_to(&altered, b.address).unwrap();
    b.expect(Reason::BadTag, 1);
    elsewhere.0.send_to(&good, b.address).unwrap();
    b.read(0);
    assert!(matches!(b.event(), WorkerEvent::Confirmed { .. }));
    let moved = b.event();
    let at = elsewhere.0.local_addr().unwrap();
    assert!(
        matches!(moved, WorkerEvent::Moved { local_index: 0x2000_0000, from } if from.remote == at),
        "{moved:?}"
    );
}

#[test]
fn keepalives_are_counted_and_not_delivered() {
    let (a, mut b) = connected(Offload::TcpAndUdp, AES);
    a.workers.send_keepalive(0x1000_0000);
    assert!(matches!(b.event(), WorkerEvent::Confirmed { .. }));
    let received = || b.workers.activity()[0];
    until(|| received().rx_packets == 1, || format!("{:?}", received()));
    assert_eq!(received().rx_bytes, 0);
    assert!(b.is_silent());
}

#[test]
fn a_withdrawn_session_never_comes_back() {
    let (a, middle, b) = intercepted();
    let ours = session(1, 2, AES);
    let at = middle.0.local_addr().ok();
    let packet = Inner::v4(UDP, 30).build();
    let publish = |sessions: &[_]| a.workers.publish(Arc::new(table(1, sessions, at, None)));
    publish(&[&ours]);
    a.queues[0].send(&packet).unwrap();
    assert_eq!(middle.capture()[8..16], [0; 8], "counter 0");
    publish(&[]);
    publish(&[&ours]);
    a.queues[0].send(&packet).unwrap();
    a.expect(Reason::NoSession, 1);
    drop(b);
}

#[test]
fn datagrams_at_the_wrong_socket_are_handed_over() {
    let (a, middle, b) = intercepted();
    let packet = Inner::v4(UDP, 30).build();
    a.queues[1].send(&packet).unwrap();
    let good = middle.capture();
    b.workers.inject(middle.0.local_addr().unwrap().into(), good);
    assert_eq!(b.read(1), packet);
}

#[test]
fn rubbish_of_any_length_is_survived() {
    let (a, b) = connected(Offload::TcpAndUdp, AES);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for len in (0..2000).chain([9000, 40_000, 65_507]) {
        let mut bytes: Vec<u8> = (0..len).map(|n| (n * 37 + len) as u8).collect();
        if let Some(first) = bytes.first_mut() {
            *first = 4;
        }
        socket.send_to(&bytes, b.address).unwrap();
    }
    let packet = Inner::v4(TCP, 5000).build();
    a.queues[0].send(&packet).unwrap();
    assert_eq!(b.read(0), packet);
    assert!(b.is_silent());
}

fn policy(open: u16) -> Arc<Policy> {
    let peer = PeerPolicy {
        index: 7,
        ipv4: own4(1),
        ipv6: own6(1),
        caller4: [127, 64, 0, 1].into(),
        caller6: [127, 64, 0, 2].into(),
    };
    let network = NetworkPolicy {
        index: 0,
        range: ([198, 18, 0, 0].into(), 18),
        prefix6: ("fd12:1::".parse().unwrap(), 32),
        own4: Some(own4(2)),
        own6: own6(2),
        without_ipv6: false,
        scope: vec![PortRange { protocol: UDP, first: open, last: open }],
        peers: vec![peer],
        devices: Vec::new(),
    };
    Arc::new(Policy { networks: vec![network] })
}

#[test]
fn user_space_rules_open_and_close_ports() {
    let (a, b) = (Node::start(Offload::TcpAndUdp), Node::start(Offload::TcpAndUdp));
    let (ours, theirs) = (session(1, 0, AES), session(2, 0, AES));
    a.workers.publish(Arc::new(table(1, &[&ours], Some(b.address), None)));
    let publish = |port| {
        b.workers.publish(Arc::new(table(2, &[&theirs], Some(a.address), Some(policy(port)))));
    };
    let inner = |seed| Inner { port: 5000, seed, ..Inner::v4(UDP, 40) }.build();
    publish(5001);
    a.queues[0].send(&inner(1)).unwrap();
    b.expect(Reason::PortDenied, 1);
    publish(5000);
    a.queues[0].send(&inner(2)).unwrap();
    assert_eq!(b.read(0), inner(2));
    b.expect(Reason::PassScope, 1);
    publish(5001);
    a.queues[0].send(&inner(3)).unwrap();
    b.expect(Reason::PortDenied, 2);
    assert!(b.is_silent());
}

/// What comes to `socket`, and with which time to live or hop limit.
fn hops(socket: &UdpSocket) -> (Vec<u8>, Option<u8>) {
    let mut bytes = [0; 2000];
    let mut got = None;
    until(
        || {
            got = sys_net::receive(socket.as_fd(), &mut bytes).ok();
            got.is_some()
        },
        || "nothing was forwarded".into(),
    );
    let got = got.unwrap();
    (bytes[..got.len].to_vec(), got.hops)
}

#[test]
fn a_relayed_datagram_has_one_hop_less_and_at_last_none() {
    for (v6, loopback) in [(false, "127.0.0.1:0"), (true, "[::1]:0")] {
        let node = Node::relay();
        let [before, after] = [(); 2].map(|()| UdpSocket::bind(loopback).unwrap());
        after.set_nonblocking(true).unwrap();
        let (level, show, set) = match v6 {
            true => (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, libc::IPV6_UNICAST_HOPS),
            false => (libc::IPPROTO_IP, libc::IP_RECVTTL, libc::IP_TTL),
        };
        sys_net::set_option(after.as_fd(), level, show, 1).unwrap();
        let remote = before.local_addr().unwrap();
        let from = Hop { remote, label: 7 };
        let to = after.local_addr().unwrap();
        let leg = Leg { from, to, rate: 1_000_000, source: 1, source_rate: 1_000_000 };
        let mut table = Table::default();
        table.legs.push(leg);
        node.workers.publish(Arc::new(table));
        let at = SocketAddr::new(remote.ip(), node.address.port());
        let send = |left: i32, number: u8| {
            sys_net::set_option(before.as_fd(), level, set, left).unwrap();
            before.send_to(&[5, 0, 0, 0, 0, 0, 0, 7, 4, number], at).unwrap();
        };
        for (number, left) in [(1, 64), (2, 64), (3, 2), (4, 255)] {
            send(left, number);
            let (bytes, hops) = hops(&after);
            assert_eq!((bytes[9], hops), (number, Some(left as u8 - 1)));
        }
        assert_eq!(node.count(Reason::HopLimit), 0);
        send(1, 5);
        node.expect(Reason::HopLimit, 1);
        send(64, 6);
        assert_eq!(hops(&after).0[9], 6, "what may go on does, and what may not didn't");
        node.expect(Reason::PassRelay, 5);
        let traffic = node.workers.relayed()[0].1;
        assert_eq!((traffic.packets, traffic.expired), (5, 1));
    }
}

#[test]
fn stopping_is_quick_and_frees_the_port() {
    let (mut a, _b) = connected(Offload::TcpAndUdp, AES);
    let started = std::time::Instant::now();
    a.workers.stop();
    assert!(started.elapsed() < Duration::from_secs(2));
    let address = a.address;
    drop(a);
    UdpSocket::bind(address).unwrap();
}
