//! UPnP: an Internet Gateway Device, found by SSDP and asked by SOAP over HTTP.
//!
//! Owns who may answer the search: the gateway alone. The crate takes the first answer of anybody, and would fetch what that
//! says; so the search is done here and its answer handed to the crate by a socket on loopback. The crate bounds what it
//! reads (1 MiB, 64 levels of XML) and connects to no address but the gateway's. Must not know when is asked.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::Context as _;
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, PortMappingProtocol, SearchOptions};
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::{Grant, LIFETIME, Place};

/// A device that grants mappings.
pub(super) type Device = Gateway<Tokio>;

/// SSDP's group and port.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
const PORT: u16 = 1900;
/// How long the answer to a search is waited for: a device may take one second (`MX`).
const ANSWER: Duration = Duration::from_secs(2);
/// How long the device's descriptions may take, and everything together.
const DESCRIPTION: Duration = Duration::from_secs(4);
const WHOLE: Duration = Duration::from_secs(10);
/// An answer to a search is one datagram.
const DATAGRAM: usize = 1500;
/// How the gateway lists the mapping.
const NAME: &str = "MeshHold";

/// Asks `known`, or the device that is found, for `wanted` or another port.
pub(super) async fn map(
    place: Place,
    known: Option<&Device>,
    wanted: Option<SocketAddrV4>,
) -> anyhow::Result<Grant> {
    let asking = async {
        if let Some(device) = known
            && let Ok(grant) = ask(device, place, wanted).await
        {
            return Ok(grant);
        }
        ask(&find(place).await?, place, wanted).await
    };
    timeout(WHOLE, asking).await.context("the gateway takes too long")?
}

/// Ends the mapping of an external port.
pub(super) async fn end(device: &Device, port: u16) -> anyhow::Result<()> {
    Ok(device.remove_port(PortMappingProtocol::UDP, port).await?)
}

async fn ask(device: &Device, place: Place, wanted: Option<SocketAddrV4>) -> anyhow::Result<Grant> {
    let IpAddr::V4(ip) = device.get_external_ip().await? else {
        anyhow::bail!("the external address isn't IPv4");
    };
    let port = wanted.map_or(place.port.get(), |wanted| wanted.port());
    let port = add(device, place, port).await?;
    let external = SocketAddrV4::new(ip, port);
    Ok(Grant { external, lifetime: LIFETIME, device: Some(device.clone()) })
}

/// Another port where somebody else has this one; for ever where the device knows no end, until [`end`].
async fn add(device: &Device, place: Place, port: u16) -> anyhow::Result<u16> {
    let inside = SocketAddr::from((place.source, place.port.get()));
    let seconds = u32::try_from(LIFETIME.as_secs())?;
    let udp = PortMappingProtocol::UDP;
    match device.add_port(udp, port, inside, seconds, NAME).await {
        Ok(()) => Ok(port),
        Err(AddPortError::OnlyPermanentLeasesSupported) => {
            device.add_port(udp, port, inside, 0, NAME).await?;
            Ok(port)
        }
        Err(AddPortError::PortInUse) => Ok(device.add_any_port(udp, inside, seconds, NAME).await?),
        Err(error) => Err(error.into()),
    }
}

async fn find(place: Place) -> anyhow::Result<Device> {
    let answer = timeout(ANSWER, search(place)).await.context("no answer")??;
    let loopback = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let mut options = SearchOptions::default();
    options.bind_addr = (Ipv4Addr::LOCALHOST, 0).into();
    options.broadcast_address = loopback.local_addr()?;
    options.timeout = Some(DESCRIPTION);
    options.allowed_gateway_ips = vec![place.gateway.into()];
    let found = async { Ok(search_gateway(options).await?) };
    Ok(tokio::try_join!(found, tell(&loopback, &answer))?.0)
}

/// The gateway's answer to a search: some gateways hear the group only, some hosts' firewalls pass answers of who was asked only.
async fn search(place: Place) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind((place.source, 0)).await?;
    SockRef::from(&socket).set_multicast_if_v4(&place.source)?;
    for to in [place.gateway, GROUP] {
        let question = format!(
            "M-SEARCH * HTTP/1.1\r\nHOST: {to}:{PORT}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
             ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
        );
        // One of the two is enough, and a refusal shows in the next call.
        let _ = socket.send_to(question.as_bytes(), (to, PORT)).await;
    }
    let mut buffer = [0; DATAGRAM];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await?;
        if from.ip() == place.gateway {
            return Ok(buffer.get(..length).unwrap_or_default().to_vec());
        }
    }
}

/// Answers the first question, and no other: one answer, one description.
async fn tell(socket: &UdpSocket, answer: &[u8]) -> anyhow::Result<()> {
    let (_, from) = socket.recv_from(&mut [0; DATAGRAM]).await?;
    socket.send_to(answer, from).await?;
    Ok(())
}
