//! How many dials a source may begin while many do: each costs QUIC keys, and an answer.
//!
//! Owns the count and the buckets, by hash of the source, so that they need no room and nobody is kept out for want of it.
//! Must not know what follows from a dial.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// First packets a second up to which nobody is counted.
const LOAD: u32 = 200;
/// What a source may send at once, and the time after which it may send another.
const BURST: u64 = 32;
const REFILL: Duration = Duration::from_millis(50);
const BUCKETS: usize = 2048;

/// First packets of dials, by source.
#[derive(Debug)]
pub(super) struct Initials {
    begun: Instant,
    /// The second that is counted, and how many came in it and before.
    second: u64,
    counts: [u32; 2],
    hasher: RandomState,
    /// Until when each bucket's past packets have used up its rate, in milliseconds.
    used: Box<[u64]>,
}

impl Initials {
    /// None has come.
    pub(super) fn new(now: Instant) -> Self {
        let used = vec![0; BUCKETS].into();
        Self { begun: now, second: 0, counts: [0; 2], hasher: RandomState::new(), used }
    }

    /// Whether another from `source` is to be looked at.
    pub(super) fn allow(&mut self, now: Instant, source: IpAddr) -> bool {
        let now = now.saturating_duration_since(self.begun).as_millis() as u64;
        let second = now / 1000;
        if second != self.second {
            let before = if second == self.second + 1 { self.counts[0] } else { 0 };
            (self.second, self.counts) = (second, [0, before]);
        }
        self.counts[0] = self.counts[0].saturating_add(1);
        if self.counts.iter().all(|count| *count <= LOAD) {
            return true;
        }
        let source = match source.to_canonical() {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
        };
        let bucket = self.hasher.hash_one(source) as usize % BUCKETS;
        let Some(used) = self.used.get_mut(bucket) else { return true };
        let refill = REFILL.as_millis() as u64;
        let next = (*used).max(now) + refill;
        let allowed = next <= now + refill * BURST;
        if allowed {
            *used = next;
        }
        allowed
    }
}

/// Whether a QUIC packet may begin a dial whose sender has not shown that it receives at its address (RFC 9000 section 17.2.2).
pub(super) fn is_unproven(packet: &[u8]) -> bool {
    const KIND: u8 = 0xf0;
    const INITIAL: u8 = 0xc0;
    let token = || {
        let source = 6 + usize::from(*packet.get(5)?);
        packet.get(source + 1 + usize::from(*packet.get(source)?)).copied()
    };
    packet.first().is_some_and(|first| first & KIND == INITIAL) && token().is_none_or(|length| length == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_crowd_is_counted_and_only_its_greedy_sources_wait() {
        let start = Instant::now();
        let mut initials = Initials::new(start);
        let [greedy, newcomer] = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let mut flood = |ms: u64, count: usize| {
            let at = start + Duration::from_millis(ms);
            (0..count).filter(|_| initials.allow(at, greedy)).count()
        };
        assert_eq!(flood(0, LOAD as usize), LOAD as usize, "nobody is counted yet");
        let passed: usize = (1..2000).map(|ms| flood(ms, 10)).sum();
        assert!((60..=80).contains(&passed), "{passed}");
        assert!(initials.allow(start + Duration::from_secs(2), newcomer));
        let later = start + Duration::from_secs(4);
        assert!((0..LOAD).all(|_| initials.allow(later, greedy)), "the flood is over");
    }

    #[test]
    fn a_dial_with_a_token_and_all_that_is_no_dial_is_not_counted() {
        let initial = |token: u8| [&[0xc3, 0, 0, 0, 1, 8][..], &[7; 8], &[2, 9, 9], &[token, 0, 0]].concat();
        assert!(is_unproven(&initial(0)) && !is_unproven(&initial(64)));
        for first in [0x40, 0xd0, 0xe0, 0xf0] {
            let mut packet = initial(0);
            packet[0] = first;
            assert!(!is_unproven(&packet), "{first:x}");
        }
        assert!(is_unproven(&initial(0)[..9]), "a packet that is cut off proves nothing");
    }
}
