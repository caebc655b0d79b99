//! How many probes a node may send: one budget for all peers.
//!
//! Owns a token bucket. Must not know what is probed.

use std::time::{Duration, Instant};

/// Between two probes in the long run.
const INTERVAL: Duration = Duration::from_millis(5);
/// Probes that may be sent at once.
const BURST: u32 = 200;

/// Probes that may be sent now.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// Until when past probes have used it up.
    used: Option<Instant>,
}

impl Budget {
    /// Takes one; false where too many were sent lately.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let used = self.used.map_or(now, |used| used.max(now)) + INTERVAL;
        let allowed = used <= now + INTERVAL * BURST;
        if allowed {
            self.used = Some(used);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_200_a_second() {
        let (mut budget, start) = (Budget::default(), Instant::now());
        let taken = |budget: &mut Budget, at| (0..1000).filter(|_| budget.take(at)).count();
        assert_eq!(taken(&mut budget, start), 200);
        assert_eq!(taken(&mut budget, start + Duration::from_millis(100)), 20);
    }
}
