//! A move that must show that it is no loss.
//!
//! Owns how that is measured. Two workers that share a processor share its cache too, and one that goes may cost both more than
//! it had waited for, whatever room there seemed to be.

use super::sample::Progress;

/// Looks after a move that are no measure of it.
const SETTLING: usize = 2;
/// Looks that are, and as many before it.
pub(super) const MEASURE: usize = 5;
/// A rate varies by itself: it is a loss if less than this part is left.
const LOSS: f64 = 0.92;

/// See the module.
#[derive(Debug)]
pub(super) struct Trial {
    /// Who moved, and the share that it came from.
    pub(super) back: (usize, usize),
    /// Bytes a second before.
    rate: f64,
    /// Looks since.
    looks: usize,
    start: Progress,
}

impl Trial {
    /// Of a move made at `now`, what the workers had carried since `before` is the measure.
    pub(super) fn new(back: (usize, usize), before: Progress, now: Progress) -> Self {
        Self { back, rate: now.rate(before), looks: 0, start: now }
    }

    /// Whether it may stay, once that is known. To be called at each look.
    pub(super) fn verdict(&mut self, now: Progress) -> Option<bool> {
        self.looks += 1;
        if self.looks <= SETTLING {
            self.start = now;
        }
        if self.looks < SETTLING + MEASURE {
            return None;
        }
        let rate = now.rate(self.start);
        tracing::debug!(
            before = self.rate,
            after = rate,
            "bytes a second that workers carry where they went"
        );
        Some(rate >= LOSS * self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_move_is_a_loss_by_what_is_carried_after_it() {
        let start = Instant::now();
        let at =
            |millis, bytes| Progress { at: start + Duration::from_millis(millis), sent: bytes, received: 0 };
        for (bytes, stays) in [(91, false), (93, true)] {
            let mut trial = Trial::new((0, 0), at(0, 0), at(100, 100));
            let looks = (SETTLING + MEASURE) as u64;
            let verdicts: Vec<_> =
                (0..looks).map(|n| trial.verdict(at(200 + 100 * n, 500 + bytes * n))).collect();
            let (last, earlier) = verdicts.split_last().unwrap();
            assert_eq!((*last, earlier.iter().flatten().next()), (Some(stays), None));
        }
    }
}
