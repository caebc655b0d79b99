//! Flows that were under way before these programs: told by user space where the map that held them is gone.
//!
//! Owns whether that is so. Must not know how connections of this host are found.

use std::collections::BTreeMap;

use meshhold_common::maps::{Flow, FlowKey, opened_slot};

use super::{
    EbpfDatapath, EbpfError,
    maps::{of, table},
};

impl EbpfDatapath {
    /// Whether nothing is known of flows that former programs let pass: their table had another layout, or there was none.
    /// True once.
    pub fn take_forgotten(&mut self) -> bool {
        std::mem::take(&mut self.forgotten)
    }

    /// The flows that this node opened, as far as they are remembered.
    ///
    /// # Errors
    /// [`EbpfError::Map`]
    pub fn flows(&self) -> Result<BTreeMap<FlowKey, Flow>, EbpfError> {
        table("FLOWS", &self.maps.state.flows)
    }

    /// Remembers flows that this node has opened, used at `now`, the kernel's monotonic clock in nanoseconds. To be called
    /// before anything passes: the programs mark ports in the same place.
    ///
    /// # Errors
    /// [`EbpfError::Map`]
    pub fn seed(&mut self, flows: &[FlowKey], now: u64) -> Result<(), EbpfError> {
        let tick = (now >> 30) as u32;
        for flow in flows {
            let slot = opened_slot(flow.protocol);
            let mut opened = self.maps.state.opened.get(&slot, 0).map_err(of("OPENED"))?;
            if let Some(mark) = opened.ports.get_mut(usize::from(flow.local_port)) {
                *mark = 1;
            }
            self.maps.state.opened.set(slot, opened, 0).map_err(of("OPENED"))?;
            let state = Flow { used: tick, sent: tick };
            self.maps.state.flows.insert(flow, state, 0).map_err(of("FLOWS"))?;
        }
        Ok(())
    }
}
