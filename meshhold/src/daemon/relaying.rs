//! What this node forwards for others: in the kernel where it can, by the workers where not.
//!
//! Owns the kernel relay and the ways to the next hops. Must not know how a path is set up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use meshhold_common::Reason;

use super::Daemon;
use crate::control::api::{LegStatus, RelayHost, RelayStatus};
use crate::datapath::ebpf::KernelRelay;
use crate::datapath::relay::{Hop, Leg, LegTraffic};
use crate::platform::linux::Net;
use crate::platform::linux::ways::{Link, Way};

/// Most legs that a status lists.
const LISTED: usize = 256;

/// Forwarding, as far as it has begun.
pub(super) struct Relaying {
    enabled: bool,
    port: u16,
    /// The mesh interface, by which nothing is relayed.
    mesh: String,
    kernel: Option<KernelRelay>,
    net: Option<Net>,
    legs: Vec<Leg>,
    /// Those that the kernel doesn't take.
    left: BTreeSet<Hop>,
    /// What the kernel did until it was given up.
    done: Vec<(Hop, LegTraffic)>,
    around: Option<Around>,
}

/// What the kernel relay has to know of this host. Forgotten when anything changes.
#[derive(Default)]
struct Around {
    ways: BTreeMap<IpAddr, Option<Way>>,
    own: BTreeSet<IpAddr>,
    links: Vec<Link>,
}

impl Relaying {
    /// Nothing is forwarded yet.
    pub(super) fn new(enabled: bool, port: u16, mesh: &str) -> Self {
        let (legs, left, done) = (Vec::new(), BTreeSet::new(), Vec::new());
        Self { enabled, port, mesh: mesh.to_owned(), kernel: None, net: None, legs, left, done, around: None }
    }

    /// Loads the kernel's part. Without it the workers do everything.
    pub(super) fn start(&mut self) {
        KernelRelay::sweep(self.port);
        if !self.enabled {
            return;
        }
        match (KernelRelay::load(self.port), Net::new()) {
            (Ok(kernel), Ok(net)) => (self.kernel, self.net) = (Some(kernel), Some(net)),
            (Err(error), _) => tracing::info!("no kernel relay, the workers forward: {error:#}"),
            (_, Err(error)) => tracing::info!("no kernel relay, the workers forward: {error:#}"),
        }
    }

    /// Interfaces, addresses or routes changed. True where something has to be applied again.
    pub(super) fn look_again(&mut self) -> bool {
        self.around = None;
        !self.legs.is_empty()
    }

    /// Makes the kernel forward what it can of `legs`.
    pub(super) async fn apply(&mut self, legs: &[Leg]) {
        if self.legs == legs && self.around.is_some() {
            return;
        }
        legs.clone_into(&mut self.legs);
        self.left = legs.iter().map(|leg| leg.from).collect();
        let Some(kernel) = &mut self.kernel else { return };
        let mut around = self.around.take().unwrap_or_default();
        if let Some(net) = &self.net
            && let Err(error) = around.look(net, legs, &self.mesh).await
        {
            tracing::warn!("the kernel relay can't see the routes of this host: {error:#}");
        }
        let ways: Vec<_> =
            legs.iter().map(|leg| (*leg, around.ways.get(&leg.to.ip()).cloned().flatten())).collect();
        match kernel.apply(&ways, &around.own, &around.links) {
            Ok(left) => self.left = left.into_iter().collect(),
            Err(error) => {
                tracing::warn!("the kernel relay is given up, the workers forward: {error:#}");
                self.give_up();
            }
        }
        self.around = Some(around);
    }

    /// Gives the kernel relay up where somebody took its program off an interface that is still there: whoever did wants it
    /// gone. Nothing is lost by that, as the workers know all legs and forward what comes up to them. True where it was.
    pub(super) async fn check(&mut self) -> bool {
        let (Some(kernel), Some(net)) = (&self.kernel, &self.net) else { return false };
        let off = kernel.off();
        if off.is_empty() {
            return false;
        }
        let Ok(links) = net.links().await else { return false };
        let Some(link) = off.iter().find(|link| links.contains(link)) else { return false };
        tracing::warn!(
            "the kernel relay is given up, the workers forward: its program was taken off {}; restart meshhold to use it again",
            link.name
        );
        self.give_up();
        true
    }

    /// Whether the workers forward something.
    pub(super) fn leaves_some(&self) -> bool {
        !self.left.is_empty()
    }

    fn give_up(&mut self) {
        self.done = self.kernel_traffic();
        self.kernel = None;
        self.left = self.legs.iter().map(|leg| leg.from).collect();
    }

    fn kernel_traffic(&self) -> Vec<(Hop, LegTraffic)> {
        match &self.kernel {
            Some(kernel) => kernel.traffic().unwrap_or_default(),
            None => self.done.clone(),
        }
    }

    /// Datagrams that the kernel forwarded and dropped, by reason.
    pub(super) fn counters(&self) -> [(Reason, u64); 3] {
        let traffic = self.kernel_traffic();
        let sum = |of: fn(&LegTraffic) -> u64| traffic.iter().map(|(_, traffic)| of(traffic)).sum();
        [
            (Reason::PassRelay, sum(|t| t.packets)),
            (Reason::OverRate, sum(|t| t.over_rate)),
            (Reason::HopLimit, sum(|t| t.expired)),
        ]
    }
}

impl Around {
    async fn look(&mut self, net: &Net, legs: &[Leg], mesh: &str) -> anyhow::Result<()> {
        if self.links.is_empty() {
            self.links = net.links().await?;
            self.links.retain(|link| link.name != mesh);
            self.own = net.own_addresses().await?;
        }
        let new: BTreeSet<IpAddr> =
            legs.iter().map(|leg| leg.to.ip()).filter(|ip| !self.ways.contains_key(ip)).collect();
        let mut found = net.ways(&new).await?;
        self.ways.extend(new.into_iter().map(|ip| (ip, found.remove(&ip))));
        Ok(())
    }
}

impl Daemon {
    /// What is forwarded, and by whom.
    pub(super) fn relay_status(&self) -> RelayStatus {
        let relaying = &self.relaying;
        let mut traffic: BTreeMap<Hop, LegTraffic> = BTreeMap::new();
        for (hop, of) in relaying.kernel_traffic().into_iter().chain(self.lan.relayed()) {
            let sum = traffic.entry(hop).or_default();
            sum.packets += of.packets;
            sum.bytes += of.bytes;
            sum.over_rate += of.over_rate;
        }
        let leg = |leg: &Leg| {
            let done = traffic.get(&leg.from).copied().unwrap_or_default();
            LegStatus {
                from: leg.from.remote,
                to: leg.to,
                by: if relaying.left.contains(&leg.from) { RelayHost::Workers } else { RelayHost::Kernel },
                packets: done.packets,
                bytes: done.bytes,
                over_rate: done.over_rate,
            }
        };
        RelayStatus {
            enabled: relaying.enabled,
            kernel: relaying.kernel.is_some(),
            count: relaying.legs.len(),
            legs: relaying.legs.iter().take(LISTED).map(leg).collect(),
        }
    }
}
