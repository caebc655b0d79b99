//! A bounded set of recently seen keys that several workers use without a lock.
//!
//! Owns eviction: eight places a key, the oldest makes room. Keys are kept as 64-bit SipHash values under a random
//! key, so two keys are taken for one with probability 2^-64, not at an attacker's choice.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use meshhold_common::Renewal;
use meshhold_common::maps::LISTEN_SECONDS;

const WAYS: usize = 8;

#[derive(Debug, Default)]
struct Place {
    /// 0 where free.
    tag: AtomicU64,
    seen: AtomicU32,
    /// When this node itself renewed it last.
    sent: AtomicU32,
}

impl Place {
    fn renew(&self, now: u32) {
        store(&self.seen, now);
        store(&self.sent, now);
    }
}

/// Other workers have the same line in their caches: it is written where that changes something.
fn store(slot: &AtomicU32, now: u32) {
    if slot.load(Relaxed) != now {
        slot.store(now, Relaxed);
    }
}

/// The set. Times are seconds of any steady clock.
#[derive(Debug)]
pub(super) struct Memory {
    places: Box<[Place]>,
    hasher: RandomState,
}

impl Memory {
    /// Room for `capacity` keys, rounded up to whole sets.
    pub(super) fn new(capacity: usize) -> Self {
        let places = (0..capacity.next_multiple_of(WAYS).max(WAYS)).map(|_| Place::default()).collect();
        Self { places, hasher: RandomState::new() }
    }

    /// Whether `key` was kept and seen within `lifetime` seconds before `now`.
    pub(super) fn find(&self, key: &impl Hash, now: u32, lifetime: u32, renewal: Renewal) -> bool {
        let (tag, set) = self.set(key);
        let Some(place) = set.iter().find(|place| place.tag.load(Relaxed) == tag) else {
            return false;
        };
        let alive = now.saturating_sub(place.seen.load(Relaxed)) <= lifetime;
        let listens = || now.saturating_sub(place.sent.load(Relaxed)) <= LISTEN_SECONDS;
        match renewal {
            Renewal::Sent if alive => place.renew(now),
            Renewal::Received if alive && listens() => store(&place.seen, now),
            _ => {}
        }
        alive
    }

    /// Keeps `key`, seen at `now`.
    pub(super) fn keep(&self, key: &impl Hash, now: u32) {
        let (tag, set) = self.set(key);
        let known = set.iter().find(|place| place.tag.load(Relaxed) == tag);
        let oldest =
            || set.iter().min_by_key(|place| (place.tag.load(Relaxed) != 0, place.seen.load(Relaxed)));
        if let Some(place) = known.or_else(oldest) {
            place.renew(now);
            place.tag.store(tag, Relaxed);
        }
    }

    fn set(&self, key: &impl Hash) -> (u64, &[Place]) {
        let tag = self.hasher.hash_one(key).max(1);
        let start = (tag as usize % (self.places.len() / WAYS)) * WAYS;
        (tag, self.places.get(start..start + WAYS).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams that are only received live on, for a day after the last word of ours.
    #[test]
    fn what_is_received_renews_for_a_while() {
        let memory = Memory::new(64);
        memory.keep(&1, 0);
        let (mut now, step) = (0, 200);
        while now + step <= LISTEN_SECONDS {
            now += step;
            assert!(memory.find(&1, now, 300, Renewal::Received), "{now}");
        }
        assert!(memory.find(&1, now + 200, 300, Renewal::Received), "alive, and no more renewed");
        assert!(!memory.find(&1, now + 400, 300, Renewal::Received));
        memory.keep(&1, 0);
        assert!(memory.find(&1, 300, 300, Renewal::Sent) && memory.find(&1, 600, 300, Renewal::No));
    }

    #[test]
    fn keeps_renews_and_forgets() {
        let memory = Memory::new(64);
        assert!(!memory.find(&1, 0, 10, Renewal::No));
        memory.keep(&1, 0);
        assert!(memory.find(&1, 10, 10, Renewal::No));
        assert!(!memory.find(&1, 11, 10, Renewal::No), "not renewed by looking");
        assert!(memory.find(&1, 10, 10, Renewal::Sent));
        assert!(memory.find(&1, 20, 10, Renewal::No));
    }

    #[test]
    fn the_oldest_makes_room() {
        let memory = Memory::new(WAYS);
        for key in 0..=WAYS as u32 {
            memory.keep(&key, key);
        }
        assert!(!memory.find(&0u32, 8, u32::MAX, Renewal::No));
        assert!((1..=WAYS as u32).all(|key| memory.find(&key, 8, u32::MAX, Renewal::No)));
    }
}
