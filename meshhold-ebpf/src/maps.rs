//! Every map of the programs. Names (at most 15 bytes) and layouts are what the loader and `bpftool map dump` see.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use meshhold_common::{
    Address, Change, Packet, Place, Reason,
    event::Event,
    forward::Plan,
    maps::{
        Barred, BarrierHint, CACHE_BITS, CallerEntry, CallerKey, Counter, EVENT_BYTES, Epoch, FLOW_RATES,
        Flow, FlowKey, FlowRate, Fragment, FragmentKey, Generation, MAX_FLOWS, MAX_FRAGMENTS, MAX_NETWORKS,
        MAX_PEERS, OPENED_SLOTS, Opened, Own, PeerEntry, PortBits, Range, Steering, Tokens,
    },
    nat::{DeviceEntry, Inward, LanEntry, MAX_DEVICES, MAX_TRANSLATIONS, Outward},
};

/// Entries are allocated as they come: the limits are generous and the tables usually small.
const SPARSE: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub static OWN: HashMap<Address, Own, { 2 * MAX_NETWORKS as usize }, SPARSE> = HashMap::new();

#[btf_map]
pub static RANGES: LpmTrie<Address, Range, { 4 * MAX_NETWORKS as usize }> = LpmTrie::new();

/// What must not leave by another interface. Never emptied at a start, unlike what the classifier goes by.
#[btf_map]
pub static BARRIER: LpmTrie<Address, Barred, { 4 * MAX_NETWORKS as usize }> = LpmTrie::new();

#[btf_map]
pub static BARRIER_HINT: Array<BarrierHint, 1> = Array::new();

#[btf_map]
pub static PEERS: HashMap<Address, PeerEntry, { 2 * MAX_PEERS as usize }, SPARSE> = HashMap::new();

#[btf_map]
pub static CALLERS: HashMap<CallerKey, CallerEntry, { 2 * MAX_PEERS as usize }, SPARSE> = HashMap::new();

#[btf_map]
pub static PORTS: Array<PortBits, { 4 * MAX_NETWORKS as usize }> = Array::new();

#[btf_map]
pub static GENERATIONS: Array<Generation, { MAX_NETWORKS as usize }> = Array::new();

#[btf_map]
pub static FLOWS: LruHashMap<FlowKey, Flow, { MAX_FLOWS as usize }> = LruHashMap::new();

#[btf_map]
pub static OPENED: Array<Opened, { OPENED_SLOTS as usize }> = Array::new();

#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragment, { MAX_FRAGMENTS as usize }> = LruHashMap::new();

#[btf_map]
pub static COUNTERS: PerCpuArray<Counter, { Reason::COUNT + 1 }> = PerCpuArray::new();

#[btf_map]
pub static TOKENS: PerCpuArray<Tokens, { Reason::COUNT }> = PerCpuArray::new();

#[btf_map]
pub static EPOCH: Array<Epoch, 1> = Array::new();

/// Never pinned: what one daemon's programs decided is nothing to the next one's.
#[btf_map]
pub static CACHE: PerCpuArray<Place, { 1 << CACHE_BITS }> = PerCpuArray::new();

/// The tags of the places, close together: most of what isn't kept is told by them alone.
#[btf_map]
pub static CACHE_TAGS: PerCpuArray<[u16; 1 << CACHE_BITS], 1> = PerCpuArray::new();

#[btf_map]
pub static DEVICES: HashMap<Address, DeviceEntry, { MAX_DEVICES as usize }, SPARSE> = HashMap::new();

#[btf_map]
pub static LANS: HashMap<u32, LanEntry, { MAX_DEVICES as usize }, SPARSE> = HashMap::new();

#[btf_map]
pub static NAT_OUT: HashMap<FlowKey, Outward, { MAX_TRANSLATIONS as usize }, SPARSE> = HashMap::new();

#[btf_map]
pub static NAT_IN: HashMap<FlowKey, Inward, { MAX_TRANSLATIONS as usize }, SPARSE> = HashMap::new();

/// The outward key of a flow that user space is about to take out. Never pinned.
#[btf_map]
pub static SWEEPING: Array<FlowKey, 1> = Array::new();

#[btf_map]
pub static NAT_PIECES: LruHashMap<FragmentKey, Inward, { MAX_FRAGMENTS as usize }> = LruHashMap::new();

/// What is under way.
pub struct Scratch {
    pub packet: Packet,
    pub reason: Reason,
    pub change: Change,
    pub neutral: bool,
    pub plan: Plan,
    /// Port for a new flow to a LAN device.
    pub chosen: u16,
}

/// The packet under way: programs at this hook don't interrupt each other on a CPU.
#[btf_map]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

#[btf_map]
pub static RATES: Array<FlowRate, { FLOW_RATES as usize }> = Array::new();

/// The workers that there are to steer to.
#[btf_map]
pub static WORKERS: Array<Steering, 1> = Array::new();

/// When a flow became bulk last, in nanoseconds of the monotonic clock; user space reads it in its own memory.
#[btf_map]
pub static PROMOTED: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map]
pub static EVENTS: RingBuf<Event, { EVENT_BYTES as usize }> = RingBuf::new();
