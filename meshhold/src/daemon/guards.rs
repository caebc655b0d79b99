//! The LAN guards: which of the other interfaces has one, and which can't have it.
//!
//! Owns that list, and trying again. Interfaces come from netlink alone: a directory shows what else lies there, and
//! may be another namespace's. Must not know what a guard does.

use std::collections::BTreeMap;

use crate::datapath::ebpf::{EbpfDatapath, EbpfError};
use crate::platform::linux::watch::{Link, NetEvent};

/// The interfaces other than `lo` and the mesh, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Guards {
    /// Names of those with a guard, by index.
    on: BTreeMap<u32, String>,
    /// Those that refused it: name and reason, by index.
    refused: BTreeMap<u32, Refused>,
}

#[derive(Debug)]
struct Refused {
    name: String,
    error: EbpfError,
    /// It was still there when it was tried again.
    stands: bool,
}

impl Guards {
    /// Puts a guard on an interface, where it has none.
    pub(super) fn put(&mut self, kernel: &mut EbpfDatapath, Link { name, index, .. }: &Link) {
        let (name, index) = (name.as_str(), *index);
        if self.on.get(&index).is_some_and(|on| on == name) {
            return;
        }
        match kernel.guard(name) {
            Ok(()) => {
                self.refused.remove(&index);
                self.on.insert(index, name.to_owned());
            }
            // An interface that has just gone refuses too: whether that is so shows when it is tried again.
            Err(error) => {
                let stands = self.refused.get(&index).is_some_and(|refused| refused.name == name);
                if stands && !self.refused.get(&index).is_some_and(|refused| refused.stands) {
                    tracing::warn!("{}; it is tried again", describe(name, &error));
                }
                self.refused.insert(index, Refused { name: name.to_owned(), error, stands });
            }
        }
    }

    /// Follows interfaces as they come and go.
    pub(super) fn on_net(&mut self, kernel: &mut EbpfDatapath, event: &NetEvent) {
        match event {
            NetEvent::LinkUp(link) => self.put(kernel, link),
            NetEvent::LinkGone(Link { name, index, .. }) => self.gone(kernel, *index, name),
            _ => {}
        }
    }

    fn gone(&mut self, kernel: &mut EbpfDatapath, index: u32, name: &str) {
        self.refused.remove(&index);
        if self.on.get(&index).is_some_and(|on| on == name) {
            self.on.remove(&index);
        }
        // Another interface may have taken the name since.
        if self.on.values().all(|on| on != name)
            && let Err(error) = kernel.unguard(name)
        {
            tracing::debug!("the LAN guard of {name}, which is gone, stays pinned: {error:#}");
        }
    }

    /// Names of the interfaces that have a guard.
    pub(super) fn names(&self) -> Vec<String> {
        self.on.values().cloned().collect()
    }

    /// Whether an interface refused its guard.
    pub(super) fn are_missing(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Brings the guards to the interfaces that are `there`: those that were missed or refused get theirs, those that
    /// are gone are forgotten.
    pub(super) fn complete(&mut self, kernel: &mut EbpfDatapath, there: &[Link]) {
        let known = self.on.iter().map(|(index, name)| (*index, name.clone()));
        let known = known.chain(self.refused.iter().map(|(index, refused)| (*index, refused.name.clone())));
        let is_gone = |(index, name): &(u32, String)| {
            !there.iter().any(|link| (link.index, &link.name) == (*index, name))
        };
        for (index, name) in known.filter(is_gone).collect::<Vec<_>>() {
            self.gone(kernel, index, &name);
        }
        there.iter().for_each(|link| self.put(kernel, link));
    }

    /// A sentence for each interface that goes without.
    pub(super) fn warnings(&self) -> Vec<String> {
        let standing = self.refused.values().filter(|refused| refused.stands);
        standing.map(|Refused { name, error, .. }| describe(name, error)).collect()
    }
}

fn describe(name: &str, error: &EbpfError) -> String {
    format!(
        "no LAN guard on interface {name}, so its neighbours can send to mesh addresses of this node: {error:#}"
    )
}
