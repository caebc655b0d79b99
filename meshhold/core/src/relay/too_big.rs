//! Datagrams that are longer than the way to the next hop takes: what a relay says of them, and to whom it gets.
//!
//! The word goes back over the links that the path was set up by, hop by hop, to the end that sent the datagram. Must not know
//! what the end makes of it: a relay may lie, so it is a hint and no more.

use std::net::SocketAddr;

use super::{Message, Output, Relays};
use crate::identity::NodeId;
use crate::path::Path;

impl Relays {
    /// What came from `before` behind `label` is to go on by a way that takes `carries` bytes of UDP payload, and is longer.
    pub fn too_big(&mut self, before: SocketAddr, label: u32, carries: u16) {
        let sender = self.passages.values().find_map(|passage| {
            let nodes = [passage.before.0, passage.after];
            let is_it = |(forwarded, _): &(super::Forwarded, NodeId)| {
                (forwarded.from, forwarded.label) == (before, label)
            };
            self.forwarded(passage).into_iter().zip(nodes).find(is_it).map(|(_, node)| node)
        });
        if let Some(node) = sender {
            self.send(node, Message::TooBig { label, carries });
        }
    }

    /// What we sent to `from` behind `label` was too long for it, or for somebody beyond it.
    pub(super) fn on_too_big(&mut self, from: NodeId, label: u32, carries: u16) {
        let sender = self.passages.values().find_map(|passage| match (from, label) {
            sent if sent == (passage.after, passage.forth) => Some(passage.before.0),
            sent if sent == (passage.before.0, passage.back) => Some(passage.after),
            _ => None,
        });
        if let Some(node) = sender {
            return self.send(node, Message::TooBig { label, carries });
        }
        let mut asked = self.requests.values().filter(|request| request.hops.first() == Some(&from));
        let mut doors = self.doors.range((from, 0)..=(from, u64::MAX));
        let is_ours =
            asked.any(|request| request.forth == label) || doors.any(|(_, door)| door.back == label);
        if let Some(link) = self.links.get(&from).filter(|_| is_ours) {
            let path = Path::relayed(link.address, label);
            self.push(Output::TooBig { path, carries });
        }
    }
}
