//! How many handshakes a source may cause: 20 a second with bursts of 5, as in WireGuard.
//!
//! Owns one bounded table of token buckets, by IPv4 address or IPv6 /64. Must not know what a handshake is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Time that one token takes to come back.
const REFILL: Duration = Duration::from_millis(50);
/// Tokens of a full bucket.
const BURST: u32 = 5;
/// Most sources that are told apart at once. While all are in use, a new one waits.
const MAX_SOURCES: usize = 4096;

/// Token buckets by source.
#[derive(Debug, Default)]
pub struct Limiter {
    /// When each source's bucket is full again.
    full_at: BTreeMap<u128, Instant>,
}

impl Limiter {
    /// Takes a token of `source`; false where it has none left.
    pub fn allow(&mut self, now: Instant, source: IpAddr) -> bool {
        let key = key(source);
        if self.full_at.len() >= MAX_SOURCES && !self.full_at.contains_key(&key) {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= MAX_SOURCES {
                return false;
            }
        }
        let full_at = self.full_at.entry(key).or_insert(now);
        let next = (*full_at).max(now) + REFILL;
        if next > now + REFILL * BURST {
            return false;
        }
        *full_at = next;
        true
    }
}

fn key(source: IpAddr) -> u128 {
    match source.to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits() & !u128::from(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_its_burst_and_then_its_rate() {
        let (start, source) = (Instant::now(), IpAddr::from([192, 0, 2, 1]));
        let mut limiter = Limiter::default();
        let burst = (0..10).filter(|_| limiter.allow(start, source)).count();
        assert_eq!(burst, BURST as usize);
        assert!(limiter.allow(start, IpAddr::from([192, 0, 2, 2])), "another source has its own bucket");
        let passed =
            (1..=1000u64).filter(|ms| limiter.allow(start + Duration::from_millis(*ms), source)).count();
        assert_eq!(passed, 20);
    }

    #[test]
    fn ipv4_sources_of_a_dual_stack_socket_have_buckets_of_their_own() {
        let (now, mut limiter) = (Instant::now(), Limiter::default());
        let mapped = |last| IpAddr::from(std::net::Ipv4Addr::new(192, 0, 2, last).to_ipv6_mapped());
        while limiter.allow(now, mapped(1)) {}
        assert!(!limiter.allow(now, IpAddr::from([192, 0, 2, 1])), "the mapped form is the same source");
        assert!(limiter.allow(now, mapped(2)));
    }

    #[test]
    fn the_table_stays_bounded() {
        let (start, mut limiter) = (Instant::now(), Limiter::default());
        let many = 3 * MAX_SOURCES as u32;
        let passed = (0..many).filter(|n| limiter.allow(start, IpAddr::from(n.to_be_bytes()))).count();
        assert_eq!((passed, limiter.full_at.len()), (MAX_SOURCES, MAX_SOURCES));
        assert!(limiter.allow(start + Duration::from_secs(1), IpAddr::from([10, 0, 0, 1])));
    }
}
