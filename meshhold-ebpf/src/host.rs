//! The classifier's [`Host`] over the kernel maps, and its [`Load`] over the packet.

use aya_ebpf::{
    btf_maps::lpm_trie::Key,
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns},
    programs::TcContext,
};
use meshhold_common::{
    Address, Delivery, Host, Load, Packet, Peer, Place, Renewal, Stamp,
    classify::Caller,
    maps::{CallerKey, FLOW_TICKS, Flow, FlowKey, Fragment, LISTEN_TICKS, opened_slot, port_bit, port_slot},
    packet::TCP,
};

use crate::{maps, socket};

/// The packet, from its first byte.
pub struct Skb<'a>(pub &'a TcContext);

/// As far as this from the packet's start it is read directly. The verifier wants a bound.
const DIRECT: u32 = 0xff;

impl Load for Skb<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        if offset <= DIRECT {
            let start = self.0.data() + offset as usize;
            if start + 4 * N <= self.0.data_end() {
                // SAFETY: the bytes lie inside the packet, as the verifier checks. Headers are aligned to words
                // wherever the processor asks for that.
                return Some(unsafe { *(start as *const [u32; N]) });
            }
        }
        self.load_far(offset)
    }

    /// One way less for the verifier to follow.
    #[inline(always)]
    fn load_far<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.0.load(offset as usize).ok()
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.0.len()
    }
}

/// The tables, as maps.
pub struct KernelHost<'a>(pub &'a TcContext);

impl Host for KernelHost<'_> {
    #[inline(always)]
    fn own(&mut self, address: &Address) -> Option<u32> {
        // SAFETY: the entry is read at once; the loader replaces values, it never reuses them for another type.
        unsafe { maps::OWN.get(address) }.map(|own| own.index())
    }

    #[inline(always)]
    fn range(&mut self, address: &Address) -> Option<u32> {
        maps::RANGES.get(&Key::new(128, *address)).map(|range| range.network)
    }

    #[inline(always)]
    fn device_network(&mut self, address: &Address) -> Option<u32> {
        // SAFETY: as in `own`.
        unsafe { maps::DEVICES.get(address) }.map(|device| device.network)
    }

    #[inline(always)]
    fn peer(&mut self, address: &Address) -> Option<Peer> {
        // SAFETY: as in `own`.
        let entry = unsafe { maps::PEERS.get(address) }?;
        Some(Peer { network: entry.network, caller: entry.caller })
    }

    #[inline(always)]
    fn caller(&mut self, address: [u8; 4]) -> Option<Caller> {
        // SAFETY: as in `own`.
        let entry = unsafe { maps::CALLERS.get(CallerKey { octets: address }) }?;
        Some(Caller { peer: entry.peer, own: entry.own, network: entry.network })
    }

    #[inline(always)]
    fn is_open(&mut self, network: u32, protocol: u8, port: u16) -> bool {
        let Some(generation) = maps::GENERATIONS.get(network) else { return false };
        let Some(bits) = maps::PORTS.get(port_slot(network, protocol, generation.active)) else {
            return false;
        };
        let (word, bit) = port_bit(port);
        bits.open.get(word).is_some_and(|open| open & bit != 0)
    }

    #[inline(always)]
    fn is_retired(&mut self, network: u32, protocol: u8, port: u16) -> bool {
        let Some(generation) = maps::GENERATIONS.get(network) else { return false };
        if generation.retired_until == 0 {
            return false;
        }
        let Some(bits) = maps::PORTS.get(port_slot(network, protocol, generation.active)) else {
            return false;
        };
        let (word, bit) = port_bit(port);
        bits.retired.get(word).is_some_and(|retired| retired & bit != 0)
            && seconds() < generation.retired_until
    }

    #[inline(always)]
    fn flow(&mut self, key: &FlowKey, renewal: Renewal) -> bool {
        if !is_opened(key) {
            return false;
        }
        let Some(flow) = maps::FLOWS.get_ptr_mut(key) else { return false };
        if key.protocol == TCP {
            return true;
        }
        // SAFETY: the pointer is a live map value; a word that another CPU writes is still a time.
        let flow = unsafe { &mut *flow };
        // Read before the clock, which therefore can't be behind it.
        let (used, sent) = (flow.used, flow.sent);
        let now = tick();
        let age = now.wrapping_sub(used);
        if age > FLOW_TICKS {
            return false;
        }
        // Written once a tick: the entry is shared between CPUs.
        match renewal {
            Renewal::Sent if sent != now => (flow.used, flow.sent) = (now, now),
            Renewal::Received if age > 0 && now.wrapping_sub(sent) <= LISTEN_TICKS => flow.used = now,
            _ => {}
        }
        true
    }

    #[inline(always)]
    fn open_flow(&mut self, key: &FlowKey) {
        mark_opened(key);
        let now = tick();
        // A full table evicts; what is left to fail is memory, and then the answer is dropped, not let in.
        let _ = maps::FLOWS.insert(key, Flow { used: now, sent: now }, 0);
    }

    #[inline(always)]
    fn fragment(&mut self, packet: &Packet) -> Option<Delivery> {
        // SAFETY: as in `own`.
        let entry = unsafe { maps::FRAGMENTS.get(packet.fragment_key()) }?;
        Some(Delivery::from_u32(entry.delivery))
    }

    #[inline(always)]
    fn keep_fragment(&mut self, packet: &Packet, delivery: Delivery) {
        let _ = maps::FRAGMENTS.insert(packet.fragment_key(), Fragment { delivery: delivery as u32 }, 0);
    }

    #[inline(always)]
    fn delivery(&mut self, packet: &Packet, peer: &Peer) -> Delivery {
        socket::delivery(self.0, packet, peer)
    }

    #[inline(always)]
    fn stamp(&mut self) -> Stamp {
        Stamp { policy: maps::EPOCH.get(0).map_or(0, |epoch| epoch.policy), tick: jiffies() }
    }

    #[inline(always)]
    fn place(&mut self, index: u32) -> Option<&mut Place> {
        // SAFETY: the slot is this CPU's, and one run of a program ends before the next one starts on it.
        maps::CACHE.get_ptr_mut(index).map(|place| unsafe { &mut *place })
    }

    #[inline(always)]
    fn has_tag(&mut self, index: u32, tag: u16) -> bool {
        let Some(tags) = maps::CACHE_TAGS.get_ptr_mut(0) else { return false };
        // SAFETY: as in `place`.
        unsafe { &*tags }.get(index as usize).is_some_and(|kept| *kept == tag)
    }

    #[inline(always)]
    fn set_tag(&mut self, index: u32, tag: u16) {
        let Some(tags) = maps::CACHE_TAGS.get_ptr_mut(0) else { return };
        // SAFETY: as in `place`.
        if let Some(kept) = unsafe { &mut *tags }.get_mut(index as usize) {
            *kept = tag;
        }
    }
}

/// Whether there may be a flow from this local port.
#[inline(always)]
fn is_opened(key: &FlowKey) -> bool {
    let Some(opened) = maps::OPENED.get(opened_slot(key.protocol)) else { return true };
    opened.ports.get(usize::from(key.local_port)).is_none_or(|mark| *mark != 0)
}

#[inline(always)]
fn mark_opened(key: &FlowKey) {
    let Some(opened) = maps::OPENED.get_ptr_mut(opened_slot(key.protocol)) else { return };
    // SAFETY: the pointer is a live map value; all that is ever written to it is this mark.
    if let Some(mark) = unsafe { (*opened).ports.get_mut(usize::from(key.local_port)) } {
        *mark = 1;
    }
}

/// Seconds since boot.
#[inline(always)]
pub fn seconds() -> u32 {
    (nanoseconds() / 1_000_000_000) as u32
}

/// Counts up about every second (2^30 ns), while the machine is awake. A sixth of the cost of [`seconds`].
#[inline(always)]
pub fn tick() -> u32 {
    // SAFETY: the helper takes nothing and can't fail.
    (unsafe { bpf_ktime_get_coarse_ns() } >> 30) as u32
}

/// Counts up every 256 timer interrupts, so every 0.26 to 2.6 seconds, as the kernel was built. Costs one read.
#[inline(always)]
pub fn jiffies() -> u32 {
    // SAFETY: the helper takes nothing and can't fail.
    (unsafe { bpf_jiffies64() } >> 8) as u32
}

/// Nanoseconds since boot.
#[inline(always)]
pub fn nanoseconds() -> u64 {
    // SAFETY: the helper takes nothing and can't fail.
    unsafe { bpf_ktime_get_boot_ns() }
}
