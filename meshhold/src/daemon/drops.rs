//! The kernel's drop events, put into the log.
//!
//! Owns the ring's place in the event loop. Must not know why a packet was dropped: the event says so. Events are
//! rate-limited in the kernel and never sent for a packet that passed.

use std::net::SocketAddr;

use meshhold_common::event::{EGRESS, Event, GUARD};
use meshhold_common::{Address, Reason};
use tokio::io::unix::AsyncFd;

use crate::datapath::ebpf::Events;

/// Drop events, where there are kernel programs.
pub(super) struct Drops(Option<AsyncFd<Events>>);

impl Drops {
    /// Listens to `events`.
    pub(super) fn new(events: Option<Events>) -> Self {
        #[expect(
            deprecated,
            reason = "its successor is unsafe; `Events` owns its descriptor as long as it lives"
        )]
        let ready = events.map(AsyncFd::new).transpose();
        if let Err(error) = &ready {
            tracing::warn!("drops are counted but not logged: {error}");
        }
        Self(ready.ok().flatten())
    }

    /// Waits for events and logs them (level debug); for ever where there are none.
    pub(super) async fn log(&mut self) {
        let Some(ring) = &mut self.0 else { return std::future::pending().await };
        let Ok(mut ready) = ring.readable_mut().await else { return std::future::pending().await };
        while let Some(event) = ready.get_inner_mut().next_event() {
            log(&event);
        }
        ready.clear_ready();
    }
}

fn log(event: &Event) {
    let reason = Reason::from_u32(event.reason).map_or("unknown", Reason::as_str);
    let from = SocketAddr::new(ip(event.source), event.source_port);
    let to = SocketAddr::new(ip(event.destination), event.destination_port);
    let direction = match event.direction {
        EGRESS => "egress",
        GUARD => "guard",
        _ => "ingress",
    };
    tracing::debug!(reason, direction, protocol = event.protocol, %from, %to, length = event.length, "dropped");
}

fn ip(address: Address) -> std::net::IpAddr {
    std::net::Ipv6Addr::from(address.bytes).to_canonical()
}
