//! How this host reaches an address: interface, own address towards it, gateway, MTU; and by what it is reached itself.
//!
//! Owns the route lookup. Must not know who asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};

use super::{error::NetError, list::Interface, net::Net};

/// The way to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Index of the interface.
    pub interface: u32,
    /// Its name.
    pub name: String,
    /// Own address that packets leave from.
    pub source: IpAddr,
    /// Who takes the packets on there, maybe by an address of the other family; `None` where the target itself does.
    pub gateway: Option<IpAddr>,
    /// MTU of the interface, bytes.
    pub mtu: u32,
    /// Whether packets there have Ethernet headers.
    pub ethernet: bool,
}

/// An interface by which packets may come in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether packets there have Ethernet headers.
    pub ethernet: bool,
}

/// Why there is no way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWay {
    /// It is this host itself.
    #[error("it is an address of this host")]
    Own,
    /// The kernel knows no route.
    #[error("no route to it")]
    NoRoute,
}

impl Net {
    /// The way that a packet to `target` would take now.
    ///
    /// # Errors
    /// Outer: netlink failed. Inner: there is none.
    pub async fn way(&self, target: IpAddr) -> Result<Result<Way, NoWay>, NetError> {
        let interfaces = self.interfaces().await?;
        Ok(self.way_among(&interfaces, target).await)
    }

    /// The ways to all those of `targets` that have one, with a single look at the interfaces.
    ///
    /// # Errors
    /// Netlink failed.
    pub async fn ways(&self, targets: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, Way>, NetError> {
        let interfaces = self.interfaces().await?;
        let mut ways = BTreeMap::new();
        for target in targets {
            if let Ok(way) = self.way_among(&interfaces, *target).await {
                ways.insert(*target, way);
            }
        }
        Ok(ways)
    }

    /// Every interface that is up, but the loopback one.
    ///
    /// # Errors
    /// Netlink failed.
    pub async fn links(&self) -> Result<Vec<Link>, NetError> {
        let up = self.interfaces().await?.into_iter().filter(|interface| interface.up && !interface.loopback);
        Ok(up.map(|Interface { index, name, ethernet, .. }| Link { index, name, ethernet }).collect())
    }

    /// Every address of this host.
    ///
    /// # Errors
    /// Netlink failed.
    pub async fn own_addresses(&self) -> Result<BTreeSet<IpAddr>, NetError> {
        Ok(self.addresses().await?.into_iter().map(|(address, _)| address.ip).collect())
    }

    async fn way_among(&self, interfaces: &[Interface], target: IpAddr) -> Result<Way, NoWay> {
        let asked = self.handle.route().get(question(target)).execute().try_next().await;
        // "Unreachable" and "prohibit" routes come as errors.
        let Ok(Some(route)) = asked else { return Err(NoWay::NoRoute) };
        if route.header.kind == RouteType::Local {
            return Err(NoWay::Own);
        }
        if route.header.kind != RouteType::Unicast {
            return Err(NoWay::NoRoute);
        }
        way(interfaces, &route).ok_or(NoWay::NoRoute)
    }
}

fn way(interfaces: &[Interface], route: &RouteMessage) -> Option<Way> {
    let (mut index, mut source, mut gateway) = (None, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(found) => index = Some(*found),
            RouteAttribute::PrefSource(found) => source = address(found),
            RouteAttribute::Gateway(found) => gateway = address(found),
            RouteAttribute::Via(RouteVia::Inet(found)) => gateway = Some(IpAddr::V4(*found)),
            RouteAttribute::Via(RouteVia::Inet6(found)) => gateway = Some(IpAddr::V6(*found)),
            _ => {}
        }
    }
    let found = interfaces.iter().find(|interface| Some(interface.index) == index)?;
    let Interface { index, name, mtu, ethernet, .. } = found.clone();
    Some(Way { interface: index, name, source: source?, gateway, mtu, ethernet })
}

fn question(target: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    let (family, width, address) = match target {
        IpAddr::V4(ip) => (AddressFamily::Inet, 32, RouteAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(ip)),
    };
    message.header.address_family = family;
    message.header.destination_prefix_length = width;
    message.attributes.push(RouteAttribute::Destination(address));
    message
}

fn address(found: &RouteAddress) -> Option<IpAddr> {
    match found {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
