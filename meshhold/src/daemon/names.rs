//! Names of nodes and devices: what the name server says, and who asks it.
//!
//! Owns which network a bare name belongs to and the hand-over to the host's resolver. Must not know DNS messages.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshhold_core::address::Block;
use meshhold_core::device::Device;
use meshhold_core::identity::NodeId;
use meshhold_core::key::NetworkId;
use meshhold_core::name::{Claim, assign, label};

use super::gateway::Targets;
use super::handover::{HandOver, Wanted};
use super::network::Network;
use crate::control::api::DnsStatus;
use crate::dns::{Host, Name, NameServer, Zone, reverse_zones};
use crate::platform::linux::names::Settings;

/// A busy network doesn't have its names sorted for every record.
const PAUSE: Duration = Duration::from_millis(250);

/// The name service of this node.
pub(super) struct Names {
    server: Option<NameServer>,
    suffix: String,
    interface: String,
    stale: bool,
    refreshed_at: Option<Instant>,
    /// What the host's resolver is to ask us for, and a name of ours with its addresses to see whether it does.
    zones: Vec<String>,
    own: Option<(String, Vec<IpAddr>)>,
    hand_over: HandOver,
    zone: Arc<Zone>,
    /// Who doesn't answer to its own name, a sentence each, by network.
    conflicts: BTreeMap<NetworkId, Vec<String>>,
}

/// One name with its addresses.
struct Named<'a> {
    claim: Claim<'a>,
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
    near: Option<IpAddr>,
}

/// What this node is, and the devices that it fronts.
#[derive(Clone, Copy)]
pub(super) struct Own<'a> {
    pub(super) node: NodeId,
    pub(super) name: &'a str,
    pub(super) devices: &'a [Device],
    /// Where this host reaches these: from here their mesh addresses lead nowhere.
    pub(super) targets: &'a Targets,
    /// The mesh interface has no IPv6.
    pub(super) without_ipv6: bool,
}

impl Names {
    /// Starts the server where it can be had; without, everything works by address.
    pub(super) async fn start(suffix: &str, interface: &str) -> Self {
        let server = match NameServer::start().await {
            Ok(server) => Some(server),
            Err(error) => {
                tracing::warn!("no name service: {error}; names in .{suffix} don't resolve, addresses work");
                None
            }
        };
        let hand_over = HandOver::start(interface);
        let (suffix, interface) = (suffix.to_owned(), interface.to_owned());
        Self {
            server,
            suffix,
            interface,
            stale: true,
            refreshed_at: None,
            zones: Vec::new(),
            own: None,
            hand_over,
            zone: Arc::default(),
            conflicts: BTreeMap::new(),
        }
    }

    /// Members, devices or addresses changed.
    pub(super) fn changed(&mut self) {
        self.stale = true;
    }

    /// Whether there is something to bring up to date, and the last time was a while ago.
    pub(super) fn is_due(&self) -> bool {
        self.stale && self.refreshed_at.is_none_or(|at| at.elapsed() >= PAUSE)
    }

    /// Compares what the host's resolver knows with what it was told, now: something may have changed it.
    pub(super) fn compare(&self) {
        self.hand_over.compare();
    }

    /// Brings what is said up to date. `networks` oldest first; `connected`: there is an interface.
    pub(super) fn refresh(&mut self, networks: &[&Network], own: Own<'_>, connected: bool) {
        if std::mem::take(&mut self.stale) {
            self.gather(networks, own);
        }
        self.hand_over.want(self.wanted().filter(|_| connected));
        self.hand_over.look();
    }

    /// What there is to say now.
    fn gather(&mut self, networks: &[&Network], own: Own<'_>) {
        self.refreshed_at = Some(Instant::now());
        let Ok(suffix) = Name::from_ascii(format!("{}.", self.suffix)) else { return };
        let reverse: Vec<Name> = networks.iter().flat_map(|network| reverse(network)).collect();
        self.zones = [&suffix].into_iter().chain(&reverse).map(without_dot).collect();
        let (labels, hosts) = self.hosts(networks, own);
        self.zone = Arc::new(Zone::new(suffix, reverse, labels, hosts));
        if let Some(server) = &self.server {
            server.publish(Arc::clone(&self.zone));
        }
    }

    /// The labels of the networks, and who is in them.
    fn hosts(&mut self, networks: &[&Network], own: Own<'_>) -> (Vec<String>, Vec<Host>) {
        let (mut labels, mut hosts) = (Vec::new(), Vec::new());
        self.conflicts.clear();
        self.own = None;
        for (at, network) in networks.iter().enumerate() {
            let named = members(network, own);
            let claims: Vec<Claim<'_>> = named.iter().map(|named| named.claim).collect();
            let names = assign(&claims);
            self.conflicts.insert(network.id, conflicts(&claims, &names));
            if let (None, Some(node), Some(label)) = (&self.own, named.first(), names.first()) {
                let addresses = node.ipv4.map(IpAddr::V4).into_iter().chain(node.ipv6.map(IpAddr::V6));
                self.own = Some((format!("{label}.{}", self.suffix), addresses.collect()));
            }
            let host = |(named, label): (&Named<'_>, String)| Host {
                label,
                network: at,
                ipv4: named.ipv4,
                ipv6: named.ipv6,
                near: named.near,
            };
            hosts.extend(named.iter().zip(names).map(host));
            labels.push(network_label(network, &labels));
        }
        (labels, hosts)
    }

    /// What programs of this host are to get; nothing while there is no network.
    fn wanted(&self) -> Option<Wanted> {
        let (server, (name, addresses)) = (self.server.as_ref()?.address(), self.own.clone()?);
        let (interface, zones) = (self.interface.clone(), self.zones.clone());
        let settings = Settings { interface, server, zones };
        Some(Wanted { settings, suffix: self.suffix.clone(), name, addresses })
    }

    /// An IP address, or that of a name with or without the suffix, or of a display name; IPv4 where there are both.
    pub(super) fn resolve(&self, text: &str) -> Option<IpAddr> {
        if let Ok(address) = text.parse() {
            return Some(address);
        }
        let lower = text.trim_end_matches('.').to_lowercase();
        let host = lower.strip_suffix(&format!(".{}", self.suffix)).unwrap_or(&lower);
        let found = self.zone.addresses(host).or_else(|| self.zone.addresses(&label(host)?));
        found?.next()
    }

    pub(super) fn status(&self) -> DnsStatus {
        let outcome = self.hand_over.outcome();
        let (hindrance, remedy) = outcome.hindrance.map(|found| (found.why, found.remedy)).unzip();
        DnsStatus {
            server: self.server.as_ref().map(NameServer::address),
            suffix: self.suffix.clone(),
            handed_over: outcome.works,
            hindrance,
            remedy,
        }
    }

    /// How many questions got which answer.
    pub(super) fn answers(&self) -> BTreeMap<String, u64> {
        let answers = self.server.iter().flat_map(NameServer::answers);
        answers.map(|(code, count)| (code.to_owned(), count)).collect()
    }

    /// Who doesn't answer to its own name in this network.
    pub(super) fn conflicts(&self, network: NetworkId) -> Vec<String> {
        self.conflicts.get(&network).cloned().unwrap_or_default()
    }

    /// Leaves the host's resolver as it was.
    pub(super) async fn close(self) {
        self.hand_over.close().await;
    }
}

/// The zones in which the addresses of a network have their names.
fn reverse(network: &Network) -> Vec<Name> {
    let mut zones = reverse_zones(IpAddr::V4(network.shown_range().base), network.range.prefix);
    zones.extend(reverse_zones(IpAddr::V6(network.keys.prefix6), 32));
    zones
}

fn without_dot(zone: &Name) -> String {
    zone.to_ascii().trim_end_matches('.').to_owned()
}

/// Everybody in a network, with the addresses that are in use here.
fn members<'a>(network: &'a Network, own: Own<'a>) -> Vec<Named<'a>> {
    let usable = network.own4().is_some();
    let of_node = |node, name, block: Block, without6: bool| Named {
        claim: Claim { node, slot: None, name },
        ipv4: usable.then(|| block.node4()),
        ipv6: (!without6).then(|| block.node6()),
        near: None,
    };
    let behind = |node, block: Block, device: &'a Device, without6: bool| Named {
        claim: Claim { node, slot: Some(device.slot), name: &device.name },
        ipv4: usable.then(|| block.device4(device.slot)),
        ipv6: (!without6).then(|| block.device6(device.slot)),
        near: own.targets.get(&device.slot).copied().filter(|_| node == own.node),
    };
    let block = network.own_block();
    let mut all = vec![of_node(own.node, own.name, block, own.without_ipv6)];
    all.extend(own.devices.iter().map(|device| behind(own.node, block, device, own.without_ipv6)));
    for peer in network.members.peers() {
        let block = network.shown_block(peer.block);
        all.push(of_node(peer.node, &peer.name, block, peer.without_ipv6));
        all.extend(peer.devices.iter().map(|device| behind(peer.node, block, device, peer.without_ipv6)));
    }
    all
}

fn conflicts(claims: &[Claim<'_>], names: &[String]) -> Vec<String> {
    let moved = claims.iter().zip(names).filter(|(claim, name)| label(claim.name).as_ref() != Some(*name));
    let tell = |(claim, name): (&Claim<'_>, &String)| match label(claim.name) {
        Some(wanted) => {
            format!("'{}' of {} answers as {name}: another has the name {wanted}", claim.name, claim.node)
        }
        None => format!(
            "'{}' of {} answers as {name}: it can't be written as a host name",
            claim.name, claim.node
        ),
    };
    moved.map(tell).collect()
}

/// The label of a network; of two with one name the older keeps it.
fn network_label(network: &Network, taken: &[String]) -> String {
    let id = network.id.to_string();
    let mark = id.get(..4).unwrap_or_default();
    let wanted = label(&network.name).unwrap_or_else(|| format!("network-{mark}"));
    if taken.contains(&wanted) { format!("{wanted}-{mark}") } else { wanted }
}
