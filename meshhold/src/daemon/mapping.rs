//! The port that the gateway maps: told to peers where the Internet leads there, and shown in any case.
//!
//! Must not know how a gateway is asked.

use std::net::SocketAddr;
use std::time::Instant;

use super::Daemon;
use crate::config::Config;
use crate::control::api::PortMapping;
use crate::discover::mapping::{Mapping, PortMapper, is_public};

/// What the gateway grants.
pub(super) struct Mapped {
    mapper: Option<PortMapper>,
    /// What connected peers were told.
    told: Option<SocketAddr>,
}

impl Mapped {
    /// Asks from now on, where that is wanted and can be done.
    pub(super) fn start(config: &Config) -> Self {
        let wanted = config.discovery.port_mapping.then(|| PortMapper::start(config.node.listen));
        let mapper = wanted.and_then(|started| {
            started.inspect_err(|error| tracing::warn!("no port mapping is asked for: {error:#}")).ok()
        });
        Self { mapper, told: None }
    }

    /// Addresses or routes changed, or this host slept.
    pub(super) fn look_again(&self) {
        self.mapper.iter().for_each(PortMapper::look_again);
    }

    /// Where the Internet reaches this node by the mapping.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.mapping().and_then(reachable)
    }

    /// The mapping as it is shown.
    pub(super) fn shown(&self) -> Option<PortMapping> {
        let Mapping { protocol, external } = self.mapping()?;
        Some(PortMapping { protocol: protocol.as_str().to_owned(), external: external.into() })
    }

    /// Gives the mapping back.
    pub(super) async fn close(self) {
        if let Some(mapper) = self.mapper {
            mapper.close().await;
        }
    }

    fn mapping(&self) -> Option<Mapping> {
        self.mapper.as_ref()?.mapping()
    }
}

impl Daemon {
    /// Connected peers hear of a new mapping at once; others read it in the record.
    pub(super) fn tell_mapping(&mut self, now: Instant) {
        let address = self.mapped.address();
        if address != self.mapped.told {
            self.mapped.told = address;
            self.ways.paths.told_anew(now);
        }
    }
}

/// Another NAT behind the gateway leads nobody here by an address of its own side.
fn reachable(mapping: Mapping) -> Option<SocketAddr> {
    is_public(*mapping.external.ip()).then_some(mapping.external.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::mapping::Protocol;

    #[test]
    fn an_address_between_two_nats_is_not_told() {
        for (external, told) in
            [("11.90.0.3:7777", true), ("10.0.0.5:7777", false), ("100.64.9.9:7777", false)]
        {
            let mapping = Mapping { protocol: Protocol::Pcp, external: external.parse().unwrap() };
            assert_eq!(reachable(mapping), told.then(|| external.parse().unwrap()));
        }
    }
}
