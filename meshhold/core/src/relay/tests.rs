//! Paths through relays, set up and taken down between machines that only exchange messages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::*;
use crate::key::NetworkId;

const NETWORK: NetworkId = NetworkId([1; 16]);
const RTT: Duration = Duration::from_millis(10);

fn id(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn address(number: u8) -> SocketAddr {
    ([192, 0, 2, number], 7777).into()
}

fn limits(enabled: bool) -> Limits {
    Limits { enabled, circuits: 8, circuits_per_source: 4 }
}

/// Nodes with links between them; from 100 on they relay.
struct World {
    now: Instant,
    nodes: BTreeMap<u8, Relays>,
    links: BTreeSet<(u8, u8)>,
    said: VecDeque<(u8, NodeId, Message)>,
    seen: BTreeMap<u8, Vec<Output>>,
}

impl World {
    fn new(nodes: &[u8], links: &[(u8, u8)]) -> Self {
        let node = |n: &u8| (*n, Relays::new(id(*n), limits(*n >= 100), [*n; 32]));
        let mut world = Self {
            now: Instant::now(),
            nodes: nodes.iter().map(node).collect(),
            links: BTreeSet::new(),
            said: VecDeque::new(),
            seen: BTreeMap::new(),
        };
        links.iter().for_each(|&(a, b)| world.link(a, b));
        world.settle();
        world
    }

    fn link(&mut self, a: u8, b: u8) {
        self.links.extend([(a, b), (b, a)]);
        for (here, there) in [(a, b), (b, a)] {
            self.nodes.get_mut(&here).unwrap().link_up(self.now, id(there), address(there), RTT);
        }
    }

    fn cut(&mut self, a: u8, b: u8) {
        self.links.remove(&(a, b));
        self.links.remove(&(b, a));
        self.nodes.get_mut(&a).unwrap().link_down(self.now, id(b));
        self.nodes.get_mut(&b).unwrap().link_down(self.now, id(a));
        self.settle();
    }

    /// Until nobody has anything to say, and nothing is due soon.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.deliver();
            self.now += Duration::from_millis(100);
            self.nodes.values_mut().for_each(|node| node.handle_timeout(self.now));
        }
        self.deliver();
    }

    fn deliver(&mut self) {
        loop {
            for (number, node) in &mut self.nodes {
                while let Some(output) = node.poll_output() {
                    match output {
                        Output::Send { to, message } => self.said.push_back((*number, to, message)),
                        Output::Changed => {}
                        other => self.seen.entry(*number).or_default().push(other),
                    }
                }
            }
            let Some((from, to, message)) = self.said.pop_front() else { return };
            if self.links.contains(&(from, to.0[0])) {
                self.nodes.get_mut(&to.0[0]).unwrap().handle(self.now, id(from), message);
            }
        }
    }

    fn want(&mut self, from: u8, to: u8, relays: &[u8]) {
        let relays: Vec<NodeId> = relays.iter().map(|n| id(*n)).collect();
        self.nodes.get_mut(&from).unwrap().want(self.now, (NETWORK, id(to)), &relays, false);
        self.settle();
    }

    fn ready(&self, node: u8) -> Vec<Path> {
        let of = |output: &Output| match output {
            Output::Ready { path, .. } => Some(*path),
            _ => None,
        };
        self.seen.get(&node).into_iter().flatten().filter_map(of).collect()
    }

    fn gone(&self, node: u8) -> usize {
        self.seen.get(&node).into_iter().flatten().filter(|o| matches!(o, Output::Gone { .. })).count()
    }

    fn failures(&self, node: u8) -> Vec<String> {
        let of = |output: &Output| match output {
            Output::Failed { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        self.seen.get(&node).into_iter().flatten().filter_map(of).collect()
    }

    /// Where a datagram of `from` gets by `path`, hop by hop, and the path that it is answered by.
    fn follow(&self, from: u8, path: Path) -> Option<(u8, Path)> {
        let (mut at, mut before, label) = (path.remote, address(from), path.label?);
        for _ in 0..10 {
            let number = self.nodes.keys().copied().find(|n| address(*n) == at)?;
            let node = self.nodes.get(&number)?;
            let door = node.doors().into_iter().find(|door| (door.0, door.1) == (before, label));
            if let Some((_, _, back)) = door {
                return Some((number, back));
            }
            let passage = node.passages().into_iter().find(|p| (p.from, p.label) == (before, label))?;
            (before, at) = (at, passage.to);
        }
        panic!("a loop");
    }

    fn passages(&self) -> usize {
        self.nodes.values().map(|node| node.passages().len()).sum()
    }
}

#[test]
fn one_to_four_relays_carry_both_ways() {
    for hops in 1..=4u8 {
        let chain: Vec<u8> = [1].into_iter().chain((0..hops).map(|n| 100 + n)).chain([2]).collect();
        let links: Vec<(u8, u8)> = chain.windows(2).map(|pair| (pair[0], pair[1])).collect();
        let mut world = World::new(&chain, &links);
        world.want(1, 2, &[99 + hops]);
        let [path] = world.ready(1)[..] else { panic!("{hops}: {:?}", world.seen) };
        let (end, back) = world.follow(1, path).unwrap();
        assert_eq!(end, 2);
        assert_eq!(world.follow(2, back).unwrap(), (1, path), "{hops} relays");
        let relays: Vec<NodeId> = chain[1..chain.len() - 1].iter().map(|n| id(*n)).collect();
        assert_eq!(world.nodes[&1].via(path), relays);
        let backwards: Vec<NodeId> = relays.into_iter().rev().collect();
        assert_eq!(world.nodes[&2].via(back), backwards);
        assert_eq!(world.follow(3, path), None, "from a wrong address");
        let wrong = Path::relayed(path.remote, path.label.unwrap() ^ 1);
        assert_eq!(world.follow(1, wrong), None, "an unknown label");
    }
}

#[test]
fn what_is_too_long_for_a_hop_is_told_to_the_end_that_sent_it() {
    let mut world = World::new(&[1, 100, 101, 102, 2], &[(1, 100), (100, 101), (101, 102), (102, 2)]);
    world.want(1, 2, &[102]);
    let [forth] = world.ready(1)[..] else { panic!("{:?}", world.seen) };
    let (_, back) = world.follow(1, forth).unwrap();
    // The last relay can't send to the end, the first not to the asker; nor does either forward what it doesn't know.
    for (relay, before, path) in [(102, 101, forth), (100, 101, back)] {
        let node = world.nodes.get_mut(&relay).unwrap();
        node.too_big(address(before), path.label.unwrap(), 1300);
        node.too_big(address(before), path.label.unwrap() ^ 1, 1200);
        node.too_big(address(9), path.label.unwrap(), 1100);
    }
    world.settle();
    for (end, path) in [(1, forth), (2, back)] {
        let told = world.seen[&end].iter().filter(|output| matches!(output, Output::TooBig { .. }));
        assert_eq!(told.collect::<Vec<_>>(), [&Output::TooBig { path, carries: 1300 }]);
    }
}

#[test]
fn a_fifth_relay_is_not_asked() {
    let chain = [1, 100, 101, 102, 103, 104, 2];
    let links: Vec<(u8, u8)> = chain.windows(2).map(|pair| (pair[0], pair[1])).collect();
    let mut world = World::new(&chain, &links);
    world.want(1, 2, &[104]);
    assert!(world.ready(1).is_empty());
    assert!(world.failures(1)[0].contains("no link to the next node"), "{:?}", world.failures(1));
    assert_eq!(world.passages(), 0);
}

#[test]
fn each_leg_that_breaks_ends_the_path_at_both_ends() {
    for leg in [(1, 100), (100, 101), (101, 2)] {
        let mut world = World::new(&[1, 100, 101, 2], &[(1, 100), (100, 101), (101, 2)]);
        world.want(1, 2, &[101]);
        assert_eq!(world.ready(1).len(), 1);
        world.cut(leg.0, leg.1);
        assert_eq!((world.gone(1), world.gone(2), world.passages()), (1, 1, 0), "{leg:?}");
    }
}

#[test]
fn who_needs_a_path_no_more_closes_it() {
    let mut world = World::new(&[1, 100, 2], &[(1, 100), (100, 2)]);
    world.want(1, 2, &[100]);
    assert_eq!(world.passages(), 2);
    world.nodes.get_mut(&1).unwrap().close((NETWORK, id(2)));
    world.settle();
    assert_eq!((world.gone(2), world.passages()), (1, 0));
    assert!(world.nodes[&1].doors().is_empty() && world.nodes[&2].doors().is_empty());
}

#[test]
fn no_relay_no_link_and_full_ones_say_so() {
    let mut world = World::new(&[1, 3, 100, 2], &[(1, 3), (3, 2), (1, 100)]);
    world.want(1, 2, &[3]);
    world.want(1, 2, &[100]);
    let open = Message::Open { id: 1, forth: 1, back: 2, from: vec![id(1)], to: vec![id(2)] };
    world.nodes.get_mut(&3).unwrap().handle(world.now, id(1), open);
    assert!(world.ready(1).is_empty());
    let refused = |world: &mut World, node: u8| world.nodes.get_mut(&node).unwrap().poll_output();
    let wanted = Message::Refused { id: 1, by: id(3), refusal: Refusal::NoRelay };
    assert_eq!(refused(&mut world, 3), Some(Output::Send { to: id(1), message: wanted }));
    world.link(100, 2);
    world.settle();
    for peer in 10..20 {
        let key = (NetworkId([peer; 16]), id(2));
        world.nodes.get_mut(&1).unwrap().want(world.now, key, &[id(100)], false);
    }
    world.settle();
    assert_eq!((world.ready(1).len(), world.passages()), (4, 8), "four of one source");
    assert!(world.failures(1).iter().any(|reason| reason.contains("as many circuits as it may")));
}

#[test]
fn loops_and_lies_about_the_path_are_refused() {
    let mut world = World::new(&[1, 100, 2], &[(1, 100), (100, 2)]);
    let cases = [
        (vec![id(1)], vec![id(100)]),
        (vec![id(1)], vec![id(1)]),
        (vec![id(1)], vec![id(2), id(2), id(1)]),
        (vec![id(9)], vec![id(2)]),
        (vec![], vec![id(2)]),
        (vec![id(7), id(8), id(9), id(1)], vec![id(5), id(2)]),
    ];
    for (case, (from, to)) in (0u64..).zip(cases) {
        let open = Message::Open { id: case, forth: 1, back: 2, from, to };
        world.nodes.get_mut(&100).unwrap().handle(world.now, id(1), open);
        let output = world.nodes.get_mut(&100).unwrap().poll_output();
        let message = Message::Refused { id: case, by: id(100), refusal: Refusal::BadPath };
        assert_eq!(output, Some(Output::Send { to: id(1), message }), "case {case}");
    }
    let open = Message::Open { id: 9, forth: 1, back: 2, from: vec![id(1)], to: vec![id(2)] };
    world.nodes.get_mut(&100).unwrap().handle(world.now, id(1), open);
    world.settle();
    assert_eq!(world.passages(), 2, "and a sound one is taken");
}

/// Each path ends where the next one would have to go on.
#[test]
fn paths_of_one_label_do_not_make_a_loop_together() {
    let relays = [(100, 101), (101, 102), (102, 100)];
    let mut world = World::new(&[1, 100, 101, 102], &[&[(1, 100), (1, 101), (1, 102)], &relays[..]].concat());
    let mut open = |number: u64, first: u8, to: [u8; 2], forth: u32| {
        let (from, to) = (vec![id(1)], to.map(id).into());
        let open = Message::Open { id: number, forth, back: 1000 + number as u32, from, to };
        world.nodes.get_mut(&first).unwrap().handle(world.now, id(1), open);
        world.settle();
        world.passages()
    };
    assert_eq!(open(1, 102, [100, 101], 7), 4);
    assert_eq!(open(2, 100, [101, 102], 7), 4, "refused where the first one ends");
    assert_eq!(open(3, 101, [102, 100], 7), 4, "refused where it would end and the first one goes on");
    assert_eq!(open(4, 100, [101, 102], 8), 8, "another label may");
}

#[test]
fn a_taken_label_is_drawn_again() {
    let mut world = World::new(&[1, 100, 2], &[(1, 100), (100, 2)]);
    world.want(1, 2, &[100]);
    let first = world.ready(1)[0].label.unwrap();
    // The same generator draws the same labels again.
    let one = world.nodes.get_mut(&1).unwrap();
    one.rng = SeededRng::new([1; 32]);
    one.want(world.now, (NetworkId([2; 16]), id(2)), &[id(100)], false);
    world.settle();
    let [_, second] = world.ready(1)[..] else { panic!("{:?}", world.seen) };
    assert_ne!(second.label, Some(first));
}

#[test]
fn an_end_that_moves_keeps_its_path() {
    let mut world = World::new(&[1, 100, 2], &[(1, 100), (100, 2)]);
    world.want(1, 2, &[100]);
    let path = world.ready(1)[0];
    let moved: SocketAddr = "198.51.100.9:4242".parse().unwrap();
    world.nodes.get_mut(&100).unwrap().link_moved(id(1), moved);
    let passages = world.nodes[&100].passages();
    assert!(passages.iter().any(|p| p.from == moved && Some(p.label) == path.label));
    assert!(passages.iter().any(|p| p.to == moved));
}

#[test]
fn silence_is_given_up() {
    let mut world = World::new(&[1, 100, 2], &[(1, 100), (100, 2)]);
    world.links.clear();
    world.want(1, 2, &[100]);
    world.now += Duration::from_secs(2);
    world.settle();
    assert!(world.failures(1)[0].contains("did not answer"), "{:?}", world.failures(1));
}
