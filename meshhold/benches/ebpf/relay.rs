//! The kernel relay: a datagram of one label among few and among many.
//!
//! A leg from one host to another, both on the shared port, so that a forwarded packet is the same again but for its hop
//! limit, and can be forwarded again.

use std::{collections::BTreeSet, net::IpAddr};

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use meshhold::{
    datapath::{
        ebpf::KernelRelay,
        relay::{Hop, Leg},
    },
    platform::linux::ways::Way,
};

use crate::{
    packets::{UDP, ipv4_raw},
    report::{Bar, Report},
    runner::{Cost, Runner},
};

const TABLE: &str = "A datagram through the kernel relay, above the empty program";
const PORT: u16 = 7777;
const FROM: [u8; 4] = [192, 0, 2, 1];
const TO: [u8; 4] = [192, 0, 2, 2];
/// Fewer than the hop limit allows.
const REPEAT: u32 = 200;
const BATCHES: u32 = 1_000;
const REDIRECTED: u32 = 7;
const GROWTH: f64 = 1.1;

pub(crate) fn measure(runner: &mut Runner, report: &mut Report) {
    let sizes = [1, 10_000];
    let relays = sizes.map(with_legs);
    let mut best = [f64::INFINITY; 2];
    // In turns, so that what slows the machine down slows down both. Always another label of those that there are.
    for batch in 0..BATCHES {
        for ((relay, count), best) in relays.iter().zip(sizes).zip(&mut best) {
            *best = best.min(run(program(relay), &datagram(batch * 7_919 % count)));
        }
    }
    let known = runner.reference();
    let cost = |nanoseconds: f64| Cost { nanoseconds: nanoseconds - known.empty, ..known };
    let [one, many] = best.map(cost);
    report.add(TABLE, "1 label", one, Bar::None);
    report.add(TABLE, "10,000 labels", many, Bar::Times(GROWTH, one.units()));
}

fn with_legs(count: u32) -> KernelRelay {
    let [from, to] = [FROM, TO].map(IpAddr::from);
    let way =
        Way { interface: 1, name: "lo".to_owned(), source: from, gateway: None, mtu: 1500, ethernet: true };
    let leg = |label| Leg {
        from: Hop { remote: (from, PORT).into(), label },
        to: (to, PORT).into(),
        rate: 10_000_000_000,
        source: 1,
        source_rate: 10_000_000_000,
    };
    let legs: Vec<_> = (0..count).map(|label| (leg(label), Some(way.clone()))).collect();
    let mut relay = KernelRelay::load(PORT).unwrap();
    assert_eq!(relay.apply(&legs, &BTreeSet::from([to]), &[]).unwrap(), []);
    relay
}

fn program(relay: &KernelRelay) -> &SchedClassifier {
    let is_it = |program: &&SchedClassifier| program.info().unwrap().name_as_str() == Some("relay_ethernet");
    relay.programs().into_iter().find(is_it).unwrap()
}

/// Nanoseconds a packet.
fn run(program: &SchedClassifier, packet: &[u8]) -> f64 {
    let options = TestRunOptions { data_in: Some(packet), repeat: REPEAT, ..TestRunOptions::default() };
    let result = program.test_run(options).unwrap();
    assert_eq!(result.return_value, REDIRECTED, "it is not forwarded");
    result.duration.as_nanos() as f64
}

/// In an Ethernet frame, with as many hops before it as there can be.
fn datagram(label: u32) -> Vec<u8> {
    let mut payload = [PORT.to_be_bytes(), PORT.to_be_bytes(), 116_u16.to_be_bytes(), [0, 0]].concat();
    payload.extend([5, 0, 0, 0]);
    payload.extend(label.to_be_bytes());
    payload.resize(116, 4);
    let mut packet = ipv4_raw(FROM, TO, UDP, &[], 0, &payload);
    packet[8] = u8::MAX;
    [&[0; 12], &[8, 0][..], &packet].concat()
}
