//! Interfaces as netlink lists them, taken apart down to index, type and name.
//!
//! Owns that reading of messages: an interface whose other attributes can't be understood must still get its LAN guard.
//! Folders like `/sys/class/net` are not asked: other things lie there too, and they may be another namespace's.

use std::io;

use rtnetlink::{
    packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage},
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkLayerType, LinkMessage},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use super::leftover::MARK;
use super::watch::{Link, LinkKind};

/// Of struct nlmsghdr, and of struct ifinfomsg.
const HEADER: usize = 16;

/// Every interface of this network namespace that a LAN guard is for, but for the one named.
///
/// # Errors
/// Netlink failed.
pub fn others(mesh: &str) -> io::Result<Vec<Link>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send_to(&dump_request(), &SocketAddr::new(0, 0), 0)?;
    let mut links = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let Some((kind, payload, after)) = split_message(rest) {
            rest = after;
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(links),
                libc::NLMSG_ERROR => return Err(refused(payload)),
                _ => links.extend(
                    RawLink::parse(payload).and_then(RawLink::guarded).filter(|one| one.name != mesh),
                ),
            }
        }
    }
}

/// Asks for all interfaces.
pub(super) fn dump_request() -> Vec<u8> {
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetLink(LinkMessage::default()));
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// An error message begins with the negative code.
fn refused(payload: &[u8]) -> io::Error {
    let code = payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    io::Error::from_raw_os_error(code.saturating_neg())
}

/// The parts of an interface's message that matter here.
pub(super) struct RawLink {
    pub(super) family: i32,
    layer: u16,
    pub(super) index: u32,
    pub(super) name: String,
    /// A daemon of MeshHold made it: it needs no guard, its own programs judge all.
    is_mesh: bool,
}

impl RawLink {
    /// As an interface for a LAN guard; `None` where it takes none.
    pub(super) fn guarded(self) -> Option<Link> {
        // Whatever somebody writes on a network card, that has a guard.
        let kind = self.kind().filter(|kind| !self.is_mesh || *kind == LinkKind::Ethernet)?;
        Some(Link { name: self.name, index: self.index, kind })
    }

    /// Reads struct ifinfomsg and the attribute `IFLA_IFNAME` behind it.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let family = i32::from(*payload.first()?);
        let layer = u16::from_ne_bytes(payload.get(2..4)?.try_into().ok()?);
        let index = u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?);
        let attributes = payload.get(HEADER..)?;
        let name = attribute(attributes, libc::IFLA_IFNAME)?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let is_mesh =
            attribute(attributes, libc::IFLA_IFALIAS).is_some_and(|alias| alias.starts_with(MARK.as_bytes()));
        Some(Self { family, layer, index, name: String::from_utf8_lossy(name).into_owned(), is_mesh })
    }

    fn kind(&self) -> Option<LinkKind> {
        match LinkLayerType::from(self.layer) {
            LinkLayerType::Loopback => None,
            LinkLayerType::Ether => Some(LinkKind::Ethernet),
            LinkLayerType::None
            | LinkLayerType::Rawip
            | LinkLayerType::Ppp
            | LinkLayerType::Tunnel
            | LinkLayerType::Tunnel6
            | LinkLayerType::Sit
            | LinkLayerType::Ipgre
            | LinkLayerType::Ip6gre => Some(LinkKind::L3),
            other => {
                tracing::debug!(interface = self.name, layer = ?other, "interface type has no LAN guard");
                None
            }
        }
    }
}

/// Type, payload and the rest behind the first netlink message.
pub(super) fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let payload = bytes.get(HEADER..length)?;
    Some((kind, payload, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// Value of the first attribute of that type.
pub(super) fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some((kind, value, after)) = split_attribute(rest) {
        if kind == wanted {
            return Some(value);
        }
        rest = after;
    }
    None
}

/// Type, value and the rest behind the first attribute.
pub(super) fn split_attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
    let value = bytes.get(4..length)?;
    Some((kind, value, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}
