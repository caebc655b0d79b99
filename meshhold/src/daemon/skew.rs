//! Clocks of members that are ahead of this host's, by their records: a record of the future proves that one of both is
//! wrong. One of the past proves nothing, it may have been on its way for hours.
//!
//! Must not know who is right.

use std::collections::BTreeMap;

use meshhold_core::identity::NodeId;
use meshhold_core::record::{LIFETIME, RecordBody, SKEW};

/// Members that are remembered.
const MAX: usize = 64;

/// By member: its name, and how far ahead it was at least, in seconds.
#[derive(Debug, Default)]
pub(super) struct Clocks(BTreeMap<NodeId, (String, i64)>);

impl Clocks {
    /// Looks at when a record that arrived at `now` (Unix seconds) says that it was written.
    pub(super) fn note(&mut self, now: u64, body: &RecordBody) {
        let written = body.expires.saturating_sub(LIFETIME);
        let ahead = i64::try_from(written.saturating_sub(now)).unwrap_or(i64::MAX);
        if ahead == 0 {
            self.0.remove(&body.node);
        } else if self.0.len() < MAX || self.0.contains_key(&body.node) {
            self.0.insert(body.node, (body.name.clone(), ahead));
        }
    }

    /// How far ahead a member's clock is, where that is known.
    pub(super) fn of(&self, node: NodeId) -> Option<i64> {
        self.0.get(&node).map(|(_, ahead)| *ahead)
    }

    /// This host's own clock was set.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// How many members' records are refused.
    pub(super) fn refused(&self) -> usize {
        self.0.values().filter(|(_, ahead)| ahead.unsigned_abs() > SKEW).count()
    }

    /// A sentence for each member whose records are refused.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        let refused = self.0.values().filter(|(_, ahead)| ahead.unsigned_abs() > SKEW);
        refused.map(|(name, ahead)| {
            format!("the records of '{name}' are refused, for they are {ahead} s from the future: its clock or this host's is wrong")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshhold_core::identity::Identity;

    fn record(node: u8, written: u64) -> RecordBody {
        RecordBody {
            node: Identity::from_seed([node; 32]).node_id(),
            name: format!("node {node}"),
            attempt: 0,
            claimed_at: 1,
            endpoints: Vec::new(),
            devices: Vec::new(),
            relays: Vec::new(),
            version: written,
            expires: written + LIFETIME,
            without_ipv6: false,
        }
    }

    #[test]
    fn only_records_of_the_future_tell_of_a_clock() {
        let mut clocks = Clocks::default();
        let node = record(1, 0).node;
        for (written, ahead, warns) in
            [(500, None, false), (1_090, Some(90), false), (9_000, Some(8_000), true)]
        {
            clocks.note(1_000, &record(1, written));
            assert_eq!(
                (clocks.of(node), clocks.warnings().count()),
                (ahead, usize::from(warns)),
                "{written}"
            );
        }
        clocks.note(1_000, &record(1, 1_000));
        assert_eq!(clocks.of(node), None);
        (0..200).for_each(|n| clocks.note(1_000, &record(n, 2_000)));
        assert_eq!(clocks.0.len(), MAX);
    }
}
