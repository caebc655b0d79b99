//! The kernel's flows to LAN devices, as far as user space tends them: what is over is taken out a few at a time.
//!
//! Owns the two maps. Must not know devices.

use aya::maps::{HashMap, MapData};
use meshhold_common::{
    Address,
    maps::FlowKey,
    nat::{Inward, Outward, is_over, later},
};

use super::{
    EbpfError,
    maps::{keys, of},
};

/// Entries looked at in one go: a few milliseconds.
const SHARE: usize = 4096;

/// The flows, in both directions.
pub(super) struct Translations {
    outward: HashMap<MapData, FlowKey, Outward>,
    inward: HashMap<MapData, FlowKey, Inward>,
    /// What of the present round is still to be looked at.
    left: Vec<FlowKey>,
}

impl Translations {
    pub(super) fn new(
        outward: HashMap<MapData, FlowKey, Outward>,
        inward: HashMap<MapData, FlowKey, Inward>,
    ) -> Self {
        Self { outward, inward, left: Vec::new() }
    }

    /// How many there are.
    pub(super) fn count(&self) -> Result<usize, EbpfError> {
        Ok(keys("NAT_IN", self.inward.keys())?.len())
    }

    /// Goes on with taking out flows that are over at tick `now`.
    pub(super) fn sweep(&mut self, now: u32) -> Result<(), EbpfError> {
        if self.left.is_empty() {
            self.left = keys("NAT_IN", self.inward.keys())?;
        }
        for key in self.left.split_off(self.left.len().saturating_sub(SHARE)) {
            let Ok(inward) = self.inward.get(&key, 0) else { continue };
            let outward = self.outward.get(&inward.outward_key(&key), 0).unwrap_or_default();
            if is_over(key.protocol, inward.state | outward.state, later(inward.used, outward.used), now) {
                self.remove(&key, &inward);
            }
        }
        Ok(())
    }

    /// Takes out the flows of some devices.
    pub(super) fn forget(&mut self, of_these: impl Fn(&Address) -> bool) -> Result<(), EbpfError> {
        let all: Vec<_> = self.inward.iter().collect::<Result<_, _>>().map_err(of("NAT_IN"))?;
        for (key, inward) in all.iter().filter(|(_, inward)| of_these(&inward.device)) {
            self.remove(key, inward);
        }
        Ok(())
    }

    /// The kernel may have been first.
    fn remove(&mut self, key: &FlowKey, inward: &Inward) {
        let _ = self.outward.remove(&inward.outward_key(key));
        let _ = self.inward.remove(key);
    }
}
