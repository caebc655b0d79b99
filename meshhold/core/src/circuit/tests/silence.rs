//! Who gets no byte of an answer: strangers, other networks, other swarms, replays, noise.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use super::nodes::{NETWORK, OFFERS, PSK, address, circuits, id, member, transmits};
use super::wire::Wire;
use crate::circuit::{Circuits, Output};
use crate::cookie::MAC;
use crate::handshake::random::SeededRng;
use crate::handshake::{Accept, Responder};
use crate::identity::NodeId;
use crate::key::NetworkId;
use crate::session::{Cipher, Secret};

/// The initiation that `from` sends to node 2.
fn initiation(from: &mut Circuits, network: NetworkId, now: Instant) -> Vec<u8> {
    from.connect(now, network, id(2), &[address(2)]);
    transmits(from).remove(0).1
}

fn silent(to: &mut Circuits, now: Instant, datagram: &[u8]) -> bool {
    to.handle_datagram(now, address(1), datagram);
    to.poll_output().is_none()
}

#[test]
fn a_stranger_gets_no_byte_and_a_member_an_answer() {
    let now = Instant::now();
    let cases = [(NETWORK, PSK, false), (NETWORK, Secret([1; 32]), true), (NetworkId([1; 16]), PSK, true)];
    for (network, psk, ignored) in cases {
        let mut sender = circuits(1, 1, &OFFERS, 1);
        sender.add_network(network, psk);
        let datagram = initiation(&mut sender, network, now);
        assert_eq!(silent(&mut member(2, 1), now, &datagram), ignored, "{network}");
    }
}

#[test]
fn the_swarm_key_must_fit() {
    let now = Instant::now();
    for (ours, theirs) in [
        (None, None),
        (Some([1; 32]), Some([1; 32])),
        (Some([1; 32]), None),
        (None, Some([1; 32])),
        (Some([1; 32]), Some([2; 32])),
    ] {
        let both = [(1, ours), (2, theirs)].map(|(number, swarm_key)| {
            let mut circuits = circuits(number, 1, &OFFERS, 1);
            circuits.set_swarm_key(swarm_key);
            circuits.add_network(NETWORK, PSK);
            circuits
        });
        let [mut sender, mut receiver] = both;
        let datagram = initiation(&mut sender, NETWORK, now);
        assert_eq!(silent(&mut receiver, now, &datagram), ours != theirs, "{ours:?} and {theirs:?}");
    }
}

#[test]
fn an_impossible_node_id_is_not_connected_to() {
    let mut point_of_order_4 = [0; 32];
    let mut no_point = [0; 32];
    no_point[0] = 2;
    let mut neutral = [0; 32];
    neutral[0] = 1;
    point_of_order_4[31] = 0x80;
    for node in [point_of_order_4, neutral, no_point, [0; 32]] {
        let mut circuits = member(1, 1);
        assert_eq!(NodeId(node).noise_public(), None);
        circuits.connect(Instant::now(), NETWORK, NodeId(node), &[address(2)]);
        assert!(circuits.poll_output().is_none() && circuits.poll_timeout().is_none());
        assert_eq!(circuits.status().count(), 0);
    }
}

#[test]
fn a_replayed_or_older_initiation_gets_nothing() {
    let now = Instant::now();
    let (mut sender, mut receiver) = (member(1, 1), member(2, 1));
    let first = initiation(&mut sender, NETWORK, now);
    sender.handle_timeout(now + Duration::from_secs(1));
    let second = transmits(&mut sender).remove(0).1;
    assert!(!silent(&mut receiver, now, &second));
    while receiver.poll_output().is_some() {}
    for (name, datagram) in [("the same", &second), ("an older one", &first)] {
        assert!(silent(&mut receiver, now, datagram), "{name}");
        assert!(silent(&mut receiver, now + Duration::from_secs(400), datagram), "{name}, later");
    }
    receiver.close(now, NETWORK, id(1));
    while receiver.poll_output().is_some() {}
    assert!(silent(&mut receiver, now, &second), "after the end of the circuit");
}

/// A node's clock is ahead until it restarts: then its peers let it in, and what was recorded meanwhile stays useless.
#[test]
fn a_clock_that_was_ahead_locks_no_node_out() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let sent = |wall: Duration| {
        let mut sender = member(1, 1);
        sender.set_wall(start, wall);
        initiation(&mut sender, NETWORK, start)
    };
    for ahead in [5, 3_500, 40 * 86_400].map(Duration::from_secs) {
        let mut receiver = member(2, 1);
        let right = |seconds| super::nodes::WALL + Duration::from_secs(seconds);
        receiver.set_wall(start, right(0));
        let recorded = [sent(right(0)), sent(right(1) + ahead), sent(right(9))];
        for (datagram, at) in recorded.iter().zip([0, 1, 9]) {
            assert!(!silent(&mut receiver, after(at), datagram), "{ahead:?}, {at}");
            while receiver.poll_output().is_some() {}
        }
        let replayed = |receiver: &mut Circuits, at| {
            recorded.iter().all(|datagram| silent(receiver, after(at), datagram))
        };
        assert!(replayed(&mut receiver, 10));
        // Now the receiver's own clock is wrong for a moment.
        receiver.set_wall(after(11), right(11) - Duration::from_secs(40 * 86_400));
        receiver.set_wall(after(12), right(12));
        assert!(replayed(&mut receiver, 13), "after the clock was set");
        assert!(replayed(&mut receiver, ahead.as_secs() + 20), "when that time has come");
        assert!(!silent(&mut receiver, after(ahead.as_secs() + 99), &sent(right(ahead.as_secs() + 99))));
    }
}

/// A host without a battery starts with the time at which it was switched off, or 1970.
#[test]
fn a_clock_that_went_back_over_a_restart_makes_no_replays() {
    let start = Instant::now();
    let later = start + Duration::from_secs(60);
    let mut before = member(1, 1);
    let recorded = initiation(&mut before, NETWORK, start);
    for wall in [super::nodes::WALL - Duration::from_secs(3000), Duration::from_secs(30)] {
        let mut receiver = member(2, 1);
        assert!(!silent(&mut receiver, start, &recorded));
        while receiver.poll_output().is_some() {}
        let [mut forgetful, mut after] = [member(1, 2), member(1, 3)];
        for restarted in [&mut forgetful, &mut after] {
            restarted.set_wall(later, wall);
        }
        after.go_on_after(before.told_before());
        assert!(silent(&mut receiver, later, &initiation(&mut forgetful, NETWORK, later)), "{wall:?}");
        assert!(!silent(&mut receiver, later, &initiation(&mut after, NETWORK, later)), "{wall:?}");
    }
}

#[test]
fn an_initiation_with_any_byte_changed_gets_nothing() {
    let now = Instant::now();
    let mut sender = member(1, 1);
    let datagram = initiation(&mut sender, NETWORK, now);
    let mut receiver = member(2, 1);
    // mac2 means something under load only.
    for at in 0..datagram.len() - MAC {
        let mut changed = datagram.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(silent(&mut receiver, now, &changed), "byte {at}");
    }
    for length in 0..datagram.len() {
        assert!(silent(&mut receiver, now, &datagram[..length]), "{length} bytes");
    }
    assert!(silent(&mut receiver, now, &[&datagram[..], &[0]].concat()), "one byte more");
    assert!(!silent(&mut receiver, now, &datagram), "and unchanged it passes");
}

#[test]
fn a_response_with_any_byte_changed_makes_no_session() {
    let now = Instant::now();
    let (mut sender, mut receiver) = (member(1, 1), member(2, 1));
    let datagram = initiation(&mut sender, NETWORK, now);
    receiver.handle_datagram(now, address(1), &datagram);
    let response = transmits(&mut receiver).remove(0).1;
    assert!(response.len() <= datagram.len());
    for at in 0..response.len() - MAC {
        let mut changed = response.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(silent(&mut sender, now, &changed), "byte {at}");
    }
    sender.handle_datagram(now, address(2), &response);
    assert!(matches!(sender.poll_output(), Some(Output::Install { .. })), "and unchanged it passes");
    while sender.poll_output().is_some() {}
    assert!(silent(&mut sender, now, &response), "but once only");
}

/// The answer of a member that breaks the rules.
fn rogue_response(datagram: &[u8], accept: Accept, sender: u32) -> Vec<u8> {
    let framed = crate::circuit::frame::Framed::initiation(datagram).unwrap();
    let identity = super::nodes::identity(2);
    let (responder, _) =
        Responder::read(NETWORK, &PSK, &identity, framed.noise, SeededRng::new([1; 32])).unwrap();
    let (_, noise) = responder.answer(accept).unwrap();
    let keys = crate::cookie::MacKeys::new(&PSK, None, id(1));
    crate::circuit::frame::response(sender, framed.sender, &noise, &keys)
}

#[test]
fn a_member_cannot_impose_lanes_a_cipher_or_an_index_that_make_no_sense() {
    let chacha = Cipher::ChaCha20Poly1305;
    let cases = [
        (2, chacha, 0x50, true),
        (8, chacha, 0x50, true),
        (1, chacha, 0x50, false),
        (0, chacha, 0x50, false),
        // Lane 8 is the sparse one beside lane 0.
        (9, chacha, 0x50, false),
        (16, chacha, 0x50, false),
        (255, chacha, 0x50, false),
        (2, Cipher::Aes256Gcm, 0x50, false),
        (2, chacha, 0x51, false),
    ];
    for (lanes, cipher, index, taken) in cases {
        let now = Instant::now();
        let mut sender = circuits(1, 2, &[(chacha, 1)], 1);
        sender.add_network(NETWORK, PSK);
        let datagram = initiation(&mut sender, NETWORK, now);
        let response = rogue_response(&datagram, Accept { cipher, lanes }, index);
        assert_eq!(silent(&mut sender, now, &response), !taken, "{lanes} {cipher:?} {index}");
    }
}

#[test]
fn a_hundred_thousand_random_and_mangled_datagrams_get_nothing() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut wire = Wire::pair(1);
    let now = wire.now;
    let mut other = member(3, 1);
    let template = initiation(&mut other, NETWORK, now);
    let receiver = &mut wire.hosts[1].circuits;
    let mut buffer = vec![0; 65_535];
    rng.fill_bytes(&mut buffer);
    for round in 0..100_000u32 {
        let length = if rng.gen_ratio(1, 8) { rng.gen_range(0..=65_535) } else { rng.gen_range(0..=300) };
        let start = rng.gen_range(0..=65_535 - length);
        let datagram = &mut buffer[start..start + length];
        if round % 2 == 0 {
            let count = length.min(template.len());
            datagram[..count].copy_from_slice(&template[..count]);
            for _ in 0..rng.gen_range(1..5) {
                // The type may change, mac2 alone not.
                if let Some(byte) = datagram.get_mut(rng.gen_range(0..template.len() - MAC)) {
                    *byte ^= rng.gen_range(1..=255u8);
                }
            }
            if datagram == &template[..] {
                continue;
            }
        }
        if let Some(first) = datagram.first_mut().filter(|_| round % 2 == 1) {
            *first %= 6;
        }
        receiver.handle_datagram(now, address(9), datagram);
        assert!(receiver.poll_output().is_none(), "round {round}");
    }
    receiver.handle_datagram(now, address(3), &template);
    assert!(receiver.poll_output().is_some(), "the unchanged one still gets its answer");
}
