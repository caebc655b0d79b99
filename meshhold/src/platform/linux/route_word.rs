//! What the kernel's routing would do with a packet: the look-up that it makes for one that comes in, and for one that leaves.
//!
//! Owns the questions and what their answers say in words. Must not know why somebody asks.

use std::{io, net::IpAddr};

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};

use super::{
    error::{NetError, errno},
    net::Net,
};

/// Where a packet would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Onward {
    /// To a program of this host.
    Here,
    /// By this interface.
    By(String),
    /// Nowhere: why, in words.
    Nowhere(String),
}

impl Net {
    /// What becomes of a packet that comes in by `interface`.
    ///
    /// # Errors
    /// Netlink failed.
    pub async fn coming_in(
        &self,
        source: IpAddr,
        destination: IpAddr,
        interface: &str,
    ) -> Result<Onward, NetError> {
        let Some(index) = self.index_of(interface).await? else {
            return Ok(Onward::Nowhere(format!("interface {interface} is gone")));
        };
        let mut message = question(destination);
        source_of(&mut message, source);
        message.attributes.push(RouteAttribute::Iif(index));
        self.onward(message).await
    }

    /// What becomes of a packet that a program here sends, from `source` if it has chosen one.
    ///
    /// # Errors
    /// Netlink failed.
    pub async fn leaving(&self, source: Option<IpAddr>, destination: IpAddr) -> Result<Onward, NetError> {
        let mut message = question(destination);
        if let Some(source) = source {
            source_of(&mut message, source);
        }
        self.onward(message).await
    }

    async fn onward(&self, question: RouteMessage) -> Result<Onward, NetError> {
        let route = match self.handle.route().get(question).execute().try_next().await {
            Ok(Some(route)) => route,
            Ok(None) => return Ok(Onward::Nowhere("no route".to_owned())),
            // "Unreachable" and "prohibit" routes, martian addresses and failed source checks come as errors.
            Err(error) => match errno(&error) {
                Some(code) => return Ok(Onward::Nowhere(word(code))),
                None => return Err(NetError::new("ask for a route".to_owned(), error)),
            },
        };
        let by = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        Ok(match (route.header.kind, by) {
            (RouteType::Local, _) => Onward::Here,
            (RouteType::Unicast, Some(index)) => Onward::By(self.name_of(index).await?),
            (kind, _) => Onward::Nowhere(format!("a route of kind {kind:?}").to_lowercase()),
        })
    }

    async fn name_of(&self, index: u32) -> Result<String, NetError> {
        let name = self.interfaces().await?.into_iter().find(|interface| interface.index == index);
        Ok(name.map_or_else(|| format!("interface {index}"), |interface| interface.name))
    }
}

fn word(code: i32) -> String {
    match code {
        libc::EINVAL => "the kernel takes the addresses for invalid there (`route_localnet` off, or an own address missing)".to_owned(),
        libc::EXDEV => "the kernel's reverse path filter refuses the source".to_owned(),
        code => io::Error::from_raw_os_error(code).to_string(),
    }
}

fn question(destination: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    let (family, width, address) = attribute(destination);
    message.header.address_family = family;
    message.header.destination_prefix_length = width;
    message.attributes.push(RouteAttribute::Destination(address));
    message
}

fn source_of(message: &mut RouteMessage, source: IpAddr) {
    let (_, width, address) = attribute(source);
    message.header.source_prefix_length = width;
    message.attributes.push(RouteAttribute::Source(address));
}

fn attribute(address: IpAddr) -> (AddressFamily, u8, RouteAddress) {
    match address {
        IpAddr::V4(ip) => (AddressFamily::Inet, 32, RouteAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(ip)),
    }
}
