//! The classifier: one packet in, one [`Verdict`] out. It runs in the kernel programs and in user space.
//!
//! Decides, and never touches a byte: what has to be rewritten is part of the verdict. Must not know where its
//! tables are kept; [`Host`] answers for them.

use crate::{
    Address, Load, Packet, Reason,
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

/// State of a port of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// In the port scope.
    Open,
    /// Taken out of the scope a short while ago: what still leaves from it answers flows that have been cut.
    Retired,
    /// Never in the scope, or long ago.
    Closed,
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
}

impl Delivery {
    /// From the number in [`crate::maps::Fragment`].
    #[inline(always)]
    pub const fn from_u32(number: u32) -> Self {
        match number {
            1 => Self::Loopback,
            2 => Self::Caller,
            _ => Self::Native,
        }
    }
}

/// The tables that the classifier asks. One implementation reads kernel maps, another plain collections.
pub trait Host {
    /// Network of an address of ours.
    fn own(&mut self, address: &Address) -> Option<u32>;
    /// Network whose range holds the address.
    fn range(&mut self, address: &Address) -> Option<u32>;
    /// Peer with this mesh address.
    fn peer(&mut self, address: &Address) -> Option<Peer>;
    /// Peer with this caller address.
    fn caller(&mut self, address: [u8; 4]) -> Option<Caller>;
    /// State of a local port; `protocol` is TCP or UDP.
    fn port(&mut self, network: u32, protocol: u8, port: u16) -> Port;
    /// True for a live flow of ours: not older than [`crate::maps::FLOW_SECONDS`], or TCP. `touch` renews it.
    fn flow(&mut self, key: &FlowKey, touch: bool) -> bool;
    /// Remembers a flow that this node opens.
    fn open_flow(&mut self, key: &FlowKey);
    /// What was decided for the datagram's first fragment, if that passed.
    fn fragment(&mut self, packet: &Packet) -> Option<Delivery>;
    /// Remembers that decision.
    fn keep_fragment(&mut self, packet: &Packet, delivery: Delivery);
    /// Which service would receive the packet (TCP or UDP, port in scope).
    fn delivery(&mut self, packet: &Packet, peer: &Peer) -> Delivery;
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
}

/// What is to be done with a passed packet. (No enum with fields: an unset field must not reach a register in the
/// kernel, and there the addresses are set in every case.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// Kind of change.
    pub change: Change,
    /// New source; of the new family.
    pub source: Address,
    /// New destination; of the new family.
    pub destination: Address,
}

impl Action {
    /// Nothing to do.
    pub const KEEP: Self = Self {
        change: Change::Keep,
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
    packet.parse_transport(load)?;
    let packet = settle(packet);
    let peer = match host.peer(&packet.source) {
        Some(peer) if peer.network == network => peer,
        // The worker's own Host Unreachable comes from an address that no member owns.
        None if is_error(packet) && host.range(&packet.source) == Some(network) => {
            return related_error(load, host, packet, network);
        }
        _ => return Err(Reason::UnknownSource),
    };
    if packet.piece == Piece::Later {
        let Some(delivery) = host.fragment(packet) else { return Err(Reason::FragmentNoFirst) };
        deliver(packet, &peer, delivery, action);
        return Ok(Reason::PassFragment);
    }
    let reason = match packet.protocol {
        TCP | UDP => ingress_ports(host, packet, network)?,
        _ if is_error(packet) => return related_error(load, host, packet, network),
        _ => ingress_echo(host, packet)?,
    };
    let delivery = if reason == Reason::PassScope { host.delivery(packet, &peer) } else { Delivery::Native };
    if packet.piece == Piece::First {
        host.keep_fragment(packet, delivery);
    }
    deliver(packet, &peer, delivery, action);
    Ok(reason)
}

#[inline(always)]
fn ingress_ports<H: Host>(host: &mut H, packet: &Packet, network: u32) -> Outcome {
    if host.port(network, packet.protocol, packet.destination_port) == Port::Open {
        return Ok(Reason::PassScope);
    }
    // A flow of ours never admits a new connection of theirs, however old its entry is.
    if !packet.is_syn() && host.flow(&incoming(packet), false) {
        return Ok(Reason::PassFlow);
    }
    Err(Reason::PortDenied)
}

#[inline(always)]
fn ingress_echo<H: Host>(host: &mut H, packet: &Packet) -> Outcome {
    match echo(packet) {
        Some(Echo::Request) => Ok(Reason::PassIcmpEcho),
        Some(Echo::Reply) if host.flow(&echo_flow(packet.destination, packet.source, packet), false) => {
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
    let change = if packet.version == 4 { Change::Rewrite } else { Change::ToIpv4 };
    if change == Change::ToIpv4 && !packet.is_plain() {
        return;
    }
    action.change = change;
    action.source = Address::v4(peer.caller);
    action.destination =
        if delivery == Delivery::Caller { packet.destination } else { Address::v4(Address::LOOPBACK4) };
}

#[inline(always)]
fn egress<L: Load, H: Host>(load: &L, host: &mut H, packet: &mut Packet, action: &mut Action) -> Outcome {
    packet.parse_network(load)?;
    let packet = settle(packet);
    if packet.destination.is_multicast() || packet.source.is_multicast() {
        return Err(Reason::Multicast);
    }
    if packet.destination.is_caller() {
        return egress_loopback(load, host, packet, action);
    }
    if packet.destination.is_loopback() || packet.source.is_loopback() {
        return Err(Reason::LoopbackAddress);
    }
    let Some(network) = host.range(&packet.destination) else { return Err(Reason::NotMesh) };
    if host.own(&packet.source) != Some(network) {
        return Err(Reason::SpoofedSource);
    }
    packet.parse_transport(load)?;
    let packet = settle(packet);
    if packet.piece == Piece::Later {
        return match host.fragment(packet) {
            Some(_) => Ok(Reason::PassFragment),
            None => Err(Reason::FragmentNoFirst),
        };
    }
    match packet.protocol {
        TCP | UDP => egress_ports(host, packet, network)?,
        _ => egress_icmp(host, packet)?,
    }
    if packet.piece == Piece::First {
        host.keep_fragment(packet, Delivery::Native);
    }
    Ok(Reason::PassEgress)
}

/// From a loopback-delivered service back to its caller. Nothing but answers from an open port leaves here, so
/// closing the port cuts the flow in this direction too.
#[inline(always)]
fn egress_loopback<L: Load, H: Host>(
    load: &L,
    host: &mut H,
    packet: &mut Packet,
    action: &mut Action,
) -> Outcome {
    // Unconnected UDP sockets answer from the address that the route names, which can be one of ours.
    if packet.source != Address::v4(Address::LOOPBACK4) && host.own(&packet.source).is_none() {
        return Err(Reason::LoopbackAddress);
    }
    let Some(caller) = host.caller(packet.destination.octets4()) else { return Err(Reason::NoCaller) };
    packet.parse_transport(load)?;
    let packet = settle(packet);
    let reason = if packet.piece == Piece::Later {
        if host.fragment(packet).is_none() {
            return Err(Reason::FragmentNoFirst);
        }
        Reason::PassFragment
    } else {
        if !matches!(packet.protocol, TCP | UDP) {
            return Err(Reason::IcmpType);
        }
        if host.port(caller.network, packet.protocol, packet.source_port) != Port::Open {
            return Err(Reason::PortDenied);
        }
        if packet.piece == Piece::First {
            host.keep_fragment(packet, Delivery::Loopback);
        }
        Reason::PassEgress
    };
    action.change = if caller.peer.is_v4() { Change::Rewrite } else { Change::ToIpv6 };
    if action.change == Change::ToIpv6 && !packet.is_plain() {
        return Err(Reason::ProtocolUnknown);
    }
    action.source = caller.own;
    action.destination = caller.peer;
    Ok(reason)
}

#[inline(always)]
fn egress_ports<H: Host>(host: &mut H, packet: &Packet, network: u32) -> Result<(), Reason> {
    let port = host.port(network, packet.protocol, packet.source_port);
    if port == Port::Open {
        return Ok(());
    }
    let flow = outgoing(packet);
    if packet.protocol == TCP {
        if packet.is_syn() && !host.flow(&flow, true) {
            host.open_flow(&flow);
            return Ok(());
        }
        // Without a flow of ours this is a service whose port has been closed.
        return if packet.is_syn() || host.flow(&flow, false) { Ok(()) } else { Err(Reason::PortDenied) };
    }
    if host.flow(&flow, true) {
        return Ok(());
    }
    if port == Port::Retired {
        return Err(Reason::PortDenied);
    }
    host.open_flow(&flow);
    Ok(())
}

#[inline(always)]
fn egress_icmp<H: Host>(host: &mut H, packet: &Packet) -> Result<(), Reason> {
    match echo(packet) {
        Some(Echo::Request) => {
            let flow = echo_flow(packet.source, packet.destination, packet);
            if !host.flow(&flow, true) {
                host.open_flow(&flow);
            }
            Ok(())
        }
        Some(Echo::Reply) => Ok(()),
        None if is_error(packet) => Ok(()),
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
    if quoted.local != packet.destination || host.range(&quoted.remote) != Some(network) {
        return Err(Reason::IcmpUnrelated);
    }
    let ported = matches!(quoted.protocol, TCP | UDP);
    if (ported && host.port(network, quoted.protocol, quoted.local_port) == Port::Open)
        || host.flow(&quoted, false)
    {
        return Ok(Reason::PassIcmpError);
    }
    Err(Reason::IcmpUnrelated)
}

/// The flow of the packet inside an ICMP error, as this node would have sent it.
#[inline(always)]
fn quote<L: Load>(load: &L, packet: &Packet, flow: &mut FlowKey) -> Result<(), Reason> {
    let start = packet.transport + 8;
    let transport = if packet.version == 4 {
        let Some(header) = load.load::<20>(start) else { return Err(Reason::Truncated) };
        let [first, _, _, _, _, _, frag_a, frag_b, _, protocol, _, _, rest @ ..] = header;
        let [sa, sb, sc, sd, da, db, dc, dd] = rest;
        let length = u32::from(first & 0x0f) * 4;
        if first >> 4 != 4 || length < IPV4_BYTES || u16::from_be_bytes([frag_a & 0x1f, frag_b]) != 0 {
            return Err(Reason::IcmpUnrelated);
        }
        flow.local = Address::v4([sa, sb, sc, sd]);
        flow.remote = Address::v4([da, db, dc, dd]);
        flow.protocol = protocol;
        start + length
    } else {
        let Some([first, _, _, _, _, _, next, _]) = load.load::<8>(start) else {
            return Err(Reason::Truncated);
        };
        let Some(source) = load.load::<16>(start + 8) else { return Err(Reason::Truncated) };
        let Some(destination) = load.load::<16>(start + 24) else { return Err(Reason::Truncated) };
        if first >> 4 != 6 {
            return Err(Reason::IcmpUnrelated);
        }
        flow.local = Address::v6(source);
        flow.remote = Address::v6(destination);
        flow.protocol = next;
        start + IPV6_BYTES
    };
    if transport + 8 > packet.end {
        return Err(Reason::Truncated);
    }
    let Some([a, b, c, d, e, f, _, _]) = load.load::<8>(transport) else { return Err(Reason::Truncated) };
    match (flow.protocol, a) {
        (TCP | UDP, _) => {
            flow.local_port = u16::from_be_bytes([a, b]);
            flow.remote_port = u16::from_be_bytes([c, d]);
        }
        // Only our own echo requests are flows.
        (crate::packet::ICMP, 8) | (ICMP6, 128) => flow.local_port = u16::from_be_bytes([e, f]),
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
fn is_error(packet: &Packet) -> bool {
    packet.piece != Piece::Later
        && !matches!(packet.protocol, TCP | UDP)
        && matches!((packet.version, packet.source_port), (4, 3 | 11 | 12) | (6, 1..=4))
}

#[inline(always)]
fn outgoing(packet: &Packet) -> FlowKey {
    FlowKey {
        local: packet.source,
        remote: packet.destination,
        local_port: packet.source_port,
        remote_port: packet.destination_port,
        protocol: packet.protocol,
        pad: [0; 3],
    }
}

#[inline(always)]
fn incoming(packet: &Packet) -> FlowKey {
    FlowKey {
        local: packet.destination,
        remote: packet.source,
        local_port: packet.destination_port,
        remote_port: packet.source_port,
        protocol: packet.protocol,
        pad: [0; 3],
    }
}

#[inline(always)]
fn echo_flow(local: Address, remote: Address, packet: &Packet) -> FlowKey {
    FlowKey {
        local,
        remote,
        local_port: packet.destination_port,
        remote_port: 0,
        protocol: packet.protocol,
        pad: [0; 3],
    }
}
