//! Nodes with virtual clocks, and a wire between them that can delay, lose, repeat and reorder.
//!
//! Owns what daemon and workers do in earnest: keeps sessions, carries data, reports confirmation and activity.

use crate::path::Path;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::nodes::{NETWORK, address, id, member};
use super::weather::{CALM, Weather};
use crate::circuit::{Circuits, Output, Traffic};
use crate::identity::NodeId;
use crate::session::Session;
use crate::wire::{TYPE_COOKIE, TYPE_DATA, TYPE_INITIATION, TYPE_RESPONSE};

const TICK: Duration = Duration::from_secs(1);

/// A session as a worker holds it.
pub(super) struct Held {
    pub(super) session: Arc<Session>,
    pub(super) peer: NodeId,
    pub(super) remote: Path,
    pub(super) traffic: Traffic,
    heard: bool,
}

/// One node.
pub(super) struct Host {
    pub(super) circuits: Circuits,
    pub(super) at: Path,
    pub(super) held: BTreeMap<u32, Held>,
    pub(super) sending: BTreeMap<NodeId, u32>,
    /// Names of outputs with the second at which they came, without datagrams.
    pub(super) log: Vec<(Duration, String)>,
    pub(super) received: u64,
    pub(super) keepalives: u64,
}

/// The wire.
pub(super) struct Wire {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) hosts: Vec<Host>,
    pub(super) weather: Weather,
    /// Pairs of hosts of which the first sends to the second at every tick.
    pub(super) chats: Vec<(usize, usize)>,
    /// Handshake datagrams by type, as sent.
    pub(super) handshakes: [u64; 4],
    pub(super) lost_data: u64,
    queue: BTreeMap<(Instant, u64), (Path, Path, Vec<u8>)>,
    serial: u64,
    next_tick: Instant,
    rng: StdRng,
}

impl Wire {
    /// Hosts 1 to `count` (index 0 to `count - 1`), all members.
    pub(super) fn members(count: u8, seed: u64) -> Self {
        Self::of((1..=count).map(|number| member(number, seed)).collect(), seed)
    }

    pub(super) fn of(circuits: Vec<Circuits>, seed: u64) -> Self {
        let start = Instant::now();
        let hosts = (1..).zip(circuits).map(|(number, circuits)| Host {
            circuits,
            at: address(number),
            held: BTreeMap::new(),
            sending: BTreeMap::new(),
            log: Vec::new(),
            received: 0,
            keepalives: 0,
        });
        Self {
            start,
            now: start,
            hosts: hosts.collect(),
            weather: CALM,
            chats: Vec::new(),
            handshakes: [0; 4],
            lost_data: 0,
            queue: BTreeMap::new(),
            serial: 0,
            next_tick: start + TICK,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    pub(super) fn connect(&mut self, from: usize, to: usize) {
        let endpoint = self.hosts[to].at;
        self.hosts[from].circuits.connect(self.now, NETWORK, id(to as u8 + 1), &[endpoint]);
        self.drain(from);
    }

    /// Connects 0 to 1 and waits until both have a confirmed session.
    pub(super) fn pair(seed: u64) -> Self {
        let mut wire = Self::members(2, seed);
        wire.connect(0, 1);
        wire.run(Duration::from_millis(500));
        assert!(wire.is_up(0, 1) && wire.is_up(1, 0));
        wire
    }

    pub(super) fn is_up(&self, from: usize, to: usize) -> bool {
        self.hosts[from].sending.contains_key(&id(to as u8 + 1))
    }

    /// The session that `from` sends to `to` on is one that `to` can receive on.
    pub(super) fn reaches(&self, from: usize, to: usize) -> bool {
        let Some(index) = self.hosts[from].sending.get(&id(to as u8 + 1)) else { return false };
        let ours = &self.hosts[from].held[index].session;
        let theirs = self.hosts[to].held.get(&ours.remote_index);
        theirs.is_some_and(|held| held.session.recv == ours.send && held.session.send == ours.recv)
    }

    /// Sends `bytes` of data (0: a keepalive). False where there is no session to send on.
    pub(super) fn send(&mut self, from: usize, to: usize, bytes: u64) -> bool {
        let Some(&index) = self.hosts[from].sending.get(&id(to as u8 + 1)) else { return false };
        self.send_on(from, index, bytes);
        true
    }

    fn send_on(&mut self, from: usize, index: u32, bytes: u64) {
        let host = &mut self.hosts[from];
        let Some(held) = host.held.get_mut(&index) else { return };
        held.traffic.tx_packets += 1;
        held.traffic.tx_bytes += bytes;
        let mut datagram = vec![TYPE_DATA, 0, 0, 0];
        datagram.extend(held.session.remote_index.to_be_bytes());
        datagram.extend(bytes.to_be_bytes());
        datagram.extend(held.session.send.0);
        let (at, to) = (host.at, held.remote);
        self.put(at, to, datagram);
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until `done`, at most `limit`; the time it took.
    pub(super) fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Option<Duration> {
        let begin = self.now;
        while !done(self) {
            if !self.step(begin + limit) {
                return None;
            }
        }
        Some(self.now - begin)
    }

    /// The names of a host's outputs so far.
    pub(super) fn names(&self, host: usize) -> Vec<&str> {
        self.hosts[host].log.iter().map(|(_, name)| name.as_str()).collect()
    }

    /// Seconds at which a host put out `name`.
    pub(super) fn times(&self, host: usize, name: &str) -> Vec<u64> {
        self.hosts[host].log.iter().filter(|(_, n)| n.starts_with(name)).map(|(at, _)| at.as_secs()).collect()
    }

    /// Carries out what host `at` wants.
    pub(super) fn drain(&mut self, at: usize) {
        while let Some(output) = self.hosts[at].circuits.poll_output() {
            let since = self.now - self.start;
            let host = &mut self.hosts[at];
            let mut log = |name: &str| host.log.push((since, name.to_owned()));
            match output {
                Output::Transmit { to, datagram } => {
                    self.handshakes[usize::from(datagram[0])] += 1;
                    let from = host.at;
                    self.put(from, to, datagram);
                }
                Output::Install { peer, session, remote, transmit, .. } => {
                    log(if transmit { "install+use" } else { "install" });
                    let index = session.local_index;
                    let held = Held { session, peer, remote, traffic: Traffic::default(), heard: transmit };
                    assert!(host.held.insert(index, held).is_none(), "an index is never used twice at once");
                    if transmit {
                        host.sending.insert(peer, index);
                    }
                }
                Output::Use { local_index } => {
                    log("use");
                    host.sending.insert(host.held[&local_index].peer, local_index);
                }
                Output::Retire { local_index } => {
                    log("retire");
                    host.held.remove(&local_index).expect("only what is held is retired");
                    host.sending.retain(|_, index| *index != local_index);
                }
                Output::Move { local_index, remote } => {
                    log("move");
                    host.held.get_mut(&local_index).unwrap().remote = remote;
                }
                Output::Keepalive { local_index } => {
                    log("keepalive");
                    host.keepalives += 1;
                    self.send_on(at, local_index, 0);
                }
                Output::Up { .. } => log("up"),
                Output::Down { reason, .. } => log(&format!("down: {reason}")),
            }
        }
    }

    fn put(&mut self, from: Path, to: Path, datagram: Vec<u8>) {
        let copies = if self.rng.gen_bool(self.weather.repeat) { 2 } else { 1 };
        for _ in 0..copies {
            if self.rng.gen_bool(self.weather.loss) {
                continue;
            }
            let jitter = self.weather.jitter.mul_f64(self.rng.gen_range(0.0..=1.0));
            self.serial += 1;
            self.queue
                .insert((self.now + self.weather.delay + jitter, self.serial), (from, to, datagram.clone()));
        }
    }

    fn step(&mut self, end: Instant) -> bool {
        let arrival = self.queue.keys().next().map(|key| key.0);
        let timer = self.hosts.iter().filter_map(|host| host.circuits.poll_timeout()).min();
        let next = [arrival, timer, Some(self.next_tick)].into_iter().flatten().min().unwrap_or(end);
        if next > end {
            return false;
        }
        self.now = self.now.max(next);
        if arrival == Some(next) {
            if let Some((_, (from, to, datagram))) = self.queue.pop_first() {
                self.arrive(from, to, &datagram);
            }
        } else if self.next_tick == next {
            self.tick();
        } else {
            self.timeouts();
        }
        true
    }

    fn timeouts(&mut self) {
        for at in 0..self.hosts.len() {
            let circuits = &mut self.hosts[at].circuits;
            if circuits.poll_timeout().is_some_and(|timer| timer <= self.now) {
                circuits.handle_timeout(self.now);
                assert!(
                    circuits.poll_timeout().is_none_or(|timer| timer > self.now),
                    "a due timer is done with"
                );
                self.drain(at);
            }
        }
    }

    fn tick(&mut self) {
        self.next_tick += TICK;
        for (from, to) in self.chats.clone() {
            self.send(from, to, 100);
        }
        for at in 0..self.hosts.len() {
            let totals: Vec<_> =
                self.hosts[at].held.iter().map(|(index, held)| (*index, held.traffic)).collect();
            for (index, total) in totals {
                self.hosts[at].circuits.activity(self.now, index, total);
            }
            self.drain(at);
        }
    }

    fn arrive(&mut self, from: Path, to: Path, datagram: &[u8]) {
        let Some(at) = self.hosts.iter().position(|host| host.at == to) else { return };
        match datagram[0] {
            TYPE_INITIATION | TYPE_RESPONSE | TYPE_COOKIE => {
                self.hosts[at].circuits.handle_datagram(self.now, from, datagram);
            }
            _ => self.open(at, from, datagram),
        }
        self.drain(at);
    }

    fn open(&mut self, at: usize, from: Path, datagram: &[u8]) {
        let index = u32::from_be_bytes(datagram[4..8].try_into().unwrap());
        let bytes = u64::from_be_bytes(datagram[8..16].try_into().unwrap());
        let host = &mut self.hosts[at];
        let Some(held) = host.held.get_mut(&index).filter(|held| held.session.recv.0 == datagram[16..48])
        else {
            self.lost_data += 1;
            return;
        };
        held.traffic.rx_packets += 1;
        held.traffic.rx_bytes += bytes;
        host.received += u64::from(bytes > 0);
        if !std::mem::replace(&mut held.heard, true) {
            host.circuits.confirmed(self.now, index);
        } else if held.remote != from {
            held.remote = from;
            let (network, peer) = host.circuits.owner(index).unwrap().0;
            host.circuits.use_path(network, peer, from);
        }
    }
}
