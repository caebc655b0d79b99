//! The datagrams of `docs/protocol.md`, byte by byte.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::nodes::{NETWORK, address, id, member, transmits};
use crate::circuit::Output;
use crate::session::Session;

const DOCUMENT: &str = include_str!("../../../../../docs/protocol.md");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `name = hex` lines of the fenced block; lines that are indented go on.
fn documented() -> BTreeMap<&'static str, String> {
    let block = DOCUMENT.split("```vectors\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut vectors = BTreeMap::new();
    let mut last = "";
    for line in block.lines() {
        let text = match line.split_once(" = ") {
            Some((name, text)) => {
                last = name;
                text
            }
            None => line,
        };
        vectors.entry(last).or_insert_with(String::new).push_str(text.trim());
    }
    vectors
}

/// What the fixed seeds and times make now.
fn made() -> BTreeMap<&'static str, String> {
    let now = Instant::now();
    let (mut alice, mut bob) = (member(1, 0), member(2, 0));
    alice.connect(now, NETWORK, id(2), &[address(2)]);
    let initiation = transmits(&mut alice).remove(0).1;
    bob.handle_datagram(now, address(1), &initiation);
    let Some(Output::Install { session, .. }) = bob.poll_output() else { panic!("a session") };
    let response = transmits(&mut bob).remove(0).1;
    // Repetitions bring load, and load brings cookies.
    for port in 0..100 {
        bob.handle_datagram(now, SocketAddr::from(([198, 51, 100, 1], port)).into(), &initiation);
    }
    while bob.poll_output().is_some() {}
    bob.handle_datagram(now, address(1), &initiation);
    let cookie = transmits(&mut bob).remove(0).1;
    let Session { send, recv, .. } = &*session;
    BTreeMap::from([
        ("initiator", hex(&id(1).0)),
        ("responder", hex(&id(2).0)),
        ("initiation", hex(&initiation)),
        ("response", hex(&response)),
        ("to_responder", hex(&recv.0)),
        ("to_initiator", hex(&send.0)),
        ("to_responder_lane_1", hex(&session.recv_key(1).0)),
        ("cookie_reply", hex(&cookie)),
    ])
}

#[test]
fn the_documented_datagrams_are_the_ones_on_the_wire() {
    for (name, value) in made() {
        assert_eq!(documented().get(name), Some(&value), "{name}");
    }
    assert_eq!(documented().len(), made().len());
}
