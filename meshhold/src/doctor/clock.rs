//! Clocks that differ: this host's, and those of members as their records and handshakes tell.
//!
//! Owns the guess who is wrong. Must not know how clocks are compared.

use super::Finding;
use crate::control::api::Status;
use std::collections::BTreeMap;

const CHECK: &str = "clock";
/// What delays and retries explain (seconds).
const TOLERATED: u64 = 60;
/// From here on records are refused: members don't see each other.
const FATAL: u64 = 3600;
const REMEDY: &str = "timedatectl set-ntp true";

/// Differences that are more than delays.
pub(super) fn skewed(status: &Status) -> Vec<Finding> {
    let peers = status.networks.iter().flat_map(|network| &network.peers);
    let told: BTreeMap<&str, (&str, i64)> = peers
        .filter_map(|peer| Some((peer.node_id.as_str(), (peer.name.as_str(), peer.clock_ahead_s?))))
        .collect();
    let off: Vec<(&str, i64)> =
        told.values().copied().filter(|(_, ahead)| ahead.unsigned_abs() > TOLERATED).collect();
    let refused = status.networks.iter().flat_map(|network| &network.warnings);
    let refused = refused.filter(|text| text.contains("from the future"));
    let refused = refused.map(|text| {
        Finding::error(CHECK, text.clone(), format!("{REMEDY}, on the one whose `date` is wrong"))
    });
    let own = status.warnings.iter().chain(status.networks.iter().flat_map(|network| &network.warnings));
    let own = own.filter(|text| text.starts_with("this host's clock"));
    let own = own.map(|text| Finding::error(CHECK, text.clone(), REMEDY));
    findings(&off, told.len()).into_iter().chain(refused).chain(own).collect()
}

/// Of `told` members, those that are `off`.
fn findings(off: &[(&str, i64)], told: usize) -> Vec<Finding> {
    let alike = off.iter().all(|(_, ahead)| *ahead > 0) || off.iter().all(|(_, ahead)| *ahead < 0);
    if off.len() > 1 && off.len() == told && alike {
        let median = off.iter().map(|(_, ahead)| *ahead).nth(off.len() / 2).unwrap_or_default();
        let summary = format!(
            "this host's clock is {} by about {}: all {told} members that told the time differ alike",
            if median > 0 { "behind" } else { "ahead" },
            span(median)
        );
        return vec![told_of(median, summary, REMEDY.to_owned())];
    }
    let one = |(name, ahead): &(&str, i64)| {
        let way = if *ahead > 0 { "ahead of" } else { "behind" };
        let summary = format!("the clock of '{name}' is {} {way} this host's", span(*ahead));
        told_of(*ahead, summary, format!("{REMEDY}, on the one whose `date` is wrong"))
    };
    off.iter().map(one).collect()
}

fn told_of(ahead: i64, summary: String, remedy: String) -> Finding {
    if ahead.unsigned_abs() < FATAL {
        return Finding::warning(CHECK, summary, remedy);
    }
    Finding::error(CHECK, summary + "; beyond an hour members refuse each other's records", remedy)
}

fn span(seconds: i64) -> String {
    match seconds.unsigned_abs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", (seconds + 30) / 60),
        seconds => format!("{} h", (seconds + 1800) / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn who_differs_from_all_is_wrong_and_of_two_nobody_knows() {
        let said = |off: &[(&str, i64)], told| {
            let found = findings(off, told).into_iter();
            found.map(|one| (one.severity, one.summary)).collect::<Vec<_>>()
        };
        assert!(said(&[], 3).is_empty());
        let one = said(&[("nas", 600)], 3);
        assert_eq!(
            one,
            [(Severity::Warning, "the clock of 'nas' is 10 min ahead of this host's".to_owned())]
        );
        let all = said(&[("nas", -7300), ("pc", -7200)], 2);
        assert_eq!(all.len(), 1);
        assert!(
            all[0].0 == Severity::Error && all[0].1.starts_with("this host's clock is ahead by about 2 h"),
            "{all:?}"
        );
        assert_eq!(said(&[("nas", -700), ("pc", 7200)], 2).len(), 2);
    }
}
