//! The envelopes held, per topic and slot, and the bounds on what is held for others.
//!
//! Owns accounting and eviction. Must not know links or messages; the signature was checked before.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Hash, Limits, Slot, Topic};
use crate::identity::NodeId;
use crate::record::Envelope;

/// Bytes an envelope costs beside its sealed part.
const OVERHEAD: usize = 256;

/// Not stored: expired, no news, or beyond a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal;

#[derive(Debug)]
struct Held {
    envelope: Arc<Envelope>,
    /// When it goes, unix seconds: its own expiry or, for others, the longest we keep it.
    expires: u64,
    /// The node whose account it burdens; in a box, for most burden none.
    charged: Option<Box<NodeId>>,
}

#[derive(Debug, Default)]
struct Shelf {
    own: bool,
    /// When the last envelope came, unix seconds.
    touched: u64,
    held: BTreeMap<Slot, Held>,
}

#[derive(Debug)]
pub(super) struct Store {
    limits: Limits,
    topics: BTreeMap<Topic, Shelf>,
    accounts: BTreeMap<NodeId, usize>,
    foreign_bytes: usize,
}

impl Store {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, topics: BTreeMap::new(), accounts: BTreeMap::new(), foreign_bytes: 0 }
    }

    pub(super) fn is_own(&self, topic: &Topic) -> bool {
        self.topics.get(topic).is_some_and(|shelf| shelf.own)
    }

    pub(super) fn own_topics(&self) -> impl Iterator<Item = Topic> {
        self.topics.iter().filter(|(_, shelf)| shelf.own).map(|(topic, _)| *topic)
    }

    /// Makes a topic one of ours; false when it was already. Its envelopes burden nobody any more.
    pub(super) fn adopt(&mut self, topic: Topic) -> bool {
        let shelf = self.topics.entry(topic).or_default();
        if core::mem::replace(&mut shelf.own, true) {
            return false;
        }
        let freed: Vec<_> = shelf
            .held
            .values_mut()
            .map(|held| (held.charged.take().map(|node| *node), held.bytes()))
            .collect();
        freed.into_iter().for_each(|(node, bytes)| self.credit(node, bytes));
        true
    }

    pub(super) fn disown(&mut self, topic: &Topic) {
        if let Some(shelf) = self.topics.get_mut(topic) {
            shelf.own = false;
        }
    }

    pub(super) fn get(&self, topic: &Topic, slot: &Slot) -> Option<&Arc<Envelope>> {
        self.topics.get(topic)?.held.get(slot).map(|held| &held.envelope)
    }

    pub(super) fn all(&self, topic: &Topic) -> impl Iterator<Item = &Arc<Envelope>> + use<'_> {
        self.topics.get(topic).into_iter().flat_map(|shelf| shelf.held.values()).map(|held| &held.envelope)
    }

    pub(super) fn digest(&self, topic: &Topic) -> Vec<(Slot, u64)> {
        self.all(topic).map(|envelope| (envelope.slot, envelope.version)).collect()
    }

    /// The same for two stores exactly when their digests are.
    pub(super) fn hash(&self, topic: &Topic) -> Hash {
        let mut hasher = blake3::Hasher::new_derive_key("meshhold v1 gossip summary");
        for envelope in self.all(topic) {
            hasher.update(&envelope.slot).update(&envelope.version.to_le_bytes());
        }
        let mut hash = Hash::default();
        hasher.finalize_xof().fill(&mut hash);
        hash
    }

    /// Stores news. `live` tells the topics that links are interested in; the others make room first.
    pub(super) fn insert(
        &mut self,
        now: u64,
        envelope: &Arc<Envelope>,
        source: Option<NodeId>,
        live: impl Fn(&Topic) -> bool,
    ) -> Result<(), Refusal> {
        let topic = envelope.topic;
        let own = self.is_own(&topic);
        let known = self.get(&topic, &envelope.slot).map(|held| held.version);
        if envelope.expires <= now || known.is_some_and(|version| version >= envelope.version) {
            return Err(Refusal);
        }
        let charged = source.filter(|_| !own);
        let expires = if own { envelope.expires } else { self.foreign_expiry(now, envelope.expires) };
        let held = Held { envelope: envelope.clone(), expires, charged: charged.map(Box::new) };
        if !own {
            self.make_room(&topic, &held, live)?;
        }
        let most = self.limits.envelopes_per_topic;
        if known.is_none() && self.topics.get(&topic).is_some_and(|shelf| shelf.held.len() >= most) {
            self.drop_soonest(&topic, source.is_none())?;
        }
        self.remove(&topic, &envelope.slot);
        self.charge(charged, held.bytes());
        let shelf = self.topics.entry(topic).or_default();
        shelf.touched = now;
        shelf.held.insert(envelope.slot, held);
        Ok(())
    }

    pub(super) fn expire(&mut self, now: u64) {
        let old = |(slot, held): (&Slot, &Held)| (held.expires <= now).then_some(*slot);
        let gone: Vec<(Topic, Slot)> = self
            .topics
            .iter()
            .flat_map(|(topic, shelf)| shelf.held.iter().filter_map(old).map(|slot| (*topic, slot)))
            .collect();
        gone.iter().for_each(|(topic, slot)| self.remove(topic, slot));
        self.topics.retain(|_, shelf| shelf.own || !shelf.held.is_empty());
    }

    fn foreign_expiry(&self, now: u64, expires: u64) -> u64 {
        expires.min(now.saturating_add(self.limits.foreign_lifetime))
    }

    fn make_room(
        &mut self,
        topic: &Topic,
        held: &Held,
        live: impl Fn(&Topic) -> bool,
    ) -> Result<(), Refusal> {
        let account = held.charged.as_deref().and_then(|node| self.accounts.get(node)).copied().unwrap_or(0);
        if held.charged.is_some() && account + held.bytes() > self.limits.source_bytes {
            return Err(Refusal);
        }
        while self.foreign_bytes + held.bytes() > self.limits.foreign_bytes || self.is_full_for(topic) {
            let idle = |(other, shelf): &(&Topic, &Shelf)| !shelf.own && *other != topic && !live(other);
            let oldest = self.topics.iter().filter(idle).min_by_key(|(_, shelf)| shelf.touched);
            let Some(victim) = oldest.map(|(topic, _)| *topic) else { return Err(Refusal) };
            let slots: Vec<Slot> =
                self.topics.get(&victim).into_iter().flat_map(|s| s.held.keys().copied()).collect();
            slots.iter().for_each(|slot| self.remove(&victim, slot));
            self.topics.remove(&victim);
        }
        Ok(())
    }

    fn is_full_for(&self, topic: &Topic) -> bool {
        let foreign = self.topics.values().filter(|shelf| !shelf.own).count();
        !self.topics.contains_key(topic) && foreign >= self.limits.topics
    }

    /// A full topic refuses others' envelopes; ours takes the place of the one that would go first.
    fn drop_soonest(&mut self, topic: &Topic, ours: bool) -> Result<(), Refusal> {
        let shelf = self.topics.get(topic).filter(|_| ours).ok_or(Refusal)?;
        let soonest = shelf.held.iter().min_by_key(|(_, held)| held.expires).map(|(slot, _)| *slot);
        soonest.iter().for_each(|slot| self.remove(topic, slot));
        Ok(())
    }

    fn remove(&mut self, topic: &Topic, slot: &Slot) {
        let Some(held) = self.topics.get_mut(topic).and_then(|shelf| shelf.held.remove(slot)) else { return };
        self.credit(held.charged.as_deref().copied(), held.bytes());
    }

    fn charge(&mut self, node: Option<NodeId>, bytes: usize) {
        let Some(node) = node else { return };
        *self.accounts.entry(node).or_default() += bytes;
        self.foreign_bytes += bytes;
    }

    fn credit(&mut self, node: Option<NodeId>, bytes: usize) {
        let Some(node) = node else { return };
        self.foreign_bytes = self.foreign_bytes.saturating_sub(bytes);
        let Some(account) = self.accounts.get_mut(&node) else { return };
        *account = account.saturating_sub(bytes);
        if *account == 0 {
            self.accounts.remove(&node);
        }
    }
}

impl Held {
    fn bytes(&self) -> usize {
        self.envelope.sealed.len() + OVERHEAD
    }
}
