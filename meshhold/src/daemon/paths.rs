//! Which way circuits go: relays asked for and served, paths tried and taken.
//!
//! Owns the traffic between the machines of the core that know of paths, the links and the workers. Must not know why a path is
//! better than another (that is `meshhold-core`).

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use meshhold_core::circuit::Traffic;
use meshhold_core::identity::NodeId;
use meshhold_core::membership::Peer;
use meshhold_core::path::probe::Message;
use meshhold_core::path::{Output, Path, Paths};
use meshhold_core::reflexive::Reflexive;
use meshhold_core::relay::{self, Limits, Relays};
use meshhold_core::wire::TYPE_RELAY;

use super::Daemon;
use super::callers::PeerKey;
use super::circuits::Effect;
use crate::config::RelayConfig;
use crate::datapath::relay::{Hop, Leg};

/// How long a link to a peer's relay is kept for the sake of that peer.
const DIALED: Duration = Duration::from_secs(180);

/// What leaves as soon as the packet path is up to date.
pub(super) enum Waiting {
    /// A handshake.
    Datagram(Path, Vec<u8>),
    /// An empty data datagram of this session.
    Keepalive(u32),
    /// A message about paths.
    Control(PeerKey, Path, Vec<u8>),
}

/// The machines.
pub(super) struct Ways {
    /// Which path each circuit takes.
    pub(super) paths: Paths,
    /// Who forwards for whom.
    pub(super) relays: Relays,
    /// Where others see this node.
    pub(super) reflexive: Reflexive,
    /// Relays of peers that were wanted lately, to be linked to, and until when.
    dialed: BTreeMap<NodeId, (SocketAddr, Instant)>,
    /// Numbers of the nodes that asked for what is relayed.
    sources: BTreeMap<NodeId, u32>,
}

impl Ways {
    /// No path yet.
    pub(super) fn new(own: NodeId, config: &RelayConfig, mtu: u16, seeds: [[u8; 32]; 2]) -> Self {
        let limits = Limits {
            enabled: config.enabled,
            circuits: config.circuits as usize,
            circuits_per_source: config.circuits_per_source as usize,
        };
        let [paths, relays] = seeds;
        Self {
            paths: Paths::new(mtu, paths),
            reflexive: Reflexive::default(),
            relays: Relays::new(own, limits, relays),
            dialed: BTreeMap::new(),
            sources: BTreeMap::new(),
        }
    }
}

impl Daemon {
    /// Packets wait for a peer: everything that may lead to it is tried at once.
    pub(super) fn connect(&mut self, now: Instant, peer_index: u32) {
        let found = self.networks.values().find_map(|network| {
            let mut peers = network.members.peers();
            let peer = peers.find(|p| self.callers.number((network.id, p.node)) == Some(peer_index))?;
            Some((network.id, peer.node))
        });
        if let Some(key) = found {
            self.connect_to(now, key, None);
        }
    }

    /// Sets a circuit up; `last` is tried first, where it was lately.
    pub(super) fn connect_to(&mut self, now: Instant, key: PeerKey, last: Option<SocketAddr>) {
        let Some(peer) = self.peer(key) else { return };
        let endpoints = joined(last.as_slice(), &peer.endpoints);
        let mut paths = self.linked(key.1);
        let seen = paths.len();
        for path in endpoints.into_iter().map(Path::from) {
            if !paths.iter().take(seen).any(|known| path.covers(*known)) {
                paths.push(path);
            }
        }
        self.circuits.machine.connect(now, key.0, key.1, &paths);
        self.want_relay(now, key, false);
    }

    /// Where a peer is seen at this moment: at the far end of the link to it.
    fn linked(&self, node: NodeId) -> Vec<Path> {
        let links = self.links.status().into_iter().filter(|link| link.node == node);
        links.map(|link| Path::from(link.remote).from_address(link.local)).collect()
    }

    fn want_relay(&mut self, now: Instant, key: PeerKey, anew: bool) {
        let relays = self.relays_of(key);
        let nodes: Vec<NodeId> = relays.iter().map(|(relay, _)| *relay).collect();
        self.ways.relays.want(now, key, &nodes, anew);
        // A relay that no way leads to is linked to itself; the next packet finds it.
        for (relay, address) in relays.into_iter().filter(|(relay, _)| !self.ways.relays.reaches(*relay)) {
            self.ways.dialed.insert(relay, (address, now + DIALED));
        }
    }

    /// The relays of peers that links are wanted to.
    pub(super) fn dialed_relays(&mut self, now: Instant) -> Vec<(NodeId, Vec<SocketAddr>)> {
        self.ways.dialed.retain(|_, (_, until)| *until > now);
        self.ways.dialed.iter().map(|(relay, (address, _))| (*relay, vec![*address])).collect()
    }

    /// The relays that a peer says it has links to.
    fn relays_of(&self, key: PeerKey) -> Vec<(NodeId, SocketAddr)> {
        self.peer(key).map(|peer| peer.relays.to_vec()).unwrap_or_default()
    }

    fn peer(&self, (network, node): PeerKey) -> Option<&Peer> {
        let network = self.networks.values().find(|n| n.id == network)?;
        network.members.peers().find(|peer| peer.node == node)
    }

    /// The relays that others can reach this node by, and where these are.
    pub(super) fn near_relays(&self) -> Vec<(NodeId, SocketAddr)> {
        self.ways.relays.near().into_iter().map(|(node, address, _)| (node, address)).collect()
    }

    /// Where anybody may reach this node: its own addresses, the one that the gateway maps, and those that two others agree on.
    pub(super) fn public_endpoints(&self) -> Vec<SocketAddr> {
        joined(&self.own_endpoints(), &self.ways.reflexive.agreed())
    }

    /// Where a peer may reach this node that tries at the same time as we do.
    pub(super) fn all_endpoints(&self) -> Vec<SocketAddr> {
        joined(&self.own_endpoints(), &self.ways.reflexive.all())
    }

    /// This host's own addresses.
    pub(super) fn own_ips(&self) -> Vec<IpAddr> {
        self.endpoints.iter().map(SocketAddr::ip).collect()
    }

    fn own_endpoints(&self) -> Vec<SocketAddr> {
        joined(&self.endpoints, self.mapped.address().as_slice())
    }

    /// By which labels others reach this node.
    pub(super) fn doors(&self) -> HashMap<Hop, Path> {
        let doors = self.ways.relays.doors().into_iter();
        doors.map(|(remote, label, back)| (Hop { remote, label }, back)).collect()
    }

    /// A message about paths that came on a session.
    pub(super) fn on_control(&mut self, now: Instant, local_index: u32, from: Path, message: &[u8]) {
        let Some(key) = self.circuits.owner(local_index) else { return };
        if let Some(message) = Message::decode(message) {
            self.ways.paths.message(now, key, from, &message);
        }
    }

    /// A packet came by another path than its circuit's.
    pub(super) fn on_moved(&mut self, now: Instant, local_index: u32, from: Path) {
        if let Some(key) = self.circuits.owner(local_index) {
            self.ways.paths.arrived(now, key, from);
        }
    }

    /// Tells circuits and paths what was sent and received.
    pub(super) fn account(&mut self, now: Instant) {
        for of in self.lan.activity() {
            let total = Traffic {
                tx_packets: of.tx_packets,
                rx_packets: of.rx_packets,
                tx_bytes: of.tx_bytes,
                rx_bytes: of.rx_bytes,
            };
            self.circuits.machine.activity(now, of.local_index, total);
            let owner = self.circuits.owner(of.local_index);
            if let Some(key) = owner.filter(|key| self.circuits.is_sending(*key, of.local_index)) {
                self.ways.paths.traffic(now, key, total);
            }
        }
    }

    /// Brings the sums of traffic up to date.
    pub(super) fn tally(&mut self) {
        let sessions = self.lan.activity().into_iter().filter_map(|of| {
            Some((of.local_index, self.circuits.owner(of.local_index)?, (of.rx_bytes, of.tx_bytes)))
        });
        self.traffic.take(sessions);
    }

    /// Of addresses that this host has no more, or whose interface is down, no path leaves.
    pub(super) async fn leave_lost_addresses(&mut self, now: Instant) {
        if !self.ways.paths.own_addresses().is_empty()
            && let Some(live) = self.lan.live_addresses().await
        {
            self.ways.paths.live_addresses(now, &live);
        }
    }

    /// Addresses or routes changed, or this host slept.
    pub(super) fn shake(&mut self, now: Instant) {
        self.mapped.look_again();
        self.links.shaken();
        self.ways.paths.shaken(now);
    }

    pub(super) fn on_ways_timer(&mut self, now: Instant) {
        if self.ways.paths.is_active(now) {
            self.account(now);
        }
        if self.lan.next_place().is_some_and(|at| at <= now) {
            self.lan.place_workers(now);
        }
        self.ways.paths.handle_timeout(now);
        self.ways.relays.handle_timeout(now);
    }

    /// When paths or relays have something to do.
    pub(super) fn ways_timeout(&self) -> Option<Instant> {
        self.ways.paths.poll_timeout().into_iter().chain(self.ways.relays.poll_timeout()).min()
    }

    /// Carries out what circuits, paths and relays want, until none wants anything.
    pub(super) fn settle_circuits(&mut self, now: Instant) {
        loop {
            self.settle_ways(now);
            let (effects, changed) = self.circuits.drain();
            self.stale.table |= changed;
            if effects.is_empty() {
                return;
            }
            effects.into_iter().for_each(|effect| self.carry_out(now, effect));
        }
    }

    fn carry_out(&mut self, now: Instant, effect: Effect) {
        match effect {
            Effect::Send(path, datagram) => self.waiting.push(Waiting::Datagram(path, datagram)),
            Effect::Keepalive(local_index) => self.waiting.push(Waiting::Keepalive(local_index)),
            Effect::Up(key, path) => {
                let endpoints = self.peer(key).map(|peer| peer.endpoints.clone()).unwrap_or_default();
                self.ways.paths.taken(now, key, path, &endpoints);
            }
            Effect::Down(key) => {
                self.ways.paths.down(now, key);
                self.ways.relays.close(key);
            }
        }
    }

    /// Sends what had to wait until the workers know the sessions that it is about: the other end's first packet may be back
    /// in no time.
    pub(super) fn send_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::Datagram(path, datagram) => self.send_datagram(path, &datagram),
                Waiting::Keepalive(local_index) => self.lan.keepalive(local_index),
                Waiting::Control(peer, path, message) => self.send_control(peer, path, message),
            }
        }
    }

    fn send_datagram(&self, path: Path, datagram: &[u8]) {
        let Some(label) = path.label else {
            return match path.local_port {
                0 => self.links.send_datagram(path, datagram),
                _ => self.ports.send(path, datagram),
            };
        };
        let [a, b, c, d] = label.to_be_bytes();
        let labelled = [&[TYPE_RELAY, 0, 0, 0, a, b, c, d], datagram].concat();
        self.links.send_datagram(path, &labelled);
    }

    /// Does what the machines want done.
    fn settle_ways(&mut self, now: Instant) {
        while let Some(output) = self.ways.relays.poll_output() {
            match output {
                relay::Output::Send { to, message } => self.links.say(to, message),
                relay::Output::Changed => self.stale.table = true,
                relay::Output::Ready { peer, path } => {
                    self.ways.paths.opened(now, peer, path);
                    self.circuits.machine.try_path(peer.0, peer.1, path);
                }
                relay::Output::Gone { path } => self.ways.paths.closed(now, path),
                relay::Output::TooBig { path, carries } => self.ways.paths.too_big(now, path, carries),
                relay::Output::Failed { peer, reason } => tracing::info!(peer = %peer.1, "{reason}"),
            }
        }
        while let Some(output) = self.ways.paths.poll_output() {
            self.go(now, output);
        }
    }

    /// Does what the choice of paths wants done.
    fn go(&mut self, now: Instant, output: Output) {
        match output {
            Output::Send { peer, path, message, size } => {
                self.waiting.push(Waiting::Control(peer, path, message.padded(size)));
            }
            Output::Renew { peer } => self.circuits.machine.refresh(now, peer.0, peer.1),
            Output::Resized { .. } => self.stale.table = true,
            Output::Show { peer } => {
                let sending = self.circuits.peers.get(&peer).and_then(|sessions| sessions.sending);
                sending.into_iter().for_each(|local_index| self.lan.keepalive(local_index));
            }
            Output::Use { peer, path } => self.circuits.machine.use_path(peer.0, peer.1, path),
            Output::WantRelay { peer } => self.want_relay(now, peer, true),
            Output::Gather { to, count } => self.gather_ports(to, count),
            Output::Keep { local_port } => self.keep_port(local_port),
            Output::Scatter => self.scatter_ports(),
            Output::Leave { local_port } => self.leave_port(local_port),
        }
    }

    fn send_control(&self, peer: PeerKey, path: Path, message: Vec<u8>) {
        if let Some(local_index) = self.circuits.peers.get(&peer).and_then(|sessions| sessions.sending) {
            self.lan.control(local_index, path, message);
        }
    }

    /// What the packet path forwards for others.
    pub(super) fn legs(&mut self) -> Vec<Leg> {
        let config = &self.config.relay;
        let passages = self.ways.relays.passages();
        let sources = &mut self.ways.sources;
        let mut leg = |passage: relay::Forwarded| {
            let next = u32::try_from(sources.len()).unwrap_or(u32::MAX);
            Leg {
                from: Hop { remote: passage.from, label: passage.label },
                to: passage.to,
                rate: config.rate(),
                source: *sources.entry(passage.source).or_insert(next),
                source_rate: config.source_rate(),
            }
        };
        passages.into_iter().map(&mut leg).collect()
    }
}

fn joined(first: &[SocketAddr], then: &[SocketAddr]) -> Vec<SocketAddr> {
    let fresh = then.iter().filter(|address| !first.contains(address));
    first.iter().chain(fresh).copied().collect()
}
