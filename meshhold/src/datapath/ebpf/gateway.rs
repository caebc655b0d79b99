//! The programs for LAN devices: on the mesh interface while there are devices, and on the interfaces that lead to them.
//!
//! Owns where they hang. A node without devices has none of them, and none of their cost.

use std::collections::BTreeMap;

use meshhold_common::nat::LanEntry;

use super::{
    EbpfDatapath, EbpfError, Program,
    maps::{keys, of},
};
use crate::platform::linux::sys;

const MESH: [Program; 2] = [Program::DeviceEgress, Program::DeviceIngress];

impl EbpfDatapath {
    /// Attaches and detaches what the devices of the policy in force need.
    pub(super) fn follow_devices(&mut self) -> Result<(), EbpfError> {
        // Without an interface there is nothing to hang anything on: tests run the programs by themselves.
        if self.interface.is_empty() {
            return Ok(());
        }
        let fronts = !self.wanted.devices.is_empty();
        let interface = self.interface.clone();
        if fronts && self.fronts != Some(true) {
            MESH.iter().try_for_each(|program| self.attach(*program, &interface))?;
        }
        if self.lans.as_ref() != Some(&self.wanted.lans) {
            self.follow_lans(&interface)?;
        }
        if !fronts && self.fronts != Some(false) {
            MESH.iter().try_for_each(|program| self.detach(*program, &interface))?;
        }
        self.fronts = Some(fronts);
        Ok(())
    }

    fn follow_lans(&mut self, interface: &str) -> Result<(), EbpfError> {
        let after = self.wanted.lans.clone();
        // Programs that answer are put on anew before a former daemon's go: else the host would reset flows of devices.
        let is_first = self.lans.is_none();
        let before = self.lans.take().unwrap_or_default();
        for (index, name) in before.iter().filter(|lan| !contains(&after, *lan)) {
            self.maps.lans.remove(index).map_err(of("LANS"))?;
            self.detach(Program::Answer, name)?;
        }
        let mesh = LanEntry { mesh: sys::index_of(interface).unwrap_or_default() };
        for (index, name) in after.iter().filter(|lan| !contains(&before, *lan)) {
            self.maps.lans.insert(index, mesh, 0).map_err(of("LANS"))?;
            self.attach(Program::Answer, name)?;
        }
        if is_first {
            self.forget_lans(&after)?;
        }
        self.lans = Some(after);
        Ok(())
    }

    /// Removes what a former daemon left on interfaces other than `kept`.
    fn forget_lans(&mut self, kept: &BTreeMap<u32, String>) -> Result<(), EbpfError> {
        for index in keys("LANS", self.maps.lans.keys())?.iter().filter(|index| !kept.contains_key(index)) {
            self.maps.lans.remove(index).map_err(of("LANS"))?;
        }
        self.detach_but(Program::Answer, &kept.values().collect::<Vec<_>>())
    }

    /// Takes out flows to devices that are over at `now`, the kernel's monotonic clock in nanoseconds; a share of them
    /// each time.
    ///
    /// # Errors
    /// [`EbpfError::Map`]
    pub fn sweep_translations(&mut self, now: u64) -> Result<(), EbpfError> {
        self.maps.translations.sweep((now >> 30) as u32)
    }

    /// How many flows to devices there are.
    ///
    /// # Errors
    /// [`EbpfError::Map`]
    pub fn translations(&self) -> Result<usize, EbpfError> {
        self.maps.translations.count()
    }
}

fn contains(lans: &BTreeMap<u32, String>, (index, name): (&u32, &String)) -> bool {
    lans.get(index) == Some(name)
}
