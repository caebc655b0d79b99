//! Load: who floods gets cookies, who receives at its address gets through.

use std::net::SocketAddr;

use crate::path::Path;
use std::time::{Duration, Instant};

use super::nodes::{NETWORK, address, id, member, transmits};
use super::wire::Wire;
use crate::circuit::Circuits;
use crate::wire::{TYPE_COOKIE, TYPE_INITIATION, TYPE_RESPONSE};

/// Brings node 2 under load with one member's initiations, each from another address.
fn flood(receiver: &mut Circuits, now: Instant) {
    let mut sender = member(9, 1);
    sender.connect(now, NETWORK, id(2), &[address(2)]);
    let datagram = transmits(&mut sender).remove(0).1;
    let mut answers = 0;
    for n in 0..150u16 {
        receiver.handle_datagram(
            now,
            SocketAddr::from(([198, 51, 100, n as u8], 1000 + n)).into(),
            &datagram,
        );
        for (_, answer) in transmits(receiver) {
            answers += 1;
            assert_eq!(answer[0], if n < 100 { TYPE_RESPONSE } else { TYPE_COOKIE });
            assert!(answer.len() <= datagram.len(), "no amplification");
        }
    }
    assert_eq!(answers, 51, "one response, no answer to its repetitions, cookies above 100 a second");
    let counts = receiver.handshakes();
    assert_eq!((counts.answered, counts.refused, counts.cookies), (1, 99, 50), "{counts:?}");
}

fn first_initiation(sender: &mut Circuits, now: Instant) -> Vec<u8> {
    sender.connect(now, NETWORK, id(2), &[address(2)]);
    transmits(sender).remove(0).1
}

fn only_answer(circuits: &mut Circuits, now: Instant, from: Path, datagram: &[u8]) -> Vec<u8> {
    circuits.handle_datagram(now, from, datagram);
    let mut answers = transmits(circuits);
    assert_eq!(answers.len(), 1);
    answers.remove(0).1
}

#[test]
fn a_cookie_is_taken_from_its_address_and_port_only() {
    let now = Instant::now();
    let (mut sender, mut receiver) = (member(1, 1), member(2, 1));
    flood(&mut receiver, now);
    let first = first_initiation(&mut sender, now);
    let cookie = only_answer(&mut receiver, now, address(1), &first);
    assert_eq!(cookie[0], TYPE_COOKIE);
    let second = only_answer(&mut sender, now, address(2), &cookie);
    assert_eq!(second[0], TYPE_INITIATION);
    let mut other_port = address(1);
    other_port.remote.set_port(7778);
    let cases = [(other_port, TYPE_COOKIE), (address(3), TYPE_COOKIE), (address(1), TYPE_RESPONSE)];
    for (from, answer) in cases {
        assert_eq!(only_answer(&mut receiver, now, from, &second)[0], answer, "{from}");
    }
}

#[test]
fn an_initiator_gets_through_a_loaded_responder_with_its_cookie() {
    let mut wire = Wire::members(2, 1);
    flood(&mut wire.hosts[1].circuits, wire.now);
    wire.connect(0, 1);
    wire.run(Duration::from_millis(200));
    assert!(wire.reaches(0, 1) && wire.reaches(1, 0));
    assert_eq!(wire.handshakes, [0, 2, 1, 1]);
}

#[test]
fn a_responder_stops_asking_for_cookies_when_the_load_is_over() {
    let mut wire = Wire::members(2, 1);
    flood(&mut wire.hosts[1].circuits, wire.now);
    wire.run(Duration::from_millis(1100));
    wire.connect(0, 1);
    wire.run(Duration::from_millis(200));
    assert_eq!(wire.handshakes, [0, 1, 1, 0]);
}

#[test]
fn no_endpoint_is_learnt_from_a_cookie_reply() {
    let now = Instant::now();
    let (mut sender, mut receiver) = (member(1, 1), member(2, 1));
    flood(&mut receiver, now);
    let first = first_initiation(&mut sender, now);
    let cookie = only_answer(&mut receiver, now, address(1), &first);
    sender.handle_datagram(now, address(66), &cookie);
    assert_eq!(transmits(&mut sender).iter().map(|(to, _)| *to).collect::<Vec<_>>(), [address(2)]);
    assert_eq!(sender.status().next().unwrap().remote, None);
}

#[test]
fn a_cookie_reply_that_is_changed_foreign_or_repeated_does_nothing() {
    let now = Instant::now();
    let (mut sender, mut receiver) = (member(1, 1), member(2, 1));
    flood(&mut receiver, now);
    let first = first_initiation(&mut sender, now);
    let cookie = only_answer(&mut receiver, now, address(1), &first);
    // Flags and the reserved bytes mean nothing in a cookie reply, which is sealed from the nonce on.
    for at in (0..cookie.len()).filter(|at| !(1..4).contains(at)) {
        let mut changed = cookie.clone();
        changed[at] ^= 0x10;
        sender.handle_datagram(now, address(2), &changed);
        assert!(sender.poll_output().is_none(), "byte {at}");
    }
    assert_eq!(only_answer(&mut sender, now, address(2), &cookie)[0], TYPE_INITIATION);
    sender.handle_datagram(now, address(2), &cookie);
    assert!(sender.poll_output().is_none(), "its initiation is no longer the one under way");
}

#[test]
fn cookie_replies_cannot_make_an_initiator_flood() {
    let now = Instant::now();
    let (mut sender, mut receiver) = (member(1, 1), member(2, 1));
    let mut datagram = first_initiation(&mut sender, now);
    let mut sent = 1;
    flood(&mut receiver, now);
    for _ in 0..50 {
        // A responder that never takes the cookie: each reply comes from another port.
        let mut from = address(1);
        from.remote.set_port(1000 + sent);
        let cookie = only_answer(&mut receiver, now, from, &datagram);
        sender.handle_datagram(now, address(2), &cookie);
        let Some((_, next)) = transmits(&mut sender).pop() else { break };
        datagram = next;
        sent += 1;
    }
    assert_eq!(sent, 2, "one retry at once, then the usual pauses");
}
