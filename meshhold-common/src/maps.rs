//! Keys and values of the kernel maps, and their sizes.
//!
//! Every type is plain old data without hidden padding: the derives of bytemuck refuse anything else at compile
//! time. Addresses are in network byte order, ports and numbers in host order.

use bytemuck::{Pod, Zeroable};

use crate::{Address, Reason};

/// Most networks that one node can be in.
pub const MAX_NETWORKS: u32 = 16;
/// Most peers over all networks.
pub const MAX_PEERS: u32 = 16_384;
/// Flows that this node opened; the least recently used makes room.
pub const MAX_FLOWS: u32 = 65_536;
/// Fragmented datagrams under way; the least recently used makes room.
pub const MAX_FRAGMENTS: u32 = 4_096;
/// Decisions that each CPU keeps for a moment, as a power of two; see [`crate::cache`].
pub const CACHE_BITS: u32 = 13;
/// Bytes of the drop event ring.
pub const EVENT_BYTES: u32 = 65_536;
/// Drop events for one reason and CPU in one tick of [`crate::Stamp`].
pub const EVENTS_PER_TICK: u32 = 10;
/// Slots in which the rates of outgoing flows are kept; flows that share one share its judgement.
pub const FLOW_RATES: u32 = 4_096;
/// Seconds that a UDP or echo flow lives after its last packet. TCP flows don't age.
pub const FLOW_SECONDS: u32 = 300;
/// The same in ticks of 2^30 nanoseconds, which the kernel programs count in while the machine is awake.
pub const FLOW_TICKS: u32 = ticks(FLOW_SECONDS);
/// Seconds after the last packet that this node sent on a UDP flow, for which what is received keeps it alive: a day of
/// a stream that nobody answers.
pub const LISTEN_SECONDS: u32 = 86_400;
/// The same in such ticks.
pub const LISTEN_TICKS: u32 = ticks(LISTEN_SECONDS);
/// Seconds for which a port that was closed is kept from opening UDP flows.
pub const RETIRED_SECONDS: u32 = 300;
/// Slot of the counter map that counts every packet, next to one slot a [`Reason`].
pub const SEEN: u32 = Reason::COUNT as u32;
/// Words of a port bitmap.
pub const PORT_WORDS: usize = 1024;

const fn ticks(seconds: u32) -> u32 {
    ((seconds as u64 * 1_000_000_000) >> 30) as u32
}

/// Packets and bytes of one outcome on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Counter {
    /// Packets; a GSO super-packet counts once.
    pub packets: u64,
    /// Bytes from the IP header on (on other interfaces: from the link header on).
    pub bytes: u64,
}

/// Mark of [`Own::network`]: the mesh interface has no IPv6, so nothing of the host takes packets for this address.
pub const WITHOUT_IPV6: u32 = 1 << 16;

/// An address of this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Own {
    /// Index of the network on this node, and perhaps [`WITHOUT_IPV6`].
    pub network: u32,
}

impl Own {
    /// Index of the network on this node.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.network & (WITHOUT_IPV6 - 1)
    }

    /// Whether IPv6 packets for the address must become IPv4 ones to reach anybody.
    #[inline(always)]
    pub const fn is_without_ipv6(self) -> bool {
        self.network & WITHOUT_IPV6 != 0
    }
}

/// The network that a mesh range belongs to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Range {
    /// Index of the network on this node.
    pub network: u32,
}

/// An early no to what the barrier is about: the bits that all barred prefixes of a family have in common, in the last
/// word of an IPv4 address and the first of an IPv6 address, as they lie in memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct BarrierHint {
    /// Bits of an IPv4 address that count; [`Self::value4`] has none beside these where there is a prefix.
    pub mask4: u32,
    /// What they are. Where no IPv4 prefix is barred, what can't be.
    pub value4: u32,
    /// Bits of the first word of an IPv6 address that count.
    pub mask6: u32,
    /// What they are. Where no IPv6 prefix is barred, what can't be.
    pub value6: u32,
}

impl BarrierHint {
    /// Nothing is barred.
    pub const NOTHING: Self = Self { mask4: 0, value4: 1, mask6: 0, value6: 1 };

    /// Whether the address may be barred.
    #[inline(always)]
    pub fn may_hold(&self, address: &Address) -> bool {
        let [first, _, _, last] = address.raw();
        let (word, mask, value) =
            if address.is_v4() { (last, self.mask4, self.value4) } else { (first, self.mask6, self.value6) };
        word & mask == value
    }
}

/// A prefix whose addresses leave by the mesh interface or not at all.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Barred {
    /// Always 1.
    pub is: u32,
}

/// A peer, found by one of its mesh addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct PeerEntry {
    /// Number of the peer on this node.
    pub index: u32,
    /// Index of the network on this node.
    pub network: u32,
    /// Caller address that stands for this mesh address; zero where none.
    pub caller: [u8; 4],
}

/// A caller address.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct CallerKey {
    /// Network byte order.
    pub octets: [u8; 4],
}

/// A peer, found by one of its caller addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct CallerEntry {
    /// The peer's mesh address.
    pub peer: Address,
    /// Our own address in the same network and family.
    pub own: Address,
    /// Index of the network on this node.
    pub network: u32,
}

/// The open ports of one network and protocol, in one generation.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct PortBits {
    /// One bit a port: in the port scope.
    pub open: [u64; PORT_WORDS],
    /// One bit a port: recently taken out of the scope.
    pub retired: [u64; PORT_WORDS],
}

/// Which generation of the port bitmaps is valid for a network.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Generation {
    /// 0 or 1, see [`port_slot`].
    pub active: u32,
    /// Seconds since boot at which the retired ports are free again.
    pub retired_until: u32,
}

/// The whole policy, over all tables.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Epoch {
    /// Counts changes; never 0 once there was one. Changed after the tables, so that nothing decided by the old ones
    /// bears the new number.
    pub policy: u32,
}

/// A flow that this node opened.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct FlowKey {
    /// Our own mesh address.
    pub local: Address,
    /// The other end's mesh address.
    pub remote: Address,
    /// Our port, or the echo identifier.
    pub local_port: u16,
    /// Their port; 0 for echo.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

impl FlowKey {
    /// From its parts, written as words: see [`Address::raw`].
    #[inline(always)]
    pub fn new(local: Address, remote: Address, local_port: u16, remote_port: u16, protocol: u8) -> Self {
        let [a, b, c, d] = local.raw();
        let [e, f, g, h] = remote.raw();
        #[cfg(target_endian = "little")]
        let (ports, last) = (u32::from(remote_port) << 16 | u32::from(local_port), u32::from(protocol));
        #[cfg(target_endian = "big")]
        let (ports, last) = (u32::from(local_port) << 16 | u32::from(remote_port), u32::from(protocol) << 24);
        bytemuck::cast([a, b, c, d, e, f, g, h, ports, last])
    }
}

impl FlowKey {
    /// Equality by words, as the kernel programs want it.
    #[inline(always)]
    pub fn is(&self, other: &Self) -> bool {
        let ports = |key: &Self| u32::from(key.remote_port) << 16 | u32::from(key.local_port);
        let differ = ports(self) ^ ports(other) | u32::from(self.protocol ^ other.protocol);
        differ == 0 && self.local.is(&other.local) && self.remote.is(&other.remote)
    }
}

/// State of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Flow {
    /// Tick of the last packet that kept it alive (TCP: of the last SYN), see [`FLOW_TICKS`].
    pub used: u32,
    /// Tick of the last packet that this node sent, see [`LISTEN_TICKS`].
    pub sent: u32,
}

/// Local ports (or echo identifiers) from which this node has opened flows of one protocol: what is not marked here
/// has no flow, and needn't be looked for among them.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Opened {
    /// 1 where marked; a mark stays.
    pub ports: [u8; 65_536],
}

/// A fragmented datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct FragmentKey {
    /// Source address as received.
    pub source: Address,
    /// Destination address as received.
    pub destination: Address,
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// IPv4 protocol, or the next header field of the IPv6 fragment header.
    pub protocol: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

/// What was decided at the first fragment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Fragment {
    /// A [`crate::Delivery`] as number.
    pub delivery: u32,
}

/// Rate limit of the drop events for one reason on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Tokens {
    /// Tick that `used` is about, as in [`crate::Stamp`].
    pub tick: u32,
    /// Events sent in it.
    pub used: u32,
}

/// What a flow has sent lately, see [`crate::steer`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowRate {
    /// Milliseconds (wrapping) at which the counting of `bytes` began.
    pub since: u32,
    /// Milliseconds of the last packet.
    pub last: u32,
    /// Bytes since then.
    pub bytes: u32,
    /// 1 where the flow is bulk.
    pub bulk: u32,
    /// The worker that carries it while it is sparse.
    pub worker: u32,
}

/// How packets are shared out to the workers, see [`crate::steer`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Steering {
    /// Each has a queue for bulk and one for what is sparse.
    pub workers: u32,
    /// 1 where bulk of TCP has its worker by flow, as all other bulk; 0: by direction only.
    pub spread: u32,
}

/// Protocols with marks of their own in [`Opened`]: TCP, UDP, ICMP.
pub const OPENED_SLOTS: u32 = 3;

/// Slot of a protocol's marks.
#[inline(always)]
pub const fn opened_slot(protocol: u8) -> u32 {
    match protocol {
        crate::packet::TCP => 0,
        crate::packet::UDP => 1,
        _ => 2,
    }
}

/// Slot of a port bitmap: `protocol` is 6 (TCP) or 17 (UDP), `generation` 0 or 1.
#[inline(always)]
pub const fn port_slot(network: u32, protocol: u8, generation: u32) -> u32 {
    (network << 2) | ((generation & 1) << 1) | (protocol == crate::packet::TCP) as u32
}

/// Word and bit of a port in a bitmap.
#[inline(always)]
pub const fn port_bit(port: u16) -> (usize, u64) {
    ((port >> 6) as usize & (PORT_WORDS - 1), 1 << (port & 63))
}

#[cfg(feature = "user")]
mod user {
    //! The same types, as aya's user space side wants them marked.

    macro_rules! pod {
        ($($name:ty),+ $(,)?) => {$(
            // SAFETY: bytemuck's derive proved at compile time that every bit pattern is valid and nothing is padding.
            unsafe impl aya::Pod for $name {}
        )+};
    }

    pod!(
        crate::Address,
        super::Barred,
        super::BarrierHint,
        super::CallerEntry,
        super::CallerKey,
        super::Counter,
        super::Epoch,
        super::Flow,
        super::FlowRate,
        super::FlowKey,
        super::Fragment,
        super::FragmentKey,
        super::Generation,
        super::Opened,
        super::Own,
        super::PeerEntry,
        super::PortBits,
        super::Range,
        super::Steering,
        super::Tokens,
        crate::nat::DeviceEntry,
        crate::nat::Inward,
        crate::nat::LanEntry,
        crate::nat::Outward,
        crate::relay::HopKey,
        crate::relay::LegEntry,
        crate::relay::LegState,
        crate::relay::SourceState,
    );
}
