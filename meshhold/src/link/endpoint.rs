//! The QUIC endpoint and its limits.
//!
//! Owns every number that bounds what a far end can make this node keep. Must not know what links say.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use meshhold_core::identity::NodeId;
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt};

use super::frame::MAX_FRAME;
use super::reset::{RandomIds, ResetKey};
use super::socket::LinkSocket;
use super::swarm::MAC;
use super::tls::Tls;

/// A link that says nothing for so long is dead.
const IDLE: Duration = Duration::from_secs(30);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Assumed before the first answer; a third of the usual value, so that lost first packets cost less.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Smallest and first size of a QUIC packet (RFC 9000 section 14).
const INITIAL_MTU: u16 = 1200;
/// Largest QUIC packet without a MAC: Ethernet less IPv6 and UDP.
const MAX_MTU: u16 = 1452;
const MAC_BYTES: u16 = MAC as u16;
/// Dials of others that may wait to be looked at, and what of their first packets is kept.
const MAX_INCOMING: usize = 128;
const INCOMING_BYTES: u64 = 16 << 10;

/// Starts QUIC on the shared socket.
///
/// # Errors
/// When TLS or the socket can't be set up.
pub(super) fn open(socket: Arc<LinkSocket>, tls: &Tls, reset: ResetKey) -> anyhow::Result<quinn::Endpoint> {
    let with_mac = socket.has_mac();
    let mut server = ServerConfig::with_crypto(Arc::new(tls.server()?));
    server.transport_config(Arc::new(transport(with_mac)));
    server.max_incoming(MAX_INCOMING).incoming_buffer_size(INCOMING_BYTES);
    server.incoming_buffer_size_total(INCOMING_BYTES * MAX_INCOMING as u64);
    let mut config = EndpointConfig::new(Arc::new(reset));
    config.cid_generator(|| Box::new(RandomIds));
    // The first byte tells QUIC from circuits.
    config.grease_quic_bit(false);
    config.max_udp_payload_size(MAX_MTU - overhead(with_mac)).context("QUIC packet size")?;
    let runtime = Arc::new(quinn::TokioRuntime);
    quinn::Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime)
        .context("cannot start QUIC on the UDP socket")
}

/// For dialing `node` only.
///
/// # Errors
/// When TLS can't be set up.
pub(super) fn client_config(tls: &Tls, node: NodeId, with_mac: bool) -> anyhow::Result<quinn::ClientConfig> {
    let mut config = quinn::ClientConfig::new(Arc::new(tls.client(node)?));
    config.transport_config(Arc::new(transport(with_mac)));
    Ok(config)
}

fn transport(with_mac: bool) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MAX_MTU - overhead(with_mac));
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .initial_mtu(INITIAL_MTU)
        .mtu_discovery_config(Some(discovery))
        .enable_segmentation_offload(!with_mac)
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(window())
        .receive_window(window())
        .send_window(2 * MAX_FRAME as u64)
        .datagram_receive_buffer_size(None);
    config
}

fn window() -> VarInt {
    VarInt::from_u32(2 * MAX_FRAME as u32)
}

fn overhead(with_mac: bool) -> u16 {
    if with_mac { MAC_BYTES } else { 0 }
}
