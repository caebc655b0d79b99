//! One typed handle a kernel map; the only place that knows maps by name.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf, lpm_trie::Key},
};
use meshhold_common::{
    Address, Reason,
    maps::{
        CallerEntry, CallerKey, Counter, Epoch, Generation, MAX_NETWORKS, Own, PeerEntry, PortBits, Range,
        SEEN, Steering, port_slot,
    },
    nat::{DeviceEntry, LanEntry},
    packet::{TCP, UDP},
};

use crate::platform::linux::kernel_word::KernelWord;

use super::{
    EbpfError,
    apply::Retired,
    barrier::Barrier,
    remember::State,
    translations::Translations,
    wanted::{Bits, Wanted},
};

/// The maps that user space reads or writes.
pub(super) struct Maps {
    pub(super) own: HashMap<MapData, Address, Own>,
    pub(super) ranges: LpmTrie<MapData, Address, Range>,
    pub(super) barrier: Barrier,
    pub(super) peers: HashMap<MapData, Address, PeerEntry>,
    pub(super) callers: HashMap<MapData, CallerKey, CallerEntry>,
    pub(super) devices: HashMap<MapData, Address, DeviceEntry>,
    pub(super) lans: HashMap<MapData, u32, LanEntry>,
    pub(super) translations: Translations,
    pub(super) state: State,
    pub(super) ports: Array<MapData, PortBits>,
    pub(super) generations: Array<MapData, Generation>,
    pub(super) workers: Array<MapData, Steering>,
    pub(super) epoch: Array<MapData, Epoch>,
    pub(super) counters: PerCpuArray<MapData, Counter>,
    pub(super) events: Option<RingBuf<MapData>>,
    /// Retired ports and the second until which they count, by network; TCP, then UDP.
    pub(super) retired: BTreeMap<u32, Retired>,
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, EbpfError> {
        Ok(Self {
            own: typed(ebpf, "OWN")?,
            ranges: typed(ebpf, "RANGES")?,
            barrier: Barrier::new(typed(ebpf, "BARRIER")?, typed(ebpf, "BARRIER_HINT")?),
            peers: typed(ebpf, "PEERS")?,
            callers: typed(ebpf, "CALLERS")?,
            devices: typed(ebpf, "DEVICES")?,
            lans: typed(ebpf, "LANS")?,
            translations: Translations::new(
                typed(ebpf, "NAT_OUT")?,
                typed(ebpf, "NAT_IN")?,
                typed(ebpf, "SWEEPING")?,
            ),
            state: State {
                flows: typed(ebpf, "FLOWS")?,
                opened: typed(ebpf, "OPENED")?,
                fragments: typed(ebpf, "FRAGMENTS")?,
                pieces: typed(ebpf, "NAT_PIECES")?,
            },
            ports: typed(ebpf, "PORTS")?,
            generations: typed(ebpf, "GENERATIONS")?,
            workers: typed(ebpf, "WORKERS")?,
            epoch: typed(ebpf, "EPOCH")?,
            counters: typed(ebpf, "COUNTERS")?,
            events: Some(typed(ebpf, "EVENTS")?),
            retired: BTreeMap::new(),
        })
    }

    /// What a former daemon left in force; it stays so until there is a policy to compare it with. Nothing that was closed
    /// opens, and packets of flows that go on wait in the interface instead of being refused.
    pub(super) fn adopt(&mut self) -> Result<Wanted, EbpfError> {
        let mut left = Wanted {
            own: table("OWN", &self.own)?,
            peers: table("PEERS", &self.peers)?,
            callers: table("CALLERS", &self.callers)?,
            devices: table("DEVICES", &self.devices)?,
            barred: self.barrier.adopt()?,
            ..Wanted::default()
        };
        for entry in self.ranges.iter() {
            let (key, range) = entry.map_err(of("RANGES"))?;
            left.ranges.insert((key.prefix_len(), key.data()), range);
        }
        for network in 0..MAX_NETWORKS {
            if let Some(open) = self.adopt_scope(network)? {
                left.scopes.insert(network, open);
            }
        }
        Ok(left)
    }

    /// The open ports of a network, of TCP and of UDP, where it ever had any. Those closed a while ago stay known.
    fn adopt_scope(&mut self, network: u32) -> Result<Option<[Bits; 2]>, EbpfError> {
        let generation = self.generations.get(&network, 0).map_err(of("GENERATIONS"))?;
        // A scope was never put in force without this.
        if generation.retired_until == 0 {
            return Ok(None);
        }
        let bits = |protocol| {
            let slot = port_slot(network, protocol, generation.active);
            let PortBits { open, retired } = self.ports.get(&slot, 0).map_err(of("PORTS"))?;
            Ok::<(Bits, Bits), EbpfError>((Box::new(open), Box::new(retired)))
        };
        let ((tcp, tcp_retired), (udp, udp_retired)) = (bits(TCP)?, bits(UDP)?);
        self.retired.insert(network, Retired { generation, bits: [tcp_retired, udp_retired] });
        Ok(Some([tcp, udp]))
    }

    /// Ends what the programs have decided so far. To be called after the tables have changed.
    pub(super) fn advance(&mut self) -> Result<(), EbpfError> {
        let epoch = self.epoch.get(&0, 0).map_err(of("EPOCH"))?;
        let policy = epoch.policy.wrapping_add(1).max(1);
        self.epoch.set(0, Epoch { policy }, 0).map_err(of("EPOCH"))
    }

    pub(super) fn counters(&self) -> Result<(Counter, Vec<(Reason, Counter)>), EbpfError> {
        let reasons = Reason::ALL.iter().map(|reason| Ok((*reason, self.counter(*reason as u32)?)));
        // The whole is read last: packets that arrive meanwhile may be missing below, never here.
        let reasons = reasons.collect::<Result<Vec<_>, EbpfError>>()?;
        Ok((self.counter(SEEN)?, reasons))
    }

    fn counter(&self, slot: u32) -> Result<Counter, EbpfError> {
        let each = self.counters.get(&slot, 0).map_err(of("COUNTERS"))?;
        Ok(each.iter().fold(Counter::default(), |sum, counter| Counter {
            packets: sum.packets + counter.packets,
            bytes: sum.bytes + counter.bytes,
        }))
    }
}

/// When a flow became bulk last, where the kernel shows it.
pub(super) fn promoted(ebpf: &Ebpf) -> Option<KernelWord> {
    let Map::Array(map) = ebpf.map("PROMOTED")? else { return None };
    let word = KernelWord::of(map.fd().as_fd());
    word.inspect_err(|error| tracing::debug!(%error, "the map PROMOTED can't be mapped")).ok()
}

/// Prefix in the form of the range map.
pub(super) fn prefix(key: (u32, Address)) -> Key<Address> {
    Key::new(key.0, key.1)
}

/// Names the map in an error.
pub(super) fn of(map: &'static str) -> impl Fn(MapError) -> EbpfError {
    move |source| EbpfError::Map { map, source }
}

pub(super) fn keys<K>(
    map: &'static str,
    keys: impl Iterator<Item = Result<K, MapError>>,
) -> Result<Vec<K>, EbpfError> {
    keys.collect::<Result<_, _>>().map_err(of(map))
}

pub(super) fn table<K: Pod + Ord, V: Pod>(
    name: &'static str,
    map: &HashMap<MapData, K, V>,
) -> Result<BTreeMap<K, V>, EbpfError> {
    map.iter().collect::<Result<_, _>>().map_err(of(name))
}

pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, EbpfError> {
    let map = ebpf.take_map(name).ok_or(EbpfError::Object { what: name })?;
    T::try_from(map).map_err(of(name))
}
