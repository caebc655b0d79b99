//! Attaching and taking off: which program, on which interface, under which pin.
//!
//! Owns the names of the pins that stand for attached programs: from them alone another process can take everything off.

use std::path::Path;

use aya::programs::{
    SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::SchedClassifierLink,
};

use super::{
    EbpfDatapath, EbpfError, Program, classifier,
    hook::{Hook, Place},
    pins::PinRoot,
};
use crate::platform::linux::{sys, tc};

/// What the names of these pins start with.
const PINS: &str = "link_";

impl Program {
    const fn direction(self) -> TcAttachType {
        match self {
            Self::Ingress | Self::Guard | Self::DeviceIngress | Self::Answer => TcAttachType::Ingress,
            Self::Egress | Self::DeviceEgress | Self::Barrier => TcAttachType::Egress,
        }
    }

    /// Number among our filters; it stays the same from version to version.
    const fn slot(self) -> u8 {
        match self {
            Self::Ingress => 1,
            Self::Egress => 2,
            Self::Guard => 3,
            Self::DeviceIngress => 4,
            Self::DeviceEgress => 5,
            Self::Answer => 6,
            Self::Barrier => 7,
        }
    }

    /// What the name of its pin starts with, where it is on other interfaces than the mesh's.
    const fn elsewhere(self) -> Option<&'static str> {
        match self {
            Self::Guard => Some("link_guard_"),
            Self::Barrier => Some("link_barrier_"),
            Self::Answer => Some("link_answer_"),
            _ => None,
        }
    }

    /// File name of the pin. Interface names contain no slash.
    fn pin(self, interface: &str) -> String {
        match self.elsewhere() {
            Some(start) => format!("{start}{interface}"),
            None => format!("{PINS}{}", self.name()),
        }
    }

    /// Which program a pin stands for, and its interface; the mesh interface is `mesh`.
    fn of_pin<'a>(pin: &'a str, mesh: &'a str) -> Option<(Self, &'a str)> {
        Self::ALL.into_iter().find_map(|program| match program.elsewhere() {
            Some(start) => pin.strip_prefix(start).map(|interface| (program, interface)),
            None => (program.pin(mesh) == pin).then_some((program, mesh)),
        })
    }

    pub(super) const fn place<'a>(self, interface: &'a str, mesh: &'a str) -> Place<'a> {
        let (program, slot, direction) = (self.name(), self.slot(), self.direction());
        Place { program, slot, owner: mesh, interface, direction }
    }
}

impl EbpfDatapath {
    /// Takes off the programs of the mesh interface `interface` wherever they are, also those of a daemon that is gone. Maps
    /// stay pinned.
    ///
    /// # Errors
    /// [`EbpfError::PinRoot`] or [`EbpfError::Attach`] for what stays; the others are off.
    pub fn take_off(interface: &str, pin_root: &Path) -> Result<(), EbpfError> {
        if pin_root.is_dir() { all_off(&PinRoot::create(pin_root)?, interface, false) } else { Ok(()) }
    }

    /// The same, but the barrier stays: user space has nothing in its place.
    ///
    /// # Errors
    /// As of [`Self::take_off`].
    pub fn give_way(interface: &str, pin_root: &Path) -> Result<(), EbpfError> {
        if pin_root.is_dir() { all_off(&PinRoot::create(pin_root)?, interface, true) } else { Ok(()) }
    }

    /// Takes all programs off and removes every pin.
    ///
    /// # Errors
    /// [`EbpfError::PinRoot`] where a pin can't be removed.
    pub fn detach_all(mut self) -> Result<(), EbpfError> {
        self.holds.clear();
        let Some(pins) = self.pins.take() else { return Ok(()) };
        // Programs go before maps: none must run on while its tables change hands.
        all_off(&pins, &self.interface, false)?;
        pins.remove_all()
    }

    pub(super) fn attach(&mut self, program: Program, interface: &str) -> Result<(), EbpfError> {
        let name = program.pin(interface);
        let place = program.place(interface, &self.interface);
        let classifier = classifier(&mut self.ebpf, program)?;
        let Some(pins) = &self.pins else {
            self.holds.push((name, self.hook.attach(classifier, &place)?));
            return Ok(());
        };
        // On another interface it is attached anew beside an old one: a pin may be about an interface that was renamed since.
        let is_replaceable = self.hook == Hook::Tcx && program.elsewhere().is_none();
        if is_replaceable && replace(classifier, &pins.path(&name)) {
            return Ok(());
        }
        let hold = self.hook.attach(classifier, &place)?;
        hold.pin(classifier, pins, &name, interface)
    }

    pub(super) fn detach(&mut self, program: Program, interface: &str) -> Result<(), EbpfError> {
        let name = program.pin(interface);
        self.holds.retain(|(held, _)| *held != name);
        self.pins.as_ref().map_or(Ok(()), |pins| off(pins, &name, program, interface, &self.interface))
    }

    /// Takes this program off where a daemon left it, but for the interfaces `kept`.
    pub(super) fn detach_but(&mut self, program: Program, kept: &[&String]) -> Result<(), EbpfError> {
        let Some(pins) = &self.pins else { return Ok(()) };
        let start = program.elsewhere().unwrap_or(PINS);
        let is_kept = |name: &str| kept.iter().any(|interface| program.pin(interface) == name);
        pins.names(start)?.iter().filter(|name| !is_kept(name)).try_for_each(|name| {
            let interface = name.strip_prefix(start).unwrap_or_default();
            off(pins, name, program, interface, &self.interface)
        })
    }
}

fn all_off(pins: &PinRoot, mesh: &str, keep_barrier: bool) -> Result<(), EbpfError> {
    let mut result = Ok(());
    for name in pins.names(PINS)? {
        let done = match Program::of_pin(&name, mesh) {
            Some((Program::Barrier, _)) if keep_barrier => Ok(()),
            Some((program, interface)) => off(pins, &name, program, interface, mesh),
            None => pins.remove(&name),
        };
        result = result.and(done);
    }
    result
}

/// A tcx link ends with its pin; a filter is removed, and the qdisc that was made for it.
fn off(pins: &PinRoot, name: &str, program: Program, interface: &str, mesh: &str) -> Result<(), EbpfError> {
    let place = program.place(interface, mesh);
    place.clear().map_err(|error| place.failed(Hook::Clsact, &error))?;
    pins.remove(name)?;
    let qdisc = qdisc_pin(interface);
    if pins.path(&qdisc).exists()
        && let Some(index) = sys::index_of(interface)
        && tc::remove_empty_qdisc(index).map_err(|error| place.failed(Hook::Clsact, &error))?
    {
        pins.remove(&qdisc)?;
    }
    Ok(())
}

/// The pin that says: the qdisc of this interface was made for our filters.
pub(super) fn qdisc_pin(interface: &str) -> String {
    format!("qdisc_{interface}")
}

/// Puts the program in the place of the one that a former daemon left attached, in one step.
/// False where there is none, or its interface has gone.
fn replace(classifier: &mut SchedClassifier, pin: &Path) -> bool {
    let Ok(pinned) = PinnedLink::from_pin(pin) else { return false };
    let Ok(link) = SchedClassifierLink::try_from(FdLink::from(pinned)) else { return false };
    let Ok(id) = classifier.attach_to_link(link) else { return false };
    // The pin holds the link from here on; dropping ours only closes a descriptor.
    classifier.take_link(id).is_ok()
}
