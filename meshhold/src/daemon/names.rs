//! Names of nodes and devices: what the name server says, and who asks it.
//!
//! Owns which network a bare name belongs to and the hand-over to the host's resolver. Must not know DNS messages.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use meshhold_core::device::Device;
use meshhold_core::identity::NodeId;
use meshhold_core::key::NetworkId;
use meshhold_core::name::{Claim, assign, label};
use tokio::task::JoinHandle;

use super::network::Network;
use crate::control::api::DnsStatus;
use crate::dns::{Name, NameServer, Zone, reverse_zones};
use crate::platform::linux::resolved::{self, ResolvedError};

/// The name service of this node.
pub(super) struct Names {
    server: Option<NameServer>,
    suffix: String,
    interface: String,
    stale: bool,
    /// What resolved was last told to ask us for.
    zones: Vec<String>,
    telling: Option<JoinHandle<Result<(), ResolvedError>>>,
    handed_over: bool,
    /// Addresses by their names below the suffix.
    hosts: BTreeMap<String, Vec<IpAddr>>,
    /// Who doesn't answer to its own name, a sentence each, by network.
    conflicts: BTreeMap<NetworkId, Vec<String>>,
}

/// One name with its addresses.
struct Named {
    claim: Claim,
    addresses: Vec<IpAddr>,
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
        let (suffix, interface) = (suffix.to_owned(), interface.to_owned());
        Self {
            server,
            suffix,
            interface,
            stale: true,
            zones: Vec::new(),
            telling: None,
            handed_over: false,
            hosts: BTreeMap::new(),
            conflicts: BTreeMap::new(),
        }
    }

    /// Members, devices or addresses changed.
    pub(super) fn changed(&mut self) {
        self.stale = true;
    }

    /// Brings what is said up to date. `networks` oldest first; `connected`: there is an interface.
    pub(super) async fn refresh(
        &mut self,
        networks: &[&Network],
        own: (NodeId, &str),
        devices: &[Device],
        connected: bool,
    ) {
        self.hear().await;
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let apexes = self.apexes(networks);
        let mut zone = Zone::new(apexes.iter().cloned());
        let (mut bare, mut labels) = (BTreeSet::new(), BTreeSet::new());
        self.conflicts.clear();
        self.hosts.clear();
        for network in networks {
            let named = members(network, own, devices);
            let claims: Vec<Claim> = named.iter().map(|named| named.claim.clone()).collect();
            let names = assign(&claims);
            self.conflicts.insert(network.id, conflicts(&claims, &names));
            let scope = network_label(network, &mut labels);
            for (named, host) in named.iter().zip(&names) {
                let full = self.name(&[host, &scope]);
                self.hosts.insert(format!("{host}.{scope}"), named.addresses.clone());
                let short = bare.insert(host.clone()).then(|| self.name(&[host])).flatten();
                if short.is_some() {
                    self.hosts.insert(host.clone(), named.addresses.clone());
                }
                say(&mut zone, named, full, short);
            }
        }
        if let Some(server) = &self.server {
            server.publish(zone);
            let zones = apexes.iter().map(|apex| apex.to_ascii().trim_end_matches('.').to_owned()).collect();
            if connected && !networks.is_empty() {
                self.tell(server.address(), zones);
            }
        }
    }

    fn apexes(&self, networks: &[&Network]) -> Vec<Name> {
        let reverse = networks.iter().flat_map(|network| {
            let mut zones = reverse_zones(IpAddr::V4(network.shown_range().base), network.range.prefix);
            zones.extend(reverse_zones(IpAddr::V6(network.keys.prefix6), 32));
            zones
        });
        self.name(&[]).into_iter().chain(reverse).collect()
    }

    /// `labels` below the suffix.
    fn name(&self, labels: &[&str]) -> Option<Name> {
        let text = [labels, &[self.suffix.as_str()]].concat().join(".");
        Name::from_ascii(text + ".").ok()
    }

    /// Lets the host's resolver ask us, in the background: it may take its time.
    fn tell(&mut self, server: SocketAddr, zones: Vec<String>) {
        if self.telling.is_some() || self.zones == zones {
            self.stale |= self.zones != zones;
            return;
        }
        self.zones.clone_from(&zones);
        let interface = self.interface.clone();
        self.telling =
            Some(tokio::spawn(async move { resolved::hand_over(&interface, server, &zones).await }));
    }

    /// What became of it.
    async fn hear(&mut self) {
        let Some(telling) = self.telling.take_if(|telling| telling.is_finished()) else { return };
        let outcome = telling.await.unwrap_or(Err(ResolvedError::Absent));
        let before = std::mem::replace(&mut self.handed_over, outcome.is_ok());
        if let (Err(error), Some(server)) = (outcome, &self.server) {
            tracing::warn!(
                "programs on this host don't see names in .{}: {error}; addresses work, and a resolver that is told to ask {} for .{} does too",
                self.suffix,
                server.address(),
                self.suffix
            );
        } else if !before {
            tracing::info!("names in .{} are resolved on this host", self.suffix);
        }
    }

    /// An IP address, or that of a name with or without the suffix, or of a display name; IPv4 where there are both.
    pub(super) fn resolve(&self, text: &str) -> Option<IpAddr> {
        if let Ok(address) = text.parse() {
            return Some(address);
        }
        let lower = text.trim_end_matches('.').to_lowercase();
        let host = lower.strip_suffix(&format!(".{}", self.suffix)).unwrap_or(&lower);
        let found = self.hosts.get(host).or_else(|| self.hosts.get(&label(host)?));
        found?.first().copied()
    }

    pub(super) fn status(&self) -> DnsStatus {
        DnsStatus {
            server: self.server.as_ref().map(NameServer::address),
            suffix: self.suffix.clone(),
            handed_over: self.handed_over,
        }
    }

    /// Who doesn't answer to its own name in this network.
    pub(super) fn conflicts(&self, network: NetworkId) -> Vec<String> {
        self.conflicts.get(&network).cloned().unwrap_or_default()
    }

    /// Leaves the host's resolver as it was.
    pub(super) async fn close(self) {
        if let Some(telling) = self.telling {
            let _ = telling.await;
        } else if !self.handed_over {
            return;
        }
        match resolved::take_back(&self.interface).await {
            Ok(()) | Err(ResolvedError::Absent) => {}
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

/// Everybody in a network, with the addresses that are in use here.
fn members(network: &Network, own: (NodeId, &str), devices: &[Device]) -> Vec<Named> {
    let usable = network.own4().is_some();
    let named = |node, slot, name: &str, (four, six): (std::net::Ipv4Addr, std::net::Ipv6Addr)| {
        let four = usable.then_some(IpAddr::V4(four));
        let claim = Claim { node, slot, name: name.to_owned() };
        Named { claim, addresses: four.into_iter().chain([IpAddr::V6(six)]).collect() }
    };
    let behind = |node, block: meshhold_core::address::Block, devices: &[Device]| {
        let of = |device: &Device| {
            let addresses = (block.device4(device.slot), block.device6(device.slot));
            named(node, Some(device.slot), &device.name, addresses)
        };
        devices.iter().map(of).collect::<Vec<_>>()
    };
    let block = network.own_block();
    let mut all = vec![named(own.0, None, own.1, (block.node4(), block.node6()))];
    all.extend(behind(own.0, block, devices));
    for peer in network.members.peers() {
        all.push(named(peer.node, None, &peer.name, (network.shown(peer.ipv4), peer.ipv6)));
        all.extend(behind(peer.node, network.shown_block(peer.block), &peer.devices));
    }
    all
}

fn say(zone: &mut Zone, named: &Named, full: Option<Name>, short: Option<Name>) {
    for address in &named.addresses {
        for name in full.iter().chain(&short) {
            zone.add(name, *address);
        }
        if let Some(name) = short.as_ref().or(full.as_ref()) {
            zone.add_reverse(*address, name.clone());
        }
    }
}

fn conflicts(claims: &[Claim], names: &[String]) -> Vec<String> {
    let moved = claims.iter().zip(names).filter(|(claim, name)| label(&claim.name).as_ref() != Some(*name));
    let tell = |(claim, name): (&Claim, &String)| match label(&claim.name) {
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
fn network_label(network: &Network, taken: &mut BTreeSet<String>) -> String {
    let id = network.id.to_string();
    let mark = id.get(..4).unwrap_or_default();
    let wanted = label(&network.name).unwrap_or_else(|| format!("network-{mark}"));
    let got = if taken.contains(&wanted) { format!("{wanted}-{mark}") } else { wanted };
    taken.insert(got.clone());
    got
}
