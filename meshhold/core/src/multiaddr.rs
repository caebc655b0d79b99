//! Where a node can be dialed, in libp2p's textual form: `/ip4/192.0.2.10/udp/7777/quic-v1/p2p/12D3KooW…`.
//!
//! Owns parsing and printing. Must not know how a host name is resolved or a link is made.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::identity::NodeId;

/// Longest host name in a DNS query (RFC 1035 section 2.3.4, without the dots of the wire form).
const MAX_NAME: usize = 253;
/// Longest label of a host name.
const MAX_LABEL: usize = 63;

/// The machine part of a [`Multiaddr`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// `/ip4/…` or `/ip6/…`.
    Address(IpAddr),
    /// A name for the resolver, and which of its addresses count.
    Name(Family, String),
}

/// Which addresses of a host name count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `/dns/…`: both families.
    Any,
    /// `/dns4/…`.
    V4,
    /// `/dns6/…`.
    V6,
}

impl Family {
    /// True when `address` is of this family.
    pub fn admits(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// A node id and one place to dial it. Without the id anyone on the way could stand in, so it is not optional.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Multiaddr {
    /// Address or host name.
    pub host: Host,
    /// UDP port, never 0.
    pub port: u16,
    /// The node that must answer there.
    pub node: NodeId,
}

/// What is wrong with a multiaddr, naming the part.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MultiaddrError {
    /// The text does not begin with a slash.
    #[error("must begin with '/', as in /ip4/192.0.2.10/udp/7777/quic-v1/p2p/<node id>")]
    NoSlash,
    /// The text ends before a part.
    #[error("ends before its {0}")]
    Missing(&'static str),
    /// The first part names no way to address a host.
    #[error("'{0}' is no kind of host: use ip4, ip6, dns, dns4 or dns6")]
    HostKind(String),
    /// The host is no address or name of its kind.
    #[error("'{value}' is no {kind}")]
    Host {
        /// What was expected.
        kind: &'static str,
        /// What stands there.
        value: String,
    },
    /// Another protocol than UDP, QUIC v1 or p2p at its place.
    #[error("'{found}' stands where '{wanted}' must")]
    Protocol {
        /// What must stand there.
        wanted: &'static str,
        /// What stands there.
        found: String,
    },
    /// The port is no number from 1 to 65535.
    #[error("'{0}' is no UDP port from 1 to 65535")]
    Port(String),
    /// The last part is no node id.
    #[error("'{0}' is no node id (12D3KooW…)")]
    Node(String),
    /// Something follows the node id.
    #[error("'{0}' follows the node id")]
    Trailing(String),
}

impl FromStr for Multiaddr {
    type Err = MultiaddrError;

    fn from_str(text: &str) -> Result<Self, MultiaddrError> {
        let rest = text.strip_prefix('/').ok_or(MultiaddrError::NoSlash)?;
        let mut parts = rest.split('/');
        let host = parse_host(part(&mut parts, "kind of host")?, part(&mut parts, "host")?)?;
        expect(&mut parts, "udp")?;
        let port = parse_port(part(&mut parts, "port")?)?;
        expect(&mut parts, "quic-v1")?;
        expect(&mut parts, "p2p")?;
        let id = part(&mut parts, "node id")?;
        let node = id.parse().map_err(|_| MultiaddrError::Node(id.into()))?;
        match parts.next() {
            Some(more) => Err(MultiaddrError::Trailing(format!("/{more}"))),
            None => Ok(Self { host, port, node }),
        }
    }
}

fn part<'a>(parts: &mut core::str::Split<'a, char>, name: &'static str) -> Result<&'a str, MultiaddrError> {
    parts.next().filter(|p| !p.is_empty()).ok_or(MultiaddrError::Missing(name))
}

fn expect(parts: &mut core::str::Split<'_, char>, wanted: &'static str) -> Result<(), MultiaddrError> {
    match part(parts, wanted)? {
        found if found == wanted => Ok(()),
        found => Err(MultiaddrError::Protocol { wanted, found: found.into() }),
    }
}

fn parse_port(text: &str) -> Result<u16, MultiaddrError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let port = text.parse().ok().filter(|&port: &u16| digits && port != 0);
    port.ok_or_else(|| MultiaddrError::Port(text.into()))
}

fn parse_host(kind: &str, value: &str) -> Result<Host, MultiaddrError> {
    let family = match kind {
        "ip4" => return parse_address::<Ipv4Addr>("IPv4 address", value),
        "ip6" => return parse_address::<Ipv6Addr>("IPv6 address", value),
        "dns" => Family::Any,
        "dns4" => Family::V4,
        "dns6" => Family::V6,
        other => return Err(MultiaddrError::HostKind(other.into())),
    };
    if !is_host_name(value) {
        return Err(MultiaddrError::Host { kind: "host name", value: value.into() });
    }
    Ok(Host::Name(family, value.to_ascii_lowercase()))
}

fn parse_address<A: FromStr + Into<IpAddr>>(kind: &'static str, value: &str) -> Result<Host, MultiaddrError> {
    let address = value.parse::<A>().map_err(|_| MultiaddrError::Host { kind, value: value.into() })?;
    Ok(Host::Address(address.into()))
}

fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= MAX_NAME && name.split('.').all(label)
}

impl fmt::Display for Multiaddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V4(ip)) => write!(f, "/ip4/{ip}")?,
            Host::Address(IpAddr::V6(ip)) => write!(f, "/ip6/{ip}")?,
            Host::Name(Family::Any, name) => write!(f, "/dns/{name}")?,
            Host::Name(Family::V4, name) => write!(f, "/dns4/{name}")?,
            Host::Name(Family::V6, name) => write!(f, "/dns6/{name}")?,
        }
        write!(f, "/udp/{}/quic-v1/p2p/{}", self.port, self.node)
    }
}

impl Serialize for Multiaddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Multiaddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| serde::de::Error::custom(format!("multiaddr '{text}': {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    fn id() -> String {
        Identity::from_seed([7; 32]).node_id().to_string()
    }

    #[test]
    fn prints_what_it_parsed() {
        for text in [
            "/ip4/192.0.2.10/udp/7777/quic-v1/p2p/ID",
            "/ip6/2001:db8::1/udp/1/quic-v1/p2p/ID",
            "/dns/relay.example.org/udp/65535/quic-v1/p2p/ID",
            "/dns4/relay/udp/7777/quic-v1/p2p/ID",
            "/dns6/a-b.example/udp/7777/quic-v1/p2p/ID",
        ] {
            let text = text.replace("ID", &id());
            let parsed: Multiaddr = text.parse().unwrap();
            assert_eq!(parsed.to_string(), text);
            let json = serde_json::to_string(&parsed).unwrap();
            assert_eq!(serde_json::from_str::<Multiaddr>(&json).unwrap(), parsed);
        }
    }

    #[test]
    fn errors_name_the_part() {
        let cases = [
            ("", "must begin with '/'"),
            ("192.0.2.10:7777", "must begin with '/'"),
            ("/", "ends before its kind of host"),
            ("/ip4", "ends before its host"),
            ("/ip4/", "ends before its host"),
            ("/ip5/1.2.3.4/udp/1/quic-v1/p2p/ID", "'ip5' is no kind of host"),
            ("/ip4/192.0.2.256/udp/1/quic-v1/p2p/ID", "'192.0.2.256' is no IPv4 address"),
            ("/ip4/::1/udp/1/quic-v1/p2p/ID", "'::1' is no IPv4 address"),
            ("/ip6/192.0.2.1/udp/1/quic-v1/p2p/ID", "'192.0.2.1' is no IPv6 address"),
            ("/dns/-a.example/udp/1/quic-v1/p2p/ID", "'-a.example' is no host name"),
            ("/dns/a..b/udp/1/quic-v1/p2p/ID", "'a..b' is no host name"),
            ("/ip4/192.0.2.1/tcp/1/quic-v1/p2p/ID", "'tcp' stands where 'udp' must"),
            ("/ip4/192.0.2.1/udp/0/quic-v1/p2p/ID", "'0' is no UDP port"),
            ("/ip4/192.0.2.1/udp/65536/quic-v1/p2p/ID", "'65536' is no UDP port"),
            ("/ip4/192.0.2.1/udp/+7/quic-v1/p2p/ID", "'+7' is no UDP port"),
            ("/ip4/192.0.2.1/udp/7777", "ends before its quic-v1"),
            ("/ip4/192.0.2.1/udp/7777/quic/p2p/ID", "'quic' stands where 'quic-v1' must"),
            ("/ip4/192.0.2.1/udp/7777/quic-v1", "ends before its p2p"),
            ("/ip4/192.0.2.1/udp/7777/quic-v1/p2p/12D3", "'12D3' is no node id"),
            ("/ip4/192.0.2.1/udp/7777/quic-v1/p2p/ID/x", "'/x' follows the node id"),
        ];
        for (text, wanted) in cases {
            let error = text.replace("ID", &id()).parse::<Multiaddr>().unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
