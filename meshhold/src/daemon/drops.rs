//! The kernel's drop events: logged, and kept for a while.
//!
//! Owns the ring's place in the event loop. Must not know why a packet was dropped: the event says so. Events are
//! rate-limited in the kernel and never sent for a packet that passed.

use std::collections::VecDeque;
use std::net::SocketAddr;

use meshhold_common::event::{BARRIER, EGRESS, Event, GUARD};
use meshhold_common::{Address, Reason};
use tokio::io::unix::AsyncFd;

use crate::control::api::Drop;
use crate::datapath::ebpf::Events;

/// Drops that are kept.
const KEPT: usize = 1024;

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

    /// Listens to events that came to be later than the daemon, if any.
    pub(super) fn take_up(&mut self, events: Option<Events>) {
        if events.is_some() {
            *self = Self::new(events);
        }
    }

    /// Waits for events; for ever where there are none.
    pub(super) async fn next(&mut self) -> Vec<Event> {
        let Some(ring) = &mut self.0 else { return std::future::pending().await };
        let Ok(mut ready) = ring.readable_mut().await else { return std::future::pending().await };
        let mut events = Vec::new();
        while let Some(event) = ready.get_inner_mut().next_event() {
            events.push(event);
        }
        ready.clear_ready();
        events
    }
}

/// The last drops that the kernel told of, for whoever asks. Who asks too seldom misses some, and sees that by the counters.
#[derive(Debug, Default)]
pub(super) struct Recent {
    drops: VecDeque<Drop>,
    /// How many there have been.
    told: u64,
}

impl Recent {
    /// Logs and keeps them.
    pub(super) fn keep(&mut self, events: &[Event]) {
        for event in events {
            let drop = read(event);
            tracing::debug!(reason = drop.reason, direction = drop.direction, protocol = drop.protocol, from = %drop.from, to = %drop.to, length = event.length, "dropped");
            if self.drops.len() == KEPT {
                self.drops.pop_front();
            }
            self.drops.push_back(drop);
            self.told += 1;
        }
    }

    /// Those that came after the first `seen` ones, alike ones counted together, and how many there have been.
    pub(super) fn after(&self, seen: u64) -> (Vec<Drop>, u64) {
        let new = usize::try_from(self.told.saturating_sub(seen)).unwrap_or(usize::MAX);
        let mut grouped: Vec<Drop> = Vec::new();
        for drop in self.drops.iter().skip(self.drops.len().saturating_sub(new)) {
            match grouped.iter_mut().find(|known| known.is_like(drop)) {
                Some(known) => known.count += 1,
                None => grouped.push(drop.clone()),
            }
        }
        (grouped, self.told)
    }
}

fn read(event: &Event) -> Drop {
    let reason = Reason::from_u32(event.reason).map_or("unknown", Reason::as_str);
    let direction = match event.direction {
        EGRESS => "egress",
        GUARD => "guard",
        BARRIER => "barrier",
        _ => "ingress",
    };
    Drop {
        reason: reason.to_owned(),
        direction: direction.to_owned(),
        protocol: event.protocol,
        from: SocketAddr::new(ip(event.source), event.source_port),
        to: SocketAddr::new(ip(event.destination), event.destination_port),
        peer: None,
        count: 1,
    }
}

fn ip(address: Address) -> std::net::IpAddr {
    std::net::Ipv6Addr::from(address.bytes).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alike_drops_are_counted_together_and_old_ones_forgotten() {
        let event = |port| Event {
            source: Address::v4([198, 18, 0, 17]),
            destination: Address::v4([198, 18, 0, 1]),
            reason: Reason::PortDenied as u32,
            source_port: port,
            destination_port: 22,
            protocol: 6,
            ..Event::default()
        };
        let mut recent = Recent::default();
        recent.keep(&[event(1), event(2), Event { destination_port: 23, ..event(3) }]);
        let (drops, told) = recent.after(0);
        let counts: Vec<_> = drops.iter().map(|drop| (drop.to.port(), drop.count)).collect();
        assert_eq!((counts, told), (vec![(22, 2), (23, 1)], 3));
        assert!(recent.after(3).0.is_empty());
        (0..KEPT).for_each(|_| recent.keep(&[event(9)]));
        let (drops, told) = recent.after(3);
        assert_eq!((drops.len(), drops[0].count, told), (1, KEPT as u64, 3 + KEPT as u64));
    }
}
