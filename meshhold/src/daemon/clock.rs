//! Whether time went by evenly: a host that slept, was frozen, or had its clock set looks at all paths again.
//!
//! Must not know what follows from a jump.

use std::time::{Duration, Instant, SystemTime};

/// Between two looks there are half a second and a little.
const LATE: Duration = Duration::from_secs(3);

/// The last look at both clocks.
#[derive(Debug)]
pub(super) struct Clock {
    steady: Instant,
    wall: SystemTime,
}

impl Clock {
    /// Begins to look.
    pub(super) fn new(steady: Instant, wall: SystemTime) -> Self {
        Self { steady, wall }
    }

    /// True where one clock ran on far more than it should have, or both not alike. The steady one stands still while a host
    /// is suspended.
    pub(super) fn jumped(&mut self, steady: Instant, wall: SystemTime) -> bool {
        let passed = steady.saturating_duration_since(self.steady);
        let expected = self.wall + passed;
        let apart = wall.duration_since(expected).unwrap_or_else(|earlier| earlier.duration());
        *self = Self { steady, wall };
        passed >= LATE || apart >= LATE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_freezes_sleep_and_clocks_that_are_set() {
        let (start, wall) = (Instant::now(), SystemTime::now());
        let s = Duration::from_secs;
        for (steady, at, jumps) in [
            (start + s(1), wall + s(1), false),
            (start + s(600), wall + s(600), true),
            (start + s(1), wall + s(600), true),
            (start + s(1), wall + s(3601), true),
            (start + s(1), wall - s(3599), true),
        ] {
            assert_eq!(Clock::new(start, wall).jumped(steady, at), jumps);
        }
    }
}
