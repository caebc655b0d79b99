//! What the kernel says about interfaces, addresses and routes, as plain values.
//!
//! Owns the dumps and their reduction to what the daemon looks at. Must not know what is done with it.

use std::{io, net::IpAddr};

use futures_util::{Stream, TryStreamExt as _};
use rtnetlink::packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteNextHop, RouteProtocol},
};
use rtnetlink::sys::AsyncSocket as _;

use super::{
    error::{NetError, errno},
    net::Net,
};

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) name: String,
    /// `IFLA_INFO_KIND` (`tun`, `bridge`, `veth`, …); `None` for hardware.
    pub(super) kind: Option<String>,
    /// Index of the bridge or bond that this interface is a port of.
    pub(super) controller: Option<u32>,
    pub(super) loopback: bool,
    pub(super) up: bool,
    pub(super) mtu: u32,
    /// Packets there have Ethernet headers.
    pub(super) ethernet: bool,
    /// What somebody wrote about it (`ip link set … alias`).
    pub(super) alias: Option<String>,
    /// A TUN device has it while a process holds one of its queues.
    pub(super) carrier: bool,
}

/// One address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) interface: u32,
    pub(super) ip: IpAddr,
    pub(super) prefix: u8,
    pub(super) flags: AddressFlags,
}

impl Address {
    /// Prefix length of the address alone: 32 or 128.
    pub(super) fn ip_width(self) -> u8 {
        if self.ip.is_ipv4() { 32 } else { 128 }
    }
}

/// One route, with the message it came in (to delete it as it is).
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) destination: (IpAddr, u8),
    pub(super) table: u32,
    pub(super) devices: Vec<u32>,
    pub(super) message: RouteMessage,
}

impl Net {
    pub(super) async fn interfaces(&self) -> Result<Vec<Interface>, NetError> {
        let messages = collect("list interfaces", self.handle.link().get().execute()).await?;
        Ok(messages.iter().map(interface).collect())
    }

    pub(super) async fn addresses(&self) -> Result<Vec<(Address, AddressMessage)>, NetError> {
        self.addresses_by(AddressMessage::default()).await
    }

    /// As [`Net::addresses`], of one interface.
    pub(super) async fn addresses_of(&self, index: u32) -> Result<Vec<(Address, AddressMessage)>, NetError> {
        let mut filter = AddressMessage::default();
        filter.header.index = index;
        let found = self.addresses_by(filter).await?;
        Ok(found.into_iter().filter(|(found, _)| found.interface == index).collect())
    }

    async fn addresses_by(&self, filter: AddressMessage) -> Result<Vec<(Address, AddressMessage)>, NetError> {
        let mut request = self.handle.address().get();
        *request.message_mut() = filter;
        let messages = collect("list addresses", request.execute()).await?;
        Ok(messages.into_iter().filter_map(|message| Some((address(&message)?, message))).collect())
    }

    /// Routes of one table, made with the protocol number if one is given; more come where the kernel filters nothing
    /// (before Linux 4.20).
    pub(super) async fn routes_in(
        &self,
        family: AddressFamily,
        table: u32,
        protocol: Option<u8>,
    ) -> Result<Vec<Route>, NetError> {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        filter.header.protocol = protocol.map_or(RouteProtocol::Unspec, RouteProtocol::from);
        filter.attributes.push(RouteAttribute::Table(table));
        let messages = collect("list routes", self.handle.route().get(filter).execute()).await?;
        Ok(messages.into_iter().filter_map(route).filter(|route| route.table == table).collect())
    }

    /// Routes of all tables of one family; none when the family is switched off.
    pub(super) async fn routes(&self, family: AddressFamily) -> Result<Vec<Route>, NetError> {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        let messages = collect("list routes", self.handle.route().get(filter).execute()).await?;
        // A kernel without IPv6 answers with the routes of all other families.
        let of_family = messages.into_iter().filter(|message| message.header.address_family == family);
        Ok(of_family.filter_map(route).collect())
    }
}

/// Gathers a dump; a family or facility that the kernel lacks has no entries.
pub(super) async fn collect<T>(
    what: &str,
    dump: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, NetError> {
    match dump.try_collect().await {
        Ok(entries) => Ok(entries),
        Err(error) if matches!(errno(&error), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::ENOENT)) => {
            Ok(Vec::new())
        }
        Err(error) => Err(NetError::new(what, error)),
    }
}

fn interface(message: &LinkMessage) -> Interface {
    let mut found = Interface {
        index: message.header.index,
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        up: message.header.flags.contains(LinkFlags::Up),
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        ..Interface::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => found.alias = Some(alias.clone()),
            LinkAttribute::Carrier(carrier) => found.carrier = *carrier != 0,
            LinkAttribute::Controller(index) if *index != 0 => found.controller = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                found.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    found
}

fn address(message: &AddressMessage) -> Option<Address> {
    let mut ip = None;
    let mut flags = header_flags(message.header.flags);
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point interface ADDRESS is the other end's; LOCAL is ours.
            AddressAttribute::Local(local) => ip = Some(*local),
            AddressAttribute::Address(address) => ip = ip.or(Some(*address)),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    Some(Address { interface: message.header.index, ip: ip?, prefix: message.header.prefix_len, flags })
}

fn header_flags(flags: AddressHeaderFlags) -> AddressFlags {
    AddressFlags::from_bits_retain(u32::from(flags.bits()))
}

/// Reduces a route's message; `None` for families other than IP.
pub(super) fn route(message: RouteMessage) -> Option<Route> {
    let unspecified: IpAddr = match message.header.address_family {
        AddressFamily::Inet => [0; 4].into(),
        AddressFamily::Inet6 => [0; 16].into(),
        _ => return None,
    };
    let mut destination = unspecified;
    let mut table = u32::from(message.header.table);
    let mut devices = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = (*ip).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => destination = (*ip).into(),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Oif(index) => devices.push(*index),
            RouteAttribute::MultiPath(hops) => devices.extend(hops.iter().map(hop_device)),
            _ => {}
        }
    }
    let prefix = message.header.destination_prefix_length;
    Some(Route { destination: (destination, prefix), table, devices, message })
}

fn hop_device(hop: &RouteNextHop) -> u32 {
    hop.interface_index
}

/// Whether two prefixes share an address. Different families never do.
pub(super) fn overlap(left: (IpAddr, u8), right: (IpAddr, u8)) -> bool {
    let prefix = left.1.min(right.1);
    match (left.0, right.0) {
        (IpAddr::V4(left), IpAddr::V4(right)) => {
            let shift = 32_u32.saturating_sub(u32::from(prefix));
            (left.to_bits() ^ right.to_bits()).checked_shr(shift).unwrap_or(0) == 0
        }
        (IpAddr::V6(left), IpAddr::V6(right)) => {
            let shift = 128_u32.saturating_sub(u32::from(prefix));
            (left.to_bits() ^ right.to_bits()).checked_shr(shift).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// The answer to a request that found its work already done: `code` is how the kernel says so.
pub(super) fn settled(
    what: impl Into<String>,
    codes: &[i32],
    answer: Result<(), rtnetlink::Error>,
) -> Result<(), NetError> {
    match answer {
        Err(error) if errno(&error).is_some_and(|code| codes.contains(&code)) => Ok(()),
        other => other.map_err(|error| NetError::new(what, error)),
    }
}

/// Opens the netlink connection of [`Net`]; its task ends when the last handle is dropped.
pub(super) fn connect() -> io::Result<rtnetlink::Handle> {
    let (mut connection, handle, _messages) = rtnetlink::new_connection()?;
    // Then the kernel filters what it lists: a host may have a million routes.
    let filtered = connection.socket_mut().socket_ref().set_netlink_get_strict_chk(true);
    if let Err(error) = filtered {
        tracing::debug!(%error, "the kernel lists everything");
    }
    tokio::spawn(connection);
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_overlap_exactly_when_one_holds_the_other() {
        let cases = [
            ("198.18.0.0", 18, "198.18.0.0", 15, true),
            ("198.18.64.0", 18, "198.18.0.0", 18, false),
            ("198.18.64.0", 18, "198.18.127.255", 32, true),
            ("10.0.0.0", 8, "0.0.0.0", 0, true),
            ("fd12:1::", 32, "fd12:1:2::", 64, true),
            ("fd12:1::", 32, "fd12:2::", 32, false),
            ("fd12:1::", 32, "::", 0, true),
            ("198.18.0.0", 15, "fd12:1::", 32, false),
        ];
        for (left, left_prefix, right, right_prefix, expected) in cases {
            let left = (left.parse().unwrap(), left_prefix);
            let right = (right.parse().unwrap(), right_prefix);
            assert_eq!(overlap(left, right), expected, "{left:?} {right:?}");
            assert_eq!(overlap(right, left), expected, "{right:?} {left:?}");
        }
    }
}
