//! Relaying by labels: who asks for a relayed path, who forwards, who is at its end.
//!
//! Owns what is said on links about relayed paths and what follows from it, in all three parts that a node can play. A relay
//! knows the nodes before and after it and two labels; nothing of keys, names or packets. Must not know sockets, or how
//! datagrams are forwarded.
//!
//! A path is set up hop by hop over links, so each relay forwards only to nodes that have shown that they receive where they
//! say, and it is gone with any of its links. The loop contract is that of [`crate::circuit`].

mod initiate;
mod serve;
#[cfg(test)]
mod tests;
mod too_big;
mod ways;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::handshake::random::SeededRng;
use crate::identity::NodeId;
use crate::path::{Path, PeerKey};
use initiate::Request;
use serve::{Door, Passage};

/// Most relays of a path.
pub const MAX_HOPS: usize = 4;
/// Most ways that one node is told of.
pub const MAX_WAYS: usize = 64;

/// What nodes say to each other about relayed paths. An id is that of whoever sent
/// [`Message::Open`] with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The sender relays, and these relays can be reached beyond it.
    Ways(Vec<Vec<NodeId>>),
    /// "Forward `forth` towards the end of `to`, and `back` to me."
    Open {
        /// Of this path on this link.
        id: u64,
        /// Label towards the end.
        forth: u32,
        /// Label from the end.
        back: u32,
        /// The nodes passed so far, the initiator first.
        from: Vec<NodeId>,
        /// The nodes still to pass; the last one is the end.
        to: Vec<NodeId>,
    },
    /// The whole path stands.
    Opened {
        /// As in [`Message::Open`].
        id: u64,
    },
    /// It doesn't.
    Refused {
        /// As in [`Message::Open`].
        id: u64,
        /// Who refused.
        by: NodeId,
        /// Why.
        refusal: Refusal,
    },
    /// From the initiator's side: the path is no longer needed.
    Close {
        /// As in [`Message::Open`].
        id: u64,
    },
    /// From the far end's side: the path is broken.
    Lost {
        /// As in [`Message::Open`].
        id: u64,
    },
    /// Nothing, from where the sender is now.
    Here,
    /// What the receiver sends behind this label is longer than a way further on takes.
    TooBig {
        /// The label.
        label: u32,
        /// Bytes of UDP payload that it takes.
        carries: u16,
    },
}

/// Why a node doesn't forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// It is no relay.
    #[error("doesn't relay")]
    NoRelay,
    /// A label is in use between the same nodes.
    #[error("has the label in use")]
    Taken,
    /// It forwards as much as it may, for this node or in all.
    #[error("relays as many circuits as it may")]
    Full,
    /// It has no link to the next node.
    #[error("has no link to the next node")]
    NoLink,
    /// The path passes a node twice, or too many.
    #[error("takes no path with loops or more than 4 relays")]
    BadPath,
    /// No answer in time.
    #[error("did not answer in time")]
    Silent,
}

/// What the owner is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Say this on the link to `to`.
    Send {
        /// The far end.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// [`Relays::passages`] or [`Relays::doors`] say something else than before.
    Changed,
    /// A path that was asked for stands.
    Ready {
        /// For whom.
        peer: PeerKey,
        /// The path.
        path: Path,
    },
    /// A path is gone, asked for by us or by the peer.
    Gone {
        /// The path.
        path: Path,
    },
    /// A relay of this path says that what we send by it is too long.
    TooBig {
        /// The path.
        path: Path,
        /// Bytes of UDP payload that would get through there.
        carries: u16,
    },
    /// A path that was asked for did not come about.
    Failed {
        /// For whom.
        peer: PeerKey,
        /// Why not: a sentence.
        reason: String,
    },
}

/// One direction of what this node forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// Where datagrams come from.
    pub from: SocketAddr,
    /// Their label.
    pub label: u32,
    /// Where they go.
    pub to: SocketAddr,
    /// Who asked for it.
    pub source: NodeId,
}

/// What this node forwards for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// It forwards at all.
    pub enabled: bool,
    /// Most circuits.
    pub circuits: usize,
    /// Most circuits asked for by one node.
    pub circuits_per_source: usize,
}

#[derive(Debug)]
struct Link {
    address: SocketAddr,
    rtt: Duration,
    /// `Some` when the far end relays.
    ways: Option<Vec<Vec<NodeId>>>,
    /// What it was told last.
    told: Option<Vec<Vec<NodeId>>>,
}

/// The relayed paths of one node.
pub struct Relays {
    own: NodeId,
    limits: Limits,
    links: BTreeMap<NodeId, Link>,
    requests: BTreeMap<u64, Request>,
    passages: BTreeMap<u64, Passage>,
    doors: BTreeMap<(NodeId, u64), Door>,
    outputs: VecDeque<Output>,
    rng: SeededRng,
    next_id: u64,
    tell_at: Option<Instant>,
}

impl Relays {
    /// Of node `own`, without a link.
    pub fn new(own: NodeId, limits: Limits, rng_seed: [u8; 32]) -> Self {
        Self {
            own,
            limits,
            links: BTreeMap::new(),
            requests: BTreeMap::new(),
            passages: BTreeMap::new(),
            doors: BTreeMap::new(),
            outputs: VecDeque::new(),
            rng: SeededRng::new(rng_seed),
            next_id: 0,
            tell_at: None,
        }
    }

    /// There is a link to `node`, or a new one in place of the old.
    pub fn link_up(&mut self, now: Instant, node: NodeId, address: SocketAddr, rtt: Duration) {
        self.link_down(now, node);
        self.links.insert(node, Link { address, rtt, ways: None, told: None });
        self.tell_soon(now);
    }

    /// The link's far end is at another address.
    pub fn link_moved(&mut self, node: NodeId, address: SocketAddr) {
        let Some(link) = self.links.get_mut(&node) else { return };
        let before = std::mem::replace(&mut link.address, address);
        if before == address {
            return;
        }
        self.push(Output::Changed);
        self.readdress(node, before, address);
    }

    /// The link is gone, and with it all paths over it.
    pub fn link_down(&mut self, now: Instant, node: NodeId) {
        let Some(link) = self.links.remove(&node) else { return };
        self.end_requests(node, link.address);
        self.end_passages(node);
        self.end_doors(node, link.address);
        self.push(Output::Changed);
        self.tell_soon(now);
    }

    /// Takes what the far end of a link says.
    pub fn handle(&mut self, now: Instant, from: NodeId, message: Message) {
        if !self.links.contains_key(&from) {
            return;
        }
        match message {
            Message::Ways(ways) => self.on_ways(now, from, ways),
            Message::Open { id, forth, back, from: passed, to } => {
                self.on_open(from, id, [forth, back], passed, to);
            }
            Message::Opened { id } => self.on_opened(from, id),
            Message::Refused { id, by, refusal } => self.on_refused(now, from, id, by, refusal),
            Message::Close { id } => self.on_close(from, id),
            Message::Lost { id } => self.on_lost(from, id),
            Message::Here => {}
            Message::TooBig { label, carries } => self.on_too_big(from, label, carries),
        }
    }

    /// What this node forwards now.
    pub fn passages(&self) -> Vec<Forwarded> {
        self.passages.values().flat_map(|passage| self.forwarded(passage)).collect()
    }

    /// By which paths others reach this node: address of the last relay, label, and the path back.
    pub fn doors(&self) -> Vec<(SocketAddr, u32, Path)> {
        let theirs = self.doors.iter().filter_map(|((relay, _), door)| {
            let address = self.links.get(relay)?.address;
            Some((address, door.forth, Path::relayed(address, door.back)))
        });
        let ours = self.requests.values().filter_map(|request| {
            let address = self.links.get(request.hops.first()?)?.address;
            Some((address, request.back, Path::relayed(address, request.forth)))
        });
        theirs.chain(ours).collect()
    }

    /// The relays of a path, the next one first.
    pub fn via(&self, path: Path) -> Vec<NodeId> {
        let is_at = |node: &NodeId| self.links.get(node).is_some_and(|link| link.address == path.remote);
        let ours = self
            .requests
            .values()
            .find(|request| Some(request.forth) == path.label && request.hops.first().is_some_and(&is_at));
        if let Some(request) = ours {
            return request.relays().to_vec();
        }
        let theirs =
            self.doors.iter().find(|((relay, _), door)| Some(door.back) == path.label && is_at(relay));
        theirs.map(|(_, door)| door.from.iter().skip(1).rev().copied().collect()).unwrap_or_default()
    }

    /// The relays that this node has links to, the nearest first: where they are, and their round-trip times.
    pub fn near(&self) -> Vec<(NodeId, SocketAddr, Duration)> {
        let relays = self.links.iter().filter(|(_, link)| link.ways.is_some());
        let mut near: Vec<_> = relays.map(|(node, link)| (*node, link.address, link.rtt)).collect();
        near.sort_by_key(|(_, _, rtt)| *rtt);
        near
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.requests.values().filter_map(Request::deadline).chain(self.tell_at).min()
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.give_up_requests(now);
        if self.tell_at.is_some_and(|at| at <= now) {
            self.tell();
        }
    }

    fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.push(Output::Send { to, message });
    }

    fn draw_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}
