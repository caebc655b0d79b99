//! Where programs hang on an interface: by tcx, else as filters of a clsact qdisc (before Linux 6.6), first in the row by either.
//!
//! Owns the difference between the two, and whether a program still is where it was hung. A tcx link tells its holder, among
//! the facts on its file descriptor; to ask by the interface would take CAP_SYS_ADMIN. Must not know what a program does.

use std::path::PathBuf;
use std::{env, fs, io};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType, links::FdLink, tc::TcAttachOptions,
};

use super::{EbpfError, attach::qdisc_pin, pins::PinRoot, refusal};
use crate::platform::linux::{
    sys,
    tc::{self, Seat, Side},
};

/// What the kernel says of the file descriptors of this process.
const FACTS: &str = "/proc/self/fdinfo";
/// For tests: `clsact` on a kernel that has tcx.
const FORCED: &str = "MESHHOLD_HOOK";
/// Upper half of the handles of our filters; below it stand [`Place::slot`] and a hash of [`Place::owner`].
const HANDLES: u32 = 0x4d48_0000;

/// How programs are hung on interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Links that the kernel ends with their last holder; from Linux 6.6 on.
    Tcx,
    /// Filters, which stay until they are removed.
    Clsact,
}

/// A program's place on an interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// Name of the program.
    pub(super) program: &'static str,
    /// Number of the program, below 16: two of one owner never have the same.
    pub(super) slot: u8,
    /// Whose program it is: daemons beside each other don't touch each other's.
    pub(super) owner: &'a str,
    /// The interface.
    pub(super) interface: &'a str,
    /// Which of its packets.
    pub(super) direction: TcAttachType,
}

impl Hook {
    /// What this kernel has.
    pub(super) fn of_kernel() -> Self {
        if env::var(FORCED).is_ok_and(|forced| forced == Self::Clsact.name()) {
            return Self::Clsact;
        }
        // A kernel without tcx doesn't know what is asked for; one that has it may keep the answer from us.
        match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
            Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EINVAL) => {
                Self::Clsact
            }
            _ => Self::Tcx,
        }
    }

    /// As `status` shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }

    /// Hangs the program before all that hang there.
    pub(super) fn attach(
        self,
        classifier: &mut SchedClassifier,
        place: &Place<'_>,
    ) -> Result<Hold, EbpfError> {
        match self {
            Self::Tcx => Hold::tcx(classifier, place),
            Self::Clsact => Hold::filter(classifier, place).map_err(|error| place.failed(self, &error)),
        }
    }
}

impl Place<'_> {
    /// Removes the filter there, which another process may have set; not an error where there is none.
    pub(super) fn clear(&self) -> io::Result<bool> {
        match self.seat() {
            Ok(seat) => tc::remove(&seat),
            // The interface is gone.
            Err(_) => Ok(false),
        }
    }

    /// Whether the loaded program with this id hangs there; `interface`: its index.
    pub(super) fn has(&self, hook: Hook, interface: u32, program: u32) -> io::Result<bool> {
        let seat = self.seat_on(interface);
        match hook {
            Hook::Tcx => sys::tcx_programs(seat.interface, seat.side == Side::Egress)
                .map(|hanging| hanging.contains(&program)),
            Hook::Clsact => tc::find(&seat).map(|found| found.is_some_and(|found| found.program == program)),
        }
    }

    fn seat(&self) -> io::Result<Seat> {
        let index = sys::index_of(self.interface);
        Ok(self.seat_on(index.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?))
    }

    fn seat_on(&self, interface: u32) -> Seat {
        let side = match self.direction {
            TcAttachType::Egress => Side::Egress,
            TcAttachType::Ingress | TcAttachType::Custom(_) => Side::Ingress,
        };
        let owner = self.owner.bytes().fold(0_u32, |hash, byte| hash.wrapping_mul(31) ^ u32::from(byte));
        let handle = HANDLES | u32::from(self.slot) << 12 | (owner ^ owner >> 12 ^ owner >> 24) & 0xfff;
        Seat { interface, side, handle }
    }

    pub(super) fn failed(&self, hook: Hook, error: &dyn std::error::Error) -> EbpfError {
        EbpfError::Attach {
            program: self.program,
            interface: self.interface.to_owned(),
            hook: hook.name(),
            cause: refusal::chain(error),
        }
    }
}

/// Holds a program where it hangs; dropping it takes the program off.
pub(super) enum Hold {
    /// By tcx.
    Link {
        link: FdLink,
        /// Where its facts stand; `None` where they can't be read.
        facts: Option<PathBuf>,
    },
    /// By clsact.
    Filter(Filter),
}

/// A filter that goes when this is dropped.
pub(super) struct Filter {
    seat: Seat,
    /// The qdisc was made for it.
    made: bool,
    program: u32,
}

impl Hold {
    fn tcx(classifier: &mut SchedClassifier, place: &Place<'_>) -> Result<Self, EbpfError> {
        let failed = |error| place.failed(Hook::Tcx, &error);
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = classifier.attach_with_options(place.interface, place.direction, order).map_err(failed)?;
        let link = classifier.take_link(id).map_err(failed)?;
        let Ok(link) = FdLink::try_from(link) else { return Err(EbpfError::Object { what: "tcx link" }) };
        let facts = link.info().ok().and_then(|info| facts(info.id()));
        Ok(Self::Link { link, facts })
    }

    fn filter(classifier: &SchedClassifier, place: &Place<'_>) -> io::Result<Self> {
        let loaded = classifier.fd().map_err(io::Error::other)?;
        let program = classifier.info().map_err(io::Error::other)?.id();
        let seat = place.seat()?;
        let made = tc::set(&seat, &format!("meshhold:{}", place.program), std::os::fd::AsFd::as_fd(loaded))?;
        Ok(Self::Filter(Filter { seat, made, program }))
    }

    /// Lets the program hang on for as long as the pin is there, in the place of an older one of that name.
    pub(super) fn pin(
        self,
        classifier: &mut SchedClassifier,
        pins: &PinRoot,
        name: &str,
        interface: &str,
    ) -> Result<(), EbpfError> {
        match self {
            Self::Link { link, .. } => pins.pin_link(link, name),
            Self::Filter(filter) => {
                // A filter needs no pin to stay. This one says that it is there.
                pins.pin_program(classifier, name)?;
                if filter.made {
                    pins.pin_program(classifier, &qdisc_pin(interface))?;
                }
                std::mem::forget(filter);
                Ok(())
            }
        }
    }

    /// Whether somebody took the program off, or the interface went. Where that can't be told it is believed to be on.
    pub(super) fn is_off(&self) -> bool {
        match self {
            Self::Link { facts, .. } => {
                let facts = facts.as_ref().and_then(|path| fs::read_to_string(path).ok());
                facts.is_some_and(|facts| has(&facts, "ifindex:", 0))
            }
            Self::Filter(filter) => tc::find(&filter.seat)
                .is_ok_and(|found| found.is_none_or(|found| found.program != filter.program)),
        }
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        let removed = tc::remove(&self.seat)
            .and_then(|_| if self.made { tc::remove_empty_qdisc(self.seat.interface) } else { Ok(false) });
        if let Err(error) = removed {
            tracing::debug!(interface = self.seat.interface, %error, "a filter stays");
        }
    }
}

/// The facts of the link with this id.
fn facts(id: u32) -> Option<PathBuf> {
    let paths = fs::read_dir(FACTS).ok()?.flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|facts| has(&facts, "link_id:", id));
    paths.into_iter().find(is_it)
}

fn has(facts: &str, name: &str, number: u32) -> bool {
    let values = facts.lines().filter_map(|line| line.strip_prefix(name));
    values.into_iter().any(|value| value.trim().parse() == Ok(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_found_by_their_names() {
        let facts =
            "pos:\t0\nlink_type:\ttcx\nlink_id:\t31\nprog_id:\t48\nifindex:\t0\nattach_type:\t46 (ingress)\n";
        assert!(has(facts, "ifindex:", 0) && has(facts, "link_id:", 31));
        assert!(!has(facts, "link_id:", 3) && !has(facts, "prog_id:", 0));
    }
}
