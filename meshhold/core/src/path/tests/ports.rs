//! Own ports and named addresses: how one of many leads through NATs, and how little anybody can make a node send.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use super::super::*;
use super::{KEY, STEP, World, relayed};

/// Where all see the second end, and where the first one's NAT draws ports.
pub(super) const STABLE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 2), 7777);
pub(super) const DRAWN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// The NATs of both ends, as far as they are about own ports: the first one draws an outer port for each of them, the second
/// lets in who was sent to.
#[derive(Default)]
pub(super) struct Nats {
    pub(super) rng: Option<StdRng>,
    /// Own port by outer port.
    pub(super) open: BTreeMap<u16, u16>,
    pub(super) kept: BTreeSet<u16>,
    tried: BTreeSet<u16>,
    pub(super) opened: usize,
}

impl Nats {
    pub(super) fn gather(&mut self, count: u32) {
        let Some(rng) = &mut self.rng else { return };
        for _ in 0..count {
            self.opened += 1;
            self.open.insert(rng.gen_range(1024..=u16::MAX), 10_000 + self.opened as u16);
        }
    }

    pub(super) fn scatter(&mut self) {
        self.open.retain(|_, own| self.kept.contains(own));
    }

    pub(super) fn leave(&mut self, own: u16) {
        self.kept.remove(&own);
        self.open.retain(|_, other| *other != own);
    }

    /// As the other end sees a path of `at` that goes through; none where a NAT drops it.
    pub(super) fn pass(&mut self, at: usize, path: Path) -> Option<Path> {
        if at == 0 {
            let (outer, _) = self.open.iter().find(|(_, own)| **own == path.local_port)?;
            let admitted = path.remote == STABLE.into() && self.tried.contains(outer);
            return admitted.then(|| SocketAddr::V4(SocketAddrV4::new(DRAWN, *outer)).into());
        }
        self.tried.insert(path.remote.port());
        let own = self.open.get(&path.remote.port())?;
        Some(Path::from(SocketAddr::from(STABLE)).from_port(*own))
    }
}

/// Both ends send by own ports through NATs that hardly let them.
fn met(world: &World) -> bool {
    let [first, second] = [0, 1].map(|at| world.ends[at].path.unwrap());
    first.local_port != 0 && first.remote == STABLE.into() && second.remote.ip() == DRAWN
}

#[test]
fn where_one_nat_draws_ports_and_the_other_is_closed_they_meet_by_one_of_many() {
    let mut within = Vec::new();
    for seed in 0..100 {
        let mut world = World::new();
        world.nats(seed);
        world.up(relayed());
        let begun = world.now;
        while !met(&world) && world.now - begun < Duration::from_secs(7) {
            world.run(STEP);
        }
        within.push(world.now - begun);
        if !met(&world) {
            continue;
        }
        world.run(Duration::from_secs(1));
        let reasons = [0, 1].map(|at| world.ends[at].paths.current(KEY).unwrap().reason.clone());
        assert!(reasons[0].contains("the peer met one of"), "{reasons:?}");
        assert!(reasons[1].contains("ports tried"), "{reasons:?}");
        assert!(world.nats.kept.len() == 1 && world.nats.open.len() == 1, "all but one are closed");
        assert!(world.received.iter().all(|at| world.now - *at < Duration::from_millis(100)));
    }
    within.sort();
    println!("figure: median {:?}, 99th of 100 {:?}, longest {:?}", within[50], within[98], within[99]);
    assert!(within[98] < Duration::from_secs(5), "{:?}", within[98]);
}

#[test]
fn a_port_that_is_not_used_any_more_is_closed() {
    let mut world = World::new();
    world.nats(1);
    world.up(relayed());
    world.run(Duration::from_secs(5));
    assert!(met(&world));
    let port = world.ends[0].path.unwrap().local_port;
    // The NAT forgets all, and the peer's has become a wall.
    world.nats.open.clear();
    world.nats.rng = None;
    world.run(Duration::from_secs(2));
    assert_eq!(world.ports(), [0, 0], "relayed again");
    assert!(world.nats.kept.contains(&port), "for stragglers");
    world.run(Duration::from_secs(60));
    assert!(world.nats.kept.is_empty(), "{:?}", world.nats.kept);
    world.ends[0].paths.down(world.now, KEY);
    assert_eq!(world.ends[0].paths.poll_output(), None);
}

#[test]
fn a_port_ends_with_its_circuit() {
    let mut world = World::new();
    world.nats(2);
    world.up(relayed());
    world.run(Duration::from_secs(5));
    let local_port = world.ends[0].path.unwrap().local_port;
    world.ends[0].paths.down(world.now, KEY);
    assert_eq!(world.ends[0].paths.poll_output(), Some(Output::Leave { local_port }));
}

#[test]
fn rounds_that_meet_nobody_are_bounded_come_rarer_and_say_so() {
    let mut world = World::new();
    world.nats(3);
    world.nats.rng = None;
    world.up(relayed());
    world.run(Duration::from_secs(8));
    let first = world.sent;
    assert!((2048..2200).contains(&first), "{first} messages");
    let reasons = [0, 1].map(|at| world.ends[at].paths.current(KEY).unwrap().reason.clone());
    assert!(reasons[0].ends_with("; 256 ports were opened, and the peer met none of them"), "{reasons:?}");
    assert!(
        reasons[1].ends_with("; 2048 ports of the peer's NAT were tried, and none was open"),
        "{reasons:?}"
    );
    world.run(Duration::from_secs(600));
    // After 10, 20, 40 … s, and a second more each time.
    assert!((3 * 2048..6 * 2200).contains(&(world.sent - first)), "{} messages", world.sent - first);
    assert!(world.ends[0].paths.current(KEY).unwrap().reason.matches("; ").count() == 1);
}

#[test]
fn where_both_nats_draw_ports_none_are_opened_and_both_ends_say_why() {
    let mut world = World::new();
    world.nats(5);
    world.ends[1].paths.set_mapping(Mapping::Drawn([198, 51, 100, 2].into()));
    world.up(relayed());
    world.run(Duration::from_secs(30));
    assert_eq!((world.ports(), world.nats.opened), ([0, 0], 0));
    for end in &world.ends {
        let reason = &end.paths.current(KEY).unwrap().reason;
        assert!(reason.contains("; both NATs draw a port for each destination"), "{reason}");
    }
}

#[test]
fn what_opens_by_usual_probes_costs_no_round() {
    let mut world = World::new();
    world.nats(4);
    world.up(relayed());
    world.learn(1);
    world.run(Duration::from_secs(8));
    assert_eq!((world.ports(), world.nats.opened), ([1, 1], 0));
}

/// Pings to addresses of a peer that names them, in each second of `time`.
fn knocked(mapping: Mapping, time: u64, mut address: impl FnMut(u64, u8) -> Ipv4Addr) -> Vec<usize> {
    let (mut paths, start) = (Paths::new(1420, [1; 32]), Instant::now());
    paths.set_mapping(mapping);
    let keys: Vec<PeerKey> = (0..50).map(|number| (NetworkId([1; 16]), NodeId([number; 32]))).collect();
    keys.iter().for_each(|key| paths.taken(start, *key, relayed(), &[]));
    let mut counts = vec![0; time as usize];
    for ms in (0..time * 1000).step_by(10) {
        let now = start + Duration::from_millis(ms);
        for (key, number) in keys.iter().zip(0..) {
            let address = address(ms, number);
            paths.message(now, *key, relayed(), &Message::Knock { address });
        }
        paths.handle_timeout(now);
        while let Some(output) = paths.poll_output() {
            let ping =
                |path: &Path, message: &Message| path.is_direct() && matches!(message, Message::Ping { .. });
            if matches!(&output, Output::Send { path, message, .. } if ping(path, message)) {
                counts[(ms / 1000) as usize] += 1;
            }
        }
    }
    counts
}

#[test]
fn liars_make_a_node_send_little_whatever_they_name() {
    // Fifty members name another victim a hundred times a second each.
    let counts = knocked(Mapping::Stable(STABLE), 600, |ms, number| {
        Ipv4Addr::from_bits(0x0808_0000 + (ms as u32) * 256 + u32::from(number))
    });
    let (total, most) = (counts.iter().sum::<usize>(), *counts.iter().max().unwrap());
    println!("figure: {total} probes in 600 s, {most} in a second");
    assert!(most <= 750, "{most} in a second");
    assert!(total <= 4096 + 600 * 20, "{total} in all");
    // All name the same one.
    let total: usize = knocked(Mapping::Stable(STABLE), 600, |_, _| [8, 8, 8, 8].into()).iter().sum();
    assert!((4096..=6 * 2048).contains(&total), "{total} for one victim");
    for (mapping, address) in [
        (Mapping::Stable(STABLE), [127, 0, 0, 1]),
        (Mapping::Stable(STABLE), [192, 168, 1, 1]),
        (Mapping::Stable(STABLE), [255, 255, 255, 255]),
        (Mapping::Unknown, [8, 8, 8, 8]),
        (Mapping::Drawn(DRAWN), [8, 8, 8, 8]),
    ] {
        assert_eq!(knocked(mapping, 10, |_, _| address.into()).iter().sum::<usize>(), 0, "{address:?}");
    }
}

/// Probes to direct paths in ten minutes, of a machine whose peer names addresses ten times a second.
fn probed(mut named: impl FnMut(u32) -> Vec<SocketAddr>) -> usize {
    let (mut paths, start) = (Paths::new(1420, [1; 32]), Instant::now());
    paths.taken(start, KEY, relayed(), &[]);
    let mut count = 0;
    for tenth in 0..6000 {
        let now = start + Duration::from_millis(100) * tenth;
        // As one does who wants to be thought well of: the relayed path works, and something comes by it.
        let total = Traffic { rx_packets: tenth.into(), rx_bytes: tenth.into(), ..Traffic::default() };
        paths.traffic(now, KEY, total);
        paths.message(now, KEY, relayed(), &Message::Candidates { endpoints: named(tenth) });
        paths.handle_timeout(now);
        let sent = std::iter::from_fn(|| paths.poll_output());
        count +=
            sent.filter(|output| matches!(output, Output::Send { path, .. } if path.is_direct())).count();
    }
    count
}

#[test]
fn a_member_that_names_others_addresses_makes_a_node_send_little() {
    let address = |number: u32| SocketAddr::from((number.to_be_bytes(), 7777));
    let same = probed(|_| (0..16).map(|number| address(0x0808_0800 + number)).collect());
    let fresh = probed(|tenth| (0..16).map(|number| address(0x0808_0000 + tenth * 16 + number)).collect());
    println!("figure: {same} probes to 16 addresses and {fresh} to fresh ones in 600 s");
    assert!((16 * 18..=16 * 80).contains(&same), "{same}");
    assert!((144..=144 + 8 * 600).contains(&fresh), "{fresh}");
}
