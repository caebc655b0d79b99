//! Puts the daemon together, in the order in which the parts need each other.
//!
//! Owns that order. Must not know what happens afterwards.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meshhold_core::circuit::Circuits;
use meshhold_core::identity::{Identity, NodeId};
use meshhold_core::session::Cipher;
use rand_core::{OsRng, RngCore};
use tokio::sync::mpsc;

use super::circuits::CircuitTable;
use super::clock::HostClock;
use super::drops::{Drops, Recent};
use super::gateway::Gateway;
use super::lan::Prepared;
use super::mapping::Mapped;
use super::mesh_families::Families;
use super::names::Names;
use super::paths::Ways;
use super::ports::Ports;
use super::reconcile::Reconciler;
use super::relaying::Relaying;
use super::resume::{LiveCircuit, Strays};
use super::state::StateFile;
use super::traffic::Traffic;
use super::{Daemon, Inputs, Stale, keys, wall_clock};
use crate::config::store::KeyStore;
use crate::config::{Config, identity};
use crate::control::{Control, ControlConfig};
use crate::datapath::crypto;
use crate::datapath::workers::{Workers, WorkersConfig};
use crate::discover::Found;
use crate::discover::dht::DhtDiscovery;
use crate::discover::lan::{LanDiscovery, PORT};
use crate::forward::Forwards;
use crate::link::{Links, LinksConfig};
use crate::platform::linux::notify::Notifier;
use crate::platform::linux::{families, limits, watch};

/// Nodes that were found and may wait for the daemon.
const FOUND: usize = 64;

/// Why a fifth daemon doesn't start.
const NO_CALLERS: &str = "all loopback addresses for callers (127.64.0.0/10) are in use by other MeshHold daemons of this \
     network namespace: end one, `meshhold cleanup` what an ended one left, or start this one in a namespace of its own \
     (systemd: PrivateNetwork=, NetworkNamespacePath=)";

/// Starts every part; what only degrades is a warning, what nothing works without is an error.
pub(super) async fn start(mut config: Config) -> anyhow::Result<(Daemon, Inputs)> {
    config.node.listen = families::listenable(config.node.listen);
    let data_dir = &config.node.data_dir;
    let identity = identity::load_or_create(data_dir)?;
    let store = KeyStore::open(data_dir)?;
    let (state_file, state) = StateFile::open(data_dir)?;
    let forwards = Forwards::open(data_dir, &config.meshlan.forwards)?;
    let (control, call_queue) = Control::start(ControlConfig::from(&config))?;

    let count = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let ciphers = ciphers(config.node.cipher);
    let sealing = ciphers.first().map_or(0, |(_, speed)| *speed);
    let mut lan = Prepared::new(&config, identity.node_id(), count, sealing).await;
    let mut callers = state.callers.into_owned();
    anyhow::ensure!(callers.settle(&lan.taken_callers().await), NO_CALLERS);
    let workers_config = workers_config(&config, &mut lan, count);
    let (workers, control_socket, worker_events) =
        Workers::start(workers_config).map_err(|error| unusable(config.node.listen, error))?;
    let lanes = u8::try_from(workers.lanes().max(1)).unwrap_or(u8::MAX);
    let mut lan = lan.with(workers);

    let swarm_key = config.swarm_key.as_ref().map(|key| key.secret().0);
    let links_config = LinksConfig {
        identity: identity.clone(),
        swarm_key,
        bootstrap: config.bootstrap_peers.clone(),
        relays: config.relay.enabled,
        snapshot: state.links,
    };
    let (links, link_events) = Links::start(control_socket, links_config)?;
    let (finder, found) = mpsc::channel(FOUND);
    let dht = config.discovery.dht.then(|| {
        DhtDiscovery::start(identity.node_id(), config.discovery.dht_bootstrap.clone(), finder.clone())
    });
    let discovery = discovery(&config, identity.node_id(), finder);
    let mapped = Mapped::start(&config);
    let net_events = watch::watch(&config.meshlan.interface)?;

    let (ports, heard) = Ports::new(config.node.listen.ip());
    let drops = Drops::new(lan.events());
    let inputs = Inputs {
        workers: worker_events,
        links: link_events,
        calls: call_queue,
        net: net_events,
        found,
        heard,
        drops,
    };
    let machine = circuits(&identity, lanes, ciphers, swarm_key, state.told_before);
    let names = Names::start(&config.meshlan.dns_suffix, &config.meshlan.interface).await;
    let ways = Ways::new(identity.node_id(), &config.relay, config.meshlan.mtu, [seed(), seed()]);
    let relaying = relaying(&config);
    let mut daemon = Daemon {
        ways,
        ports,
        relaying,
        reconciler: Reconciler::default(),
        identity,
        store,
        state: state_file,
        networks: BTreeMap::new(),
        callers,
        circuits: CircuitTable::new(machine),
        strays: Strays::default(),
        links,
        discovery,
        mapped,
        dht,
        lan,
        names,
        families: Families::new(&config.meshlan.interface),
        recent: Recent::default(),
        traffic: Traffic::default(),
        gateway: Gateway::new(forwards, config.meshlan.mtu),
        endpoints: Vec::new(),
        warnings: control.warnings.iter().cloned().chain(limits::warning()).collect(),
        control,
        stale: Stale::default(),
        waiting: Vec::new(),
        clock: HostClock::new(),
        linked: None,
        resting: keys::remembered(state.networks, state.views),
        saved_at: Instant::now(),
        slimmed_at: Instant::now(),
        notifier: Notifier::from_environment(),
        look_at: None,
        config,
    };
    daemon.begin(&state.circuits).await;
    tracing::info!(node = %daemon.identity.node_id(), listen = %daemon.config.node.listen, "running");
    Ok((daemon, inputs))
}

fn workers_config(config: &Config, lan: &mut Prepared, count: usize) -> WorkersConfig {
    WorkersConfig {
        interface: lan.queues.take(),
        relay: config.relay.enabled,
        interface_may_come: lan.may_come(),
        listen: config.node.listen,
        count,
        mtu: config.meshlan.mtu,
        offload: config.node.offload,
    }
}

fn relaying(config: &Config) -> Relaying {
    let mut relaying =
        Relaying::new(config.relay.enabled, config.node.listen.port(), &config.meshlan.interface);
    relaying.start();
    relaying
}

fn circuits(
    identity: &Identity,
    lanes: u8,
    ciphers: Vec<(Cipher, u32)>,
    swarm_key: Option<[u8; 32]>,
    told_before: u64,
) -> Circuits {
    let mut machine = Circuits::new(identity.clone(), lanes, ciphers, seed(), wall_clock());
    machine.set_wall(Instant::now(), wall_clock());
    machine.go_on_after(Duration::from_secs(told_before));
    machine.set_swarm_key(swarm_key);
    machine
}

/// Why the shared port can't be had, and what to do where another port would help.
fn unusable(listen: SocketAddr, error: anyhow::Error) -> anyhow::Error {
    let kind = error.chain().find_map(|cause| Some(cause.downcast_ref::<io::Error>()?.kind()));
    error.context(match kind {
        Some(io::ErrorKind::AddrInUse) => {
            format!("UDP {listen} is taken, perhaps by another daemon; set node.listen to a free address")
        }
        Some(io::ErrorKind::AddrNotAvailable) => {
            format!(
                "this host has no address {}; set node.listen to one that it has, or to [::]:{}",
                listen.ip(),
                listen.port()
            )
        }
        _ => format!("cannot use UDP {listen}"),
    })
}

impl Daemon {
    /// Puts in force what is remembered, and goes on with it.
    async fn begin(&mut self, circuits: &[LiveCircuit]) {
        self.apply_keys();
        self.find_endpoints().await;
        self.announce();
        // Flows to devices end where a policy comes without the ways to them.
        self.gateway.look(&self.lan).await;
        self.resume(circuits);
        self.settle().await;
    }
}

/// The ciphers that circuits may have, with their sealing speed in MB/s, fastest first. `only`: by the configuration.
fn ciphers(only: Option<Cipher>) -> Vec<(Cipher, u32)> {
    let mut ciphers = crypto::measure();
    ciphers.retain(|(cipher, _)| only.is_none_or(|only| only == *cipher));
    ciphers
}

/// Discovery on the LAN, where it is wanted and can be had; without, nodes are found by bootstrap peers and memory.
fn discovery(config: &Config, own: NodeId, found: mpsc::Sender<Found>) -> Option<LanDiscovery> {
    if !config.discovery.lan {
        return None;
    }
    match LanDiscovery::start(own, config.node.listen, found) {
        Ok(discovery) => Some(discovery),
        Err(error) => {
            tracing::warn!("no discovery on the LAN: {error:#}; is UDP port {PORT} taken?");
            None
        }
    }
}

fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    OsRng.fill_bytes(&mut seed);
    seed
}
