//! PCP and NAT-PMP: one datagram there and one back, on port 5351 of the gateway.
//!
//! Owns how often and how long is asked. Must not know when.

use std::net::{IpAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::pcp::{self, BaseMapRequest, DropMappingRange};
use crab_nat::{InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp};

use super::{Grant, LIFETIME, Place};

/// Three datagrams within two seconds: gateways are one hop away.
const TIMING: TimeoutConfig =
    TimeoutConfig { initial_timeout: Duration::from_millis(250), max_retries: 2, max_retry_timeout: None };

/// Asks by PCP, for `wanted` if that can be had.
pub(super) async fn pcp(
    place: Place,
    nonce: [u32; 3],
    wanted: Option<SocketAddrV4>,
) -> anyhow::Result<Grant> {
    let request =
        BaseMapRequest::new(place.gateway.into(), place.source.into(), InternetProtocol::Udp, place.port);
    let address = wanted.map(|wanted| IpAddr::V4(*wanted.ip()));
    let granted = pcp::port_mapping(request, Some(nonce), address, options(place, wanted)).await?;
    match granted.mapping_type() {
        PortMappingType::Pcp { external_ip: IpAddr::V4(ip), .. } => {
            Ok(grant(SocketAddrV4::new(ip, 0), &granted))
        }
        other => anyhow::bail!("the external address isn't IPv4: {other:?}"),
    }
}

/// Asks by NAT-PMP.
pub(super) async fn nat_pmp(place: Place, wanted: Option<SocketAddrV4>) -> anyhow::Result<Grant> {
    let gateway = place.gateway.into();
    let ip = natpmp::external_address(gateway, Some(TIMING)).await?;
    let granted =
        natpmp::port_mapping(gateway, InternetProtocol::Udp, place.port, options(place, wanted)).await?;
    Ok(grant(SocketAddrV4::new(ip, 0), &granted))
}

/// Ends the mapping that was made with this nonce.
pub(super) async fn end_pcp(place: Place, nonce: [u32; 3]) -> anyhow::Result<()> {
    let range = DropMappingRange::Single { protocol: InternetProtocol::Udp, internal_port: place.port };
    let ended =
        pcp::try_drop_mapping(place.gateway.into(), place.source.into(), nonce, range, Some(TIMING)).await;
    Ok(ended?)
}

/// Ends this host's mapping.
pub(super) async fn end_nat_pmp(place: Place) -> anyhow::Result<()> {
    let gateway = place.gateway.into();
    let ended =
        natpmp::try_drop_mapping(gateway, InternetProtocol::Udp, Some(place.port), Some(TIMING)).await;
    Ok(ended?)
}

/// The port outside is to be the one inside, or what it was.
fn options(place: Place, wanted: Option<SocketAddrV4>) -> PortMappingOptions {
    let port = wanted.and_then(|wanted| NonZeroU16::new(wanted.port()));
    PortMappingOptions {
        external_port: Some(port.unwrap_or(place.port)),
        lifetime_seconds: u32::try_from(LIFETIME.as_secs()).ok(),
        timeout_config: Some(TIMING),
    }
}

fn grant(mut external: SocketAddrV4, granted: &PortMapping) -> Grant {
    external.set_port(granted.external_port().get());
    Grant { external, lifetime: Duration::from_secs(granted.lifetime().into()), device: None }
}
