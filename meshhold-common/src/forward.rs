//! What becomes of a packet between the mesh and a LAN device: whether it may pass, and as whose.
//!
//! Decides, and never touches a byte, as [`crate::classify`]. The device never learns mesh addresses: it sees the
//! gateway. Must not know where its tables are kept.

use crate::{
    Action, Address, Change, Host, Load, Packet, Reason,
    maps::FlowKey,
    nat::{DeviceEntry, Inward},
    packet::{ICMP, ICMP6, Piece, TCP, UDP},
};

/// The tables that forwarding asks beside those of [`Host`].
pub trait Gateway: Host {
    /// The device with this mesh address.
    fn device(&mut self, address: &Address) -> Option<DeviceEntry>;
    /// The port that the flow leaves from, found or newly taken; `None` where none can be had.
    fn port(&mut self, flow: &FlowKey, device: &DeviceEntry, flags: u8) -> Option<u16>;
    /// The port of a flow that is there.
    fn known_port(&mut self, flow: &FlowKey) -> Option<u16>;
    /// The flow that a packet from the LAN answers, seen from there; `flags` renew it.
    fn answered(&mut self, flow: &FlowKey, flags: u8) -> Option<Inward>;
    /// The flow of a datagram whose first fragment came from the LAN.
    fn piece(&mut self, packet: &Packet) -> Option<Inward>;
    /// Remembers it.
    fn keep_piece(&mut self, packet: &Packet, flow: &Inward);
}

/// What is to be done with a packet that passes. (Plain fields in any case, as in [`Action`].)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The new addresses.
    pub action: Action,
    /// The new source port (towards the device), destination port (from it) or echo identifier.
    pub port: u16,
    /// The interface that it leaves by; 0 for the mesh.
    pub interface: u32,
    /// Largest TCP segment to be announced; 0 where the packet announces none.
    pub segment: u32,
    /// The packet is an ICMP error: the port is one of what it quotes.
    pub is_error: bool,
    /// The new ends of what an error quotes.
    pub quoted: Action,
}

impl Plan {
    /// Nothing to do.
    pub const NOTHING: Self = Self {
        action: Action::KEEP,
        port: 0,
        interface: 0,
        segment: 0,
        is_error: false,
        quoted: Action::KEEP,
    };

    #[inline(always)]
    fn quote(&mut self, source: Address, destination: Address) {
        self.is_error = true;
        self.quoted = Action { change: Change::Rewrite, source, destination, ..Action::KEEP };
    }
}

/// A packet from the mesh. `None` where it isn't for a device.
#[inline(always)]
pub fn to_device<L: Load, G: Gateway>(
    load: &L,
    gateway: &mut G,
    packet: &mut Packet,
    plan: &mut Plan,
) -> Option<Reason> {
    packet.parse_network(load).ok()?;
    let packet = core::hint::black_box(packet);
    let device = gateway.device(&packet.destination)?;
    let (Ok(reason) | Err(reason)) = admit(load, gateway, packet, &device, plan);
    Some(reason)
}

#[inline(always)]
fn admit<L: Load, G: Gateway>(
    load: &L,
    gateway: &mut G,
    packet: &mut Packet,
    device: &DeviceEntry,
    plan: &mut Plan,
) -> Result<Reason, Reason> {
    let transport = packet.parse_transport(load);
    let packet = core::hint::black_box(packet);
    if gateway.peer(&packet.source).is_none_or(|peer| peer.network != device.network) {
        return Err(Reason::UnknownSource);
    }
    transport?;
    if device.interface == 0 {
        return Err(Reason::DeviceUnreachable);
    }
    if !hops_left(load, packet) {
        return Err(Reason::HopLimit);
    }
    plan.interface = device.interface;
    readdress(packet, plan, device.source, device.target)?;
    if packet.piece == Piece::Later {
        return gateway.fragment(packet).map(|_| Reason::PassForward).ok_or(Reason::FragmentNoFirst);
    }
    if is_error(packet) {
        return quoted_by_peer(load, gateway, packet, device, plan);
    }
    let flow = match packet.protocol {
        TCP | UDP if gateway.is_open(device.network, packet.protocol, packet.destination_port) => {
            FlowKey::new(
                packet.destination,
                packet.source,
                packet.destination_port,
                packet.source_port,
                packet.protocol,
            )
        }
        TCP | UDP => return Err(Reason::PortDenied),
        _ if is_echo_request(packet) => echo(packet.destination, packet.source, packet.destination_port),
        _ => return Err(Reason::IcmpType),
    };
    plan.port = gateway.port(&flow, device, packet.flags).ok_or(Reason::NoTranslation)?;
    if packet.piece == Piece::First {
        gateway.keep_fragment(packet, crate::Delivery::Native);
    }
    if packet.protocol == TCP && packet.flags & SYN != 0 {
        plan.segment = device.segment;
    }
    Ok(Reason::PassForward)
}

/// A packet from the LAN: whether it belongs to a flow of the mesh. What to do follows from [`from_device`], once it is
/// at the mesh interface.
#[inline(always)]
pub fn is_answer<L: Load, G: Gateway>(load: &L, gateway: &mut G, packet: &mut Packet) -> bool {
    let mut plan = Plan::NOTHING;
    let found = found(load, gateway, packet, &mut plan);
    if let Some(flow) = &found
        && packet.piece == Piece::First
    {
        gateway.keep_piece(packet, flow);
    }
    found.is_some()
}

/// The same packet on its way into the mesh. `None` where it is something else.
#[inline(always)]
pub fn from_device<L: Load, G: Gateway>(
    load: &L,
    gateway: &mut G,
    packet: &mut Packet,
    plan: &mut Plan,
) -> Option<Result<(), Reason>> {
    let flow = found(load, gateway, packet, plan)?;
    let packet = core::hint::black_box(packet);
    if !hops_left(load, packet) {
        return Some(Err(Reason::HopLimit));
    }
    plan.port = flow.peer_port;
    if packet.protocol == TCP && packet.flags & SYN != 0 {
        plan.segment = gateway.device(&flow.device).map_or(0, |device| device.segment);
    }
    Some(readdress(packet, plan, flow.device, flow.peer))
}

/// The flow of a packet from the LAN; for an error, the flow of what it quotes.
#[inline(always)]
fn found<L: Load, G: Gateway>(
    load: &L,
    gateway: &mut G,
    packet: &mut Packet,
    plan: &mut Plan,
) -> Option<Inward> {
    packet.parse_network(load).ok()?;
    let packet = core::hint::black_box(packet);
    packet.parse_transport(load).ok()?;
    let packet = core::hint::black_box(packet);
    if packet.piece == Piece::Later {
        return gateway.piece(packet);
    }
    if is_error(packet) {
        let mut quoted = FlowKey::default();
        crate::classify::quote(load, packet, &mut quoted).ok()?;
        if !quoted.local.is(&packet.destination) {
            return None;
        }
        let flow = gateway.answered(&quoted, 0)?;
        plan.quote(flow.peer, flow.device);
        return Some(flow);
    }
    let key = match packet.protocol {
        TCP | UDP => FlowKey::new(
            packet.destination,
            packet.source,
            packet.destination_port,
            packet.source_port,
            packet.protocol,
        ),
        _ if is_echo_reply(packet) => {
            FlowKey::new(packet.destination, packet.source, packet.destination_port, 0, packet.protocol)
        }
        _ => return None,
    };
    gateway.answered(&key, packet.flags)
}

/// An error of the peer's side about what the device sent: too big, port unreachable.
#[inline(always)]
fn quoted_by_peer<L: Load, G: Gateway>(
    load: &L,
    gateway: &mut G,
    packet: &Packet,
    device: &DeviceEntry,
    plan: &mut Plan,
) -> Result<Reason, Reason> {
    if packet.piece != Piece::Whole || plan.action.change != Change::Rewrite {
        return Err(Reason::IcmpUnrelated);
    }
    let mut quoted = FlowKey::default();
    crate::classify::quote(load, packet, &mut quoted)?;
    if !quoted.local.is(&packet.destination) {
        return Err(Reason::IcmpUnrelated);
    }
    let Some(port) = gateway.known_port(&quoted) else { return Err(Reason::IcmpUnrelated) };
    plan.port = port;
    plan.quote(device.target, device.source);
    Ok(Reason::PassForward)
}

/// Sets the new ends, and how they are got: within a family or across.
#[inline(always)]
fn readdress(packet: &Packet, plan: &mut Plan, source: Address, destination: Address) -> Result<(), Reason> {
    plan.action.change = match (packet.version, destination.is_v4()) {
        (4, true) | (6, false) => Change::Rewrite,
        (4, false) => Change::ToIpv6,
        _ => Change::ToIpv4,
    };
    // Between the families only what has no options or extensions, and no errors (RFC 7915 section 4.2 lists why).
    if plan.action.change != Change::Rewrite && (!packet.is_plain() || is_error(packet)) {
        return Err(Reason::ProtocolUnknown);
    }
    plan.action.source = source;
    plan.action.destination = destination;
    Ok(())
}

const SYN: u8 = 0x02;

/// The key of an echo flow as the mesh sees it. Both families count as one: what the device gets may be the other.
#[inline(always)]
fn echo(device: Address, peer: Address, id: u16) -> FlowKey {
    let protocol = if device.is_v4() { ICMP } else { ICMP6 };
    FlowKey::new(device, peer, 0, id, protocol)
}

/// Whether the packet may be forwarded once more (RFC 1812 section 5.3.1).
#[inline(always)]
fn hops_left<L: Load>(load: &L, packet: &Packet) -> bool {
    let (offset, shift) = if packet.version == 4 { (8, 24) } else { (4, 0) };
    load.load::<1>(offset).is_some_and(|[word]| u32::from_be(word) >> shift & 0xff > 1)
}

#[inline(always)]
fn is_echo_request(packet: &Packet) -> bool {
    matches!((packet.version, packet.source_port), (4, 8) | (6, 128))
}

#[inline(always)]
fn is_echo_reply(packet: &Packet) -> bool {
    matches!((packet.version, packet.source_port), (4, 0) | (6, 129))
}

#[inline(always)]
fn is_error(packet: &Packet) -> bool {
    crate::classify::is_error(packet)
}
