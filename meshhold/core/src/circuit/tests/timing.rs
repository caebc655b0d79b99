//! Rekeying, keepalives and silence over time.

use std::time::Duration;

use super::nodes::{NETWORK, id};
use super::wire::Wire;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_circuit_in_use_is_renewed_at_120_s_without_a_gap() {
    let mut wire = Wire::pair(1);
    wire.chats = vec![(0, 1), (1, 0)];
    wire.run(secs(1000));
    assert_eq!(wire.lost_data, 0, "whoever is sent on must still receive");
    assert!(
        wire.hosts.iter().all(|host| host.received >= 999),
        "{:?}",
        [0, 1].map(|at| wire.hosts[at].received)
    );
    assert_eq!((wire.times(0, "down").len(), wire.times(1, "down").len()), (0, 0));
    assert_eq!((wire.times(0, "up").len(), wire.times(1, "up").len()), (1, 1));
    let renewals = wire.times(0, "install");
    assert_eq!(renewals.len(), 9, "{renewals:?}");
    assert!(renewals.windows(2).all(|pair| (119..=122).contains(&(pair[1] - pair[0]))), "{renewals:?}");
    assert!(wire.hosts.iter().all(|host| host.held.len() <= 3));
}

#[test]
fn the_responder_renews_what_the_initiator_does_not() {
    let mut wire = Wire::pair(1);
    wire.chats = vec![(1, 0), (0, 1)];
    // Deaf to its clock: the initiator's reports don't reach its state machine any more.
    for _ in 0..150 {
        wire.run(secs(1));
        if wire.times(1, "install+use").len() == 1 {
            break;
        }
        let index = wire.hosts[0].sending[&id(2)];
        if let Some(peer) = wire.hosts[0].circuits.peers.get_mut(&(NETWORK, id(2))) {
            let session = peer.session(index).unwrap();
            session.created = session.created.max(wire.now - secs(60));
        }
    }
    assert_eq!(wire.times(1, "install+use"), [136]);
}

#[test]
fn the_old_session_receives_until_the_new_one_is_confirmed() {
    let mut wire = Wire::pair(1);
    wire.chats = vec![(0, 1), (1, 0)];
    let old = wire.hosts[1].sending[&id(1)];
    wire.run_until(secs(125), |wire| wire.hosts[1].held.len() == 2).unwrap();
    assert_eq!(wire.hosts[1].sending[&id(1)], old, "not confirmed yet");
    assert!(wire.send(0, 1, 10) && wire.send(1, 0, 10));
    wire.run(secs(1));
    assert_ne!(wire.hosts[1].sending[&id(1)], old);
    assert!(wire.hosts[1].held.contains_key(&old), "what is still under way arrives");
    assert_eq!(wire.lost_data, 0);
}

#[test]
fn repeated_unconfirmed_handshakes_do_not_push_out_a_session_in_use() {
    let mut wire = Wire::members(2, 1);
    wire.connect(0, 1);
    wire.connect(1, 0);
    wire.chats = vec![(0, 1), (1, 0)];
    wire.run(secs(20));
    let used = [wire.hosts[0].sending[&id(2)], wire.hosts[1].sending[&id(1)]];
    for _ in 0..6 {
        let remote = wire.hosts[1].at;
        wire.hosts[0].circuits.exhausted(wire.now, used[0]);
        wire.hosts[0].circuits.handle_timeout(wire.now + secs(10));
        wire.drain(0);
        // The answers don't arrive.
        wire.hosts[0].at = super::nodes::address(99);
        wire.run(Duration::from_millis(30));
        wire.hosts[0].at = super::nodes::address(1);
        assert_eq!(wire.hosts[1].at, remote);
    }
    assert!(wire.reaches(0, 1) && wire.reaches(1, 0));
    assert_eq!([wire.hosts[0].sending[&id(2)], wire.hosts[1].sending[&id(1)]], used);
    assert!(wire.hosts.iter().all(|host| host.held.len() <= 4));
}

#[test]
fn an_idle_circuit_ends_at_180_s_in_silence() {
    let mut wire = Wire::pair(1);
    wire.run(secs(3600));
    assert_eq!(wire.names(0), ["install+use", "keepalive", "up", "retire", "down: idle"]);
    assert_eq!(wire.names(1), ["install", "use", "up", "retire", "down: idle"]);
    assert_eq!((wire.times(0, "retire"), wire.times(1, "retire")), (vec![180], vec![180]));
    assert_eq!((wire.handshakes, wire.hosts[0].keepalives + wire.hosts[1].keepalives), ([0, 1, 1, 0], 1));
    assert!(wire.hosts.iter().all(|host| host.circuits.poll_timeout().is_none()));
    wire.connect(1, 0);
    wire.run(secs(1));
    assert!(wire.reaches(0, 1) && wire.reaches(1, 0), "and comes back when it's wanted");
}

#[test]
fn received_data_without_an_answer_brings_one_keepalive_after_10_s() {
    let mut wire = Wire::pair(1);
    wire.send(0, 1, 100);
    wire.run(secs(100));
    assert_eq!(wire.hosts[1].keepalives, 1);
    let [at] = wire.times(1, "keepalive")[..] else { panic!("one keepalive") };
    assert!((10..=12).contains(&at), "{at}");
    assert_eq!(wire.handshakes, [0, 1, 1, 0], "a keepalive is an answer");
    assert_eq!(wire.hosts[0].keepalives, 1, "and gets none itself");
}

#[test]
fn one_way_traffic_keeps_its_session() {
    let mut wire = Wire::pair(1);
    wire.chats = vec![(0, 1)];
    wire.run(secs(110));
    assert_eq!(wire.handshakes, [0, 1, 1, 0]);
    assert!((8..=11).contains(&wire.hosts[1].keepalives), "{}", wire.hosts[1].keepalives);
}

#[test]
fn unanswered_data_brings_a_handshake_after_15_s_and_the_end_90_s_later() {
    let mut wire = Wire::pair(1);
    wire.chats = vec![(0, 1)];
    wire.weather.loss = 1.0;
    wire.run(secs(14));
    assert_eq!(wire.handshakes, [0, 1, 1, 0]);
    wire.run(secs(4));
    assert!(wire.handshakes[1] > 1);
    wire.run(secs(600));
    let [down] = wire.times(0, "down: no answer")[..] else { panic!("one end") };
    assert!((15 + 90..=17 + 90).contains(&down), "{down}");
    assert!((20..=26).contains(&wire.handshakes[1]), "{}", wire.handshakes[1]);
    assert!(wire.hosts[0].held.is_empty() && wire.hosts[0].circuits.indices.is_empty());
    assert!(wire.hosts[0].circuits.poll_timeout().is_none());
}

#[test]
fn a_renewal_that_fails_says_down_at_the_hard_stop_and_up_when_it_works_again() {
    let mut wire = Wire::pair(1);
    wire.chats = vec![(0, 1), (1, 0)];
    wire.run(secs(110));
    wire.weather.loss = 1.0;
    wire.run(secs(75));
    assert_eq!(wire.times(0, "down: expired"), [180]);
    wire.weather.loss = 0.0;
    wire.run(secs(10));
    assert!(wire.reaches(0, 1) && wire.reaches(1, 0));
    assert_eq!(wire.names(0).iter().filter(|name| **name == "up").count(), 2);
    assert_eq!(wire.names(1).iter().filter(|name| **name == "up").count(), 2);
}
