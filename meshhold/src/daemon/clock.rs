//! The host's clock: what it decided is decided again when it was set.
//!
//! Owns what follows from a jump and what is said of a clock that can't be right. Must not know how either is found out.

use std::time::{Duration, Instant, SystemTime};

use super::network::Network;
use super::{Daemon, unix_now, wall_clock};
use crate::clock::{Clock, Endings, Jump, warning};
use crate::discover::lan::LanDiscovery;

/// How long records of the future are put aside: a clock that was an hour ahead may be right by then.
const AGAIN: Duration = Duration::from_secs(600);

/// The clock, as it was when last looked at.
#[derive(Debug)]
pub(super) struct HostClock {
    clock: Clock,
    endings: Endings,
    /// By what records and keys end now (Unix seconds).
    ends: u64,
    /// It can't be right, and the log says so.
    wrong: bool,
    judged_at: Instant,
}

impl HostClock {
    /// Begins to look.
    pub(super) fn new() -> Self {
        let (now, unix) = (Instant::now(), unix_now());
        Self {
            clock: Clock::new(now, SystemTime::now()),
            endings: Endings::new(now, unix),
            ends: unix,
            wrong: false,
            judged_at: now,
        }
    }

    /// By what records and keys end now (Unix seconds).
    pub(super) fn ends(&self) -> u64 {
        self.ends
    }
}

impl Daemon {
    /// Looks at the clock, and does again what it had decided where it was set.
    pub(super) fn look_at_clock(&mut self, now: Instant, unix: u64) {
        self.clock.ends = self.clock.endings.by(now, unix);
        self.tell_of_clock(unix);
        match self.clock.clock.jumped(now, SystemTime::now()) {
            Some(Jump::Set) => {
                tracing::info!("the clock jumped or this host slept: looking at all paths and records again");
                self.shaken_clock(now);
                self.networks.values_mut().for_each(Network::clock_set);
                self.discovery.iter().for_each(LanDiscovery::clock_set);
                self.judge_again(now);
            }
            Some(Jump::Frozen) => {
                tracing::info!("the daemon stood still for a while: looking at all paths again");
                self.shaken_clock(now);
            }
            None if self.clock.judged_at.elapsed() >= AGAIN => self.judge_put_aside(now),
            None => {}
        }
    }

    fn shaken_clock(&mut self, now: Instant) {
        self.circuits.machine.set_wall(now, wall_clock());
        self.networks.values_mut().for_each(|network| network.clocks.forget());
        self.names.compare();
        self.shake(now);
    }

    fn judge_put_aside(&mut self, now: Instant) {
        self.clock.judged_at = now;
        if self.networks.values().any(|network| network.clocks.refused() > 0) {
            self.judge_again(now);
        }
    }

    fn judge_again(&mut self, now: Instant) {
        self.clock.judged_at = now;
        self.links.judge_again();
    }

    fn tell_of_clock(&mut self, unix: u64) {
        let text = warning(unix);
        if std::mem::replace(&mut self.clock.wrong, text.is_some()) == text.is_some() {
            return;
        }
        match text {
            Some(text) => tracing::warn!("{text}"),
            None => tracing::info!("this host's clock may be right now"),
        }
    }

    /// The next moment at which a newcomer may speak, where that is to come.
    pub(super) fn next_speech(&self) -> Option<Instant> {
        let now = Instant::now();
        let moments = self.networks.values().filter_map(|network| network.speaks_at(self.linked));
        moments.filter(|at| *at > now).min()
    }

    /// Whether there is a newcomer that has heard enough.
    pub(super) fn newcomer_speaks(&self) -> bool {
        let now = Instant::now();
        self.networks.values().any(|network| network.speaks_at(self.linked).is_some_and(|at| at <= now))
    }
}
