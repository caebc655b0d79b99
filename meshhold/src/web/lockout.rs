//! Who failed too often to be listened to.
//!
//! Owns the count of failures by source. Must not know what failed.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// So many failures …
const FAILURES: usize = 15;
/// … in this time lock a source out.
const WINDOW: Duration = Duration::from_secs(15 * 60);
/// More sources at a time push out those whose last failure is oldest.
const MAX_SOURCES: usize = 4096;

/// Failures by source: an IPv4 address, or the /64 of an IPv6 address.
#[derive(Debug, Default)]
pub(super) struct Lockout(HashMap<IpAddr, VecDeque<Instant>>);

impl Lockout {
    /// For how many more seconds the source is locked out.
    pub(super) fn locked(&mut self, source: IpAddr, now: Instant) -> Option<u64> {
        let failures = self.0.get_mut(&group(source))?;
        failures.retain(|at| now.duration_since(*at) < WINDOW);
        let oldest = failures.front().filter(|_| failures.len() >= FAILURES)?;
        Some((WINDOW - now.duration_since(*oldest)).as_secs() + 1)
    }

    /// The source failed.
    pub(super) fn fail(&mut self, source: IpAddr, now: Instant) {
        if self.0.len() >= MAX_SOURCES && !self.0.contains_key(&group(source)) {
            self.make_room(now);
        }
        let failures = self.0.entry(group(source)).or_default();
        if failures.len() == FAILURES {
            failures.pop_front();
        }
        failures.push_back(now);
    }

    /// The source proved who it is.
    pub(super) fn forget(&mut self, source: IpAddr) {
        self.0.remove(&group(source));
    }

    fn make_room(&mut self, now: Instant) {
        let recent = |failures: &VecDeque<Instant>| failures.back().copied();
        self.0.retain(|_, failures| recent(failures).is_some_and(|at| now.duration_since(at) < WINDOW));
        let oldest = self.0.iter().min_by_key(|(_, failures)| recent(failures)).map(|(source, _)| *source);
        if let Some(oldest) = oldest.filter(|_| self.0.len() >= MAX_SOURCES) {
            self.0.remove(&oldest);
        }
    }
}

fn group(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip) >> 64 << 64).to_be_bytes()),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifteenth_failure_locks_a_source_out_for_what_is_left_of_the_window() {
        let (mut lockout, start) = (Lockout::default(), Instant::now());
        let source: IpAddr = "2001:db8::1".parse().unwrap();
        for _ in 0..FAILURES - 1 {
            lockout.fail(source, start);
        }
        assert_eq!(lockout.locked(source, start), None);
        lockout.fail("2001:db8::2".parse().unwrap(), start);
        assert_eq!(lockout.locked(source, start), Some(WINDOW.as_secs() + 1), "the same /64");
        assert_eq!(lockout.locked("2001:db8:0:1::1".parse().unwrap(), start), None);
        assert_eq!(lockout.locked(source, start + WINDOW), None);
        lockout.fail(source, start + WINDOW);
        lockout.forget(source);
        assert!(lockout.0.is_empty());
    }

    #[test]
    fn sources_are_bounded() {
        let (mut lockout, start) = (Lockout::default(), Instant::now());
        let source = |n: u32| IpAddr::from(n.to_be_bytes());
        for n in 0..=MAX_SOURCES as u32 {
            lockout.fail(source(n), start + Duration::from_millis(n.into()));
        }
        assert_eq!(lockout.0.len(), MAX_SOURCES);
        assert!(!lockout.0.contains_key(&source(0)), "the oldest gave way");
    }
}
