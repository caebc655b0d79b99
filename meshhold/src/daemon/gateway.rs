//! The LAN devices that this node fronts: the list, the way to each, and what members and enforcers are told.
//!
//! Owns what is known of the ways, and when it is looked at again. Must not know packets.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use meshhold_core::address::Block;
use meshhold_core::device::Device;

use super::lan::Lan;
use super::network::Network;
use crate::control::api::{DeviceState, DeviceStatus, ForwardRequest, Response};
use crate::datapath::policy::{DevicePolicy, DeviceWay};
use crate::forward::{Forward, ForwardError, Forwards, Placed};
use crate::platform::linux::ways::{NoWay, Way};

/// How often ways are looked at again when nobody said that something changed.
const LOOK: Duration = Duration::from_secs(2);
/// Headers of a TCP segment without options, in bytes: IPv4, IPv6.
const HEADERS: [u32; 2] = [40, 60];

/// Addresses of devices in the LAN, by their place in the block.
pub(super) type Targets = BTreeMap<u8, IpAddr>;

/// The devices and their ways.
pub(super) struct Gateway {
    forwards: Forwards,
    /// By target.
    ways: BTreeMap<IpAddr, Result<Way, NoWay>>,
    looked_at: Option<Instant>,
    /// Of the mesh interface, bytes.
    mtu: u32,
}

impl Gateway {
    pub(super) fn new(forwards: Forwards, mtu: u16) -> Self {
        Self { forwards, ways: BTreeMap::new(), looked_at: None, mtu: mtu.into() }
    }

    /// Whether there is no device.
    pub(super) fn is_empty(&self) -> bool {
        self.forwards.list().is_empty()
    }

    /// What other members are told.
    pub(super) fn devices(&self) -> Vec<Device> {
        self.forwards.devices()
    }

    /// The place of each, and its address in the LAN.
    pub(super) fn targets(&self) -> Targets {
        self.forwards.list().into_iter().map(|placed| (placed.slot, placed.forward.target)).collect()
    }

    /// Where the device that has this mesh address in our block is in the LAN.
    pub(super) fn target(&self, block: &Block, address: IpAddr) -> Option<IpAddr> {
        let is = |slot: u8| match address {
            IpAddr::V4(ip) => ip == block.device4(slot),
            IpAddr::V6(ip) => ip == block.device6(slot),
        };
        self.targets().into_iter().find(|(slot, _)| is(*slot)).map(|(_, target)| target)
    }

    /// The ways may have changed.
    pub(super) fn look_soon(&mut self) {
        self.looked_at = None;
    }

    /// Looks at the ways again if it is time. True if one changed.
    pub(super) async fn look(&mut self, lan: &Lan) -> bool {
        if self.looked_at.is_some_and(|at| at.elapsed() < LOOK) {
            return false;
        }
        self.looked_at = Some(Instant::now());
        let mut ways = BTreeMap::new();
        for placed in self.forwards.list() {
            let target = placed.forward.target;
            ways.insert(target, lan.way(target).await);
        }
        let changed = ways != self.ways;
        self.ways = ways;
        changed
    }

    /// Answers a command. True if the devices changed.
    pub(super) async fn on_request(
        &mut self,
        request: ForwardRequest,
        lan: &Lan,
        networks: &BTreeMap<u16, Network>,
    ) -> (Response, bool) {
        let result = match request {
            ForwardRequest::List => Ok(false),
            ForwardRequest::Add(forward) => self.add(forward, lan, networks).await.map(|()| true),
            ForwardRequest::Remove { name } => self.forwards.remove(&name).map(|()| true),
        };
        match result {
            Ok(changed) => {
                self.look_soon();
                self.look(lan).await;
                (Response::Forwards(self.all(lan, networks)), changed)
            }
            Err(error) => (Response::Error(error.into()), false),
        }
    }

    async fn add(
        &mut self,
        forward: Forward,
        lan: &Lan,
        networks: &BTreeMap<u16, Network>,
    ) -> Result<(), ForwardError> {
        let target = forward.target;
        if lan.way(target).await == Err(NoWay::Own) {
            return Err(ForwardError::Invalid(format!(
                "{target} is an address of this node; open the port itself with `meshhold mgmt-keys edit … --allow`"
            )));
        }
        if networks.values().any(|network| network.holds(target)) {
            return Err(ForwardError::Invalid(format!(
                "{target} is a mesh address; members reach it without this node"
            )));
        }
        self.forwards.add(forward)
    }

    /// What the enforcers hold of the devices in one network.
    pub(super) fn policy(&self, networks: &BTreeMap<u16, Network>, network: &Network) -> Vec<DevicePolicy> {
        let block = network.own_block();
        let list = self.forwards.list();
        let usable = list.iter().filter(|placed| !networks.values().any(|n| n.holds(placed.forward.target)));
        usable
            .map(|placed| DevicePolicy {
                ipv4: network.own4().map(|_| block.device4(placed.slot)),
                ipv6: block.device6(placed.slot),
                target: placed.forward.target,
                way: self.way(placed.forward.target),
            })
            .collect()
    }

    fn way(&self, target: IpAddr) -> Option<DeviceWay> {
        let way = self.ways.get(&target)?.as_ref().ok()?;
        let [four, six] = HEADERS;
        // Where the families differ, the headers' sizes do.
        let behind = way.mtu.saturating_sub(if target.is_ipv4() { four } else { six });
        let mtus = HEADERS.map(|headers| u16::try_from(behind + headers).unwrap_or(u16::MAX));
        let segments = HEADERS.map(|headers| self.mtu.saturating_sub(headers).min(behind));
        Some(DeviceWay {
            interface: way.interface,
            name: way.name.clone(),
            source: way.source,
            mtus,
            segments,
        })
    }

    /// What `meshlan status` shows of the devices in one network.
    pub(super) fn status(
        &self,
        lan: &Lan,
        networks: &BTreeMap<u16, Network>,
        network: &Network,
    ) -> Vec<DeviceStatus> {
        let block = network.own_block();
        let list = self.forwards.list();
        list.into_iter().map(|placed| self.device_status(placed, lan, networks, (network, block))).collect()
    }

    fn device_status(
        &self,
        placed: Placed,
        lan: &Lan,
        networks: &BTreeMap<u16, Network>,
        (network, block): (&Network, Block),
    ) -> DeviceStatus {
        let Placed { forward: Forward { name, target }, slot, origin } = placed;
        let state = match self.ways.get(&target) {
            _ if networks.values().any(|network| network.holds(target)) => DeviceState::MeshAddress,
            Some(Err(NoWay::Own)) => DeviceState::OwnAddress,
            _ if !lan.has_kernel() => DeviceState::NoKernelPrograms,
            Some(Ok(_)) => DeviceState::Ready,
            _ => DeviceState::NoRoute,
        };
        DeviceStatus {
            name,
            target,
            ipv4: network.own4().map(|_| block.device4(slot)),
            ipv6: block.device6(slot),
            origin,
            state,
        }
    }

    /// Over all networks, as the commands print it.
    fn all(&self, lan: &Lan, networks: &BTreeMap<u16, Network>) -> Vec<DeviceStatus> {
        networks.values().flat_map(|network| self.status(lan, networks, network)).collect()
    }
}
