//! Relaying in user space: datagrams go on as they came, behind the label that they came with.
//!
//! Owns the legs that are in use, with their budgets and counters. Must not know who asked for them, or what a datagram holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use meshhold_common::{Reason, budget};
use meshhold_core::wire::{LABEL_HEADER, TYPE_RELAY};

use super::event::WorkerEvent;
use super::receive::Arrival;
use super::run::{Wake, Worker};
use super::shared::Snapshot;
use crate::datapath::relay::{Hop, Leg, LegTraffic};
use crate::platform::linux::sys_net;

/// How often a worker says that something was too long.
const REPEAT_TOO_BIG: Duration = Duration::from_secs(1);

/// A leg in use, shared by all workers.
#[derive(Debug)]
pub(super) struct LiveLeg {
    leg: Leg,
    /// State of its budget, and of that which all legs of the same source share; see [`budget`].
    budget: AtomicU64,
    source: Arc<AtomicU64>,
    packets: AtomicU64,
    bytes: AtomicU64,
    over_rate: AtomicU64,
    expired: AtomicU64,
}

/// All legs in use.
#[derive(Debug, Default)]
pub(super) struct Legs(HashMap<Hop, Arc<LiveLeg>>);

/// How a relay knows the first of these datagrams, if it has a label and came directly; and how many bytes are datagrams
/// like it.
pub(super) fn run(bytes: &[u8], arrival: Arrival) -> (Option<Hop>, usize) {
    let datagrams = bytes.chunks(arrival.segment);
    let header = datagrams.clone().next().and_then(label_header);
    let len = datagrams.take_while(|datagram| label_header(datagram) == header).map(<[u8]>::len).sum();
    let hop = header.filter(|_| arrival.from.is_direct()).map(|&[_, _, _, _, a, b, c, d]| Hop {
        remote: arrival.from.remote,
        label: u32::from_be_bytes([a, b, c, d]),
    });
    (hop, len)
}

fn label_header(datagram: &[u8]) -> Option<&[u8; LABEL_HEADER]> {
    datagram.first_chunk().filter(|header| header.starts_with(&[TYPE_RELAY]))
}

impl Legs {
    /// These legs; what is known of one that was there already is kept.
    pub(super) fn of(wanted: &[Leg], before: &Self) -> Self {
        let mut sources: HashMap<u32, Arc<AtomicU64>> =
            before.0.values().map(|live| (live.leg.source, live.source.clone())).collect();
        let mut adopt = |leg: &Leg| match before.0.get(&leg.from) {
            Some(live) if live.leg == *leg => live.clone(),
            _ => Arc::new(LiveLeg::new(*leg, sources.entry(leg.source).or_default().clone())),
        };
        Self(wanted.iter().map(|leg| (leg.from, adopt(leg))).collect())
    }

    /// What was done for each.
    pub(super) fn traffic(&self) -> Vec<(Hop, LegTraffic)> {
        let of = |live: &LiveLeg| LegTraffic {
            packets: live.packets.load(Relaxed),
            bytes: live.bytes.load(Relaxed),
            over_rate: live.over_rate.load(Relaxed),
            expired: live.expired.load(Relaxed),
        };
        self.0.iter().map(|(hop, live)| (*hop, of(live))).collect()
    }
}

impl LiveLeg {
    fn new(leg: Leg, source: Arc<AtomicU64>) -> Self {
        let [budget, packets, bytes, over_rate, expired] = [0; 5].map(AtomicU64::new);
        Self { leg, budget, source, packets, bytes, over_rate, expired }
    }

    /// Whether `bytes` may pass at `now` nanoseconds.
    fn admits(&self, now: u64, bytes: usize) -> bool {
        let take = |state: &AtomicU64, rate| {
            state.fetch_update(Relaxed, Relaxed, |state| budget::next(state, now, bytes as u64, rate)).is_ok()
        };
        if !take(&self.budget, self.leg.rate) {
            return false;
        }
        if take(&self.source, self.leg.source_rate) {
            return true;
        }
        // It is not the leg's fault.
        self.budget.fetch_sub(budget::cost(bytes as u64, self.leg.rate).unwrap_or(0), Relaxed);
        false
    }
}

impl Worker {
    /// Sends on datagrams that a relay knows as `hop`, if a leg takes them. Yields whether they were dealt with.
    pub(super) fn relay(&mut self, hop: Option<Hop>, run: &[u8], arrival: Arrival, wake: &Wake<'_>) -> bool {
        let Arrival { segment, hops, .. } = arrival;
        let Some(live) = hop.and_then(|hop| wake.snapshot.legs.0.get(&hop)) else { return false };
        let count = run.len().div_ceil(segment) as u64;
        if hops.is_some_and(|hops| hops <= 1) {
            live.expired.fetch_add(count, Relaxed);
            self.outlet.counters.add(Reason::HopLimit, count);
            return true;
        }
        if !live.admits(self.outside.shared.nanoseconds(wake.now), run.len()) {
            live.over_rate.fetch_add(count, Relaxed);
            self.outlet.counters.add(Reason::OverRate, count);
            return true;
        }
        live.packets.fetch_add(count, Relaxed);
        live.bytes.fetch_add(run.len() as u64, Relaxed);
        self.outlet.counters.add(Reason::PassRelay, count);
        let left = hops.map_or(0, |hops| hops - 1);
        self.batch.forward(run, segment, (live.leg.to, left), self.outlet.exit());
        true
    }
}

impl Worker {
    /// Lets the node before know what the way to the next hop takes, where a relayed datagram was too long for it.
    pub(super) fn tell_too_big(&mut self, snapshot: &Snapshot) {
        let Some((to, label)) = self.batch.take_refused() else { return };
        let now = Instant::now();
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < REPEAT_TOO_BIG) {
            return;
        }
        let mut legs = snapshot.legs.0.iter();
        let leg = legs.find(|(hop, live)| hop.label == label && live.leg.to == to);
        if let (Some((hop, _)), Ok(carries)) = (leg, sys_net::udp_payload(to)) {
            self.told = Some(now);
            self.report(WorkerEvent::TooBig { hop: *hop, carries });
        }
    }
}

#[cfg(test)]
mod tests {
    use meshhold_core::path::Path;

    use super::*;

    fn leg(label: u32, rate: u64, source: u32) -> Leg {
        let from = Hop { remote: ([192, 0, 2, 1], 7777).into(), label };
        Leg { from, to: ([192, 0, 2, 2], 7777).into(), rate, source, source_rate: 1_500_000 }
    }

    /// Bytes that pass in ten seconds of twice the rate.
    fn passed(live: &[&LiveLeg]) -> u64 {
        let mut sum = 0;
        for now in (0..10_000).map(|ms| ms * 1_000_000) {
            for live in live {
                sum += if live.admits(now, 2_000) { 2_000 } else { 0 };
            }
        }
        sum
    }

    #[test]
    fn rates_hold_for_a_leg_and_for_all_of_a_source() {
        let legs = Legs::of(&[leg(1, 1_000_000, 1)], &Legs::default());
        let one = passed(&[&legs.0[&leg(1, 0, 0).from]]);
        assert!((9_800_000..10_500_000).contains(&one), "{one}");
        let legs = Legs::of(&[leg(1, 1_000_000, 1), leg(2, 1_000_000, 1)], &Legs::default());
        let both: Vec<_> = legs.0.values().map(AsRef::as_ref).collect();
        let two = passed(&both);
        assert!((14_500_000..15_800_000).contains(&two), "{two}");
    }

    #[test]
    fn counters_stay_while_a_leg_does() {
        let before = Legs::of(&[leg(1, 10, 1), leg(2, 10, 1)], &Legs::default());
        before.0[&leg(1, 10, 1).from].packets.store(7, Relaxed);
        let after = Legs::of(&[leg(1, 10, 1), leg(3, 10, 1)], &before);
        let packets: u64 = after.traffic().iter().map(|(_, traffic)| traffic.packets).sum();
        assert_eq!((after.0.len(), packets), (2, 7));
    }

    fn arrival(from: Path) -> Arrival {
        Arrival { segment: 10, from, hops: None }
    }

    #[test]
    fn a_run_ends_where_the_label_changes() {
        let direct = Path::from(std::net::SocketAddr::from(([192, 0, 2, 1], 7777)));
        let datagram = |kind: u8, label: u8| [kind, 0, 0, 0, 0, 0, 0, label, 9, 9];
        let [one, two, bare] = [datagram(TYPE_RELAY, 1), datagram(TYPE_RELAY, 2), datagram(7, 1)];
        let joined = [&one[..], &one, &two, &bare, &datagram(7, 3), &one[..9]].concat();
        let mut seen = Vec::new();
        let mut rest = &joined[..];
        while !rest.is_empty() {
            let (hop, len) = run(rest, arrival(direct));
            seen.push((hop.map(|hop| hop.label), len));
            rest = &rest[len..];
        }
        assert_eq!(seen, [(Some(1), 20), (Some(2), 10), (None, 20), (Some(1), 9)]);
    }

    #[test]
    fn only_labelled_datagrams_that_came_directly_have_a_hop() {
        let direct = Path::from(std::net::SocketAddr::from(([192, 0, 2, 1], 7777)));
        let datagram = [TYPE_RELAY, 0, 0, 0, 0, 0, 1, 2, 4];
        let hop = |bytes, from| run(bytes, arrival(from)).0;
        assert_eq!(hop(&datagram, direct), Some(Hop { remote: direct.remote, label: 0x102 }));
        assert_eq!(hop(&datagram, Path::relayed(direct.remote, 1)), None);
        assert_eq!(hop(&datagram[..7], direct), None);
        assert_eq!(hop(&datagram[8..], direct), None);
    }
}
