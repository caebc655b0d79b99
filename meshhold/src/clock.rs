//! What this host's clock is worth: whether it can be right, whether it was set, and by which time things end.
//!
//! Must not know what follows from any of it.

use std::time::{Duration, Instant, SystemTime};

/// The newest 1st of January before this program was written, in Unix seconds; a test says when to move it.
const WRITTEN: u64 = 1_767_225_600;
/// When this program was built: what packagers say (reproducible-builds.org), or else when it was written, so that two builds of
/// one source are alike. A clock that says less is wrong.
pub(crate) const BUILT: u64 = built(option_env!("SOURCE_DATE_EPOCH"));
/// Between two looks there are half a second and a little.
const LATE: Duration = Duration::from_secs(3);
/// How long a clock that went ahead has to stay there until something ends by it.
const SETTLED: Duration = Duration::from_secs(60);

const fn built(told: Option<&str>) -> u64 {
    match told {
        Some(text) => match u64::from_str_radix(text, 10) {
            Ok(seconds) if seconds > WRITTEN => seconds,
            _ => WRITTEN,
        },
        None => WRITTEN,
    }
}

/// How time went by otherwise than evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Jump {
    /// The daemon stood still for a while.
    Frozen,
    /// The clock was set, or the host slept.
    Set,
}

/// The last look at both clocks.
#[derive(Debug)]
pub(crate) struct Clock {
    steady: Instant,
    wall: SystemTime,
}

impl Clock {
    /// Begins to look.
    pub(crate) fn new(steady: Instant, wall: SystemTime) -> Self {
        Self { steady, wall }
    }

    /// Where one clock ran on far more than it should have, or both not alike. The steady one stands still while a host is
    /// suspended.
    pub(crate) fn jumped(&mut self, steady: Instant, wall: SystemTime) -> Option<Jump> {
        let passed = steady.saturating_duration_since(self.steady);
        let expected = self.wall + passed;
        let apart = wall.duration_since(expected).unwrap_or_else(|earlier| earlier.duration());
        *self = Self { steady, wall };
        if apart >= LATE {
            return Some(Jump::Set);
        }
        (passed >= LATE).then_some(Jump::Frozen)
    }
}

/// The time by which records and keys end. It follows the clock back at once, but ahead only after the clock has stood there
/// for a minute: what is given up by a clock that is wrong for a moment would have to be found again.
#[derive(Debug)]
pub(crate) struct Endings {
    steady: Instant,
    unix: u64,
    /// Since when the clock has been ahead of that.
    ahead: Option<Instant>,
}

impl Endings {
    /// Begins with a time that is believed, in Unix seconds.
    pub(crate) fn new(steady: Instant, unix: u64) -> Self {
        Self { steady, unix, ahead: None }
    }

    /// What to end things by where the clock says `unix`, in Unix seconds.
    pub(crate) fn by(&mut self, steady: Instant, unix: u64) -> u64 {
        let expected = self.unix + steady.saturating_duration_since(self.steady).as_secs();
        if unix > expected + LATE.as_secs() {
            let since = *self.ahead.get_or_insert(steady);
            if steady.saturating_duration_since(since) < SETTLED {
                return expected;
            }
        }
        *self = Self::new(steady, unix);
        unix
    }
}

/// A sentence where a clock that says `unix` (Unix seconds) can't be right.
pub(crate) fn warning(unix: u64) -> Option<String> {
    (unix < BUILT).then(|| {
        format!(
            "this host's clock is wrong: it says {}, before this program was made. No address is claimed and no record is told until it is \
             right; `timedatectl set-ntp true` sets it by the network, `date --set` by hand",
            format_utc(unix)
        )
    })
}

/// `2026-01-31 12:34 UTC` of Unix seconds.
pub(crate) fn format_utc(seconds: u64) -> String {
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// Date of a day since 1970 (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn notices_freezes_sleep_and_clocks_that_are_set() {
        let (start, wall) = (Instant::now(), SystemTime::now());
        let s = Duration::from_secs;
        for (steady, at, jump) in [
            (start + s(1), wall + s(1), None),
            (start + s(600), wall + s(600), Some(Jump::Frozen)),
            (start + s(1), wall + s(600), Some(Jump::Set)),
            (start + s(1), wall + s(3601), Some(Jump::Set)),
            (start + s(1), wall - s(3599), Some(Jump::Set)),
        ] {
            assert_eq!(Clock::new(start, wall).jumped(steady, at), jump);
        }
    }

    #[test]
    fn nothing_ends_by_a_clock_that_is_ahead_for_a_moment() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut endings = Endings::new(start, 1000);
        assert_eq!(endings.by(at(1), 1001), 1001);
        assert_eq!(endings.by(at(2), 1002 + 40 * DAY), 1002);
        assert_eq!(endings.by(at(6), 1006), 1006, "it is right again");
        assert_eq!(endings.by(at(7), 10), 10, "back at once");
        assert_eq!(endings.by(at(8), 1008), 11);
        assert_eq!(endings.by(at(60), 1060), 63);
        assert_eq!(endings.by(at(68), 1068), 1068, "it stood for a minute");
    }

    #[test]
    fn the_time_of_the_build_is_what_packagers_say_and_never_far_in_the_past() {
        assert_eq!(built(None), WRITTEN);
        assert_eq!(built(Some("1800000000")), 1_800_000_000);
        assert_eq!([built(Some("0")), built(Some("soon"))], [WRITTEN; 2]);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert!(WRITTEN < now && now < WRITTEN + 2 * 366 * DAY, "set WRITTEN to the last 1st of January");
        assert_eq!(warning(now), None);
        assert!(warning(30).is_some_and(|text| text.contains("it says 1970-01-01 00:00 UTC")));
    }

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59 UTC"),
            (4_102_444_800, "2100-01-01 00:00 UTC"),
        ] {
            assert_eq!(format_utc(seconds), text);
        }
    }
}
