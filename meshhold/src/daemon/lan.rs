//! The mesh interface with everything on it: addresses, kernel programs, workers.
//!
//! Owns what is there and what is not (the degraded modes), and the order in which it comes and goes. Must
//! not know keys, circuits or records.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use meshhold_common::Reason;
use meshhold_core::identity::NodeId;
use meshhold_core::path::Path;

use super::flows;
use super::guards::Guards;
use super::renew::{self, Plan};
use crate::config::Config;
use crate::control::api::{DatapathMode, DatapathStatus, ProgramCost};
use crate::datapath::counters::Activity;
use crate::datapath::ebpf::{EbpfDatapath, EbpfError, Events, LEAST};
use crate::datapath::policy::Policy;
use crate::datapath::probe::Packet;
use crate::datapath::relay::{Hop, LegTraffic};
use crate::datapath::table::Table;
use crate::datapath::workers::tun::Offload;
use crate::datapath::workers::{TunQueues, Workers};
use crate::platform::linux::watch::NetEvent;
use crate::platform::linux::ways::{NoWay, Way};
use crate::platform::linux::{InterfaceSetup, Net, bpffs, caps, links, reserved, sys};

/// The mesh interface, as far as it could be had.
pub(super) struct Lan {
    pub(super) interface: String,
    pub(super) plan: Plan,
    /// Of the interface, once it was made.
    pub(super) index: Option<u32>,
    /// It was not there for a reason that may pass.
    pub(super) may_come: bool,
    pub(super) net: Option<Net>,
    pub(super) kernel: Option<EbpfDatapath>,
    pub(super) workers: Option<Workers>,
    policy: Option<Arc<Policy>>,
    pub(super) guards: Guards,
    /// Names that the interface had before, whose barriers go once those of the new one are up.
    renamed: Vec<String>,
    /// Whether ports are reserved for LAN devices, once that was decided.
    pub(super) reserves: Option<bool>,
    /// One sentence for each thing that is missing.
    pub(super) warnings: Vec<String>,
    /// What the interface itself does without: its offloads, or all by the configuration.
    without: Option<&'static str>,
}

/// The interface before the workers run: its queues and its kernel programs.
pub(super) struct Prepared {
    lan: Lan,
    /// Queues for the workers; `None` where there is no interface.
    pub(super) queues: Option<TunQueues>,
}

impl Prepared {
    /// Creates the interface and loads the programs, as far as the process may. What can't be had becomes a
    /// warning, never an error. `sealing`: MB/s, of one worker.
    /// `node`: whose interface it is.
    pub(super) async fn new(config: &Config, node: NodeId, workers: usize, sealing: u32) -> Self {
        let mut lan = Lan {
            interface: config.meshlan.interface.clone(),
            plan: Plan { node, workers, offload: config.node.offload, sealing },
            index: None,
            may_come: false,
            net: None,
            kernel: None,
            workers: None,
            policy: None,
            guards: Guards::default(),
            renamed: Vec::new(),
            reserves: None,
            warnings: Vec::new(),
            without: (!config.node.offload).then_some("configuration"),
        };
        if !config.meshlan.enabled {
            return Self { lan, queues: None };
        }
        let missing = caps::probe();
        lan.warnings.extend(missing.iter().map(ToString::to_string));
        let mut queues = match lan.create(workers, config.node.offload).await {
            Ok(queues) => Some(queues),
            Err(error) => {
                lan.may_come = renew::may_pass(&error);
                lan.warn_unless(!missing.is_empty(), format!("no mesh interface: {error:#}"));
                None
            }
        };
        if let Some(queues) = &mut queues
            && let Err(error) = lan.load(queues, sealing)
        {
            let text = format!(
                "no kernel programs: user space enforces the port scope, services must listen on the mesh address, and \
                 the LAN guard is off: {error:#}"
            );
            lan.warn_unless(!missing.is_empty(), text);
            queues.unsteer();
        }
        if !lan.warnings.is_empty() {
            tracing::warn!("running degraded: {}", lan.warnings.join("; "));
        }
        Self { lan, queues }
    }

    /// Whether the interface may still be had.
    pub(super) fn may_come(&self) -> bool {
        self.lan.may_come
    }

    /// The pieces of the caller addresses that other daemons of this host have.
    pub(super) async fn taken_callers(&self) -> Vec<(Ipv4Addr, u8)> {
        let Some(net) = &self.lan.net else { return Vec::new() };
        net.other_callers(&self.lan.interface).await.unwrap_or_default()
    }

    /// Completes the interface with its workers.
    pub(super) fn with(mut self, workers: Workers) -> Lan {
        self.lan.workers = Some(workers);
        self.lan
    }
}

impl Lan {
    pub(super) async fn create(&mut self, workers: usize, offload: bool) -> anyhow::Result<TunQueues> {
        let (net, node) = (Net::new()?, self.plan.node.to_string());
        net.require_free(&self.interface).await?;
        let queues = TunQueues::create(&self.interface, workers, offload)?;
        net.mark(&self.interface, &node).await?;
        if let Err(error) = queues.keep() {
            tracing::warn!("{} goes when the daemon ends, and flows break with it: {error}", self.interface);
        }
        for name in net.forget_renamed(&self.interface, &node).await? {
            tracing::info!("removed {name}, which this node had before {}", self.interface);
            self.renamed.push(name);
        }
        self.net = Some(net);
        self.index = sys::index_of(&self.interface);
        if offload && queues.offload() != Offload::TcpAndUdp {
            self.without = Some("interface");
        }
        Ok(queues)
    }

    /// The programs are on the interface before it has an address: it starts closed.
    pub(super) fn load(&mut self, queues: &mut TunQueues, sealing: u32) -> anyhow::Result<()> {
        let pins: PathBuf = bpffs::prepare(&self.interface)?;
        let mut kernel = EbpfDatapath::load(&self.interface, &pins)?;
        if let Err(error) = steer(&mut kernel, queues, sealing) {
            // What stays attached would go on filtering under the user-space path.
            EbpfDatapath::give_way(&self.interface, &pins)?;
            return Err(error);
        }
        // Those that come later are guarded as the watch tells of them.
        links::others(&self.interface)?.iter().for_each(|link| self.guards.put(&mut kernel, link));
        self.kernel = Some(kernel);
        Ok(())
    }

    /// Tries again where a LAN guard could not be put.
    pub(super) fn retry_guards(&mut self) {
        if self.guards.are_missing()
            && let Some(kernel) = &mut self.kernel
            && let Ok(others) = links::others(&self.interface)
        {
            self.guards.complete(kernel, &others);
        }
    }

    /// The kernel's drop events, for the first caller.
    pub(super) fn events(&mut self) -> Option<Events> {
        self.kernel.as_mut()?.events()
    }

    /// The probe has said it already where something was `known` to be missing.
    fn warn_unless(&mut self, known: bool, text: String) {
        if known {
            tracing::debug!("{text}");
        } else {
            self.warnings.push(text);
        }
    }

    /// Makes both enforcers hold `policy`.
    pub(super) fn apply(&mut self, policy: Arc<Policy>) {
        if let Some(kernel) = &mut self.kernel
            && kernel.take_forgotten()
            && let Err(error) = kernel.seed(&flows::opened(&policy), sys::monotonic())
        {
            tracing::warn!("connections from before this start end: {error:#}");
        }
        if let Some(kernel) = &mut self.kernel
            && let Err(error) = kernel.apply(&policy)
        {
            tracing::error!("the kernel refused the new policy, the old one stays: {error:#}");
        }
        if self.kernel.is_some() {
            let wanted = policy.networks.iter().any(|network| !network.devices.is_empty());
            self.reserves = Some(wanted);
            if let Err(error) = reserved::set(wanted) {
                tracing::warn!(
                    "cannot reserve the ports of flows to LAN devices (ip_local_reserved_ports): {error}"
                );
            }
        }
        self.policy = Some(policy);
    }

    /// The policy that the workers have to enforce; `None` where the kernel does.
    pub(super) fn enforced_here(&self) -> Option<Arc<Policy>> {
        self.policy.clone().filter(|_| self.kernel.is_none())
    }

    /// Gives the workers a new table.
    pub(super) fn publish(&self, table: Table) {
        if let Some(workers) = &self.workers {
            workers.publish(Arc::new(table));
        }
    }

    /// Whether the workers get received datagrams joined, for their own sake; see [`Workers::join_received`].
    pub(super) fn join_received(&self, wanted: bool) {
        if let Some(workers) = &self.workers {
            workers.join_received(wanted);
        }
    }

    /// Brings addresses and routes to the wanted state. True if they are there.
    pub(super) async fn set_addresses(&mut self, setup: &InterfaceSetup) -> bool {
        let Some(net) = &self.net else { return false };
        match net.set_up(setup).await {
            Ok(outcome) => outcome.notices.iter().for_each(|notice| tracing::warn!("{notice}")),
            Err(error) => {
                tracing::error!("cannot configure {}: {error:#}", self.interface);
                return false;
            }
        }
        for name in std::mem::take(&mut self.renamed) {
            if let Err(error) = net.forget_routes(&name).await {
                tracing::warn!("rules of {name}, which is gone, stay: {error:#}");
            }
        }
        true
    }

    /// Why the IPv4 range can't be used on this host, if so.
    pub(super) async fn conflict(&self, range: (Ipv4Addr, u8)) -> Option<String> {
        let found = self.net.as_ref()?.conflicts(&self.interface, range).await.ok()?;
        (!found.is_empty()).then(|| found.join("; "))
    }

    /// Addresses that packets leave from so that answers come back.
    pub(super) async fn live_addresses(&self) -> Option<BTreeSet<IpAddr>> {
        self.net.as_ref()?.live_addresses().await.ok()
    }

    /// Addresses of this host at which others may reach it.
    pub(super) async fn candidates(&self, mesh: &InterfaceSetup) -> Option<Vec<IpAddr>> {
        match self.net.as_ref()?.candidates(mesh).await {
            Ok(found) => Some(found),
            Err(error) => {
                tracing::warn!("cannot list the addresses of this host: {error:#}");
                None
            }
        }
    }

    /// How this host reaches `target`.
    pub(super) async fn way(&self, target: IpAddr) -> Result<Way, NoWay> {
        let Some(net) = &self.net else { return Err(NoWay::NoRoute) };
        net.way(target).await.unwrap_or_else(|error| {
            tracing::warn!("cannot look up the way to {target}: {error:#}");
            Err(NoWay::NoRoute)
        })
    }

    /// Whether there is a mesh interface.
    pub(super) fn is_there(&self) -> bool {
        self.net.is_some()
    }

    /// Whether the kernel programs are there.
    pub(super) fn has_kernel(&self) -> bool {
        self.kernel.is_some()
    }

    /// Whether kernel programs decide, and not the workers.
    pub(super) fn has_kernel_programs(&self) -> bool {
        self.kernel.is_some()
    }

    /// What would become of a packet at the kernel programs, where there are any; see [`EbpfDatapath::judge`].
    pub(super) fn judge(
        &self,
        policy: &Policy,
        packet: &Packet,
    ) -> Option<Result<Option<Reason>, EbpfError>> {
        let kernel = self.kernel.as_ref().filter(|_| packet.bytes.len() >= LEAST)?;
        Some(kernel.judge(policy, packet))
    }

    /// Takes out flows to LAN devices that are over.
    pub(super) fn sweep(&mut self) {
        if let Some(kernel) = &mut self.kernel
            && let Err(error) = kernel.sweep_translations(sys::monotonic())
        {
            tracing::warn!("flows to LAN devices that are over stay in the kernel's table: {error:#}");
        }
    }

    /// Keeps the LAN guard on every interface that comes.
    pub(super) fn on_net(&mut self, event: &NetEvent) {
        if let Some(kernel) = &mut self.kernel {
            self.guards.on_net(kernel, event);
        }
    }

    pub(super) fn inject(&self, from: Path, datagram: Vec<u8>) {
        if let Some(workers) = &self.workers {
            workers.inject(from, datagram);
        }
    }

    /// Lets the workers use another port than the shared one; yields the socket for what isn't circuit data.
    pub(super) fn adopt(&self, first: UdpSocket) -> anyhow::Result<UdpSocket> {
        self.workers.as_ref().context("there are no workers")?.adopt(first)
    }

    /// Closes such a port.
    pub(super) fn leave(&self, local_port: u16) {
        if let Some(workers) = &self.workers {
            workers.leave(local_port);
        }
    }

    /// Sends a message about paths on a session.
    pub(super) fn control(&self, local_index: u32, path: Path, message: Vec<u8>) {
        if let Some(workers) = &self.workers {
            workers.send_control(local_index, path, message);
        }
    }

    pub(super) fn keepalive(&self, local_index: u32) {
        if let Some(workers) = &self.workers {
            workers.send_keepalive(local_index);
        }
    }

    /// When workers may have to go elsewhere.
    pub(super) fn next_place(&self) -> Option<Instant> {
        self.workers.as_ref().and_then(Workers::next_place)
    }

    /// Lets workers go where there is room for them.
    pub(super) fn place_workers(&mut self, now: Instant) {
        if let Some(workers) = &mut self.workers {
            workers.place(now);
        }
    }

    /// What the workers forwarded for others.
    pub(super) fn relayed(&self) -> Vec<(Hop, LegTraffic)> {
        self.workers.as_ref().map(Workers::relayed).unwrap_or_default()
    }

    /// Traffic of each session.
    pub(super) fn activity(&self) -> Vec<Activity> {
        self.workers.as_ref().map(Workers::activity).unwrap_or_default()
    }

    /// Packets by reason over kernel, workers and `others`, without those that never happened.
    pub(super) fn counters(&self, others: &[(Reason, u64)]) -> BTreeMap<String, u64> {
        let kernel = self.kernel.as_ref().and_then(|kernel| kernel.counters().ok());
        let workers = self.workers.as_ref().map(Workers::counters);
        let sum = |reason: &Reason| {
            let at = |counters: &[u64; Reason::COUNT]| counters.get(*reason as usize).copied().unwrap_or(0);
            let more =
                others.iter().filter(|(other, _)| other == reason).map(|(_, packets)| packets).sum::<u64>();
            kernel.as_ref().map_or(0, at) + workers.as_ref().map_or(0, at) + more
        };
        Reason::ALL
            .iter()
            .map(|reason| (reason.as_str().to_owned(), sum(reason)))
            .filter(|(_, packets)| *packets > 0)
            .collect()
    }

    /// The kernel programs and what they cost.
    pub(super) fn programs(&self) -> Vec<ProgramCost> {
        let costs = self.kernel.as_ref().map(|kernel| kernel.costs()).unwrap_or_default().into_iter();
        let hook = self.kernel.as_ref().map_or_else(String::new, |kernel| kernel.hook().name().to_owned());
        let cost = |(name, runs, time): (String, u64, Duration)| {
            let run_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            let mean_ns = run_ns as f64 / runs.max(1) as f64;
            ProgramCost { name, hook: hook.clone(), runs, mean_ns, run_ns }
        };
        costs.map(cost).collect()
    }

    pub(super) fn status(&self) -> DatapathStatus {
        let mode = match (&self.net, &self.kernel) {
            (None, _) => DatapathMode::Off,
            (Some(_), None) => DatapathMode::Userspace,
            (Some(_), Some(_)) => DatapathMode::Ebpf,
        };
        DatapathStatus {
            mode,
            hook: self.kernel.as_ref().map(|kernel| kernel.hook().name().to_owned()),
            workers: self.workers.as_ref().map_or(0, |w| u32::try_from(w.lanes()).unwrap_or(u32::MAX)),
            translations: self.translations(),
            without_offloads: self.without_offloads(),
        }
    }

    fn without_offloads(&self) -> Vec<String> {
        let lacking = self.workers.iter().flat_map(Workers::without_offloads);
        self.without.into_iter().chain(lacking).map(str::to_owned).collect()
    }

    fn translations(&self) -> u32 {
        let count = self.kernel.as_ref().and_then(|kernel| kernel.translations().ok()).unwrap_or_default();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        self.warnings.iter().cloned().chain(self.guards.warnings()).collect()
    }

    /// Lets go of the interface. All that is on it stays for the next daemon: addresses, routes, programs, policy and flows;
    /// with nobody to carry packets it is as good as closed.
    pub(super) fn close(mut self) {
        if let Some(workers) = &mut self.workers {
            workers.stop();
        }
    }
}

fn steer(kernel: &mut EbpfDatapath, queues: &mut TunQueues, sealing: u32) -> anyhow::Result<()> {
    let promoted = kernel.promoted();
    let steering = kernel.steering(queues.steering(sealing))?;
    queues.steer(steering.fd()?.as_fd(), promoted).context("steering the queues of the interface")
}
