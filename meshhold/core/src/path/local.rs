//! The own address of a path: learnt from what the peer sends, forgotten when this host has it no more.
//!
//! Owns how paths that differ in it alone become one. Must not know which addresses this host has.

use std::net::IpAddr;
use std::time::Instant;

use super::Path;
use super::peer::Peer;

impl Peer {
    /// The peer sends to the own address of `path`: what goes the other way leaves from there, if nothing else is known of it.
    /// Its firewall may have been opened by what it sent, and a router on the way may let no other pass.
    pub(super) fn pin(&mut self, now: Instant, path: Path) {
        if !self.is_straggler(now, path) {
            self.rename(path.from_address(None), path);
        }
    }

    /// The own address may be there and lead nowhere any more: the one that the system would choose is tried beside it.
    pub(super) fn try_system_choice(&mut self, now: Instant) {
        if let Some(current) = self.current.filter(|current| current.local.is_some()) {
            self.begin(now, current.from_address(None));
        }
    }

    /// The own addresses that paths leave from.
    pub(super) fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let tried = self.trials.iter().map(|trial| trial.path);
        tried.chain(self.current).filter_map(|path| path.local)
    }

    /// Nothing leaves from there any more.
    pub(super) fn own_address_lost(&mut self, now: Instant, local: IpAddr) {
        let paths = self.trials.iter().map(|trial| trial.path).chain(self.current);
        let lost: Vec<Path> = paths.filter(|path| path.local == Some(local)).collect();
        let before = self.current;
        for path in lost {
            self.rename(path, path.from_address(None));
        }
        if let Some(before) = before.filter(|_| self.current != before) {
            // What the peer has sent there by now is no reason to go back: a host takes it in by other interfaces too.
            self.left = Some((before, now));
            // The peer follows to where the next datagram comes from.
            self.wants_show = true;
            self.doubt(now);
        }
    }

    /// What was tried as `old` is tried as `new` from now on.
    fn rename(&mut self, old: Path, new: Path) {
        if old == new {
            return;
        }
        if self.knows(old) {
            self.trials.retain(|trial| trial.path != new);
            let renamed = self.trials.iter_mut().filter(|trial| trial.path == old);
            renamed.for_each(|trial| trial.path = new);
        }
        if self.current == Some(old) {
            self.current = Some(new);
            self.decisions.back_mut().into_iter().for_each(|decision| decision.path = new);
        }
    }
}
