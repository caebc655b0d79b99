//! The kernel relay: loads its programs, hangs them on the interfaces, and keeps their tables equal to the legs.
//!
//! Independent of the mesh programs, for a relay needs no mesh interface. Nothing is pinned: what a daemon forwards ends
//! with it, since the next one knows nothing of its legs. Must not know links or who asked.

use std::collections::{BTreeMap, BTreeSet, HashMap as Map};
use std::net::{IpAddr, SocketAddr};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, HashMap, MapData},
    programs::{SchedClassifier, TcAttachType},
};
use meshhold_common::{
    Address,
    relay::{HopKey, LegEntry, LegState, MAX_LEGS, MAX_SOURCES, SourceState},
};

use super::{
    EbpfError,
    hook::{Hold, Hook, Place},
    maps::{of, typed},
};
use crate::datapath::relay::{Hop, Leg, LegTraffic};
use crate::platform::linux::{
    links,
    ways::{Link, Way},
};

/// The object that the build script compiled; empty where it was told to skip it.
static OBJECT: &[u8] = include_bytes_aligned!(env!("MESHHOLD_EBPF_RELAY"));

/// Programs for interfaces with and without Ethernet headers.
const PROGRAMS: [&str; 2] = ["relay_ethernet", "relay_plain"];
/// Their numbers among our filters.
const SLOTS: [u8; 2] = [14, 15];

/// The loaded programs and their tables.
pub struct KernelRelay {
    ebpf: Ebpf,
    legs: HashMap<MapData, HopKey, LegEntry>,
    states: Array<MapData, LegState>,
    shared: Array<MapData, SourceState>,
    own: HashMap<MapData, Address, u32>,
    /// What the kernel forwards, as it was told.
    taken: Map<Hop, LegEntry>,
    /// Slots that legs have left, and the first that none has had.
    free: (Vec<u32>, u32),
    /// Slots of the sources' budgets.
    sources: Slots,
    addresses: BTreeSet<IpAddr>,
    links: BTreeMap<Link, Hold>,
    hook: Hook,
    /// Whose programs these are, among those of several daemons: the port.
    owner: String,
}

/// Numbers in the order of their first use.
#[derive(Default)]
struct Slots(BTreeMap<u32, u32>);

impl Slots {
    /// The slot of a source; the lowest free one for a new one.
    fn of(&mut self, source: u32) -> Option<u32> {
        if let Some(slot) = self.0.get(&source) {
            return Some(*slot);
        }
        let used: BTreeSet<u32> = self.0.values().copied().collect();
        let slot = (0..MAX_SOURCES).find(|slot| !used.contains(slot))?;
        self.0.insert(source, slot);
        Some(slot)
    }
}

impl KernelRelay {
    /// Loads the programs for datagrams to `port`, and hangs them nowhere.
    ///
    /// # Errors
    /// [`EbpfError`]; the workers can relay instead.
    pub fn load(port: u16) -> Result<Self, EbpfError> {
        if OBJECT.is_empty() {
            return Err(EbpfError::NotBuilt);
        }
        let mut loader = EbpfLoader::new();
        loader.override_global("RELAY_PORT", &port, true);
        let mut ebpf = loader.load(OBJECT).map_err(|error| EbpfError::object(&error))?;
        for name in PROGRAMS {
            program(&mut ebpf, name)?.load().map_err(EbpfError::program(name))?;
        }
        Ok(Self {
            legs: typed(&mut ebpf, "RELAY_LEGS")?,
            states: typed(&mut ebpf, "RELAY_STATE")?,
            shared: typed(&mut ebpf, "RELAY_SOURCES")?,
            own: typed(&mut ebpf, "RELAY_OWN")?,
            taken: Map::new(),
            free: (Vec::new(), 0),
            sources: Slots::default(),
            addresses: BTreeSet::new(),
            links: BTreeMap::new(),
            hook: Hook::of_kernel(),
            owner: port.to_string(),
            ebpf,
        })
    }

    /// Takes off the filters that a killed daemon left, which forward on what it was told. Links end with their daemon.
    pub fn sweep(port: u16) {
        if Hook::of_kernel() == Hook::Tcx {
            return;
        }
        let owner = port.to_string();
        for link in links::others("").unwrap_or_default() {
            for (program, slot) in PROGRAMS.into_iter().zip(SLOTS) {
                let (owner, interface) = (owner.as_str(), link.name.as_str());
                let place = Place { program, slot, owner, interface, direction: TcAttachType::Ingress };
                if let Err(error) = place.clear() {
                    tracing::warn!("a relay's filter of a former daemon stays on {interface}: {error}");
                }
            }
        }
    }

    /// Makes the kernel forward exactly those of `legs` that it can take, and returns the others, which are the
    /// workers' to do. It looks at what is sent to an address of `own` and comes in by one of `links`; without legs it
    /// is on no interface. Budgets and counters of legs that stay go on.
    ///
    /// # Errors
    /// [`EbpfError`]; some legs may be in force already.
    pub fn apply(
        &mut self,
        legs: &[(Leg, Option<Way>)],
        own: &BTreeSet<IpAddr>,
        links: &[Link],
    ) -> Result<Vec<Hop>, EbpfError> {
        self.forget(legs)?;
        let mut refused = Vec::new();
        for (leg, way) in legs {
            let entry = way.as_ref().and_then(|way| self.entry(leg, way));
            let Some(entry) = entry else {
                self.remove(leg.from)?;
                refused.push(leg.from);
                continue;
            };
            if self.taken.get(&leg.from) != Some(&entry) {
                self.legs.insert(key(leg.from), entry, 0).map_err(of("RELAY_LEGS"))?;
                self.taken.insert(leg.from, entry);
            }
        }
        self.answer_to(own)?;
        self.hang(if self.taken.is_empty() { &[] } else { links })?;
        Ok(refused)
    }

    /// What each leg has done since it was taken.
    ///
    /// # Errors
    /// [`EbpfError::Map`]
    pub fn traffic(&self) -> Result<Vec<(Hop, LegTraffic)>, EbpfError> {
        let traffic = self.taken.iter().map(|(hop, entry)| {
            let state = self.states.get(&entry.slot, 0).map_err(of("RELAY_STATE"))?;
            let LegState { packets, bytes, over_rate, expired, .. } = state;
            Ok((*hop, LegTraffic { packets, bytes, over_rate, expired }))
        });
        traffic.collect()
    }

    /// The whole state of a leg, with what it did not forward.
    ///
    /// # Errors
    /// [`EbpfError::Map`]
    pub fn state(&self, hop: Hop) -> Result<Option<LegState>, EbpfError> {
        let Some(entry) = self.taken.get(&hop) else { return Ok(None) };
        self.states.get(&entry.slot, 0).map(Some).map_err(of("RELAY_STATE"))
    }

    /// The interfaces where it no longer is: they went, or somebody took it off.
    pub fn off(&self) -> Vec<Link> {
        self.links.iter().filter(|(_, hook)| hook.is_off()).map(|(link, _)| link.clone()).collect()
    }

    /// The loaded programs, for tests that ask what the verifier made of them.
    pub fn programs(&self) -> Vec<&SchedClassifier> {
        let found = self.ebpf.programs().filter(|(name, _)| PROGRAMS.contains(name));
        found.filter_map(|(_, program)| program.try_into().ok()).collect()
    }

    /// Ends the legs that are no longer wanted, and the sources without any.
    fn forget(&mut self, legs: &[(Leg, Option<Way>)]) -> Result<(), EbpfError> {
        let wanted: BTreeSet<Hop> = legs.iter().map(|(leg, _)| leg.from).collect();
        let gone: Vec<Hop> = self.taken.keys().filter(|hop| !wanted.contains(hop)).copied().collect();
        gone.into_iter().try_for_each(|hop| self.remove(hop))?;
        let sources: BTreeSet<u32> = legs.iter().map(|(leg, _)| leg.source).collect();
        self.sources.0.retain(|source, _| sources.contains(source));
        Ok(())
    }

    fn remove(&mut self, hop: Hop) -> Result<(), EbpfError> {
        let Some(entry) = self.taken.remove(&hop) else { return Ok(()) };
        self.legs.remove(&key(hop)).map_err(of("RELAY_LEGS"))?;
        self.free.0.push(entry.slot);
        Ok(())
    }

    /// How the kernel would forward it; `None` where it can't.
    fn entry(&mut self, leg: &Leg, way: &Way) -> Option<LegEntry> {
        let family = |ip: IpAddr| ip.is_ipv4();
        let four = family(leg.from.remote.ip());
        if family(leg.to.ip()) != four || family(way.source) != four || is_scoped(&leg.to) {
            return None;
        }
        let source_slot = self.source_slot(leg.source)?;
        let slot = match self.taken.get(&leg.from) {
            Some(entry) => entry.slot,
            None => self.slot()?,
        };
        Some(LegEntry {
            to: address(leg.to.ip()),
            source: address(way.source),
            gateway: address(way.gateway.unwrap_or(leg.to.ip())),
            interface: way.interface,
            mtu: way.mtu,
            slot,
            source_slot,
            rate: leg.rate,
            source_rate: leg.source_rate,
            port: leg.to.port(),
            neighbours: u8::from(way.ethernet),
            pad: [0; 5],
        })
    }

    /// A slot that counts from zero.
    fn slot(&mut self) -> Option<u32> {
        let slot = self.free.0.pop().or_else(|| {
            let fresh = self.free.1;
            self.free.1 += u32::from(fresh < MAX_LEGS);
            (fresh < MAX_LEGS).then_some(fresh)
        })?;
        self.states.set(slot, LegState::default(), 0).ok()?;
        Some(slot)
    }

    fn source_slot(&mut self, source: u32) -> Option<u32> {
        let is_new = !self.sources.0.contains_key(&source);
        let slot = self.sources.of(source)?;
        if is_new {
            self.shared.set(slot, SourceState::default(), 0).ok()?;
        }
        Some(slot)
    }

    fn answer_to(&mut self, own: &BTreeSet<IpAddr>) -> Result<(), EbpfError> {
        for gone in self.addresses.difference(own) {
            self.own.remove(&address(*gone)).map_err(of("RELAY_OWN"))?;
        }
        for new in own.difference(&self.addresses) {
            self.own.insert(address(*new), 1, 0).map_err(of("RELAY_OWN"))?;
        }
        self.addresses.clone_from(own);
        Ok(())
    }

    /// An interface that went is no longer in `links`; its program went with it.
    fn hang(&mut self, links: &[Link]) -> Result<(), EbpfError> {
        self.links.retain(|link, _| links.contains(link));
        for link in links {
            if !self.links.contains_key(link) {
                let attached = self.attach(link)?;
                self.links.insert(link.clone(), attached);
            }
        }
        Ok(())
    }

    fn attach(&mut self, link: &Link) -> Result<Hold, EbpfError> {
        let (name, slot) = if link.ethernet { (PROGRAMS[0], SLOTS[0]) } else { (PROGRAMS[1], SLOTS[1]) };
        let classifier = program(&mut self.ebpf, name)?;
        let (interface, owner, direction) = (link.name.as_str(), self.owner.as_str(), TcAttachType::Ingress);
        self.hook.attach(classifier, &Place { program: name, slot, owner, interface, direction })
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, EbpfError> {
    let found = ebpf.program_mut(name).ok_or(EbpfError::Object { what: name })?;
    found.try_into().map_err(EbpfError::program(name))
}

fn key(hop: Hop) -> HopKey {
    HopKey { address: address(hop.remote.ip()), label: hop.label, port: hop.remote.port(), pad: 0 }
}

fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => Address::v4(ip.octets()),
        IpAddr::V6(ip) => Address::v6(ip.octets()),
    }
}

/// Whether the address alone doesn't say where it is.
fn is_scoped(address: &SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}
