//! What was counted since the start, gathered from the parts.
//!
//! Must not know how it is shown.

use std::collections::BTreeMap;

use super::Daemon;
use crate::control::api::{Figures, GossipFigures, HandshakeFigures};
use crate::link::{ByKind, KINDS};

impl Daemon {
    pub(super) fn figures(&self) -> Figures {
        let (made, told) = (self.circuits.machine.handshakes(), self.links.gossip());
        Figures {
            handshakes: HandshakeFigures {
                begun: made.begun,
                completed: made.completed,
                given_up: made.given_up,
                answered: made.answered,
                cookies: made.cookies,
                limited: made.limited,
                refused: made.refused,
                strange: made.strange,
            },
            gossip: GossipFigures {
                links: self.links.status().len(),
                envelopes: told.envelopes,
                sent: named(&told.sent),
                received: named(&told.received),
                lost: told.lost,
                violations: told.violations,
            },
            dns: self.names.answers(),
            programs: self.lan.programs(),
        }
    }
}

fn named(counts: &ByKind) -> BTreeMap<String, u64> {
    KINDS.into_iter().map(str::to_owned).zip(counts.iter().copied()).collect()
}
