//! Programs that somebody took off, put on again.
//!
//! Owns the comparison of where programs should hang with where they do. Must not know who took them off.

use super::{EbpfDatapath, EbpfError, Program, classifier};
use crate::platform::linux::sys;

/// What hangs on every other interface.
const GUARDS: [Program; 2] = [Program::Barrier, Program::Guard];

impl EbpfDatapath {
    /// Puts on again what is off, `guards` on interfaces of these names too; a phrase for each. Where the kernel doesn't tell,
    /// all is believed to be on.
    ///
    /// # Errors
    /// [`EbpfError`] of the first that can't be put on.
    pub fn mend(&mut self, guards: &[String]) -> Result<Vec<String>, EbpfError> {
        let mesh = self.interface.clone();
        let mut off = self.off(&[Program::Egress, Program::Ingress], &mesh);
        let devices = [Program::DeviceEgress, Program::DeviceIngress];
        if !self.wanted.devices.is_empty() {
            // They stand before the others.
            let again = if off.is_empty() { self.off(&devices, &mesh) } else { devices.to_vec() };
            again.iter().try_for_each(|program| self.detach(*program, &mesh))?;
            off.extend(again);
        }
        let mut off: Vec<(Program, String)> =
            off.into_iter().map(|program| (program, mesh.clone())).collect();
        for name in guards {
            off.extend(self.off(&GUARDS, name).into_iter().map(|program| (program, name.clone())));
        }
        for name in self.wanted.lans.values().cloned().collect::<Vec<_>>() {
            off.extend(
                self.off(&[Program::Answer], &name).into_iter().map(|program| (program, name.clone())),
            );
        }
        off.iter().try_for_each(|(program, interface)| self.attach(*program, interface))?;
        Ok(off
            .iter()
            .map(|(program, interface)| format!("program {} on {interface}", program.name()))
            .collect())
    }

    /// Whether one of the programs is off, as [`Self::mend`] finds it.
    pub fn is_undone(&mut self, guards: &[String]) -> bool {
        let mesh = self.interface.clone();
        !self.off(&[Program::Egress, Program::Ingress], &mesh).is_empty()
            || guards.iter().any(|name| !self.off(&GUARDS, name).is_empty())
    }

    /// Hangs the programs on a mesh interface that was made anew.
    ///
    /// # Errors
    /// [`EbpfError`]
    pub fn renew(&mut self) -> Result<(), EbpfError> {
        self.mend(&[]).map(drop)
    }

    /// Those of `programs` that don't hang on the interface.
    fn off(&mut self, programs: &[Program], interface: &str) -> Vec<Program> {
        let Some(index) = sys::index_of(interface) else { return Vec::new() };
        programs.iter().copied().filter(|program| self.is_off(*program, (index, interface))).collect()
    }

    fn is_off(&mut self, program: Program, (index, interface): (u32, &str)) -> bool {
        let Some(id) = self.id(program) else { return false };
        let place = program.place(interface, &self.interface);
        place.has(self.hook, index, id).is_ok_and(|hangs| !hangs)
    }

    /// The kernel's number of a program. It is asked twice a second for each interface.
    fn id(&mut self, program: Program) -> Option<u32> {
        if let Some(id) = self.ids.get(program.name()) {
            return Some(*id);
        }
        let id = classifier(&mut self.ebpf, program).ok()?.info().ok()?.id();
        self.ids.insert(program.name(), id);
        Some(id)
    }
}
