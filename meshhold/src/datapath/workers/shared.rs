//! What the workers and their handle share: the current picture and the counters.
//!
//! Owns the list of sessions and keeps a withdrawn one from coming back: its send counters are gone with the workers'
//! state, and starting them again would use nonces twice.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use meshhold_common::Reason;
use meshhold_core::session::Session;

use super::extra::{ExtraPort, ExtraPorts};
use super::relay::Legs;
use crate::datapath::counters::{Activity, ReasonCounters, Traffic};
use crate::datapath::relay::{Hop, LegTraffic};
use crate::datapath::table::Table;
use crate::datapath::userspace::Rules;

/// A session as all workers know it.
#[derive(Debug)]
pub(super) struct SharedSession {
    pub(super) session: Arc<Session>,
    /// Index of the peer at its other end.
    pub(super) peer: u32,
    /// The first authenticated datagram has been reported.
    pub(super) confirmed: AtomicBool,
    /// The end of the send counter has been reported.
    pub(super) exhausted: AtomicBool,
    withdrawn: AtomicBool,
    /// One a worker.
    traffic: Vec<Traffic>,
}

impl SharedSession {
    /// The part of worker `id`.
    pub(super) fn traffic(&self, id: usize) -> Option<&Traffic> {
        self.traffic.get(id)
    }
}

/// One table with what the workers made of it.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) table: Arc<Table>,
    pub(super) sessions: Vec<Arc<SharedSession>>,
    pub(super) rules: Option<Arc<Rules>>,
    pub(super) legs: Legs,
}

/// Shared by the handle and all workers.
#[derive(Debug)]
pub(super) struct Shared {
    snapshot: ArcSwap<Snapshot>,
    extra: ArcSwap<Vec<Arc<ExtraPort>>>,
    /// Advances with each snapshot, and each change of the own ports.
    version: AtomicU64,
    /// All sessions whose keys somebody still holds, withdrawn ones too. Taken by `publish` only.
    known: Mutex<Vec<Arc<SharedSession>>>,
    counters: Vec<Arc<ReasonCounters>>,
    started: Instant,
    stopped: AtomicBool,
    /// The kernel refused UDP segmentation.
    segmentation_refused: Arc<AtomicBool>,
}

impl Shared {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            snapshot: ArcSwap::default(),
            extra: ArcSwap::default(),
            version: AtomicU64::new(0),
            known: Mutex::default(),
            counters: (0..workers).map(|_| Arc::default()).collect(),
            started: Instant::now(),
            stopped: AtomicBool::new(false),
            segmentation_refused: Arc::default(),
        }
    }

    /// Seconds since start, the clock of the user-space rules.
    pub(super) fn second(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.started).as_secs() as u32
    }

    /// Nanoseconds since start, the clock of the relays' budgets.
    pub(super) fn nanoseconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_nanos() as u64
    }

    pub(super) fn publish(&self, table: Arc<Table>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot.load_full();
        known.retain(|shared| Arc::strong_count(&shared.session) > 1);
        let sessions =
            table.sessions.iter().filter_map(|(peer, session)| self.adopt(&mut known, *peer, session));
        let sessions: Vec<_> = sessions.collect();
        for gone in before.sessions.iter().filter(|old| !sessions.iter().any(|new| Arc::ptr_eq(old, new))) {
            gone.withdrawn.store(true, Relaxed);
        }
        let rules = table.policy.as_ref().map(|policy| match &before.rules {
            Some(rules) if rules.enforces(policy) => rules.clone(),
            other => Arc::new(Rules::new(policy.clone(), other.as_deref(), self.second(Instant::now()))),
        });
        let legs = Legs::of(&table.legs, &before.legs);
        self.snapshot.store(Arc::new(Snapshot { table, sessions, rules, legs }));
        self.version.fetch_add(1, Release);
    }

    fn adopt(
        &self,
        known: &mut Vec<Arc<SharedSession>>,
        peer: u32,
        session: &Arc<Session>,
    ) -> Option<Arc<SharedSession>> {
        if let Some(old) = known.iter().find(|old| Arc::ptr_eq(&old.session, session)) {
            let usable = !old.withdrawn.load(Relaxed) && old.peer == peer;
            return usable.then(|| old.clone());
        }
        let new = Arc::new(SharedSession {
            session: session.clone(),
            peer,
            confirmed: AtomicBool::new(false),
            exhausted: AtomicBool::new(false),
            withdrawn: AtomicBool::new(false),
            traffic: self.counters.iter().map(|_| Traffic::default()).collect(),
        });
        known.push(new.clone());
        Some(new)
    }

    /// Changes the own ports beside the shared one.
    pub(super) fn change_extra(&self, change: impl FnOnce(&mut Vec<Arc<ExtraPort>>)) {
        let mut ports = self.extra.load().to_vec();
        change(&mut ports);
        self.extra.store(Arc::new(ports));
        self.version.fetch_add(1, Release);
    }

    /// The own ports beside the shared one.
    pub(super) fn extra(&self) -> ExtraPorts {
        self.extra.load_full()
    }

    /// Changes after the picture has. Cheap enough for every packet.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// The current picture.
    pub(super) fn load(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    pub(super) fn reasons(&self, id: usize) -> Option<Arc<ReasonCounters>> {
        self.counters.get(id).cloned()
    }

    pub(super) fn counters(&self) -> [u64; Reason::COUNT] {
        let mut total = [0; Reason::COUNT];
        self.counters.iter().for_each(|worker| worker.add_to(&mut total));
        total
    }

    pub(super) fn activity(&self) -> Vec<Activity> {
        let of =
            |shared: &Arc<SharedSession>| Activity::of(shared.session.local_index, shared.traffic.iter());
        self.load().sessions.iter().map(of).collect()
    }

    pub(super) fn relayed(&self) -> Vec<(Hop, LegTraffic)> {
        self.load().legs.traffic()
    }

    /// For who sends to tell it.
    pub(super) fn segmentation_refused(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.segmentation_refused)
    }

    pub(super) fn is_segmentation_refused(&self) -> bool {
        self.segmentation_refused.load(Relaxed)
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }
}
