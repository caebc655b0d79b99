//! Both ends at once, over a wire that loses, repeats and reorders: they always find a common session.

use std::time::Duration;

use super::weather::{CALM, Weather};
use super::wire::Wire;

const STORM: Weather =
    Weather { delay: Duration::from_millis(5), jitter: Duration::from_millis(800), loss: 0.25, repeat: 0.2 };

fn settled(wire: &Wire) -> bool {
    [(0, 1), (1, 0)].into_iter().all(|(from, to)| wire.reaches(from, to))
}

#[test]
fn two_that_connect_to_each_other_at_once_share_a_session() {
    for seed in 0..100 {
        let mut wire = Wire::members(2, seed);
        wire.weather.jitter = Duration::from_millis(seed);
        wire.connect(0, 1);
        wire.run(Duration::from_millis(seed % 50));
        wire.connect(1, 0);
        assert!(wire.run_until(Duration::from_secs(3), settled).is_some(), "seed {seed}");
        wire.chats = vec![(0, 1), (1, 0)];
        wire.run(Duration::from_secs(5));
        assert!(settled(&wire), "seed {seed}");
        assert!(wire.hosts.iter().all(|host| host.received >= 4), "seed {seed}");
    }
}

#[test]
fn a_thousand_storms_end_connected_and_in_bounded_time() {
    let (mut slowest, mut most) = (Duration::ZERO, 0);
    for seed in 0..1000 {
        let mut wire = Wire::members(2, seed);
        wire.weather = STORM;
        wire.chats = vec![(0, 1), (1, 0)];
        wire.connect(0, 1);
        wire.run(Duration::from_millis(seed % 100));
        wire.connect(1, 0);
        let took = wire.run_until(Duration::from_secs(60), settled);
        assert!(took.is_some(), "seed {seed}");
        slowest = slowest.max(took.unwrap_or_default());
        // When the weather clears, it stays up and the handshakes end.
        wire.weather = CALM;
        wire.run(Duration::from_secs(8));
        let handshakes = wire.handshakes[1];
        wire.run(Duration::from_secs(40));
        assert!(settled(&wire), "seed {seed}");
        assert_eq!(wire.handshakes[1], handshakes, "seed {seed}: no livelock");
        assert!(wire.hosts.iter().all(|host| host.held.len() <= 4), "seed {seed}");
        most = most.max(handshakes);
    }
    assert!(slowest < Duration::from_secs(45) && most < 60, "slowest {slowest:?}, most initiations {most}");
}

#[test]
fn an_hour_of_storms_keeps_a_circuit_in_use() {
    for seed in 0..10 {
        let mut wire = Wire::members(2, seed);
        wire.weather = STORM;
        wire.chats = vec![(0, 1), (1, 0)];
        wire.connect(0, 1);
        wire.connect(1, 0);
        wire.run(Duration::from_secs(60));
        let before = [0, 1].map(|at| wire.hosts[at].received);
        wire.run(Duration::from_secs(3540));
        for (host, before) in wire.hosts.iter().zip(before) {
            assert!(host.received - before > 3540 * 70 / 100, "seed {seed}: {}", host.received - before);
            assert!(host.log.iter().all(|(_, name)| !name.starts_with("down")), "seed {seed}");
        }
    }
}

#[test]
fn a_member_that_restarts_comes_back() {
    for seed in 0..20 {
        let mut wire = Wire::pair(seed);
        wire.chats = vec![(0, 1), (1, 0)];
        wire.run(Duration::from_secs(30));
        let fresh = Wire::members(2, seed + 1000).hosts.remove(1);
        wire.hosts[1] = fresh;
        assert!(wire.run_until(Duration::from_secs(20), settled).is_some(), "seed {seed}");
    }
}
