//! What strangers and ill-behaved peers can do to the port: nothing to other links.

use super::*;
use crate::link::frame::{Frame, MAX_FRAME, VERSION};
use crate::link::swarm::MAC;

/// A packet that any QUIC server without a swarm key answers with its versions (RFC 9000 section 6).
fn version_probe() -> Vec<u8> {
    let mut packet = vec![0xc0, 0x0a, 0x0a, 0x0a, 0x0a, 8, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 7, 6, 5, 4, 3, 2, 1];
    packet.resize(1200, 0);
    packet
}

fn with_key(seed: u8, key: u8, bootstrap: &[&Node]) -> Node {
    Node::start(socket("127.0.0.1:0"), LinksConfig { swarm_key: Some([key; 32]), ..config(seed, bootstrap) })
}

#[tokio::test]
async fn without_the_swarm_key_the_port_answers_nothing_at_all() {
    let mut closed = with_key(1, 7, &[]);
    let open = Node::new(2, &[]);
    let stranger = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let wrong = SwarmKey::new(&[8; 32]).seal(&version_probe());
    let no_mac = [version_probe(), vec![0; MAC]].concat();
    for packet in [version_probe(), wrong, no_mac, vec![0xff; 40], vec![0x40; 21], vec![0xc0]] {
        stranger.send_to(&packet, closed.addr).await.unwrap();
        stranger.send_to(&packet, open.addr).await.unwrap();
    }
    let keyless = Node::new(3, &[&closed]);
    let other_key = with_key(4, 8, &[&closed]);
    let mut member = with_key(5, 7, &[&closed]);
    // The member's handshake stood in the queue behind the probes, so those have been dealt with.
    member.until_up(closed.id).await;
    closed.until_up(member.id).await;
    let mut buffer = [0; 2048];
    let answer = tokio::time::timeout(PATIENCE, stranger.recv_from(&mut buffer)).await;
    assert_eq!(answer.unwrap().unwrap().1, open.addr, "an open port answers");
    while let Ok((_, from)) = stranger.try_recv_from(&mut buffer) {
        assert_eq!(from, open.addr);
    }
    for node in [keyless, other_key] {
        assert!(node.links.status().is_empty());
    }
    assert_eq!(closed.links.status().len(), 1);
}

#[tokio::test]
async fn junk_of_all_lengths_disturbs_no_link() {
    for key in [None, Some([7; 32])] {
        let mut one = Node::start(socket("127.0.0.1:0"), LinksConfig { swarm_key: key, ..config(1, &[]) });
        let mut two =
            Node::start(socket("127.0.0.1:0"), LinksConfig { swarm_key: key, ..config(2, &[&one]) });
        two.until_up(one.id).await;
        one.until_up(two.id).await;
        let stranger = socket("127.0.0.1:0");
        let target = one.addr;
        let flood = tokio::task::spawn_blocking(move || {
            let mut junk = vec![0; 65_507];
            for number in 0..10_000_u32 {
                let mut random = blake3::Hasher::new().update(&number.to_be_bytes()).finalize_xof();
                let mut length = [0; 2];
                random.fill(&mut length);
                let most = if number.is_multiple_of(4) { junk.len() + 1 } else { 1_500 };
                let length = usize::from(u16::from_be_bytes(length)) % most;
                random.fill(&mut junk[..length]);
                // A full socket buffer loses some, as it would from the network.
                let _ = stranger.send_to(&junk[..length], target);
            }
        });
        flood.await.unwrap();
        one.links.send_datagram(two.addr.into(), &[2; 100]);
        assert_eq!(two.until_circuit().await.0, one.addr);
        let last = [1, 2, 3];
        let arrived = async {
            loop {
                two.links.send_datagram(one.addr.into(), &last);
                let next = tokio::time::timeout(Duration::from_millis(200), one.until_circuit()).await;
                if next.is_ok_and(|(from, datagram)| from == two.addr && datagram == last) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, arrived).await.unwrap();
        for (node, other) in [(&one, two.id), (&two, one.id)] {
            let status = node.links.status();
            assert_eq!(status.iter().map(|link| link.node).collect::<Vec<_>>(), [other]);
            assert!(node.links.endpoint.open_connections() == 1);
        }
    }
}

/// Writes `bytes` after a valid greeting and returns why the far end closed the link.
async fn misbehave(evil: &Node, seed: u8, victim: &mut Node, bytes: &[u8]) -> quinn::ConnectionError {
    let connection = evil.dial(seed, victim.id, victim.addr).await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    frame::write(&mut send, &Frame::Hello { version: VERSION, instance: 1 }).await.unwrap();
    assert!(matches!(frame::read(&mut recv).await.unwrap(), Frame::Hello { .. }));
    victim.until_up(evil.id).await;
    // The far end may close in the middle of it.
    let _ = send.write_all(bytes).await;
    let reason = tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap();
    victim.until_down(evil.id).await;
    reason
}

#[tokio::test]
async fn malformed_and_oversized_frames_close_their_link_only() {
    let mut victim = Node::new(1, &[]);
    let mut good = Node::new(2, &[&victim]);
    good.until_up(victim.id).await;
    let evil = Node::new(3, &[]);
    let oversized = (MAX_FRAME as u32 + 1).to_be_bytes();
    let second_hello = [0, 0, 0, 3, 0, VERSION as u8, 1];
    let cases: [(&str, &[u8]); 6] = [
        ("longest length", &[0xff; 4]),
        ("one byte too long", &oversized),
        ("no bytes", &[0; 4]),
        ("unknown frame", &[0, 0, 0, 2, 99, 0]),
        ("a vector longer than its frame", &[0, 0, 0, 6, 2, 0, 0xff, 0xff, 0xff, 0x7f]),
        ("second greeting", &second_hello),
    ];
    for (case, bytes) in cases {
        let reason = misbehave(&evil, 3, &mut victim, bytes).await;
        let quinn::ConnectionError::ApplicationClosed(close) = &reason else { panic!("{case}: {reason}") };
        assert_eq!(close.error_code, (peer::Close::Violation as u32).into(), "{case}: {close}");
    }
    let links: Vec<NodeId> = victim.links.status().iter().map(|link| link.node).collect();
    assert_eq!(links, [good.id]);
    good.links.send_datagram(victim.addr.into(), &[1]);
    victim.until_circuit().await;
}

#[tokio::test]
async fn a_peer_that_does_not_greet_is_closed() {
    let victim = Node::new(1, &[]);
    let evil = Node::new(3, &[]);
    let connection = evil.dial(3, victim.id, victim.addr).await.unwrap();
    let reason = tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap();
    assert!(matches!(reason, quinn::ConnectionError::ApplicationClosed(_)), "{reason}");
    assert!(victim.links.status().is_empty());
}
