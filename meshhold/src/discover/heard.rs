//! Who was met when: what of an announcement is new, and what is a replay.
//!
//! Owns the judgement and its bounded memory. Must not know sockets or seals.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meshhold_core::identity::NodeId;

use super::Found;
use super::seal::{Announcement, Purpose};

/// How far the clocks of two nodes on a LAN may differ, in milliseconds.
const WINDOW: u64 = 300_000;
/// Nodes that are kept in mind; only holders of a key get in.
const MOST: usize = 512;
/// After this time a node is told of again, in case its link went away in the meantime.
const AGAIN: Duration = Duration::from_secs(600);

#[derive(Debug)]
struct Node {
    at: u64,
    addr: SocketAddr,
    told: Instant,
}

/// What follows from an announcement.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    /// To be told to the daemon.
    pub(super) found: Option<Found>,
    /// Its sender doesn't know of us, or can't be assumed to.
    pub(super) answer: bool,
}

/// The nodes heard so far.
#[derive(Debug, Default)]
pub(super) struct Heard(BTreeMap<NodeId, Node>);

impl Heard {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes an announcement that came `from` there; `unix` is our clock in milliseconds.
    pub(super) fn judge(&mut self, said: &Announcement, from: SocketAddr, unix: u64, now: Instant) -> Judged {
        let addr = SocketAddr::new(from.ip().to_canonical(), said.port);
        if addr.ip() != said.source || said.at.abs_diff(unix) > WINDOW {
            return Judged::default();
        }
        let known = self.0.get(&said.node);
        if known.is_some_and(|known| {
            said.at < known.at || (said.at == known.at && said.source == known.addr.ip())
        }) {
            return Judged::default();
        }
        let asks = said.purpose == Purpose::Ask;
        let told =
            known.filter(|known| !asks && now.duration_since(known.told) < AGAIN).map(|known| known.told);
        let answer = said.purpose != Purpose::Answer && (asks || known.is_none());
        self.make_room(said.node);
        self.0.insert(said.node, Node { at: said.at, addr, told: told.unwrap_or(now) });
        Judged { found: told.is_none().then_some(Found { node: said.node, addr }), answer }
    }

    fn make_room(&mut self, node: NodeId) {
        if self.0.len() < MOST || self.0.contains_key(&node) {
            return;
        }
        let oldest = self.0.iter().min_by_key(|(_, known)| known.at).map(|(node, _)| *node);
        oldest.map(|node| self.0.remove(&node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIX: u64 = 1_700_000_000_000;

    fn said(node: u16, at: u64, purpose: Purpose) -> Announcement {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&node.to_be_bytes());
        Announcement { node: NodeId(id), source: [192, 0, 2, 7].into(), at, port: 7777, purpose }
    }

    fn source() -> SocketAddr {
        "[::ffff:192.0.2.7]:40000".parse().unwrap()
    }

    #[test]
    fn a_new_node_is_found_once_and_answered() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        let found =
            Some(Found { node: said(1, 0, Purpose::Tell).node, addr: "192.0.2.7:7777".parse().unwrap() });
        let first = heard.judge(&said(1, UNIX, Purpose::Tell), source(), UNIX, now);
        assert_eq!(first, Judged { found, answer: true });
        let second = heard.judge(&said(1, UNIX + 1, Purpose::Tell), source(), UNIX, now);
        assert_eq!(second, Judged { found: None, answer: false });
        let asks = heard.judge(&said(1, UNIX + 2, Purpose::Ask), source(), UNIX, now);
        assert_eq!(asks, Judged { found, answer: true }, "it was started again");
        let later = heard.judge(&said(1, UNIX + 3, Purpose::Tell), source(), UNIX, now + AGAIN);
        assert_eq!(later, Judged { found, answer: false });
        let answer = heard.judge(&said(2, UNIX, Purpose::Answer), source(), UNIX, now);
        assert!(answer.found.is_some() && !answer.answer, "answers aren't answered");
    }

    #[test]
    fn replays_are_useless() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        let said = said(1, UNIX, Purpose::Ask);
        let elsewhere: SocketAddr = "192.0.2.8:7776".parse().unwrap();
        for (from, unix) in [(elsewhere, UNIX), (source(), UNIX + WINDOW + 1), (source(), UNIX - WINDOW - 1)]
        {
            assert_eq!(heard.judge(&said, from, unix, now), Judged::default(), "{from} at {unix}");
        }
        assert!(heard.judge(&said, source(), UNIX, now).found.is_some(), "the original is fine");
        assert_eq!(heard.judge(&said, source(), UNIX, now), Judged::default(), "once");
        let older = Announcement { at: UNIX - 1, ..said };
        assert_eq!(heard.judge(&older, source(), UNIX, now), Judged::default(), "not out of order");
    }

    #[test]
    fn one_announcement_by_each_address_of_a_node_counts() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        let first = said(1, UNIX, Purpose::Ask);
        let second = Announcement { source: "2001:db8::7".parse().unwrap(), ..first };
        assert!(heard.judge(&first, source(), UNIX, now).found.is_some());
        let from = "[2001:db8::7]:40000".parse().unwrap();
        assert!(heard.judge(&second, from, UNIX, now).found.is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        for node in 0..2000 {
            heard.judge(&said(node, UNIX + u64::from(node), Purpose::Tell), source(), UNIX, now);
        }
        assert_eq!(heard.len(), MOST);
        assert!(!heard.0.contains_key(&said(0, 0, Purpose::Tell).node), "the oldest goes");
    }
}
