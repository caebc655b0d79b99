//! How sealed envelopes spread over links: push of news, digests against loss.
//!
//! Owns who is told what and what may be stored. An envelope is stored only when its topic signature
//! holds, so strangers cannot inject; what is sealed inside is never looked at. A node stores topics it
//! has no key for as well, when a link named them, and hands them to the other links that did.
//! Must not know sockets, keys or what a record says.
//!
//! Loops end because only news is passed on: a known or older version stops where it arrives.

mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::identity::NodeId;
use crate::record::Envelope;
use store::{Refusal, Store};

/// Public key of a topic: what an envelope's signature is checked with.
pub type Topic = [u8; 32];
/// Place of one member's envelope inside a topic.
pub type Slot = [u8; 16];
/// What stands for everything that is held of a topic.
pub type Hash = [u8; 16];
/// A link as its owner numbers it; never used twice.
pub type LinkId = u64;

/// Most topics in one [`Message::Subscribe`].
pub const MAX_SUBSCRIBE: usize = 64;
/// Most entries in one [`Message::Digest`] or [`Message::Want`], and most envelopes of a topic.
pub const MAX_ENTRIES: usize = 4096;
/// Links whose topics a relay may name to another one.
const RELAYED_LINKS: usize = 16;
/// Entries of a digest that cost as much of the budget as one push.
const ENTRIES_PER_COST: usize = 64;

/// What two nodes say to each other about topics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// "Tell me about these." Answered by a digest each.
    Subscribe {
        /// At most [`MAX_SUBSCRIBE`].
        topics: Vec<Topic>,
    },
    /// Everything the sender holds of a topic. Answered by what it lacks and by a want for what it has more.
    Digest {
        /// The topic.
        topic: Topic,
        /// Slot and version, at most [`MAX_ENTRIES`].
        entries: Vec<(Slot, u64)>,
    },
    /// "Push me these."
    Want {
        /// The topic.
        topic: Topic,
        /// At most [`MAX_ENTRIES`].
        slots: Vec<Slot>,
    },
    /// One envelope.
    Push(#[serde(with = "shared")] Arc<Envelope>),
    /// A digest in short. Answered by a digest where the receiver's own differs.
    Summary {
        /// The topic.
        topic: Topic,
        /// Of every slot and version that the sender holds.
        hash: Hash,
    },
}

/// Serde of a shared envelope as the envelope itself.
mod shared {
    use super::{Arc, Envelope};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(envelope: &Arc<Envelope>, to: S) -> Result<S::Ok, S::Error> {
        envelope.as_ref().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Envelope>, D::Error> {
        Envelope::deserialize(from).map(Arc::new)
    }
}

/// What the owner of the links is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send `message` on `link`; a full queue may lose it, a later digest repairs that.
    Send {
        /// Where.
        link: LinkId,
        /// What.
        message: Message,
    },
    /// News of a topic this node subscribed to.
    Deliver(Arc<Envelope>),
    /// The far end broke the protocol: close this link.
    Violation {
        /// Which.
        link: LinkId,
        /// How.
        reason: &'static str,
    },
}

/// Bounds of what is stored and done for others.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Topics held for others.
    pub topics: usize,
    /// Envelopes of one topic.
    pub envelopes_per_topic: usize,
    /// Bytes held for others that came from one node.
    pub source_bytes: usize,
    /// Bytes held for others in all.
    pub foreign_bytes: usize,
    /// Topics one link may name.
    pub topics_per_link: usize,
    /// Longest time an envelope of a topic without our key is kept, seconds.
    pub foreign_lifetime: u64,
    /// Messages a link may send at once before its rate counts.
    pub burst: u32,
    /// Messages a link may send a second; more are dropped.
    pub rate: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            topics: 1024,
            envelopes_per_topic: MAX_ENTRIES,
            source_bytes: 4 << 20,
            foreign_bytes: 64 << 20,
            topics_per_link: MAX_SUBSCRIBE,
            foreign_lifetime: 7 * 24 * 3600,
            burst: 8192,
            rate: 256,
        }
    }
}

#[derive(Debug)]
struct Link {
    node: NodeId,
    /// We named our own topics to it.
    introduced: bool,
    /// It is told of every topic that others name.
    carries: bool,
    /// Topics either end named on this link.
    topics: BTreeSet<Topic>,
    budget: u32,
    budget_at: u64,
}

/// The topics, who is interested in them, and what is held of them.
#[derive(Debug)]
pub struct Gossip {
    limits: Limits,
    links: BTreeMap<LinkId, Link>,
    store: Store,
}

impl Gossip {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Self { store: Store::new(limits.clone()), limits, links: BTreeMap::new() }
    }

    /// A link to `node` is there. Nothing is told on it before [`Gossip::introduce`] or the far end's first word.
    pub fn link_up(&mut self, now_unix: u64, link: LinkId, node: NodeId) {
        let (budget, budget_at) = (self.limits.burst, now_unix);
        self.links.insert(
            link,
            Link { node, introduced: false, carries: false, topics: BTreeSet::new(), budget, budget_at },
        );
    }

    /// A link is gone.
    pub fn link_down(&mut self, link: LinkId) {
        self.links.remove(&link);
    }

    /// Names our topics on a link: right for a bootstrap peer or a member, not for whoever dialed us.
    pub fn introduce(&mut self, link: LinkId) -> Vec<Output> {
        let Some(state) = self.links.get_mut(&link) else { return Vec::new() };
        if core::mem::replace(&mut state.introduced, true) {
            return Vec::new();
        }
        let topics: Vec<Topic> = self.store.own_topics().collect();
        state.topics.extend(topics.iter().copied());
        let message = |topics: &[Topic]| Message::Subscribe { topics: topics.to_vec() };
        topics.chunks(MAX_SUBSCRIBE).map(|part| Output::Send { link, message: message(part) }).collect()
    }

    /// Both ends relay: names the topics of all other links, now and when they come, so that members of one network find each
    /// other over relays that share none of them.
    pub fn carry(&mut self, link: LinkId) -> Vec<Output> {
        let named: BTreeSet<Topic> =
            self.links.values().flat_map(|state| state.topics.iter().copied()).collect();
        let Some(state) = self.links.get_mut(&link) else { return Vec::new() };
        state.carries = true;
        let fresh: Vec<Topic> = named.into_iter().filter(|topic| state.topics.insert(*topic)).collect();
        let message = |topics: &[Topic]| Message::Subscribe { topics: topics.to_vec() };
        fresh.chunks(MAX_SUBSCRIBE).map(|part| Output::Send { link, message: message(part) }).collect()
    }

    /// Takes part in a topic: delivers what is held of it and asks the links for more.
    pub fn subscribe(&mut self, topic: Topic) -> Vec<Output> {
        if !self.store.adopt(topic) {
            return Vec::new();
        }
        let mut outputs: Vec<Output> = self.store.all(&topic).cloned().map(Output::Deliver).collect();
        for (&link, state) in &mut self.links {
            let message = match (state.topics.contains(&topic), state.introduced) {
                (true, _) => Message::Digest { topic, entries: self.store.digest(&topic) },
                (false, true) => Message::Subscribe { topics: vec![topic] },
                (false, false) => continue,
            };
            state.topics.insert(topic);
            outputs.push(Output::Send { link, message });
        }
        outputs
    }

    /// Leaves a topic. What is held stays until it expires, for others.
    pub fn unsubscribe(&mut self, topic: &Topic) {
        self.store.disown(topic);
    }

    /// Stores an envelope of our own and passes it on. Nothing happens when it is no news.
    pub fn publish(&mut self, now_unix: u64, envelope: Envelope) -> Vec<Output> {
        let envelope = Arc::new(envelope);
        match self.store.insert(now_unix, &envelope, None, |_| true) {
            Ok(()) => self.spread(None, &envelope),
            Err(Refusal) => Vec::new(),
        }
    }

    /// Takes back an envelope kept on disk. Nothing happens when it is damaged, expired or of no topic of ours.
    pub fn restore(&mut self, now_unix: u64, envelope: Arc<Envelope>) -> Vec<Output> {
        if !self.store.is_own(&envelope.topic) || !envelope.verify() {
            return Vec::new();
        }
        match self.store.insert(now_unix, &envelope, None, |_| true) {
            Ok(()) => core::iter::once(Output::Deliver(envelope.clone()))
                .chain(self.spread(None, &envelope))
                .collect(),
            Err(Refusal) => Vec::new(),
        }
    }

    /// The clock was set: delivers once more what is held of our topics, as it may be judged otherwise now, and compares with all
    /// links what was refused or given up by the clock as it was.
    pub fn judge_again(&self) -> Vec<Output> {
        let held = self.store().cloned().map(Output::Deliver);
        let topics =
            self.links.iter().flat_map(|(&link, state)| state.topics.iter().map(move |topic| (link, *topic)));
        let compare = topics.map(|(link, topic)| {
            let hash = self.store.hash(&topic);
            Output::Send { link, message: Message::Summary { topic, hash } }
        });
        held.chain(compare).collect()
    }

    /// Whether a topic is one of ours.
    pub fn takes_part(&self, topic: &Topic) -> bool {
        self.store.is_own(topic)
    }

    /// Every envelope of our topics, to be kept on disk.
    pub fn store(&self) -> impl Iterator<Item = &Arc<Envelope>> {
        self.store.own_topics().flat_map(|topic| self.store.all(&topic))
    }

    /// Forgets what has expired.
    pub fn expire(&mut self, now_unix: u64) {
        self.store.expire(now_unix);
    }

    /// The periodic summaries of our own topics: where they differ, digests follow and repair what pushes lost.
    pub fn summaries(&self) -> Vec<Output> {
        let mut outputs = Vec::new();
        for topic in self.store.own_topics() {
            let hash = self.store.hash(&topic);
            let introduced = self.links.iter().filter(|(_, state)| state.introduced);
            let send = |(&link, _)| Output::Send { link, message: Message::Summary { topic, hash } };
            outputs.extend(introduced.map(send));
        }
        outputs
    }

    /// What follows from a message that arrived on `link`.
    pub fn handle(&mut self, now_unix: u64, link: LinkId, message: Message) -> Vec<Output> {
        if !self.afford(now_unix, link, &message) {
            return Vec::new();
        }
        match message {
            Message::Subscribe { topics } if topics.len() > MAX_SUBSCRIBE => {
                vec![Output::Violation { link, reason: "too many topics in a subscription" }]
            }
            Message::Digest { entries, .. } if entries.len() > MAX_ENTRIES => {
                vec![Output::Violation { link, reason: "too many entries in a digest" }]
            }
            Message::Want { slots, .. } if slots.len() > MAX_ENTRIES => {
                vec![Output::Violation { link, reason: "too many slots wanted" }]
            }
            Message::Subscribe { topics } => self.on_subscribe(link, &topics),
            Message::Digest { topic, entries } => self.on_digest(link, topic, &entries),
            Message::Want { topic, slots } => self.on_want(link, topic, &slots),
            Message::Push(envelope) => self.on_push(now_unix, link, &envelope),
            Message::Summary { topic, hash } => self.on_summary(link, topic, hash),
        }
    }

    fn afford(&mut self, now: u64, link: LinkId, message: &Message) -> bool {
        let Some(state) = self.links.get_mut(&link) else { return false };
        let cost = 1 + match message {
            Message::Subscribe { topics } => topics.len(),
            Message::Digest { entries, .. } => entries.len() / ENTRIES_PER_COST,
            Message::Want { slots, .. } => slots.len() / ENTRIES_PER_COST,
            Message::Push(_) | Message::Summary { .. } => 0,
        };
        let elapsed = u32::try_from(now.saturating_sub(state.budget_at)).unwrap_or(u32::MAX);
        let refilled = state.budget.saturating_add(elapsed.saturating_mul(self.limits.rate));
        state.budget = refilled.min(self.limits.burst);
        state.budget_at = now;
        let Some(left) = u32::try_from(cost).ok().and_then(|cost| state.budget.checked_sub(cost)) else {
            return false;
        };
        state.budget = left;
        true
    }

    fn on_subscribe(&mut self, link: LinkId, topics: &[Topic]) -> Vec<Output> {
        let Some(state) = self.links.get_mut(&link) else { return Vec::new() };
        let most = self.limits.topics_per_link * if state.carries { RELAYED_LINKS } else { 1 };
        let mut accepted = Vec::new();
        for &topic in topics {
            let foreign = state.topics.iter().filter(|topic| !self.store.is_own(topic)).count();
            if state.topics.contains(&topic) || self.store.is_own(&topic) || foreign < most {
                state.topics.insert(topic);
                accepted.push(topic);
            }
        }
        let digests = accepted.iter().map(|topic| Output::Send { link, message: self.digest(*topic) });
        let mut outputs: Vec<Output> = digests.collect();
        for (&other, state) in self.links.iter_mut().filter(|(other, state)| state.carries && **other != link)
        {
            let topics: Vec<Topic> =
                accepted.iter().filter(|topic| state.topics.insert(**topic)).copied().collect();
            if !topics.is_empty() {
                outputs.push(Output::Send { link: other, message: Message::Subscribe { topics } });
            }
        }
        outputs
    }

    fn on_digest(&self, link: LinkId, topic: Topic, entries: &[(Slot, u64)]) -> Vec<Output> {
        if !self.serves(link, &topic) {
            return Vec::new();
        }
        let theirs: BTreeMap<Slot, u64> = entries.iter().copied().collect();
        let lacking = self.store.all(&topic).filter(|held| theirs.get(&held.slot) < Some(&held.version));
        let mut outputs: Vec<Output> = lacking.map(|held| push(link, held)).collect();
        let newer = theirs.iter().filter(|&(slot, version)| {
            self.store.get(&topic, slot).is_none_or(|held| held.version < *version)
        });
        let slots: Vec<Slot> = newer.map(|(slot, _)| *slot).collect();
        if !slots.is_empty() {
            outputs.push(Output::Send { link, message: Message::Want { topic, slots } });
        }
        outputs
    }

    fn on_summary(&self, link: LinkId, topic: Topic, hash: Hash) -> Vec<Output> {
        if !self.serves(link, &topic) || self.store.hash(&topic) == hash {
            return Vec::new();
        }
        vec![Output::Send { link, message: self.digest(topic) }]
    }

    fn on_want(&self, link: LinkId, topic: Topic, slots: &[Slot]) -> Vec<Output> {
        if !self.serves(link, &topic) {
            return Vec::new();
        }
        slots.iter().filter_map(|slot| self.store.get(&topic, slot)).map(|held| push(link, held)).collect()
    }

    fn on_push(&mut self, now: u64, link: LinkId, envelope: &Arc<Envelope>) -> Vec<Output> {
        let Some(source) = self.links.get(&link).map(|state| state.node) else { return Vec::new() };
        if !self.serves(link, &envelope.topic) {
            return Vec::new();
        }
        match self.store.get(&envelope.topic, &envelope.slot) {
            Some(held) if held.version == envelope.version => return Vec::new(),
            Some(held) if held.version > envelope.version => return vec![push(link, held)],
            _ => {}
        }
        if !envelope.verify() {
            return vec![Output::Violation { link, reason: "pushed an envelope that no member signed" }];
        }
        let links = &self.links;
        let live = |topic: &Topic| links.values().any(|link| link.topics.contains(topic));
        match self.store.insert(now, envelope, Some(source), live) {
            Ok(()) => self.spread(Some(link), envelope),
            Err(Refusal) => Vec::new(),
        }
    }

    fn spread(&self, from: Option<LinkId>, envelope: &Arc<Envelope>) -> Vec<Output> {
        let deliver = (from.is_some() && self.store.is_own(&envelope.topic)).then(|| envelope.clone());
        let mut outputs: Vec<Output> = deliver.map(Output::Deliver).into_iter().collect();
        let interested = self.links.iter().filter(|(_, state)| state.topics.contains(&envelope.topic));
        let others = interested.filter(|(link, _)| Some(**link) != from);
        outputs.extend(others.map(|(&link, _)| push(link, envelope)));
        outputs
    }

    fn serves(&self, link: LinkId, topic: &Topic) -> bool {
        self.links.get(&link).is_some_and(|state| state.topics.contains(topic))
    }

    fn digest(&self, topic: Topic) -> Message {
        Message::Digest { topic, entries: self.store.digest(&topic) }
    }
}

fn push(link: LinkId, envelope: &Arc<Envelope>) -> Output {
    Output::Send { link, message: Message::Push(envelope.clone()) }
}
