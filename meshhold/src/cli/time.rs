//! Times as users write and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) use crate::clock::format_utc;

/// Reads `30d`, `12h`, `45m`, `90s` or `2w`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' isn't a time; write e.g. 30d, 12h or 45m");
    let unit = text.chars().last().ok_or_else(bad)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(bad()),
    };
    let count: u64 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| bad())?;
    // A hundred years: beyond that, nobody means it.
    match count.checked_mul(seconds) {
        Some(total @ 1..=3_155_760_000) => Ok(Duration::from_secs(total)),
        _ => Err(bad()),
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `5 s ago` or `3 h ago`, of Unix seconds.
pub(super) fn ago(seconds: u64) -> String {
    match now().saturating_sub(seconds) {
        passed @ 0..120 => format!("{passed} s ago"),
        passed @ 120..7200 => format!("{} min ago", passed / 60),
        passed => format!("{} h ago", passed / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in
            [("30d", 2_592_000), ("12h", 43_200), ("45m", 2700), ("1s", 1), ("2w", 1_209_600)]
        {
            assert_eq!(parse_duration(text).unwrap().as_secs(), seconds);
        }
        for text in ["", "d", "0d", "30", "-1d", "1.5h", "99999999999999999999d", "101000d", "5 d", "5µ"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
