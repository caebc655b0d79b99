//! Moving, exhausted counters, closing, leaving a network, giving up: and nothing is left over.

use std::time::Duration;

use super::nodes::{NETWORK, PSK, address, id};
use super::wire::Wire;
use crate::key::NetworkId;

fn millis(time: u64) -> Duration {
    Duration::from_millis(time)
}

#[test]
fn a_member_that_moves_is_followed_by_its_first_authenticated_datagram() {
    let mut wire = Wire::pair(1);
    wire.hosts[0].at = address(50);
    wire.send(0, 1, 10);
    wire.run(millis(100));
    assert_eq!(wire.names(1).last(), Some(&"move"));
    wire.send(1, 0, 10);
    wire.run(millis(100));
    assert_eq!(wire.hosts[0].received, 1);
    assert_eq!(wire.hosts[1].circuits.status().next().unwrap().remote, Some(address(50)));
}

#[test]
fn an_initiation_carried_elsewhere_does_not_move_a_circuit_until_it_is_confirmed() {
    let mut wire = Wire::pair(1);
    let index = wire.hosts[0].sending[&id(2)];
    wire.hosts[0].at = address(66);
    wire.hosts[0].circuits.exhausted(wire.now, index);
    wire.drain(0);
    wire.hosts[0].at = address(1);
    wire.run(millis(100));
    assert_eq!(wire.hosts[1].held.len(), 2, "it was taken");
    assert_eq!(wire.hosts[1].circuits.status().next().unwrap().remote, Some(address(1)));
    assert!(wire.hosts[1].held.values().all(|held| held.remote == address(1)));
    wire.send(1, 0, 10);
    wire.run(millis(100));
    assert_eq!(wire.hosts[0].received, 1);
}

#[test]
fn a_renewal_from_another_address_moves_the_circuit_once_it_is_confirmed() {
    let mut wire = Wire::pair(1);
    let index = wire.hosts[0].sending[&id(2)];
    wire.hosts[0].at = address(50);
    wire.hosts[0].circuits.exhausted(wire.now, index);
    wire.drain(0);
    wire.run(millis(200));
    assert_eq!(wire.names(1), ["install", "use", "up", "install", "use", "move"]);
    wire.send(1, 0, 10);
    wire.run(millis(100));
    assert_eq!(wire.hosts[0].received, 1);
}

#[test]
fn used_up_counters_renew_the_session_at_once_and_only_the_one_in_use() {
    let mut wire = Wire::pair(1);
    let first = wire.hosts[0].sending[&id(2)];
    for at in 0..3 {
        wire.hosts[0].circuits.exhausted(wire.now, first);
        wire.hosts[0].circuits.exhausted(wire.now, first);
        wire.drain(0);
        wire.run(millis(200));
        assert_eq!(wire.handshakes, [0, 2, 2, 0], "round {at}");
    }
    assert_ne!(wire.hosts[0].sending[&id(2)], first);
    wire.hosts[0].circuits.exhausted(wire.now, 0xdead_bee0);
    assert!(wire.hosts[0].circuits.poll_output().is_none());
}

#[test]
fn leaving_a_network_ends_its_circuits_and_no_others() {
    let other = NetworkId([1; 16]);
    let mut wire = Wire::pair(1);
    for host in &mut wire.hosts {
        host.circuits.add_network(other, PSK);
    }
    let at = wire.hosts[1].at;
    let now = wire.now;
    wire.hosts[0].circuits.remove_network(now, NETWORK);
    wire.drain(0);
    assert_eq!(wire.names(0)[3..], ["retire", "down: closed"]);
    assert!(wire.hosts[0].held.is_empty() && wire.hosts[0].circuits.indices.is_empty());
    wire.connect(0, 1);
    wire.connect(1, 0);
    assert_eq!(wire.handshakes[1], 1, "it neither starts handshakes there");
    wire.hosts[1].circuits.close(now, NETWORK, id(1));
    wire.drain(1);
    wire.connect(1, 0);
    wire.run(Duration::from_secs(5));
    assert_eq!(wire.handshakes[2], 1, "nor answers any");
    wire.hosts[0].circuits.connect(wire.now, other, id(2), &[at]);
    wire.drain(0);
    wire.run(Duration::from_secs(1));
    assert!(wire.is_up(0, 1), "the other network goes on");
    wire.hosts[0].circuits.remove_network(wire.now, NETWORK);
    assert!(wire.hosts[0].circuits.poll_output().is_none(), "what is down doesn't go down again");
}

#[test]
fn nobody_there_means_down_after_90_s_and_a_new_connect_starts_over() {
    let mut wire = Wire::members(1, 1);
    for round in 1..=2u64 {
        wire.hosts[0].circuits.connect(wire.now, NETWORK, id(2), &[address(2)]);
        wire.drain(0);
        wire.run(Duration::from_secs(200));
        assert_eq!(wire.times(0, "down: no answer"), [90, 290][..round as usize]);
        assert!((20..=24).contains(&(wire.handshakes[1] / round)), "{:?}", wire.handshakes);
        assert!(wire.hosts[0].circuits.indices.is_empty() && wire.hosts[0].circuits.poll_timeout().is_none());
    }
    assert_eq!(wire.hosts[0].circuits.status().count(), 0);
}

#[test]
fn endpoints_that_become_known_during_a_handshake_are_tried() {
    let mut wire = Wire::members(2, 1);
    wire.hosts[0].circuits.connect(wire.now, NETWORK, id(2), &[]);
    wire.drain(0);
    wire.run(Duration::from_secs(20));
    wire.connect(0, 1);
    assert!(
        wire.run_until(Duration::from_secs(6), |wire| wire.reaches(0, 1) && wire.reaches(1, 0)).is_some()
    );
}

#[test]
fn a_thousand_connects_and_closes_leave_nothing_behind() {
    let mut wire = Wire::members(2, 1);
    for round in 0..1000 {
        wire.connect(round % 2, 1 - round % 2);
        assert!(
            wire.run_until(Duration::from_secs(1), |wire| wire.is_up(0, 1) && wire.is_up(1, 0)).is_some(),
            "round {round}"
        );
        for at in 0..2 {
            let now = wire.now;
            wire.hosts[at].circuits.close(now, NETWORK, id(2 - at as u8));
            wire.drain(at);
            wire.hosts[at].log.clear();
        }
        wire.run(millis(200));
    }
    for host in &wire.hosts {
        assert!(host.held.is_empty() && host.circuits.indices.is_empty());
        assert_eq!((host.circuits.peers.len(), host.circuits.poll_timeout()), (1, None));
    }
}
