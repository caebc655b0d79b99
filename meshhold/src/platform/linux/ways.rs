//! How this host reaches an address: interface, own address towards it, MTU.
//!
//! Owns the route lookup. Must not know who asks.

use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};

use super::{error::NetError, net::Net};

/// The way to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Index of the interface.
    pub interface: u32,
    /// Its name.
    pub name: String,
    /// Own address that packets leave from.
    pub source: IpAddr,
    /// MTU of the interface, bytes.
    pub mtu: u32,
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
        let asked = self.handle.route().get(question(target)).execute().try_next().await;
        // "Unreachable" and "prohibit" routes come as errors.
        let Ok(Some(route)) = asked else { return Ok(Err(NoWay::NoRoute)) };
        if route.header.kind == RouteType::Local {
            return Ok(Err(NoWay::Own));
        }
        let found =
            route.attributes.iter().fold((None, None), |(index, source), attribute| match attribute {
                RouteAttribute::Oif(found) => (Some(*found), source),
                RouteAttribute::PrefSource(found) => (index, address(found)),
                _ => (index, source),
            });
        let (RouteType::Unicast, (Some(index), Some(source))) = (route.header.kind, found) else {
            return Ok(Err(NoWay::NoRoute));
        };
        let interfaces = self.interfaces().await?;
        let Some(name) = interfaces.into_iter().find(|i| i.index == index).map(|i| i.name) else {
            return Ok(Err(NoWay::NoRoute));
        };
        let mtu = mtu(&name).unwrap_or(ETHERNET_MTU);
        Ok(Ok(Way { interface: index, name, source, mtu }))
    }
}

const ETHERNET_MTU: u32 = 1500;

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

fn mtu(interface: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/sys/class/net/{interface}/mtu")).ok()?.trim().parse().ok()
}
