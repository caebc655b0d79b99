//! The program that chooses the queue of a packet, and what it tells the workers.

use std::{collections::BTreeSet, thread::sleep, time::Duration};

use aya::programs::{TestRun, TestRunOptions};
use meshhold::datapath::ebpf::EbpfDatapath;
use meshhold_common::maps::Steering;

use crate::{
    packets::{ACK, TCP, UDP, ipv4, ipv6, ports},
    support::{OWN4, OWN6, PEER4, PEER6, is_root},
};

const WORKERS: u32 = 2;
/// Test runs of a socket filter begin behind a link header.
const LINK: [[u8; 14]; 2] =
    [[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x86, 0xdd]];

/// Queue of one more packet of a flow that sends full segments, where TCP isn't spread.
fn queue(datapath: &mut EbpfDatapath, packet: &[u8]) -> u32 {
    queue_as(datapath, packet, 0)
}

fn queue_as(datapath: &mut EbpfDatapath, packet: &[u8], spread: u32) -> u32 {
    let [four, six] = LINK;
    let link = if packet[0] >> 4 == 4 { four } else { six };
    let data = [&link, packet, &[0; 1_300]].concat();
    let options = TestRunOptions { data_in: Some(&data), ..TestRunOptions::default() };
    datapath.steering(Steering { workers: WORKERS, spread }).unwrap().test_run(options).unwrap().return_value
}

#[test]
fn a_flow_moves_to_the_queue_for_bulk_and_the_workers_hear_of_it() {
    if !is_root() {
        return;
    }
    let mut datapath = EbpfDatapath::open(None).unwrap();
    let promoted = datapath.promoted().unwrap();
    let flows = [
        [
            ipv4(OWN4, PEER4, TCP, &ports(TCP, 40_000, 443, ACK)),
            ipv4(PEER4, OWN4, TCP, &ports(TCP, 443, 40_000, ACK)),
        ],
        [
            ipv6(OWN6, PEER6, TCP, &ports(TCP, 40_000, 443, ACK)),
            ipv6(PEER6, OWN6, TCP, &ports(TCP, 443, 40_000, ACK)),
        ],
    ];
    for directions in flows {
        let bulk = directions.each_ref().map(|packet| {
            let before = promoted.load();
            let queues: Vec<u32> = (0..20).map(|_| queue(&mut datapath, packet)).collect();
            let sparse = queues.iter().take_while(|queue| (WORKERS..2 * WORKERS).contains(queue)).count();
            assert!((1..20).contains(&sparse), "{queues:?}");
            assert!(
                queues[sparse..].iter().all(|queue| *queue == queues[19] && *queue < WORKERS),
                "{queues:?}"
            );
            let after = promoted.load();
            assert!(after > before, "nobody heard of it");
            assert_eq!(queue(&mut datapath, packet), queues[19]);
            assert_eq!(promoted.load(), after, "it was bulk before");
            queues[19]
        });
        assert_ne!(bulk[0], bulk[1], "a worker for each direction");
    }
}

#[test]
fn a_flow_that_paused_is_sparse_again() {
    if !is_root() {
        return;
    }
    let mut datapath = EbpfDatapath::open(None).unwrap();
    let packet = ipv4(OWN4, PEER4, TCP, &ports(TCP, 40_001, 443, ACK));
    let bulk = (0..20).map(|_| queue(&mut datapath, &packet)).last().unwrap();
    assert!(bulk < WORKERS);
    sleep(Duration::from_millis(300));
    assert!(queue(&mut datapath, &packet) >= WORKERS);
}

#[test]
fn tcp_has_a_worker_for_each_direction_unless_it_is_spread() {
    if !is_root() {
        return;
    }
    let mut datapath = EbpfDatapath::open(None).unwrap();
    let mut workers_of = |protocol, spread| {
        let mut bulk = |port| {
            let packet = ipv4(OWN4, PEER4, protocol, &ports(protocol, port, 443, ACK));
            (0..20).map(|_| queue_as(&mut datapath, &packet, spread)).last().unwrap()
        };
        (50_000..50_020).map(&mut bulk).collect::<BTreeSet<_>>().len()
    };
    assert_eq!([workers_of(TCP, 0), workers_of(TCP, 1), workers_of(UDP, 0)], [1, 2, 2]);
}
