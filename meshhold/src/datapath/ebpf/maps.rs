//! One typed handle a kernel map; the only place that knows maps by name.

use std::os::fd::AsFd;

use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf, lpm_trie::Key},
};
use meshhold_common::{
    Address, Reason,
    maps::{
        CallerEntry, CallerKey, Counter, Epoch, Generation, MAX_NETWORKS, Own, PORT_WORDS, PeerEntry,
        PortBits, Range, SEEN, Steering,
    },
    nat::{DeviceEntry, LanEntry},
};

use crate::platform::linux::kernel_word::KernelWord;

use super::{EbpfError, remember::State, translations::Translations, wanted::Wanted};

/// The maps that user space reads or writes.
pub(super) struct Maps {
    pub(super) own: HashMap<MapData, Address, Own>,
    pub(super) ranges: LpmTrie<MapData, Address, Range>,
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
    pub(super) retired: std::collections::BTreeMap<u32, super::apply::Retired>,
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, EbpfError> {
        Ok(Self {
            own: typed(ebpf, "OWN")?,
            ranges: typed(ebpf, "RANGES")?,
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
            retired: std::collections::BTreeMap::new(),
        })
    }

    /// Closes what a former daemon left behind and returns what remains: the ranges, for its guards still work.
    /// Our own addresses go first, so nothing passes while the rest is taken down.
    pub(super) fn close(&mut self) -> Result<Wanted, EbpfError> {
        for key in keys("OWN", self.own.keys())? {
            self.own.remove(&key).map_err(of("OWN"))?;
        }
        for key in keys("PEERS", self.peers.keys())? {
            self.peers.remove(&key).map_err(of("PEERS"))?;
        }
        for key in keys("DEVICES", self.devices.keys())? {
            self.devices.remove(&key).map_err(of("DEVICES"))?;
        }
        for key in keys("LANS", self.lans.keys())? {
            self.lans.remove(&key).map_err(of("LANS"))?;
        }
        for key in keys("CALLERS", self.callers.keys())? {
            self.callers.remove(&key).map_err(of("CALLERS"))?;
        }
        let closed = PortBits { open: [0; PORT_WORDS], retired: [0; PORT_WORDS] };
        for slot in 0..4 * MAX_NETWORKS {
            self.ports.set(slot, closed, 0).map_err(of("PORTS"))?;
        }
        self.advance()?;
        let mut left = Wanted::default();
        for entry in self.ranges.iter() {
            let (key, range) = entry.map_err(of("RANGES"))?;
            left.ranges.insert((key.prefix_len(), key.data()), range);
        }
        Ok(left)
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

pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, EbpfError> {
    let map = ebpf.take_map(name).ok_or(EbpfError::Object { what: name })?;
    T::try_from(map).map_err(of(name))
}
