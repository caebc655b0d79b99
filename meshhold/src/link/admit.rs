//! Who may dial us: bounds on incoming links, in all and per source address.
//!
//! Owns the counts and rates. Must not know QUIC.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most incoming links.
const MAX_LINKS: usize = 1024;
/// Most incoming links from one IPv4 address or IPv6 /64.
const MAX_PER_SOURCE: usize = 64;
/// Dials a source may make at once, and the time after which it may make another.
const BURST: u32 = 32;
const REFILL: Duration = Duration::from_millis(250);
/// Sources whose rate is remembered.
const MAX_SOURCES: usize = 1024;
/// Half-made links from which on every dialer must first prove its address.
const BUSY: usize = 16;

/// What to do with a dial.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Go on; the permit counts until it is dropped.
    Accept(Permit),
    /// Have the dialer prove its address first.
    Prove,
    /// Tell the dialer that there is no room for it.
    Refuse,
}

#[derive(Debug)]
struct Source {
    links: usize,
    /// The time until which past dials have used up the rate.
    used: Instant,
}

#[derive(Debug, Default)]
struct Counts {
    links: usize,
    greeting: usize,
    sources: BTreeMap<IpAddr, Source>,
}

/// The door for dials from outside.
#[derive(Clone, Debug, Default)]
pub(super) struct Admission(Arc<Mutex<Counts>>);

/// The right to one incoming link.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Admission,
    source: IpAddr,
    greeting: bool,
}

impl Admission {
    /// Judges a dial from `ip`; `proven` when the dialer has shown that it receives there.
    pub(super) fn judge(&self, ip: IpAddr, proven: bool, now: Instant) -> Verdict {
        let key = source_of(ip);
        let mut counts = self.lock();
        if !counts.has_room(key) {
            return if proven { Verdict::Refuse } else { Verdict::Prove };
        }
        if !proven && counts.greeting >= BUSY {
            return Verdict::Prove;
        }
        counts.make_room(now);
        let fresh = Source { links: 0, used: now };
        let source = counts.sources.entry(key).or_insert(fresh);
        let used = source.used.max(now) + REFILL;
        if used > now + REFILL * BURST {
            return if proven { Verdict::Refuse } else { Verdict::Prove };
        }
        source.used = used;
        source.links += 1;
        counts.links += 1;
        counts.greeting += 1;
        Verdict::Accept(Permit { admission: self.clone(), source: key, greeting: true })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn has_room(&self, source: IpAddr) -> bool {
        let from_source = self.sources.get(&source).map_or(0, |source| source.links);
        self.links < MAX_LINKS && from_source < MAX_PER_SOURCE
    }

    fn make_room(&mut self, now: Instant) {
        if self.sources.len() < MAX_SOURCES {
            return;
        }
        self.sources.retain(|_, source| source.links > 0 || source.used > now);
        if self.sources.len() < MAX_SOURCES {
            return;
        }
        let idle = self.sources.iter().filter(|(_, source)| source.links == 0);
        let oldest = idle.min_by_key(|(_, source)| source.used).map(|(key, _)| *key);
        oldest.and_then(|key| self.sources.remove(&key));
    }
}

impl Permit {
    /// The far end has shown who it is.
    pub(super) fn greeted(&mut self) {
        if std::mem::take(&mut self.greeting) {
            let mut counts = self.admission.lock();
            counts.greeting = counts.greeting.saturating_sub(1);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.greeted();
        let mut counts = self.admission.lock();
        counts.links = counts.links.saturating_sub(1);
        if let Some(source) = counts.sources.get_mut(&self.source) {
            source.links = source.links.saturating_sub(1);
        }
    }
}

/// One customer's worth of addresses: an IPv4 address or an IPv6 /64.
fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_accepted(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Accept(_))
    }

    #[test]
    fn a_source_is_bounded_in_rate_and_number_and_others_are_not_disturbed() {
        let (admission, start) = (Admission::default(), Instant::now());
        let [greedy, other] = ["2001:db8::1", "192.0.2.1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let neighbour = "2001:db8::2".parse().unwrap();
        let mut permits: Vec<_> = (0..BURST).map(|_| admission.judge(greedy, true, start)).collect();
        assert!(permits.iter().all(is_accepted));
        assert!(matches!(admission.judge(neighbour, true, start), Verdict::Refuse), "same /64");
        assert!(matches!(admission.judge(neighbour, false, start), Verdict::Prove));
        assert!(is_accepted(&admission.judge(other, true, start)));
        let later = start + REFILL * BURST;
        permits.extend((0..BURST).map(|_| admission.judge(greedy, true, later)));
        assert!(permits.iter().all(is_accepted));
        let much_later = later + REFILL * BURST;
        assert!(matches!(admission.judge(greedy, true, much_later), Verdict::Refuse), "too many links");
        permits.pop();
        assert!(is_accepted(&admission.judge(greedy, true, much_later)));
    }

    #[test]
    fn dialers_prove_their_address_under_load_and_the_whole_is_bounded() {
        let (admission, now) = (Admission::default(), Instant::now());
        let ip = |n: usize| IpAddr::from([10, 0, (n >> 8) as u8, n as u8]);
        let mut permits: Vec<_> = (0..BUSY).map(|n| admission.judge(ip(n), false, now)).collect();
        assert!(matches!(admission.judge(ip(900), false, now), Verdict::Prove));
        permits.extend((BUSY..MAX_LINKS).map(|n| admission.judge(ip(n), true, now)));
        assert!(permits.iter().all(is_accepted));
        assert!(matches!(admission.judge(ip(900), true, now), Verdict::Refuse));
        drop(permits);
        for n in 0..4 * MAX_SOURCES {
            admission.judge(ip(n), true, now);
        }
        assert!(admission.lock().sources.len() <= MAX_SOURCES);
    }
}
