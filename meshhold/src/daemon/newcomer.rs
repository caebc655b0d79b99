//! When a node that is new in a network says so: not before it has heard who is there, as their records tell whether this
//! host's clock can be right, and which addresses are taken.
//!
//! Owns how long that takes. Must not know records.

use std::time::{Duration, Instant};

/// What follows the first record: the others come close behind.
const REST: Duration = Duration::from_millis(100);
/// How long after a link came up nothing more has to be expected, and in round trips of that link: a subscription, a digest, a want,
/// a push, and as much again.
const SILENCE: Duration = Duration::from_millis(300);
const ROUND_TRIPS: u32 = 4;
/// A link that is slower than that is a bad one.
const LONGEST: Duration = Duration::from_secs(2);

/// The newest link: since when, and its round-trip time.
pub(super) type Linked = Option<(Instant, Duration)>;

/// A node that has never claimed an address in a network.
#[derive(Debug, Default)]
pub(super) struct Newcomer {
    heard: Option<Instant>,
}

impl Newcomer {
    /// A record of somebody else has come.
    pub(super) fn hear(&mut self, now: Instant) {
        self.heard.get_or_insert(now);
    }

    /// When it has heard enough; never without a link.
    pub(super) fn ready_at(&self, linked: Linked) -> Option<Instant> {
        let silent = linked.map(|(since, rtt)| since + (rtt * ROUND_TRIPS).clamp(SILENCE, LONGEST));
        self.heard.map(|at| at + REST).into_iter().chain(silent).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_soon_after_the_first_record_or_when_nobody_says_anything() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let mut newcomer = Newcomer::default();
        assert_eq!(newcomer.ready_at(None), None);
        let link = |rtt| Some((start, Duration::from_millis(rtt)));
        for (rtt, ready) in [(1, 300), (200, 800), (5000, 2000)] {
            assert_eq!(newcomer.ready_at(link(rtt)), Some(ms(ready)));
        }
        newcomer.hear(ms(50));
        newcomer.hear(ms(90));
        assert_eq!(newcomer.ready_at(link(200)), Some(ms(150)));
    }
}
