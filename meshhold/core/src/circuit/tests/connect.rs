//! Bringing a circuit up: order of outputs, keys, lanes, cipher, round trip.

use std::time::Duration;

use super::nodes::{NETWORK, OFFERS, PSK, address, circuits, id, member, transmits};
use super::weather::CALM;
use super::wire::Wire;
use crate::circuit::{CircuitState, Output};
use crate::session::Cipher::{Aes256Gcm, ChaCha20Poly1305};
use crate::session::{Cipher, Session};

#[test]
fn a_connect_brings_both_ends_up_in_order() {
    let wire = Wire::pair(1);
    assert_eq!(wire.names(0), ["install+use", "keepalive", "up"]);
    assert_eq!(wire.names(1), ["install", "use", "up"]);
    assert_eq!(wire.handshakes, [0, 1, 1, 0]);
    assert!(wire.reaches(0, 1) && wire.reaches(1, 0));
}

#[test]
fn the_responder_sends_nothing_before_the_initiator_has_confirmed() {
    let mut wire = Wire::members(2, 1);
    wire.connect(0, 1);
    wire.run(CALM.delay);
    assert_eq!(wire.names(1), ["install"]);
    assert!(!wire.send(1, 0, 100));
    assert_eq!(wire.hosts[1].circuits.status().count(), 0);
    wire.run(CALM.delay);
    assert_eq!(wire.names(0), ["install+use", "keepalive", "up"]);
    assert!(!wire.is_up(1, 0));
    wire.run(CALM.delay);
    assert!(wire.send(1, 0, 100));
    wire.run(CALM.delay);
    assert_eq!(wire.hosts[0].received, 1);
}

fn sessions(wire: &Wire) -> [&Session; 2] {
    [0, 1].map(|at| &*wire.hosts[at].held.values().next().unwrap().session)
}

#[test]
fn every_lane_has_the_keys_of_the_other_end() {
    let mut wire = Wire::of(lanes(3, 8), 1);
    wire.connect(0, 1);
    wire.run(Duration::from_millis(500));
    let [ours, theirs] = sessions(&wire);
    assert_eq!((ours.local_index, ours.remote_index), (theirs.remote_index, theirs.local_index));
    assert_eq!((ours.local_index & 15, theirs.local_index & 15), (0, 0));
    // The sparse ones too.
    for lane in 0..16 {
        assert_eq!(ours.send_key(lane), theirs.recv_key(lane));
        assert_eq!(ours.recv_key(lane), theirs.send_key(lane));
        assert_ne!(ours.send_key(lane), ours.recv_key(lane));
    }
}

fn lanes(ours: u8, theirs: u8) -> Vec<crate::circuit::Circuits> {
    let both = [circuits(1, ours, &OFFERS, 1), circuits(2, theirs, &OFFERS, 1)];
    both.into_iter().map(with_network).collect()
}

fn with_network(mut circuits: crate::circuit::Circuits) -> crate::circuit::Circuits {
    circuits.add_network(NETWORK, PSK);
    circuits
}

#[test]
fn lanes_are_those_of_the_end_with_more_workers() {
    for (ours, theirs, agreed) in
        [(1, 1, 1), (3, 2, 3), (2, 3, 3), (0, 1, 1), (200, 1, 8), (8, 8, 8), (16, 16, 8)]
    {
        let mut wire = Wire::of(lanes(ours, theirs), 1);
        wire.connect(0, 1);
        wire.run(Duration::from_millis(500));
        assert_eq!(sessions(&wire).map(|s| s.lanes), [agreed; 2], "{ours} and {theirs}");
    }
}

#[test]
fn the_cipher_is_the_one_whose_slower_end_is_fastest() {
    type Offers<'a> = &'a [(Cipher, u32)];
    let cases: [(Offers<'_>, Offers<'_>, Option<Cipher>); 7] = [
        (&OFFERS, &OFFERS, Some(Aes256Gcm)),
        (&[(Aes256Gcm, 5), (ChaCha20Poly1305, 5)], &[(ChaCha20Poly1305, 5), (Aes256Gcm, 5)], Some(Aes256Gcm)),
        (
            &[(Aes256Gcm, 900), (ChaCha20Poly1305, 400)],
            &[(Aes256Gcm, 50), (ChaCha20Poly1305, 300)],
            Some(ChaCha20Poly1305),
        ),
        (&[(ChaCha20Poly1305, 1)], &OFFERS, Some(ChaCha20Poly1305)),
        (&OFFERS, &[(ChaCha20Poly1305, 1)], Some(ChaCha20Poly1305)),
        (&[(Aes256Gcm, 1)], &[(ChaCha20Poly1305, 1)], None),
        (&OFFERS, &[], None),
    ];
    for (ours, theirs, agreed) in cases {
        let both = vec![with_network(circuits(1, 1, ours, 1)), with_network(circuits(2, 1, theirs, 1))];
        let mut wire = Wire::of(both, 1);
        wire.connect(0, 1);
        wire.run(Duration::from_millis(400));
        let found = wire.hosts[0].held.values().next().map(|held| held.session.cipher);
        assert_eq!(found, agreed, "{ours:?} and {theirs:?}");
    }
}

#[test]
fn status_tells_state_address_round_trip_and_cipher() {
    let mut wire = Wire::members(2, 1);
    wire.connect(0, 1);
    let status = |wire: &Wire, at: usize| wire.hosts[at].circuits.status().next();
    assert_eq!(status(&wire, 0).unwrap().state, CircuitState::Connecting);
    wire.run(Duration::from_millis(500));
    let found = status(&wire, 0).unwrap();
    assert_eq!((found.network, found.peer, found.state), (NETWORK, id(2), CircuitState::Connected));
    assert_eq!((found.remote, found.cipher), (Some(wire.hosts[1].at), Some(Aes256Gcm)));
    assert_eq!(
        (found.rtt, found.local_index),
        (Some(2 * CALM.delay), wire.hosts[0].sending.get(&id(2)).copied())
    );
    assert_eq!(status(&wire, 1).unwrap().rtt, None);
    assert_eq!((found.ahead, status(&wire, 1).unwrap().ahead), (None, Some(0)), "who answers sees the clock");
    let counts = |at: usize| wire.hosts[at].circuits.handshakes();
    assert_eq!((counts(0).begun, counts(0).completed, counts(1).answered), (1, 1, 1));
}

#[test]
fn who_answers_sees_how_far_the_initiator_s_clock_is_off() {
    for (wall, ahead) in [(1_700_003_600, 3_600), (1_699_999_400, -600)] {
        let mut wire = Wire::members(2, 1);
        let now = wire.now;
        wire.hosts[0].circuits.set_wall(now, Duration::from_secs(wall));
        wire.connect(0, 1);
        wire.run(Duration::from_millis(500));
        assert_eq!(wire.hosts[1].circuits.status().next().unwrap().ahead, Some(ahead));
    }
}

#[test]
fn a_member_behind_the_second_of_its_endpoints_is_found() {
    let mut wire = Wire::members(2, 1);
    let endpoints = ["198.51.100.1:1".parse::<std::net::SocketAddr>().unwrap().into(), wire.hosts[1].at];
    wire.hosts[0].circuits.connect(wire.now, NETWORK, id(2), &endpoints);
    wire.drain(0);
    wire.run(Duration::from_millis(500));
    assert!(wire.reaches(0, 1) && wire.reaches(1, 0));
}

#[test]
fn connecting_to_itself_or_in_a_foreign_network_does_nothing() {
    let mut wire = Wire::members(1, 1);
    let at = wire.hosts[0].at;
    wire.hosts[0].circuits.connect(wire.now, NETWORK, id(1), &[at]);
    wire.hosts[0].circuits.connect(wire.now, crate::key::NetworkId([1; 16]), id(2), &[at]);
    assert!(wire.hosts[0].circuits.poll_output().is_none());
    assert!(wire.hosts[0].circuits.poll_timeout().is_none());
}

#[test]
fn an_older_session_that_is_confirmed_late_is_not_switched_to() {
    let now = std::time::Instant::now();
    let after = |millis| now + Duration::from_millis(millis);
    let (mut alice, mut bob) = (member(1, 1), member(2, 1));
    alice.connect(now, NETWORK, id(2), &[address(2)]);
    bob.connect(now, NETWORK, id(1), &[address(1)]);
    let (of_alice, of_bob) = (transmits(&mut alice).remove(0).1, transmits(&mut bob).remove(0).1);
    alice.handle_datagram(after(10), address(2), &of_bob);
    let Some(Output::Install { session: older, .. }) = alice.poll_output() else { panic!("a session") };
    bob.handle_datagram(after(20), address(1), &of_alice);
    alice.handle_datagram(after(30), address(2), &transmits(&mut bob).remove(0).1);
    transmits(&mut alice);
    let newer = alice.status().next().unwrap().local_index.unwrap();
    alice.confirmed(after(40), older.local_index);
    assert!(alice.poll_output().is_none());
    assert_eq!(alice.status().next().unwrap().local_index, Some(newer));
}
