//! The kernel's flows to LAN devices, as far as user space tends them: what is over is taken out a few at a time.
//!
//! Owns their two maps and the announcement of what is taken out. Must not know devices.

use aya::maps::{Array, HashMap, MapData};
use meshhold_common::{
    Address,
    maps::FlowKey,
    nat::{Inward, Outward, is_over, later},
};

use super::{
    EbpfError,
    maps::{keys, of},
    remember::entries,
};

/// Entries looked at in one go: a few milliseconds.
const SHARE: usize = 4096;

/// The flows, in both directions.
pub(super) struct Translations {
    outward: HashMap<MapData, FlowKey, Outward>,
    inward: HashMap<MapData, FlowKey, Inward>,
    sweeping: Array<MapData, FlowKey>,
    /// What of the present round is still to be looked at.
    left: Vec<FlowKey>,
}

impl Translations {
    pub(super) fn new(
        outward: HashMap<MapData, FlowKey, Outward>,
        inward: HashMap<MapData, FlowKey, Inward>,
        sweeping: Array<MapData, FlowKey>,
    ) -> Self {
        Self { outward, inward, sweeping, left: Vec::new() }
    }

    /// Takes over the flows of others.
    pub(super) fn remember(&mut self, live: &Self) -> Result<(), EbpfError> {
        entries(&mut self.outward, &live.outward).map_err(of("NAT_OUT"))?;
        entries(&mut self.inward, &live.inward).map_err(of("NAT_IN"))
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
            let Some(inward) = self.over(&key, now) else { continue };
            // Its connection may begin anew in this moment: that is seen here, or the kernel sees the announcement.
            self.sweeping.set(0, inward.outward_key(&key), 0).map_err(of("SWEEPING"))?;
            if let Some(inward) = self.over(&key, now) {
                self.remove(&key, &inward);
            }
        }
        self.sweeping.set(0, FlowKey::default(), 0).map_err(of("SWEEPING"))
    }

    /// The flow, if it is over.
    fn over(&self, key: &FlowKey, now: u32) -> Option<Inward> {
        let inward = self.inward.get(key, 0).ok()?;
        let outward = self.outward.get(&inward.outward_key(key), 0).unwrap_or_default();
        let (state, used) = (inward.state | outward.state, later(inward.used, outward.used));
        is_over(key.protocol, state, used, now).then_some(inward)
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
