//! Two ends that choose paths, with a network between them that loses, blocks and delays; and the same in random weather.
//!
//! A failing seed is printed; `MESHHOLD_SEED=<seed>` runs it alone, `MESHHOLD_SEEDS=10000` more of them.

mod local;
mod ports;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use ports::{DRAWN, Nats, STABLE};

const KEY: PeerKey = (NetworkId([1; 16]), NodeId([2; 32]));
const STEP: Duration = Duration::from_millis(10);

fn direct(end: usize, port: u16) -> Path {
    SocketAddr::from(([192, 0, 2, end as u8], port)).into()
}

fn relayed() -> Path {
    Path::relayed(([203, 0, 113, 1], 7777).into(), 7)
}

/// One end: its machine, what its circuit carried, and by which path it sends.
struct End {
    paths: Paths,
    total: Traffic,
    path: Option<Path>,
    wanted_relay: usize,
}

/// Both ends. Each names the paths to the other alike: direct ones by the address of the receiver.
struct World {
    now: Instant,
    ends: [End; 2],
    delays: BTreeMap<Path, Duration>,
    blocked: BTreeSet<Path>,
    flying: Vec<(Instant, usize, Path, Option<Message>)>,
    busy: bool,
    received: [Instant; 2],
    sent: usize,
    nats: Nats,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let end = |n: u8| End {
            paths: Paths::new(1420, [n; 32]),
            total: Traffic::default(),
            path: None,
            wanted_relay: 0,
        };
        Self {
            now,
            ends: [end(0), end(1)],
            delays: BTreeMap::new(),
            blocked: BTreeSet::new(),
            flying: Vec::new(),
            busy: true,
            received: [now; 2],
            sent: 0,
            nats: Nats::default(),
        }
    }

    /// The first end's NAT draws ports and the second's is closed to strangers, and both ends know.
    fn nats(&mut self, seed: u64) {
        self.nats.rng = Some(StdRng::seed_from_u64(seed));
        self.ends[0].paths.set_mapping(Mapping::Drawn(DRAWN));
        self.ends[1].paths.set_mapping(Mapping::Stable(STABLE));
        (0..2).for_each(|at| self.drain(at));
    }

    fn up(&mut self, path: Path) {
        for end in &mut self.ends {
            end.path = Some(path);
            end.paths.taken(self.now, KEY, path, &[]);
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += STEP;
            self.step();
        }
    }

    fn step(&mut self) {
        for at in 0..2 {
            self.send_data(at);
            let end = &mut self.ends[at];
            end.paths.traffic(self.now, KEY, end.total);
            end.paths.handle_timeout(self.now);
            self.drain(at);
        }
        let now = self.now;
        let due: Vec<_> = self.flying.extract_if(.., |flight| flight.0 <= now).collect();
        due.into_iter().for_each(|(_, at, path, message)| self.arrive(at, path, message.as_ref()));
    }

    fn send_data(&mut self, at: usize) {
        let Some(path) = self.ends[at].path.filter(|_| self.busy) else { return };
        let total = &mut self.ends[at].total;
        (total.tx_packets, total.tx_bytes) = (total.tx_packets + 1, total.tx_bytes + 100);
        self.launch(at, path, None);
    }

    fn drain(&mut self, at: usize) {
        while let Some(output) = self.ends[at].paths.poll_output() {
            match output {
                Output::Send { path, message, .. } => {
                    self.sent += 1;
                    self.launch(at, path, Some(message));
                }
                Output::Use { path, .. } => self.ends[at].path = Some(path),
                Output::WantRelay { .. } => self.ends[at].wanted_relay += 1,
                Output::Gather { to, count } => {
                    assert_eq!(to, STABLE);
                    self.nats.gather(count);
                }
                Output::Keep { local_port } => drop(self.nats.kept.insert(local_port)),
                Output::Scatter => self.nats.scatter(),
                Output::Leave { local_port } => self.nats.leave(local_port),
                Output::Renew { .. } | Output::Resized { .. } | Output::Show { .. } => {}
            }
        }
    }

    fn launch(&mut self, at: usize, path: Path, message: Option<Message>) {
        if self.blocked.contains(&path) {
            return;
        }
        let delay = self.delays.get(&path).copied().unwrap_or(Duration::from_millis(20));
        let from = match path {
            _ if path.local_port != 0 || path.remote.ip() == DRAWN => self.nats.pass(at, path),
            // The receiver knows a path by the address that datagrams came from.
            _ if path.is_direct() => Some(direct(at, path.remote.port())),
            _ => Some(path),
        };
        let flight = from.map(|from| (self.now + delay, 1 - at, from, message));
        self.flying.extend(flight);
    }

    fn arrive(&mut self, at: usize, from: Path, message: Option<&Message>) {
        let end = &mut self.ends[at];
        match message {
            Some(message) => end.paths.message(self.now, KEY, from, message),
            None => {
                end.total.rx_packets += 1;
                end.total.rx_bytes += 100;
                self.received[at] = self.now;
                if end.path != Some(from) {
                    end.paths.arrived(self.now, KEY, from);
                }
            }
        }
        self.drain(at);
    }

    fn block(&mut self, port: u16) {
        self.blocked.extend([direct(0, port), direct(1, port)]);
    }

    fn unblock(&mut self, port: u16) {
        self.blocked.retain(|path| path.remote.port() != port);
    }

    fn learn(&mut self, port: u16) {
        for at in 0..2 {
            let endpoints = vec![direct(1 - at, port).remote];
            self.ends[at].paths.message(self.now, KEY, relayed(), &Message::Candidates { endpoints });
            self.drain(at);
        }
    }

    /// By which path each end sends: the port of a direct one, 0 by relay.
    fn ports(&self) -> [u16; 2] {
        let port =
            |end: &End| end.path.map_or(9, |path| if path.is_direct() { path.remote.port() } else { 0 });
        [port(&self.ends[0]), port(&self.ends[1])]
    }
}

#[test]
fn both_ends_leave_the_relay_as_soon_as_a_direct_path_is_proven() {
    let mut world = World::new();
    world.up(relayed());
    world.run(Duration::from_secs(1));
    assert_eq!(world.ports(), [0, 0]);
    world.learn(1);
    world.run(Duration::from_millis(200));
    assert_eq!(world.ports(), [1, 1]);
    let decision = world.ends[0].paths.current(KEY).unwrap();
    assert_eq!(decision.reason, "direct and proven");
}

#[test]
fn a_candidate_that_never_answers_is_not_taken_and_costs_little() {
    let mut world = World::new();
    world.up(relayed());
    world.block(1);
    world.learn(1);
    world.run(Duration::from_secs(10));
    assert_eq!(world.ports(), [0, 0]);
    assert!(world.sent < 100, "{} probes", world.sent);
}

#[test]
fn a_dead_direct_path_is_left_within_a_second_and_taken_again_when_it_works() {
    let mut world = World::new();
    world.up(relayed());
    world.learn(1);
    world.run(Duration::from_secs(1));
    world.block(1);
    let cut = world.now;
    world.run(Duration::from_secs(3));
    assert_eq!(world.ports(), [0, 0]);
    assert!(world.ends[0].wanted_relay > 0);
    let left = world.ends[0].paths.current(KEY).unwrap().clone();
    assert!(left.at - cut < Duration::from_millis(800), "{:?}", left.at - cut);
    assert!(left.reason.contains("no answer by 192.0.2.1:1"), "{}", left.reason);
    world.unblock(1);
    world.run(Duration::from_secs(20));
    assert_eq!(world.ports(), [1, 1]);
}

#[test]
fn of_two_direct_paths_the_shorter_is_taken_if_it_is_worth_it() {
    for (other, wanted) in [(20, 2), (58, 1)] {
        let mut world = World::new();
        for end in 0..2 {
            world.delays.insert(direct(end, 1), Duration::from_millis(60));
            world.delays.insert(direct(end, 2), Duration::from_millis(other));
            world.ends[end].path = Some(direct(1 - end, 1));
            world.ends[end].paths.taken(world.now, KEY, direct(1 - end, 1), &[]);
        }
        world.run(Duration::from_secs(1));
        world.learn(2);
        world.run(Duration::from_secs(65));
        assert_eq!(world.ports(), [wanted; 2], "{other} ms instead of 60");
    }
}

#[test]
fn of_two_alike_ipv6_is_taken_and_kept() {
    let now = Instant::now();
    let paths =
        ["192.0.2.1:7777", "[2001:db8::1]:7777"].map(|path| Path::from(path.parse::<SocketAddr>().unwrap()));
    for (rtts, wanted) in [([20, 22], 1), ([20, 24], 0)] {
        let mut machine = Paths::new(1420, [1; 32]);
        machine.taken(now, KEY, paths[0], &[paths[1].remote]);
        for _ in 0..2 {
            let sent: Vec<_> = std::iter::from_fn(|| machine.poll_output()).collect();
            for (path, rtt) in paths.iter().zip(rtts) {
                let id = sent.iter().find_map(|output| match output {
                    Output::Send { path: by, message: Message::Ping { id }, .. } if by == path => Some(*id),
                    _ => None,
                });
                let Some(id) = id else { continue };
                let at = now + Duration::from_millis(rtt);
                machine.message(at, KEY, *path, &Message::Pong { id, seen: paths[0].remote });
            }
        }
        assert_eq!(machine.current(KEY).unwrap().path, paths[wanted], "{rtts:?} ms");
    }
}

#[test]
fn a_peer_that_moves_is_followed_with_its_first_packet() {
    let mut world = World::new();
    for end in 0..2 {
        world.ends[end].path = Some(direct(1 - end, 1));
        world.ends[end].paths.taken(world.now, KEY, direct(1 - end, 1), &[]);
    }
    world.run(Duration::from_secs(2));
    // The first end's packets come from another port now, and only there it is reached.
    world.ends[0].path = Some(direct(1, 5));
    world.blocked.insert(direct(0, 1));
    world.run(Duration::from_millis(100));
    assert_eq!(world.ports()[1], 5);
}

#[test]
fn an_idle_circuit_is_silent_after_its_path_was_kept_open_for_a_while() {
    let mut world = World::new();
    world.up(relayed());
    world.learn(1);
    world.run(Duration::from_secs(5));
    world.busy = false;
    world.run(Duration::from_secs(200));
    let before = world.sent;
    assert_eq!(world.ports(), [1, 1]);
    world.run(Duration::from_secs(600));
    assert_eq!(world.sent - before, 0);
}

#[test]
fn after_a_change_of_addresses_everything_is_tried_at_once() {
    let mut world = World::new();
    world.up(relayed());
    world.learn(1);
    world.learn(2);
    world.run(Duration::from_secs(2));
    let port = world.ports()[0];
    world.block(port);
    world.ends[0].paths.shaken(world.now);
    world.drain(0);
    world.run(Duration::from_millis(450));
    assert_eq!(world.ports(), [3 - port; 2]);
}

#[test]
fn a_new_address_of_an_end_is_tried_at_once() {
    let mut world = World::new();
    world.up(relayed());
    world.run(Duration::from_secs(90));
    world.ends[0].paths.set_own(vec![direct(0, 1).remote]);
    world.run(Duration::from_millis(200));
    assert_eq!(world.ports(), [0, 0], "nobody was told");
    world.ends[0].paths.told_anew(world.now);
    world.drain(0);
    world.run(Duration::from_millis(200));
    assert_eq!(world.ports(), [1, 1]);
}

#[test]
fn nobody_is_told_of_addresses_that_lead_nowhere() {
    for (address, usable) in [
        ("192.0.2.1:7777", true),
        ("10.0.0.1:1", true),
        ("[2001:db8::1]:7777", true),
        ("127.0.0.1:7777", false),
        ("[::1]:7777", false),
        ("[::ffff:127.0.0.1]:7777", false),
        ("169.254.1.1:7777", false),
        ("[fe80::1]:7777", false),
        ("224.0.0.1:7777", false),
        ("255.255.255.255:7777", false),
        ("0.0.0.0:7777", false),
        ("240.0.0.1:7777", false),
        ("192.0.2.1:0", false),
    ] {
        assert_eq!(is_usable(&address.parse().unwrap()), usable, "{address}");
    }
}

/// Transitions of one seed, and the time after each.
const TRANSITIONS: usize = 20;
const SETTLED: Duration = Duration::from_secs(4);
/// The longest silence on a circuit that could be served, once its network has been at rest so long.
const SILENCE: Duration = Duration::from_millis(500);
const PORTS: std::ops::RangeInclusive<u16> = 1..=3;

/// One thing happens; yields what, for the message.
fn transition(world: &mut World, rng: &mut StdRng) -> String {
    let port = rng.gen_range(PORTS);
    match rng.gen_range(0..9) {
        8 => {
            world.nats.open.clear();
            "the NAT forgot its ports".to_owned()
        }
        0 | 1 => {
            world.block(port);
            format!("port {port} is blocked")
        }
        2 | 3 => {
            world.unblock(port);
            format!("port {port} is open")
        }
        4 => {
            world.blocked.insert(relayed());
            "the relay is dead".to_owned()
        }
        5 => {
            world.blocked.remove(&relayed());
            for end in &mut world.ends {
                end.paths.opened(world.now, KEY, relayed());
            }
            "the relay lives".to_owned()
        }
        6 => {
            let at = rng.gen_range(0..2);
            world.ends[at].paths.shaken(world.now);
            world.drain(at);
            format!("end {at} is shaken")
        }
        _ => {
            for end in 0..2 {
                let delay = Duration::from_millis(rng.gen_range(1..80));
                world.delays.insert(direct(end, port), delay);
            }
            format!("port {port} is slower or faster")
        }
    }
}

fn can_be_served(world: &World) -> bool {
    let open = |path: Path| !world.blocked.contains(&path);
    open(relayed()) || { PORTS }.any(|port| open(direct(0, port)) && open(direct(1, port)))
}

fn weather(seed: u64) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new();
    if rng.gen_bool(0.5) {
        world.nats(seed);
    }
    world.up(relayed());
    PORTS.for_each(|port| world.learn(port));
    let mut history = Vec::new();
    for _ in 0..TRANSITIONS {
        history.push(transition(&mut world, &mut rng));
        world.run(SETTLED);
        let silent = world.received.iter().any(|at| world.now - *at > SILENCE);
        if silent && can_be_served(&world) {
            return Err(format!("seed {seed}: silence by {:?} after {history:?}", world.ports()));
        }
    }
    world.busy = false;
    world.run(Duration::from_secs(40));
    let in_use = usize::from(world.ends[0].path.is_some_and(|path| path.local_port != 0));
    if world.nats.kept.len() > in_use || world.nats.open.len() > in_use {
        return Err(format!("seed {seed}: ports stay open: {:?} after {history:?}", world.nats.kept));
    }
    Ok(())
}

#[test]
fn whatever_happens_to_paths_one_that_works_is_found() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let begun = Instant::now();
    let seeds: Vec<u64> = match number("MESHHOLD_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("MESHHOLD_SEEDS").unwrap_or(500)).collect(),
    };
    let half = |first: usize| {
        let mine = seeds.iter().skip(first).step_by(2);
        mine.filter_map(|seed| weather(*seed).err()).collect::<Vec<_>>()
    };
    let bad: Vec<String> = std::thread::scope(|scope| {
        let threads = [0, 1].map(|first| scope.spawn(move || half(first)));
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    println!(
        "figure: {} seeds of {TRANSITIONS} transitions in {:.1} s",
        seeds.len(),
        begun.elapsed().as_secs_f64()
    );
    assert!(bad.is_empty(), "{} seeds failed: {:#?}", bad.len(), bad.iter().take(3).collect::<Vec<_>>());
}
