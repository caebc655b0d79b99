//! How much may pass in a second: a virtual clock for each limit, the same for the kernel relay and for the workers.
//!
//! The state is one number, so that several CPUs can share it by compare-and-exchange; 0 is the state of a limit that
//! was never used. Must not know what is counted, nor whose clock it is.

/// Fractions of a nanosecond that the state counts in, so that a fast limit holds as exactly as a slow one.
const FRACTIONS: u64 = 16;
/// How far a burst may run ahead of the rate: within 10 seconds that is 0.5 %.
const BURST: u64 = 50_000_000 * FRACTIONS;
/// The same for what is small: probes and handshakes pass where bulk has used up a budget, or its circuit would be taken for dead.
/// They are paid for like everything else.
const RESERVE: u64 = BURST + BURST / 2;
/// Bytes of what is small.
const SMALL: u64 = 512;

/// The state after `bytes` more, or `None` where they are beyond the budget of `rate` bytes a second. A datagram larger
/// than a whole burst passes and is paid for afterwards.
#[inline(always)]
pub fn next(state: u64, now_ns: u64, bytes: u64, rate: u64) -> Option<u64> {
    let now = now_ns.wrapping_mul(FRACTIONS);
    let ahead = state.saturating_sub(now);
    if ahead > if bytes > SMALL { BURST } else { RESERVE } {
        return None;
    }
    cost(bytes, rate).map(|cost| now + ahead + cost)
}

/// By how much the state moves for so many bytes; `None` at a rate of zero.
#[inline(always)]
pub fn cost(bytes: u64, rate: u64) -> Option<u64> {
    (bytes * 1_000_000_000 * FRACTIONS).checked_div(rate)
}

/// Takes `bytes` out of the budget; false where they are beyond it.
#[inline(always)]
pub fn take(state: &mut u64, now_ns: u64, bytes: u64, rate: u64) -> bool {
    let Some(next) = next(*state, now_ns, bytes, rate) else { return false };
    *state = next;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Bytes that pass in `seconds` when `offered` times the rate is sent.
    fn passed(rate: u64, bytes: u64, seconds: u64, offered: u64) -> u64 {
        let (mut state, mut passed, start) = (0, 0, 77 * SECOND);
        let step = (bytes * SECOND / rate / offered).max(1);
        let mut now = start;
        while now < start + seconds * SECOND {
            passed += if take(&mut state, now, bytes, rate) { bytes } else { 0 };
            now += step;
        }
        passed
    }

    #[test]
    fn a_rate_holds_within_a_hundredth_over_ten_seconds() {
        for (rate, bytes) in [(125_000, 200), (1_250_000, 1_400), (125_000_000, 60_000), (40_000_000, 60_000)]
        {
            let share = passed(rate, bytes, 10, 3) as f64 / (rate * 10) as f64;
            assert!((0.99..1.01).contains(&share), "{share} of {rate} by {bytes}");
        }
    }

    #[test]
    fn what_keeps_to_its_rate_all_passes() {
        assert!(passed(1_000_000, 1_000, 10, 1) >= 9_999_000);
    }

    #[test]
    fn a_pause_earns_one_burst_and_no_more() {
        let mut state = 0;
        assert!(take(&mut state, SECOND, 1_000, 1_000_000));
        let later = 3_600 * SECOND;
        let burst = (0..1_000).filter(|_| take(&mut state, later, 1_000, 1_000_000)).count();
        assert_eq!(burst, 51, "50 ms and the one that ends them");
    }

    #[test]
    fn what_is_small_passes_where_bulk_is_refused_and_is_paid_for() {
        let mut state = 0;
        while take(&mut state, SECOND, 1_000, 1_000_000) {}
        let small = (0..1_000).filter(|_| take(&mut state, SECOND, 100, 1_000_000)).count();
        assert!((240..260).contains(&small), "{small}: 25 ms more");
        assert!(!take(&mut state, SECOND + SECOND / 50, 1_000, 1_000_000));
    }

    #[test]
    fn a_super_packet_passes_a_slow_limit_and_a_limit_of_nothing_passes_nothing() {
        let mut state = 0;
        assert!(take(&mut state, SECOND, 64_000, 10_000));
        assert!(!take(&mut state, 2 * SECOND, 1, 10_000), "still paid for");
        assert!(take(&mut state, 8 * SECOND, 1, 10_000));
        assert!(!take(&mut 0, SECOND, 1, 0));
    }
}
