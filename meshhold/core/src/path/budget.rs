//! How many probes a node may send: a budget for all peers together.
//!
//! Owns a token bucket. Must not know what is probed.

use std::time::{Duration, Instant};

/// Probes that may be sent now.
#[derive(Debug)]
pub(super) struct Budget {
    interval: Duration,
    burst: u32,
    /// Until when past probes have used it up.
    used: Option<Instant>,
}

impl Budget {
    /// One probe an `interval` in the long run, and `burst` of them at once.
    pub(super) fn new((interval, burst): (Duration, u32)) -> Self {
        Self { interval, burst, used: None }
    }

    /// Takes one; false where too many were sent lately.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let used = self.used.map_or(now, |used| used.max(now)) + self.interval;
        let allowed = used <= now + self.interval * self.burst;
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
        let (mut budget, start) = (Budget::new((Duration::from_millis(5), 200)), Instant::now());
        let taken = |budget: &mut Budget, at| (0..1000).filter(|_| budget.take(at)).count();
        assert_eq!(taken(&mut budget, start), 200);
        assert_eq!(taken(&mut budget, start + Duration::from_millis(100)), 20);
    }
}
