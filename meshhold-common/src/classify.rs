//! The classifier: one packet in, one [`Verdict`] out. It runs in the kernel programs and in user space.
//!
//! Decides, and never touches a byte: what has to be rewritten is part of the verdict. Must not know where its
//! tables are kept; [`Host`] answers for them.

use crate::{
    Address, Load, Packet, Place, Reason, Stamp, address,
    cache::{self, Pair},
    event::{EGRESS, INGRESS},
    maps::FlowKey,
    packet::{ICMP6, IPV4_BYTES, IPV6_BYTES, Piece, TCP, UDP},
};

/// A peer's entry, found by its mesh address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Index of the network.
    pub network: u32,
    /// Caller address that stands for the mesh address that was looked up; zero where none.
    pub caller: [u8; 4],
}

/// A peer's entry, found by its caller address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The peer's mesh address.
    pub peer: Address,
    /// Our own address in the same network and family.
    pub own: Address,
    /// Index of the network.
    pub network: u32,
}

/// How an allowed incoming packet reaches its service.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Untouched, to the mesh address.
    Native = 0,
    /// To `127.0.0.1`, from the peer's caller address.
    Loopback = 1,
    /// IPv4: to the mesh address that the service is bound to, from the peer's caller address.
    Caller = 2,
    /// IPv6: to `::1`, from the peer's mesh address, by the loopback interface: by no other the kernel takes it.
    Loopback6 = 3,
}

impl Delivery {
    /// From the number in [`crate::maps::Fragment`].
    #[inline(always)]
    pub const fn from_u32(number: u32) -> Self {
        match number {
            1 => Self::Loopback,
            2 => Self::Caller,
            3 => Self::Loopback6,
            _ => Self::Native,
        }
    }
}

/// What a packet does for the life of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Nothing.
    No,
    /// This node has sent it: the flow lives on.
    Sent,
    /// A member has: the flow lives on, but for [`crate::maps::LISTEN_SECONDS`] at most.
    Received,
}

/// The tables that the classifier asks. One implementation reads kernel maps, another plain collections.
pub trait Host {
    /// Network of an address of ours.
    fn own(&mut self, address: &Address) -> Option<u32>;
    /// Network whose range holds the address.
    fn range(&mut self, address: &Address) -> Option<u32>;
    /// Network of a LAN device that this node forwards, by its mesh address.
    fn device_network(&mut self, address: &Address) -> Option<u32> {
        let _ = address;
        None
    }
    /// Peer with this mesh address.
    fn peer(&mut self, address: &Address) -> Option<Peer>;
    /// Peer with this caller address.
    fn caller(&mut self, address: [u8; 4]) -> Option<Caller>;
    /// Whether a local port is in the port scope; `protocol` is TCP or UDP.
    fn is_open(&mut self, network: u32, protocol: u8, port: u16) -> bool;
    /// Whether it was taken out of the scope a short while ago: what still leaves from it answers flows that have
    /// been cut.
    fn is_retired(&mut self, network: u32, protocol: u8, port: u16) -> bool;
    /// True for a live flow of ours: not older than [`crate::maps::FLOW_SECONDS`], or TCP.
    fn flow(&mut self, key: &FlowKey, renewal: Renewal) -> bool;
    /// Remembers a flow that this node opens.
    fn open_flow(&mut self, key: &FlowKey);
    /// What was decided for the datagram's first fragment, if that passed.
    fn fragment(&mut self, packet: &Packet) -> Option<Delivery>;
    /// Remembers that decision.
    fn keep_fragment(&mut self, packet: &Packet, delivery: Delivery);
    /// Which service would receive the packet (TCP or UDP, port in scope).
    fn delivery(&mut self, packet: &Packet, peer: &Peer) -> Delivery;
    /// Under what decisions are made now; asked before any table is.
    fn stamp(&mut self) -> Stamp {
        Stamp::default()
    }
    /// A place for a decision, by a number below 2^[`crate::maps::CACHE_BITS`]; `None` where none are kept. Nobody
    /// else may use it during the packet.
    fn place(&mut self, index: u32) -> Option<&mut Place> {
        let _ = index;
        None
    }
    /// Whether the place may hold what has this tag: a look that spares a long one.
    fn has_tag(&mut self, index: u32, tag: u16) -> bool {
        let _ = (index, tag);
        true
    }
    /// Marks what is about to be put into the place.
    fn set_tag(&mut self, index: u32, tag: u16) {
        let _ = (index, tag);
    }
}

/// What is to be done with a passed packet, apart from its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing: it goes on as it is, or it is dropped.
    Keep,
    /// New addresses, of the same family.
    Rewrite,
    /// IPv6 becomes IPv4.
    ToIpv4,
    /// IPv4 becomes IPv6.
    ToIpv6,
    /// New addresses, of the same family, and on by the loopback interface.
    ByLoopback,
}

/// What is to be done with a passed packet. (No enum with fields: an unset field must not reach a register in the
/// kernel, and there the addresses are set in every case.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// Kind of change.
    pub change: Change,
    /// Checksums that cover the addresses stay right with the new ones; false where that isn't known.
    pub neutral: bool,
    /// New source; of the new family.
    pub source: Address,
    /// New destination; of the new family.
    pub destination: Address,
}

impl Action {
    /// Gives the packet these ends.
    #[inline(always)]
    fn readdress(&mut self, packet: &Packet, source: Address, destination: Address) {
        self.neutral =
            address::sum([&packet.source, &packet.destination]) == address::sum([&source, &destination]);
        self.source = source;
        self.destination = destination;
    }

    /// Nothing to do.
    pub const KEEP: Self = Self {
        change: Change::Keep,
        neutral: false,
        source: Address { bytes: [0; 16] },
        destination: Address { bytes: [0; 16] },
    };
}

/// The outcome of one packet.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why; [`Reason::is_pass`] says whether it goes on.
    pub reason: Reason,
    /// How it goes on; [`Action::KEEP`] for a dropped one.
    pub action: Action,
}

/// Decides about a packet that comes from the mesh. `packet` receives what was read on the way.
#[inline(always)]
pub fn classify_ingress<L: Load, H: Host>(load: &L, host: &mut H, packet: &mut Packet) -> Verdict {
    let mut action = Action::KEEP;
    let (Ok(reason) | Err(reason)) = ingress(load, host, packet, &mut action);
    Verdict { reason, action }
}

/// Decides about a packet that a local program sends into the mesh interface.
#[inline(always)]
pub fn classify_egress<L: Load, H: Host>(load: &L, host: &mut H, packet: &mut Packet) -> Verdict {
    let mut action = Action::KEEP;
    let (Ok(reason) | Err(reason)) = egress(load, host, packet, &mut action);
    Verdict { reason, action }
}

/// True where a packet on another interface must be dropped: mesh ranges and caller addresses have no business
/// there, though Linux' weak host model would answer them.
#[inline(always)]
pub fn guard<H: Host>(host: &mut H, source: &Address, destination: &Address) -> bool {
    destination.is_caller()
        || source.is_caller()
        || host.range(destination).is_some()
        || host.range(source).is_some()
}

/// Makes later reads come from memory. The kernel's verifier then goes on with one state instead of one for each way
/// through the parser: a sixth of the work.
#[inline(always)]
fn settle(packet: &mut Packet) -> &mut Packet {
    core::hint::black_box(packet)
}

/// A reason to pass, or one to drop.
type Outcome = Result<Reason, Reason>;

#[inline(always)]
fn ingress<L: Load, H: Host>(load: &L, host: &mut H, packet: &mut Packet, action: &mut Action) -> Outcome {
    packet.parse_network(load)?;
    let packet = settle(packet);
    let transport = packet.parse_transport(load);
    let packet = settle(packet);
    let stamp = host.stamp();
    let is_flow = transport.is_ok() && cache::is_flow(packet);
    if is_flow && let Some(reason) = cache::recall(host, packet, INGRESS, stamp, action) {
        return Ok(reason);
    }
    let peer = match cache::recall_pair(host, packet, INGRESS, stamp) {
        Some(Pair { network, source, .. }) => {
            transport?;
            Peer { network, caller: source.octets4() }
        }
        None => {
            let network = ingress_network(host, packet)?;
            transport?;
            match host.peer(&packet.source) {
                Some(peer) if peer.network == network => {
                    let pair = Pair { network, source: Address::v4(peer.caller), ..Pair::NOTHING };
                    cache::remember_pair(host, packet, INGRESS, stamp, &pair);
                    peer
                }
                // The worker's own Host Unreachable comes from an address that no member owns. It is an error, and
                // judged as one below.
                None if is_error(packet) && host.range(&packet.source) == Some(network) => {
                    Peer { network, caller: [0; 4] }
                }
                _ => return Err(Reason::UnknownSource),
            }
        }
    };
    if packet.piece == Piece::Later {
        let Some(delivery) = host.fragment(packet) else { return Err(Reason::FragmentNoFirst) };
        deliver(packet, &peer, delivery, action);
        return Ok(Reason::PassFragment);
    }
    let reason = match packet.protocol {
        TCP | UDP => ingress_ports(host, packet, peer.network)?,
        _ if is_error(packet) => return related_error(load, host, packet, peer.network),
        _ => ingress_echo(host, packet)?,
    };
    let delivery = if reason == Reason::PassScope { host.delivery(packet, &peer) } else { Delivery::Native };
    if packet.piece == Piece::First {
        host.keep_fragment(packet, delivery);
    }
    deliver(packet, &peer, delivery, action);
    if is_flow {
        cache::remember(host, packet, INGRESS, stamp, reason, action);
    }
    Ok(reason)
}

/// The network whose address of ours the packet is for.
#[inline(always)]
fn ingress_network<H: Host>(host: &mut H, packet: &Packet) -> Result<u32, Reason> {
    if packet.source.is_loopback() || packet.destination.is_loopback() {
        return Err(Reason::LoopbackAddress);
    }
    if packet.source.is_multicast() || packet.destination.is_multicast() {
        return Err(Reason::Multicast);
    }
    let Some(network) = host.own(&packet.destination) else { return Err(Reason::NotForUs) };
    if host.own(&packet.source).is_some() {
        return Err(Reason::SpoofedSource);
    }
    Ok(network)
}

#[inline(always)]
fn ingress_ports<H: Host>(host: &mut H, packet: &Packet, network: u32) -> Outcome {
    if host.is_open(network, packet.protocol, packet.destination_port) {
        return Ok(Reason::PassScope);
    }
    // A flow of ours never admits a new connection of theirs, however old its entry is.
    if !packet.is_syn() && host.flow(&incoming(packet), Renewal::Received) {
        return Ok(Reason::PassFlow);
    }
    Err(Reason::PortDenied)
}

#[inline(always)]
fn ingress_echo<H: Host>(host: &mut H, packet: &Packet) -> Outcome {
    match echo(packet) {
        Some(Echo::Request) => Ok(Reason::PassIcmpEcho),
        Some(Echo::Reply)
            if host.flow(&echo_flow(packet.destination, packet.source, packet), Renewal::No) =>
        {
            Ok(Reason::PassIcmpReply)
        }
        Some(Echo::Reply) => Err(Reason::IcmpUnrelated),
        None => Err(Reason::IcmpType),
    }
}

#[inline(always)]
fn deliver(packet: &Packet, peer: &Peer, delivery: Delivery, action: &mut Action) {
    if delivery == Delivery::Native || u32::from_ne_bytes(peer.caller) == 0 {
        return;
    }
    if delivery == Delivery::Loopback6 {
        action.change = Change::ByLoopback;
        action.readdress(packet, packet.source, Address::LOOPBACK6);
        return;
    }
    let change = if packet.version == 4 { Change::Rewrite } else { Change::ToIpv4 };
    if change == Change::ToIpv4 && !packet.is_plain() {
        return;
    }
    action.change = change;
    let localhost = Address::v4(Address::LOOPBACK4);
    let destination = if delivery == Delivery::Caller { packet.destination } else { localhost };
    action.readdress(packet, Address::v4(peer.caller), destination);
}

#[inline(always)]
fn egress<L: Load, H: Host>(load: &L, host: &mut H, packet: &mut Packet, action: &mut Action) -> Outcome {
    packet.parse_network(load)?;
    let packet = settle(packet);
    let transport = packet.parse_transport(load);
    let packet = settle(packet);
    let stamp = host.stamp();
    let is_flow = transport.is_ok() && cache::is_flow(packet);
    if is_flow && let Some(reason) = cache::recall(host, packet, EGRESS, stamp, action) {
        return Ok(reason);
    }
    let pair = match cache::recall_pair(host, packet, EGRESS, stamp) {
        Some(pair) => pair,
        None => {
            let pair = egress_pair(host, packet)?;
            cache::remember_pair(host, packet, EGRESS, stamp, &pair);
            pair
        }
    };
    transport?;
    if !pair.is_from_loopback() {
        return egress_mesh(host, packet, &pair, stamp, is_flow);
    }
    let reason = egress_loopback(host, packet, &pair, action)?;
    if is_flow {
        cache::remember(host, packet, EGRESS, stamp, reason, action);
    }
    Ok(reason)
}

/// What the packet's two addresses may be to each other.
#[inline(always)]
fn egress_pair<H: Host>(host: &mut H, packet: &Packet) -> Result<Pair, Reason> {
    if packet.destination.is_multicast() || packet.source.is_multicast() {
        return Err(Reason::Multicast);
    }
    if packet.destination.is_caller() {
        // Unconnected UDP sockets answer from the address that the route names, which can be one of ours.
        let localhost = Address::v4(Address::LOOPBACK4);
        if !packet.source.is(&localhost) && host.own(&packet.source).is_none() {
            return Err(Reason::LoopbackAddress);
        }
        let Some(caller) = host.caller(packet.destination.octets4()) else { return Err(Reason::NoCaller) };
        return Ok(Pair { network: caller.network, source: caller.own, destination: caller.peer });
    }
    if packet.source.is(&Address::LOOPBACK6) {
        return loopback6_pair(host, packet);
    }
    if packet.destination.is_loopback() || packet.source.is_loopback() {
        return Err(Reason::LoopbackAddress);
    }
    let Some(network) = host.range(&packet.destination) else { return Err(Reason::NotMesh) };
    if host.own(&packet.source) != Some(network) && host.device_network(&packet.source) != Some(network) {
        return Err(Reason::SpoofedSource);
    }
    Ok(Pair { network, ..Pair::NOTHING })
}

/// From a service on `::1` to a peer's mesh address, as which it knows its caller.
#[inline(always)]
fn loopback6_pair<H: Host>(host: &mut H, packet: &Packet) -> Result<Pair, Reason> {
    let Some(peer) = host.peer(&packet.destination) else { return Err(Reason::LoopbackAddress) };
    let Some(caller) = host.caller(peer.caller) else { return Err(Reason::LoopbackAddress) };
    Ok(Pair { network: peer.network, source: caller.own, destination: packet.destination })
}

#[inline(always)]
fn egress_mesh<H: Host>(host: &mut H, packet: &Packet, pair: &Pair, stamp: Stamp, is_flow: bool) -> Outcome {
    if packet.piece == Piece::Later {
        return match host.fragment(packet) {
            Some(_) => Ok(Reason::PassFragment),
            None => Err(Reason::FragmentNoFirst),
        };
    }
    let known = match packet.protocol {
        TCP | UDP => egress_ports(host, packet, pair.network)?,
        _ => egress_icmp(host, packet)?,
    };
    if packet.piece == Piece::First {
        host.keep_fragment(packet, Delivery::Native);
    }
    // Many flows have one packet: the second one shows that it's worth a place.
    if is_flow && known {
        cache::remember(host, packet, EGRESS, stamp, Reason::PassEgress, &Action::KEEP);
    }
    Ok(Reason::PassEgress)
}

/// From a loopback-delivered service back to its caller. Nothing but answers from an open port leaves here, so
/// closing the port cuts the flow in this direction too.
#[inline(always)]
fn egress_loopback<H: Host>(host: &mut H, packet: &Packet, caller: &Pair, action: &mut Action) -> Outcome {
    let reason = if packet.piece == Piece::Later {
        if host.fragment(packet).is_none() {
            return Err(Reason::FragmentNoFirst);
        }
        Reason::PassFragment
    } else {
        if !matches!(packet.protocol, TCP | UDP) {
            return Err(Reason::IcmpType);
        }
        if !host.is_open(caller.network, packet.protocol, packet.source_port) {
            return Err(Reason::PortDenied);
        }
        if packet.piece == Piece::First {
            host.keep_fragment(packet, Delivery::Loopback);
        }
        Reason::PassEgress
    };
    let is_of_one_family = packet.version == 6 || caller.destination.is_v4();
    action.change = if is_of_one_family { Change::Rewrite } else { Change::ToIpv6 };
    if action.change == Change::ToIpv6 && !packet.is_plain() {
        return Err(Reason::ProtocolUnknown);
    }
    action.readdress(packet, caller.source, caller.destination);
    Ok(reason)
}

/// Passes what the flow allows; true where that was there before this packet.
#[inline(always)]
fn egress_ports<H: Host>(host: &mut H, packet: &Packet, network: u32) -> Result<bool, Reason> {
    if host.is_open(network, packet.protocol, packet.source_port) {
        return Ok(true);
    }
    let flow = outgoing(packet);
    let opens = packet.is_syn() || packet.protocol == UDP;
    if host.flow(&flow, if opens { Renewal::Sent } else { Renewal::No }) {
        return Ok(true);
    }
    // Without a flow of ours this is a service whose port has been closed.
    if !opens || (packet.protocol == UDP && host.is_retired(network, packet.protocol, packet.source_port)) {
        return Err(Reason::PortDenied);
    }
    host.open_flow(&flow);
    Ok(false)
}

#[inline(always)]
fn egress_icmp<H: Host>(host: &mut H, packet: &Packet) -> Result<bool, Reason> {
    match echo(packet) {
        Some(Echo::Request) => {
            let flow = echo_flow(packet.source, packet.destination, packet);
            let known = host.flow(&flow, Renewal::Sent);
            if !known {
                host.open_flow(&flow);
            }
            Ok(known)
        }
        Some(Echo::Reply) => Ok(true),
        None if is_error(packet) => Ok(true),
        None => Err(Reason::IcmpType),
    }
}

/// An error passes where the packet that it quotes is one that we may have sent: of a flow of ours, or from an
/// open port.
#[inline(always)]
fn related_error<L: Load, H: Host>(load: &L, host: &mut H, packet: &Packet, network: u32) -> Outcome {
    if packet.piece != Piece::Whole {
        return Err(Reason::IcmpUnrelated);
    }
    let mut quoted = FlowKey::default();
    quote(load, packet, &mut quoted)?;
    if !quoted.local.is(&packet.destination) || host.range(&quoted.remote) != Some(network) {
        return Err(Reason::IcmpUnrelated);
    }
    let ported = matches!(quoted.protocol, TCP | UDP);
    if (ported && host.is_open(network, quoted.protocol, quoted.local_port))
        || host.flow(&quoted, Renewal::No)
    {
        return Ok(Reason::PassIcmpError);
    }
    Err(Reason::IcmpUnrelated)
}

/// The flow of the packet inside an ICMP error, as this node would have sent it.
#[inline(always)]
pub(crate) fn quote<L: Load>(load: &L, packet: &Packet, flow: &mut FlowKey) -> Result<(), Reason> {
    let start = packet.transport + 8;
    let transport = if packet.version == 4 {
        let Some([first, id, ttl, local, remote]) = load.load_far::<5>(start) else {
            return Err(Reason::Truncated);
        };
        let first = u32::from_be(first);
        let length = (first >> 24 & 0x0f) * 4;
        if first >> 28 != 4 || length < IPV4_BYTES || u32::from_be(id) & 0x1fff != 0 {
            return Err(Reason::IcmpUnrelated);
        }
        flow.local = Address::v4(local.to_ne_bytes());
        flow.remote = Address::v4(remote.to_ne_bytes());
        flow.protocol = (u32::from_be(ttl) >> 16) as u8;
        start + length
    } else {
        let Some([first, length, a, b, c, d, e, f, g, h]) = load.load_far::<10>(start) else {
            return Err(Reason::Truncated);
        };
        if u32::from_be(first) >> 28 != 6 {
            return Err(Reason::IcmpUnrelated);
        }
        flow.local = Address::from_raw([a, b, c, d]);
        flow.remote = Address::from_raw([e, f, g, h]);
        flow.protocol = (u32::from_be(length) >> 8) as u8;
        start + IPV6_BYTES
    };
    if transport + 8 > packet.end {
        return Err(Reason::Truncated);
    }
    let Some([ports, second]) = load.load_far::<2>(transport) else { return Err(Reason::Truncated) };
    let (ports, second) = (u32::from_be(ports), u32::from_be(second));
    match (flow.protocol, ports >> 24) {
        (TCP | UDP, _) => (flow.local_port, flow.remote_port) = ((ports >> 16) as u16, ports as u16),
        // Only our own echo requests are flows.
        (crate::packet::ICMP, 8) | (ICMP6, 128) => flow.local_port = (second >> 16) as u16,
        _ => return Err(Reason::IcmpUnrelated),
    }
    Ok(())
}

enum Echo {
    Request,
    Reply,
}

#[inline(always)]
fn echo(packet: &Packet) -> Option<Echo> {
    match (packet.version, packet.source_port) {
        (4, 8) | (6, 128) => Some(Echo::Request),
        (4, 0) | (6, 129) => Some(Echo::Reply),
        _ => None,
    }
}

/// Destination unreachable, packet too big, time exceeded, parameter problem.
#[inline(always)]
pub(crate) fn is_error(packet: &Packet) -> bool {
    packet.piece != Piece::Later
        && !matches!(packet.protocol, TCP | UDP)
        && matches!((packet.version, packet.source_port), (4, 3 | 11 | 12) | (6, 1..=4))
}

#[inline(always)]
fn outgoing(packet: &Packet) -> FlowKey {
    let Packet { source, destination, source_port, destination_port, protocol, .. } = *packet;
    FlowKey::new(source, destination, source_port, destination_port, protocol)
}

#[inline(always)]
fn incoming(packet: &Packet) -> FlowKey {
    let Packet { source, destination, source_port, destination_port, protocol, .. } = *packet;
    FlowKey::new(destination, source, destination_port, source_port, protocol)
}

#[inline(always)]
fn echo_flow(local: Address, remote: Address, packet: &Packet) -> FlowKey {
    FlowKey::new(local, remote, packet.destination_port, 0, packet.protocol)
}
