//! A program's place on an interface, and whether it still is there.
//!
//! The kernel tells the holder of the link, among the facts on its file descriptor; to ask by the interface would take
//! CAP_SYS_ADMIN. Must not know what the program does.

use std::fs;
use std::path::PathBuf;

use aya::programs::{links::FdLink, tc::SchedClassifierLink};

use super::EbpfError;

/// What the kernel says of the file descriptors of this process.
const FACTS: &str = "/proc/self/fdinfo";

/// A tcx link; dropping it takes the program off.
pub(super) struct Hook {
    _link: FdLink,
    /// Where its facts stand; `None` where they can't be read.
    facts: Option<PathBuf>,
}

impl Hook {
    /// # Errors
    /// [`EbpfError::Object`] where it is no tcx link.
    pub(super) fn new(link: SchedClassifierLink) -> Result<Self, EbpfError> {
        let Ok(link) = FdLink::try_from(link) else { return Err(EbpfError::Object { what: "tcx link" }) };
        let facts = link.info().ok().and_then(|info| facts(info.id()));
        Ok(Self { _link: link, facts })
    }

    /// Whether somebody took the program off, or the interface went. Where that can't be told it is believed to be on.
    pub(super) fn is_off(&self) -> bool {
        let facts = self.facts.as_ref().and_then(|path| fs::read_to_string(path).ok());
        facts.is_some_and(|facts| has(&facts, "ifindex:", 0))
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
