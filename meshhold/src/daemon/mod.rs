//! The daemon: one loop that brings keys, circuits, links and the packet path together.
//!
//! Owns the order of things and nothing else: each part decides for itself and tells what it wants done.
//! Must not know packets, sockets or maps.

mod callers;
mod circuits;
mod clock;
mod closed;
mod drops;
mod expiry;
mod explain;
mod figures;
mod flows;
mod gateway;
mod guards;
mod handover;
mod keys;
mod lan;
mod mapping;
mod mesh_families;
mod names;
mod netcheck;
mod network;
mod newcomer;
mod paths;
mod place;
mod ports;
mod reconcile;
mod relaying;
mod renew;
mod resume;
mod skew;
mod start;
mod state;
mod status;
mod traffic;
mod view;

pub use closed::ranges;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use meshhold_core::identity::Identity;
use meshhold_core::membership::{Change, Said};
use meshhold_core::path::Path;
use meshhold_core::record::{Envelope, RecordBody};
use meshhold_core::wire::{TYPE_DATA, TYPE_RELAY};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::clock::BUILT;
use crate::config::Config;
use crate::config::store::KeyStore;
use crate::control::{Asked, Control};
use crate::datapath::workers::WorkerEvent;
use crate::datapath::workers::largest_super_packet;
use crate::discover::Found;
use crate::discover::dht::{DhtDiscovery, Wanted};
use crate::discover::lan::LanDiscovery;
use crate::discover::seal::swarm_seal;
use crate::link::{LinkEvent, Links};
use crate::platform::linux::notify::Notifier;
use crate::platform::linux::watch::NetEvent;
use crate::platform::linux::{InterfaceSetup, NetworkAddresses, families, limits, memory};
use callers::Callers;
use circuits::CircuitTable;
use clock::HostClock;
use drops::{Drops, Recent};
use gateway::Gateway;
use keys::Resting;
use lan::Lan;
use mapping::Mapped;
use mesh_families::Families;
use names::Names;
use network::Network;
use newcomer::Linked;
use paths::{Waiting, Ways};
use ports::{Heard, Ports};
use reconcile::Reconciler;
use relaying::Relaying;
use resume::Strays;
use state::StateFile;
use traffic::Traffic;

/// How often timers, records and the state file are looked at.
const TICK: Duration = Duration::from_millis(500);
/// How often what is remembered is compared with the state file.
const SAVE: Duration = Duration::from_secs(5);
/// How often memory that isn't used goes back to the host.
const SLIM: Duration = Duration::from_secs(60);
/// Super-packets of LAN devices come in whatever size these send them, and the kernel would cut up those that are larger
/// than the mesh interface takes.
const WHOLE: u32 = 65_536;
/// Most link events that are taken before the packet path follows.
const BURST: usize = 64;

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// When a part that nothing works without can't start: the data folder, the UDP port, the control socket.
pub fn run(config: Config) -> anyhow::Result<()> {
    memory::return_what_is_freed();
    limits::raise();
    serve(config).map_err(limits::explain)
}

fn serve(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(async {
        let (mut daemon, mut inputs) = start::start(config).await?;
        daemon.notifier.ready("running");
        daemon.serve(&mut inputs).await;
        drop(inputs);
        daemon.stop().await
    })
}

/// Everything the loop listens to.
struct Inputs {
    workers: mpsc::Receiver<WorkerEvent>,
    links: mpsc::Receiver<LinkEvent>,
    calls: mpsc::Receiver<Asked>,
    net: mpsc::Receiver<NetEvent>,
    found: mpsc::Receiver<Found>,
    heard: mpsc::Receiver<Heard>,
    drops: Drops,
}

/// What has to be done again before the loop sleeps.
#[derive(Debug, Default)]
struct Stale {
    /// Scopes, peers or own addresses changed.
    policy: bool,
    /// Sessions or paths changed.
    table: bool,
    /// Own addresses or ranges changed.
    addresses: bool,
}

struct Daemon {
    config: Config,
    identity: Identity,
    store: KeyStore,
    state: StateFile,
    networks: BTreeMap<u16, Network>,
    callers: Callers,
    circuits: CircuitTable,
    strays: Strays,
    ways: Ways,
    ports: Ports,
    relaying: Relaying,
    reconciler: Reconciler,
    control: Control,
    links: Links,
    discovery: Option<LanDiscovery>,
    mapped: Mapped,
    dht: Option<DhtDiscovery>,
    lan: Lan,
    gateway: Gateway,
    names: Names,
    families: Families,
    recent: Recent,
    traffic: Traffic,
    endpoints: Vec<SocketAddr>,
    warnings: Vec<String>,
    stale: Stale,
    /// What leaves as soon as the packet path is up to date.
    waiting: Vec<Waiting>,
    clock: HostClock,
    /// The newest link.
    linked: Linked,
    /// What is remembered of networks whose key isn't in force.
    resting: BTreeMap<String, Resting>,
    saved_at: Instant,
    slimmed_at: Instant,
    notifier: Notifier,
    /// When the host's routes are to be compared with the networks' ranges.
    look_at: Option<Instant>,
}

impl Daemon {
    async fn serve(&mut self, inputs: &mut Inputs) {
        let (Ok(mut term), Ok(mut int), Ok(mut hup)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
        else {
            tracing::error!("cannot listen to signals");
            return;
        };
        let mut tick = tokio::time::interval(TICK);
        let mut news = Vec::with_capacity(BURST);
        loop {
            let timer = self.next_timer();
            tokio::select! {
                Some(event) = inputs.workers.recv() => self.on_worker(event),
                1.. = inputs.links.recv_many(&mut news, BURST) => news.drain(..).for_each(|event| self.on_link(event)),
                Some(met) = inputs.found.recv() => self.links.found(met.node, met.addr),
                Some(heard) = inputs.heard.recv() => self.on_heard(heard),
                Some(call) = inputs.calls.recv() => self.on_call(call).await,
                Some(event) = inputs.net.recv() => self.on_net(&event).await,
                () = tokio::time::sleep_until(timer.into()) => {
                    self.on_timer(Instant::now());
                    if self.newcomer_speaks() {
                        tick.reset_immediately();
                    }
                }
                _ = tick.tick() => {
                    self.on_tick().await;
                    self.look_at_routes().await;
                }
                () = tokio::time::sleep_until(self.reconciler.due().into()) => {
                    self.reconcile().await;
                    inputs.drops.take_up(self.lan.events());
                }
                events = inputs.drops.next() => self.recent.keep(&events),
                _ = hup.recv() => self.reload(),
                _ = term.recv() => return,
                _ = int.recv() => return,
            }
            self.settle().await;
        }
    }

    fn reload(&mut self) {
        self.notifier.reloading();
        drop(self.reload_keys());
        self.notifier.ready("running");
    }

    fn next_timer(&self) -> Instant {
        let timers = self.circuits.machine.poll_timeout().into_iter().chain(self.ways_timeout());
        timers
            .chain(self.lan.next_place())
            .chain(self.next_speech())
            .min()
            .unwrap_or_else(|| Instant::now() + TICK)
    }

    fn on_timer(&mut self, now: Instant) {
        self.circuits.tick(now);
        self.on_ways_timer(now);
    }

    /// Says goodbye where somebody has to know. Packets are carried until the last moment.
    async fn stop(mut self) -> anyhow::Result<()> {
        self.notifier.stopping();
        self.save();
        self.mapped.close().await;
        self.links.close().await;
        self.names.close().await;
        self.control.close();
        self.lan.close();
        tracing::info!("stopped");
        Ok(())
    }

    fn on_worker(&mut self, event: WorkerEvent) {
        let now = Instant::now();
        match event {
            WorkerEvent::Confirmed { local_index } => self.circuits.machine.confirmed(now, local_index),
            WorkerEvent::Moved { local_index, from } => self.on_moved(now, local_index, from),
            WorkerEvent::Control { local_index, from, message } => {
                self.on_control(now, local_index, from, &message);
            }
            WorkerEvent::Wanted { peer_index } => self.connect(now, peer_index),
            WorkerEvent::Exhausted { local_index } => self.circuits.machine.exhausted(now, local_index),
            WorkerEvent::TooBig { hop, carries } => {
                self.ways.relays.too_big(hop.remote, hop.label, carries);
            }
            WorkerEvent::Foreign { from, datagram } => self.on_foreign(now, from, datagram),
            WorkerEvent::Stray { from } => self.on_stray(now, from),
            WorkerEvent::Unusable { local } => self.ways.paths.own_address_lost(now, local),
            WorkerEvent::Busy => self.lan.place_workers(now),
            WorkerEvent::Failed { worker, error } => self.on_worker_failed(worker, &error),
            WorkerEvent::Resumed { worker } => self.reconciler.resumed(worker),
        }
    }

    /// A datagram that reached a worker's socket but isn't its to open.
    fn on_foreign(&mut self, now: Instant, from: Path, datagram: Vec<u8>) {
        match datagram.first() {
            Some(&first) if first >= meshhold_core::wire::QUIC_FIRST_BYTE => {
                self.links.inject(from.remote, datagram)
            }
            _ => self.circuits.machine.handle_datagram(now, from, &datagram),
        }
    }

    fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Circuit { from, datagram } => self.on_circuit(from, datagram),
            LinkEvent::Envelope(envelope) => self.on_envelope(&envelope),
            LinkEvent::Reflexive { from, addr } => self.ways.reflexive.report(from, addr),
            LinkEvent::Relay { from, message } => self.ways.relays.handle(Instant::now(), from, message),
            LinkEvent::Moved { node, remote } => self.ways.relays.link_moved(node, remote),
            LinkEvent::Up { node, remote, rtt } => {
                tracing::info!(%node, %remote, "link up");
                self.linked = Some((Instant::now(), rtt));
                self.ways.relays.link_up(Instant::now(), node, remote, rtt);
            }
            LinkEvent::Down { node } => {
                tracing::info!(%node, "link down");
                self.ways.reflexive.gone(node);
                self.ways.relays.link_down(Instant::now(), node);
            }
        }
    }

    fn on_circuit(&mut self, from: Path, datagram: Vec<u8>) {
        match datagram.first() {
            Some(&(TYPE_DATA | TYPE_RELAY)) => self.lan.inject(from, datagram),
            _ => self.circuits.machine.handle_datagram(Instant::now(), from, &datagram),
        }
    }

    fn on_envelope(&mut self, envelope: &Envelope) {
        let now = unix_now();
        let (topic, own) = (envelope.topic, self.identity.node_id());
        let Some(network) = self.networks.values_mut().find(|n| n.keys.topic_id() == topic) else { return };
        let taken = RecordBody::open(&network.keys, envelope).and_then(|body| {
            if body.node != own {
                network.hear(now, &body);
            }
            network.members.handle_record(now, body)
        });
        match taken {
            Ok(Change::Nothing) => {}
            Ok(Change::OwnAddressMoved) => {
                tracing::warn!(network = %network.name, "an older claim holds our block; we moved to the next");
                self.stale.addresses = true;
                self.stale.policy = true;
            }
            Ok(_) => self.stale.policy = true,
            Err(error) => tracing::debug!(network = %network.name, %error, "record refused"),
        }
    }

    async fn on_net(&mut self, event: &NetEvent) {
        self.lan.on_net(event);
        if *event == NetEvent::OwnChanged {
            return self.reconciler.soon(Instant::now());
        }
        self.gateway.look_soon();
        self.stale.table |= self.relaying.look_again();
        self.routes_changed();
        if *event == NetEvent::AddressesChanged {
            self.discovery.iter().for_each(LanDiscovery::look_again);
            self.find_endpoints().await;
        }
        if matches!(event, NetEvent::AddressesChanged | NetEvent::RoutesChanged) {
            self.leave_lost_addresses(Instant::now()).await;
            self.shake(Instant::now());
        }
    }

    /// Looks again for the addresses at which others may reach us.
    async fn find_endpoints(&mut self) {
        let setup = self.interface_setup();
        let listen = self.config.node.listen;
        if let Some(found) = self.lan.candidates(&setup).await {
            let heard = found.into_iter().filter(|ip| families::serves(listen.ip(), *ip));
            self.endpoints = heard.map(|ip| SocketAddr::new(ip, listen.port())).collect();
        }
    }

    /// The mesh interface as it should be now.
    fn interface_setup(&self) -> InterfaceSetup {
        let networks = self.networks.values().map(|network| NetworkAddresses {
            own4: network.own4(),
            range: (network.shown_range().base, network.range.prefix),
            own6: network.members.own6(),
            prefix6: (network.keys.prefix6, 32),
        });
        InterfaceSetup {
            interface: self.config.meshlan.interface.clone(),
            mtu: self.config.meshlan.mtu.into(),
            gso_max: if self.gateway.is_empty() {
                largest_super_packet(self.config.meshlan.mtu)
            } else {
                WHOLE
            },
            callers: self.callers.piece(),
            networks: networks.collect(),
        }
    }

    async fn on_tick(&mut self) {
        let (now, unix) = (Instant::now(), unix_now());
        self.notifier.alive(now);
        self.look_at_clock(now, unix);
        self.account(now);
        self.tally();
        self.expire(unix);
        let endpoints = self.public_endpoints();
        self.rendezvous(&endpoints);
        self.ways.paths.set_own(self.all_endpoints());
        self.ways.paths.set_mapping(self.ways.reflexive.mapping(&self.own_ips()));
        self.tell_mapping(now);
        self.stale.policy |= self.gateway.look(&self.lan).await;
        self.stale.policy |= self.families.look(self.lan.is_there());
        self.stale.table |= self.relaying.check().await;
        self.lan.retry_guards();
        self.look_at_host(now);
        self.lan.sweep();
        self.refresh_names();
        let relays = self.near_relays();
        let said = Said {
            endpoints: &endpoints,
            devices: &self.gateway.devices(),
            relays: &relays,
            without_ipv6: self.families.without_ipv6(),
        };
        for network in self.networks.values_mut().filter(|_| unix >= BUILT) {
            if network.speaks(self.linked)
                && let Some(envelope) = network.news(unix, &self.identity, said)
            {
                self.links.publish(envelope);
            }
        }
        let own = self.identity.node_id();
        let members = self.networks.values().flat_map(|network| network.link_candidates(own));
        let mut wanted: Vec<_> = members.collect();
        wanted.extend(self.dialed_relays(now));
        self.links.want_peers(wanted);
        if self.saved_at.elapsed() >= SAVE {
            self.save();
        }
        if self.slimmed_at.elapsed() >= SLIM {
            self.slimmed_at = Instant::now();
            memory::return_holes();
            memory::forget_code();
        }
    }

    fn refresh_names(&mut self) {
        // The store has them in the order in which they were added.
        let by_age = self.store.keys().iter().map(|key| key.network);
        let networks: Vec<&Network> =
            by_age.filter_map(|id| self.networks.values().find(|network| network.id == id)).collect();
        let own = names::Own {
            node: self.identity.node_id(),
            name: &self.config.node.name,
            devices: &self.gateway.devices(),
            targets: &self.gateway.targets(),
            without_ipv6: self.families.without_ipv6(),
        };
        self.names.refresh(&networks, own, self.lan.is_there());
    }

    fn expire(&mut self, unix: u64) {
        self.follow_keys();
        expiry::remind(self.networks.values_mut(), unix);
        for network in self.networks.values_mut() {
            self.stale.policy |= network.members.expire(self.clock.ends());
        }
    }

    /// Brings the packet path up to what is known now.
    async fn settle(&mut self) {
        self.settle_circuits(Instant::now());
        let mut stale = std::mem::take(&mut self.stale);
        if stale.addresses {
            stale.policy |= self.place().await;
        }
        if stale.policy || stale.addresses {
            self.names.changed();
            self.announce();
        }
        if stale.policy {
            let policy = self.policy();
            self.lan.apply(Arc::new(policy));
        }
        if stale.policy || stale.table {
            let enforce = self.lan.enforced_here();
            let circuits = (&self.circuits.peers, &self.ways.paths);
            let mut table = view::table(&self.networks, &mut self.callers, circuits, &self.gateway, enforce);
            (table.doors, table.legs) = (self.doors(), self.legs());
            self.relaying.apply(&table.legs).await;
            self.lan.join_received(!self.networks.is_empty() || self.relaying.leaves_some());
            self.lan.publish(table);
        }
        self.send_waiting();
        if stale.addresses {
            self.set_addresses().await;
        }
        if self.names.is_due() {
            self.refresh_names();
        }
    }

    /// Says under which keys this node is to be found on its LANs.
    fn announce(&self) {
        let Some(discovery) = &self.discovery else { return };
        let swarm = self.config.swarm_key.iter().map(|key| swarm_seal(&key.secret().0));
        let networks = self.networks.values().map(|network| network.keys.discovery.clone());
        discovery.set(swarm.chain(networks).collect(), self.interface_setup());
    }

    /// Says which members are to be found in the DHT, and where this node is.
    fn rendezvous(&self, endpoints: &[SocketAddr]) {
        let Some(dht) = &self.dht else { return };
        let linked: BTreeSet<_> = self.links.status().into_iter().map(|link| link.node).collect();
        let networks = self.networks.values().map(|network| Wanted {
            secret: network.keys.discovery.clone(),
            alone: !network.members.peers().any(|peer| linked.contains(&peer.node)),
        });
        dht.set(networks.collect(), endpoints.to_vec());
    }

    async fn set_addresses(&mut self) {
        // What others are about to learn must survive a crash.
        self.save();
        self.lan.set_addresses(&self.interface_setup()).await;
    }

    fn save(&mut self) {
        self.saved_at = Instant::now();
        let networks = &self.networks;
        self.traffic
            .forget(|(id, node)| networks.values().any(|one| one.id == *id && one.members.knows(*node)));
        let state = state::State {
            networks: self.memberships(),
            views: self.views(),
            callers: Cow::Borrowed(&self.callers),
            circuits: self.live_circuits(),
            told_before: self.circuits.machine.told_before().as_secs(),
            links: self.links.snapshot(),
        };
        self.state.keep(&state);
    }
}

/// Time since the Unix epoch.
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Seconds since the Unix epoch.
fn unix_now() -> u64 {
    wall_clock().as_secs()
}
