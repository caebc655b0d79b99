//! Spreading, repair and every bound, with envelopes that are really signed.

use rand::{SeedableRng as _, rngs::StdRng};

use super::*;
use crate::identity::Identity;
use crate::key::{MeshKey, NetworkKeys};
use crate::record::{MAX_SEALED, RecordBody};
use crate::session::Secret;

const NOW: u64 = 1_800_000_000;
const LATER: u64 = NOW + 3600;

fn node(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn network(seed: u8) -> NetworkKeys {
    let range = "10.77.0.0/16".parse().unwrap();
    NetworkKeys::derive(&MeshKey { range, secret: Secret([seed; 32]), owner: [0; 32] })
}

/// What the member of that number says, the same each time.
fn signed(keys: &NetworkKeys, member: u8, version: u64) -> Envelope {
    let identity = Identity::from_seed([member; 32]);
    let body = RecordBody {
        node: identity.node_id(),
        name: "member".into(),
        attempt: 0,
        claimed_at: NOW,
        endpoints: Vec::new(),
        devices: Vec::new(),
        relays: Vec::new(),
        version,
        expires: LATER,
        without_ipv6: false,
    };
    body.seal(keys, &identity, &mut StdRng::seed_from_u64(version)).unwrap()
}

fn slot(keys: &NetworkKeys, member: u8) -> Slot {
    signed(keys, member, 1).slot
}

fn sent(outputs: &[Output], to: LinkId) -> Vec<&Message> {
    let to_link = |output| match output {
        &Output::Send { link, ref message } if link == to => Some(message),
        _ => None,
    };
    outputs.iter().filter_map(to_link).collect()
}

fn delivered(outputs: &[Output]) -> Vec<u64> {
    let version = |output: &Output| match output {
        Output::Deliver(envelope) => Some(envelope.version),
        _ => None,
    };
    outputs.iter().filter_map(version).collect()
}

/// Gossips that pass each other's messages on at once; `wires` pairs (node, link) with (node, link).
struct World {
    nodes: Vec<Gossip>,
    wires: BTreeMap<(usize, LinkId), (usize, LinkId)>,
    delivered: Vec<(usize, Slot, u64)>,
    messages: usize,
    /// More than that go round for ever.
    most: usize,
}

impl World {
    fn new(nodes: usize) -> Self {
        let nodes = (0..nodes).map(|_| Gossip::new(Limits::default())).collect();
        Self { nodes, wires: BTreeMap::new(), delivered: Vec::new(), messages: 0, most: 10_000 }
    }

    fn wire(&mut self, dialer: usize, answerer: usize) {
        let link = self.wires.len() as LinkId;
        for ((at, here), (to, there)) in
            [((dialer, link), (answerer, link + 1)), ((answerer, link + 1), (dialer, link))]
        {
            self.wires.insert((at, here), (to, there));
            self.nodes[at].link_up(NOW, here, node(to as u8));
        }
        let outputs = self.nodes[dialer].introduce(link);
        self.settle(dialer, outputs);
    }

    fn act(&mut self, at: usize, action: impl FnOnce(&mut Gossip) -> Vec<Output>) {
        let outputs = action(&mut self.nodes[at]);
        self.settle(at, outputs);
    }

    fn settle(&mut self, at: usize, outputs: Vec<Output>) {
        let mut queue: std::collections::VecDeque<_> =
            outputs.into_iter().map(|output| (at, output)).collect();
        while let Some((at, output)) = queue.pop_front() {
            match output {
                Output::Deliver(envelope) => self.delivered.push((at, envelope.slot, envelope.version)),
                Output::Violation { reason, .. } => panic!("node {at}: {reason}"),
                Output::Send { link, message } => {
                    self.messages += 1;
                    assert!(self.messages < self.most, "messages go round for ever");
                    let (to, there) = self.wires[&(at, link)];
                    queue.extend(self.nodes[to].handle(NOW, there, message).into_iter().map(|o| (to, o)));
                }
            }
        }
    }
}

#[test]
fn a_relay_without_the_key_carries_news_and_keeps_it_for_later_comers() {
    let (key, relay) = (network(1), 2);
    let mut world = World::new(4);
    for member in [0, 1] {
        world.act(member, |gossip| gossip.subscribe(key.topic_id()));
        world.wire(member, relay);
    }
    world.act(0, |gossip| gossip.publish(NOW, signed(&key, 0, 1)));
    assert_eq!(world.delivered, [(1, slot(&key, 0), 1)], "the relay itself is told nothing");
    world.act(0, |gossip| gossip.publish(NOW, signed(&key, 0, 2)));
    world.wire(3, relay);
    world.act(3, |gossip| gossip.subscribe(key.topic_id()));
    assert_eq!(world.delivered[1..], [(1, slot(&key, 0), 2), (3, slot(&key, 0), 2)]);
    assert_eq!(world.nodes[relay].store().count(), 0, "what is held for others is not for our disk");
}

#[test]
fn relays_in_a_row_or_a_ring_carry_topics_that_none_of_them_shares() {
    let (key, other) = (network(1), network(2));
    let mut world = World::new(5);
    let relays = [2, 3, 4];
    for (dialer, answerer) in [(2, 3), (3, 4), (4, 2)] {
        world.wire(dialer, answerer);
    }
    world.act(0, |gossip| gossip.subscribe(key.topic_id()));
    world.wire(0, 2);
    for ((relay, link), (to, _)) in world.wires.clone() {
        if relays.contains(&relay) && relays.contains(&to) {
            world.act(relay, |gossip| gossip.carry(link));
        }
    }
    world.act(0, |gossip| gossip.publish(NOW, signed(&key, 0, 1)));
    world.act(1, |gossip| gossip.subscribe(key.topic_id()));
    world.act(1, |gossip| gossip.subscribe(other.topic_id()));
    world.wire(1, 3);
    assert_eq!(world.delivered, [(1, slot(&key, 0), 1)]);
    world.act(1, |gossip| gossip.publish(NOW, signed(&key, 1, 1)));
    assert_eq!(world.delivered[1..], [(0, slot(&key, 1), 1)]);
}

#[test]
fn rings_end_and_every_member_hears_once() {
    let key = network(1);
    let mut world = World::new(5);
    (0..5).for_each(|member| world.act(member, |gossip| gossip.subscribe(key.topic_id())));
    for member in 0..5 {
        world.wire(member, (member + 1) % 5);
        world.wire(member, (member + 2) % 5);
    }
    for member in 0..5 {
        world.act(member, |gossip| gossip.publish(NOW, signed(&key, member as u8, 1)));
    }
    let mut heard = world.delivered.clone();
    heard.sort_unstable();
    heard.dedup();
    assert_eq!((heard.len(), world.delivered.len()), (20, 20));
}

#[test]
fn summaries_repair_what_was_lost_and_then_are_all_that_is_said() {
    let key = network(1);
    let mut world = World::new(2);
    (0..2).for_each(|member| world.act(member, |gossip| gossip.subscribe(key.topic_id())));
    world.wire(0, 1);
    for member in [0, 1] {
        let lost = world.nodes[member].publish(NOW, signed(&key, member as u8, 7));
        assert_eq!(lost.len(), 1);
    }
    assert!(world.nodes[1].summaries().is_empty(), "the introduced end compares");
    world.act(0, |gossip| gossip.summaries());
    world.delivered.sort_unstable();
    assert_eq!(world.delivered, [(0, slot(&key, 1), 7), (1, slot(&key, 0), 7)]);
    let before = world.messages;
    world.act(0, |gossip| gossip.summaries());
    assert_eq!(world.messages, before + 1, "both hold the same: no answer");
}

#[test]
fn the_newer_version_wins_and_the_sender_of_an_older_one_is_told() {
    let key = network(1);
    let mut gossip = Gossip::new(Limits::default());
    gossip.subscribe(key.topic_id());
    gossip.link_up(NOW, 1, node(1));
    gossip.introduce(1);
    let push = |version| Message::Push(Arc::new(signed(&key, 0, version)));
    assert_eq!(delivered(&gossip.handle(NOW, 1, push(5))), [5]);
    assert!(gossip.handle(NOW, 1, push(5)).is_empty());
    assert_eq!(sent(&gossip.handle(NOW, 1, push(4)), 1), [&push(5)]);
    assert_eq!(delivered(&gossip.handle(NOW, 1, push(6))), [6]);
    assert!(gossip.publish(NOW, signed(&key, 0, 6)).is_empty());
}

#[test]
fn an_envelope_that_no_member_signed_is_refused_and_closes_its_link() {
    let (key, other) = (network(1), network(2));
    let mut foreign = signed(&other, 0, 1);
    foreign.topic = key.topic_id();
    let mut altered = signed(&key, 0, 1);
    altered.version = 2;
    let mut huge = signed(&key, 0, 1);
    huge.sealed.resize(MAX_SEALED + 1, 0);
    for bad in [foreign, altered, huge] {
        let mut gossip = Gossip::new(Limits::default());
        gossip.subscribe(key.topic_id());
        gossip.link_up(NOW, 1, node(1));
        gossip.introduce(1);
        let outputs = gossip.handle(NOW, 1, Message::Push(Arc::new(bad.clone())));
        assert!(matches!(outputs[..], [Output::Violation { link: 1, .. }]), "{outputs:?}");
        assert!(gossip.restore(NOW, bad.into()).is_empty());
        assert_eq!(gossip.store().count(), 0);
        let good = Message::Push(Arc::new(signed(&key, 0, 1)));
        assert_eq!(delivered(&gossip.handle(NOW, 1, good)), [1], "the same from a member passes");
    }
}

#[test]
fn oversized_messages_are_violations() {
    let topic = [1; 32];
    for message in [
        Message::Subscribe { topics: vec![topic; MAX_SUBSCRIBE + 1] },
        Message::Digest { topic, entries: vec![([0; 16], 0); MAX_ENTRIES + 1] },
        Message::Want { topic, slots: vec![[0; 16]; MAX_ENTRIES + 1] },
    ] {
        let mut gossip = Gossip::new(Limits::default());
        gossip.link_up(NOW, 1, node(1));
        let outputs = gossip.handle(NOW, 1, message);
        assert!(matches!(outputs[..], [Output::Violation { link: 1, .. }]), "{outputs:?}");
    }
}

#[test]
fn nothing_is_told_to_links_that_named_no_topic() {
    let key = network(1);
    let mut gossip = Gossip::new(Limits::default());
    gossip.link_up(NOW, 1, node(1));
    assert!(gossip.subscribe(key.topic_id()).is_empty());
    assert!(gossip.publish(NOW, signed(&key, 0, 1)).is_empty());
    let want = Message::Want { topic: key.topic_id(), slots: vec![slot(&key, 0)] };
    assert!(gossip.handle(NOW, 1, want.clone()).is_empty());
    let summary = Message::Summary { topic: key.topic_id(), hash: [0; 16] };
    assert!(gossip.handle(NOW, 1, summary.clone()).is_empty());
    assert!(gossip.handle(NOW, 1, Message::Push(Arc::new(signed(&key, 1, 1)))).is_empty());
    gossip.handle(NOW, 1, Message::Subscribe { topics: vec![key.topic_id()] });
    assert_eq!(gossip.handle(NOW, 1, want).len(), 1);
    assert_eq!(gossip.handle(NOW, 1, summary).len(), 1);
}

#[test]
fn what_expires_is_forgotten_and_never_taken() {
    let key = network(1);
    let mut gossip = Gossip::new(Limits::default());
    gossip.subscribe(key.topic_id());
    gossip.publish(NOW, signed(&key, 0, 1));
    gossip.expire(LATER - 1);
    assert_eq!(gossip.store().count(), 1);
    gossip.expire(LATER);
    assert_eq!(gossip.store().count(), 0);
    gossip.publish(LATER, signed(&key, 0, 2));
    assert_eq!(gossip.store().count(), 0);
}

#[test]
fn what_is_restored_is_delivered() {
    let key = network(1);
    let mut gossip = Gossip::new(Limits::default());
    assert!(gossip.restore(NOW, signed(&key, 0, 3).into()).is_empty(), "no topic of ours");
    gossip.subscribe(key.topic_id());
    assert_eq!(delivered(&gossip.restore(NOW, signed(&key, 0, 3).into())), [3]);
    assert_eq!(gossip.store().count(), 1);
}

/// Pushes one envelope of each of `keys` on link 1 and returns how many of them are then served.
fn stored(gossip: &mut Gossip, keys: &[NetworkKeys], envelopes: u8) -> usize {
    for key in keys {
        gossip.handle(NOW, 1, Message::Subscribe { topics: vec![key.topic_id()] });
        for place in 0..envelopes {
            gossip.handle(NOW, 1, Message::Push(Arc::new(signed(key, place, 1))));
        }
    }
    let slots = |key: &NetworkKeys| (0..envelopes).map(|member| slot(key, member)).collect();
    let want = |key: &NetworkKeys| Message::Want { topic: key.topic_id(), slots: slots(key) };
    keys.iter().map(|key| gossip.handle(NOW, 1, want(key)).len()).sum()
}

#[test]
fn what_is_held_for_others_is_bounded() {
    let keys: Vec<_> = (0..8).map(network).collect();
    let size = signed(&keys[0], 0, 1).sealed.len() + 256;
    let all = Limits::default();
    let cases = [
        ("no bound is met", all.clone(), 16),
        ("topics", Limits { topics: 3, ..all.clone() }, 6),
        ("per topic", Limits { envelopes_per_topic: 1, ..all.clone() }, 8),
        ("per source", Limits { source_bytes: 5 * size, ..all.clone() }, 5),
        ("in all", Limits { foreign_bytes: 7 * size, ..all.clone() }, 7),
        ("per link", Limits { topics_per_link: 2, ..all.clone() }, 4),
        ("rate", Limits { burst: 20, rate: 0, ..all }, 0),
    ];
    for (bound, limits, wanted) in cases {
        let mut gossip = Gossip::new(limits);
        gossip.link_up(NOW, 1, node(1));
        assert_eq!(stored(&mut gossip, &keys, 2), wanted, "{bound}");
    }
}

#[test]
fn topics_that_nobody_asks_for_make_room_and_our_own_always_has_some() {
    let keys: Vec<_> = (0..3).map(network).collect();
    let mut gossip = Gossip::new(Limits { topics: 1, envelopes_per_topic: 1, ..Limits::default() });
    gossip.link_up(NOW, 1, node(1));
    assert_eq!(stored(&mut gossip, &keys[..1], 1), 1);
    gossip.link_down(1);
    gossip.link_up(NOW, 1, node(1));
    assert_eq!(stored(&mut gossip, &keys[1..2], 1), 1);
    let own = &keys[2];
    gossip.subscribe(own.topic_id());
    gossip.publish(NOW, signed(own, 0, 1));
    gossip.publish(NOW, signed(own, 1, 1));
    let slots: Vec<Slot> = gossip.store().map(|envelope| envelope.slot).collect();
    assert_eq!(slots, [slot(own, 1)], "ours takes the place of another");
}

#[test]
fn a_drained_budget_fills_again() {
    let mut gossip = Gossip::new(Limits { burst: 2, rate: 1, ..Limits::default() });
    gossip.link_up(NOW, 1, node(1));
    let subscribe = || Message::Subscribe { topics: vec![[1; 32]] };
    assert_eq!(gossip.handle(NOW, 1, subscribe()).len(), 1);
    assert!(gossip.handle(NOW, 1, subscribe()).is_empty());
    assert!(gossip.handle(NOW + 1, 1, subscribe()).is_empty());
    assert_eq!(gossip.handle(NOW + 2, 1, subscribe()).len(), 1);
}

/// While a clock is 40 days ahead nothing is taken, and what was held is given up; when it's right, all of it comes at once, from
/// the store and from links that never were introduced to.
#[test]
fn a_clock_that_is_set_has_everything_judged_again() {
    let key = network(1);
    let wrong = NOW + 40 * 86_400;
    let mut world = World::new(2);
    for member in [0, 1] {
        world.act(member, |gossip| gossip.subscribe(key.topic_id()));
    }
    world.act(0, |gossip| gossip.publish(NOW, signed(&key, 0, 1)));
    world.act(0, |gossip| gossip.publish(NOW, signed(&key, 1, 1)));
    world.wire(0, 1);
    let known = |delivered: &[(usize, Slot, u64)]| delivered.iter().filter(|(at, ..)| *at == 1).count();
    assert_eq!(known(&world.delivered), 2);
    world.act(1, |gossip| gossip.judge_again());
    assert_eq!(known(&world.delivered), 4, "what is held is delivered once more");
    world.nodes[1].expire(wrong);
    assert_eq!(world.nodes[1].store().count(), 0);
    world.act(1, |gossip| gossip.judge_again());
    assert_eq!(known(&world.delivered), 6, "what was given up comes back");
}

/// A network of `nodes` whose links are those that members choose: the next in a ring, and two at equal distances.
fn ring(nodes: usize, key: &NetworkKeys) -> World {
    let mut world = World::new(nodes);
    world.most = usize::MAX;
    for member in 0..nodes {
        world.act(member, |gossip| gossip.subscribe(key.topic_id()));
    }
    for member in 0..nodes {
        let peers = [1, nodes / 3, 2 * nodes / 3].map(|step| (member + step) % nodes);
        peers.into_iter().for_each(|peer| world.wire(member, peer));
    }
    world
}

#[test]
fn what_news_and_silence_cost_a_node_does_not_grow_with_the_network() {
    let key = network(1);
    let mut costs = Vec::new();
    for nodes in [100, 1_000, 10_000] {
        let mut world = ring(nodes, &key);
        world.messages = 0;
        world.act(nodes / 2, |gossip| gossip.publish(NOW, signed(&key, 1, 1)));
        assert_eq!(world.delivered.len(), nodes - 1, "all others know");
        let news = world.messages as f64 / nodes as f64;
        world.messages = 0;
        for member in 0..nodes {
            world.act(member, |gossip| gossip.summaries());
        }
        let silence = world.messages as f64 / nodes as f64;
        println!(
            "figure: {nodes} nodes: {news:.2} messages a node for one piece of news, {silence:.2} a minute in silence"
        );
        costs.push((news, silence));
    }
    let [(news, silence), .., (last_news, last_silence)] = costs[..] else { panic!() };
    assert!(last_news < news * 1.1 && last_silence < silence * 1.1, "{costs:?}");
}
