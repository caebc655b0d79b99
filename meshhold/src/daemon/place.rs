//! Where each network's IPv4 range is shown on this host: as it is, or elsewhere if something here uses it already.
//!
//! Owns the order of precedence (who runs already stays, then who was here first) and the search for a free range. Must
//! not know how packets are rewritten.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use meshhold_core::key::Ipv4Range;
use rand_core::{OsRng, RngCore};
use serde::{Deserialize, Serialize};

use super::Daemon;
use crate::config::range::{Used, conflict, host_routes};

/// How often, at most, new routes of the host are compared with the ranges of the networks.
const LOOK: Duration = Duration::from_secs(1);
/// Free-looking ranges of a space that are compared with all of the host's routes.
const TRIES: usize = 16;
/// Where to look when the configured space is full: RFC 6598, then RFC 1918, the seldom used first.
const SPACES: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// A range that stands for a network's own on this host, and why. Kept when the reason is gone, so that addresses that
/// people wrote down stay good.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct View {
    /// First address of the range; its length is that of the network's own.
    pub(super) base: Ipv4Addr,
    /// What used the network's own range when this one was chosen.
    pub(super) reason: String,
}

impl Daemon {
    /// Remembers that routes or addresses of the host changed.
    pub(super) fn routes_changed(&mut self) {
        self.look_at.get_or_insert_with(|| Instant::now() + LOOK);
    }

    /// Compares the networks with the host's routes, if these changed.
    pub(super) async fn look_at_routes(&mut self) {
        if self.look_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.look_at = None;
        if self.place().await {
            self.stale.policy = true;
            self.stale.addresses = true;
        }
    }

    /// Gives every network a range on this host that nothing else uses. True if one moved.
    pub(super) async fn place(&mut self) -> bool {
        let mut order: Vec<(bool, usize, u16)> =
            self.networks.values().map(|n| (!n.placed, n.rank, n.index)).collect();
        order.sort_unstable();
        let mut taken: Vec<(Ipv4Range, String)> = Vec::new();
        let mut moved = false;
        for (_, _, index) in order {
            moved |= self.place_one(index, &mut taken).await;
        }
        moved
    }

    async fn place_one(&mut self, index: u16, taken: &mut Vec<(Ipv4Range, String)>) -> bool {
        let Some(network) = self.networks.get(&index) else { return false };
        let (real, shown, name) = (network.range, network.shown_range(), network.name.clone());
        let used = self.in_use(shown, taken).await;
        let (view, conflict) = match used {
            None => (network.view.clone(), None),
            Some(reason) => match self.free_range(real, taken).await {
                Some(base) => (Some(View { base, reason }), None),
                None => (
                    None,
                    Some(format!(
                        "IPv4 of this network is off: its range {real} is in use here by {reason}, and no other is free"
                    )),
                ),
            },
        };
        let Some(network) = self.networks.get_mut(&index) else { return false };
        let moved = network.view != view || network.conflict.is_some() != conflict.is_some();
        network.placed = true;
        network.view = view;
        network.conflict = conflict;
        let shown = network.shown_range();
        if let (true, Some(view)) = (moved, &network.view) {
            tracing::warn!(network = %name, "shown at {shown}: its range {real} is in use here by {}", view.reason);
        }
        if network.conflict.is_none() {
            taken.push((shown, name));
        }
        moved
    }

    /// What uses `range` on this host.
    async fn in_use(&self, range: Ipv4Range, taken: &[(Ipv4Range, String)]) -> Option<String> {
        match taken.iter().find(|(other, _)| other.overlaps(&range)) {
            Some((_, name)) => Some(format!("network '{name}'")),
            None => self.lan.conflict((range.base, range.prefix)).await,
        }
    }

    /// A range as long as `real` that nothing uses, neither here nor as the real range of another network.
    async fn free_range(&self, real: Ipv4Range, taken: &[(Ipv4Range, String)]) -> Option<Ipv4Addr> {
        let networks = self.networks.values().flat_map(|n| [n.range, n.shown_range()]);
        let mut used: Vec<Used> = networks.map(|range| (range.base, range.prefix)).collect();
        used.extend(host_routes());
        let configured = self.config.meshlan.ipv4_range;
        for space in std::iter::once((configured.base, configured.prefix)).chain(SPACES) {
            for range in candidates(space, real.prefix, OsRng.next_u32(), &used) {
                if self.in_use(range, taken).await.is_none() {
                    return Some(range.base);
                }
            }
        }
        None
    }
}

/// The first few parts of `space`, `prefix` long, that don't overlap `used`, from a part chosen by `start` on.
fn candidates((base, width): Used, prefix: u8, start: u32, used: &[Used]) -> Vec<Ipv4Range> {
    let Some(bits) = prefix.checked_sub(width).filter(|bits| *bits < 32) else {
        return Vec::new();
    };
    let count = 1_u32 << bits;
    let part = |n: u32| {
        let offset = (start.wrapping_add(n) % count).checked_shl(32 - u32::from(prefix))?;
        Ipv4Range::new(Ipv4Addr::from_bits(base.to_bits() + offset), prefix).ok()
    };
    (0..count).filter_map(part).filter(|range| conflict(*range, used).is_none()).take(TRIES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_free_parts_of_the_space() {
        let space = ("198.18.0.0".parse().unwrap(), 15);
        let used = [("198.18.0.0".parse().unwrap(), 16), ("198.19.64.7".parse().unwrap(), 32)];
        for start in [0, 3, 5, u32::MAX] {
            let mut found: Vec<String> =
                candidates(space, 18, start, &used).iter().map(ToString::to_string).collect();
            found.sort();
            assert_eq!(found, ["198.19.0.0/18", "198.19.128.0/18", "198.19.192.0/18"]);
        }
        assert!(candidates(space, 14, 0, &[]).is_empty(), "the space is too small");
        assert_eq!(candidates(space, 24, 9, &[]).len(), TRIES);
        let same = candidates(space, 15, 9, &[]);
        assert_eq!(same.first().map(ToString::to_string).as_deref(), Some("198.18.0.0/15"));
    }
}
