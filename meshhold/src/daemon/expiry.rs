//! Keys that end: said a week before, and again each day, in log and status.
//!
//! Owns the sentence and when it is due. Must not know how a network is left.

use super::network::Network;

/// How long before its end a key is warned of.
const NOTICE: u64 = 7 * DAY;
const DAY: u64 = 86_400;
const HOUR: u64 = 3600;

/// What the user should know at `now` (Unix seconds) of the key's end.
pub(super) fn warning(expires: Option<u64>, now: u64) -> Option<String> {
    let left = expires?.checked_sub(now).filter(|left| *left <= NOTICE)?;
    let time = match (left / DAY, left / HOUR) {
        (0, 0) => "less than an hour".to_owned(),
        (0, hours) => format!("{hours} h"),
        (days, _) => format!("{days} d"),
    };
    Some(format!(
        "this key ends in {time}, and this node then leaves the network; to stay, get the key with `meshhold mgmt-keys share`, \
         remove it and add it again"
    ))
}

/// Logs the warning of each network of which it is due, once a day.
pub(super) fn remind<'a>(networks: impl Iterator<Item = &'a mut Network>, now: u64) {
    for network in networks.filter(|network| network.reminded.abs_diff(now) >= DAY) {
        let Some(text) = warning(network.expires, now) else { continue };
        network.reminded = now;
        tracing::warn!(network = %network.name, "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_before_its_end_a_key_is_warned_of() {
        let now = 1_800_000_000;
        let said = |left: u64| warning(Some(now + left), now);
        assert_eq!(warning(None, now), None);
        assert_eq!(said(NOTICE + 1), None);
        assert!(said(NOTICE).unwrap().contains("ends in 7 d"));
        assert!(said(DAY + HOUR).unwrap().contains("ends in 1 d"));
        assert!(said(DAY - 1).unwrap().contains("ends in 23 h"));
        assert!(said(HOUR - 1).unwrap().contains("less than an hour"));
        assert_eq!(warning(Some(now - 1), now), None, "it has ended");
    }
}
