//! Room in the kernel's table of neighbours (arp(7)), which all namespaces of a machine share: many nodes on one bridge fill it, and
//! who finds no room in it can't send.
//!
//! Owns the system's two limits while it lives. Must not know what the neighbours do.

use std::fs;

use anyhow::{Context, Result};

const LIMITS: [&str; 2] =
    ["/proc/sys/net/ipv4/neigh/default/gc_thresh3", "/proc/sys/net/ipv6/neigh/default/gc_thresh3"];
/// A hundred nodes that all know one another, several times.
const ROOM: u32 = 65_536;

/// Limits that were raised, with what they were before: what they are again when this goes.
pub(super) struct Neighbours(Vec<(&'static str, String)>);

impl Neighbours {
    /// Raises the limits that are lower. Only the machine's first network namespace shows them: in another one they stay.
    pub(super) fn make_room() -> Result<Self> {
        let mut raised = Self(Vec::new());
        for limit in LIMITS {
            let before = fs::read_to_string(limit).unwrap_or_default();
            if before.trim().parse::<u32>().is_ok_and(|entries| entries < ROOM) {
                fs::write(limit, ROOM.to_string()).with_context(|| format!("cannot raise {limit}"))?;
                raised.0.push((limit, before));
            }
        }
        Ok(raised)
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        for (limit, before) in &self.0 {
            if let Err(error) = fs::write(limit, before) {
                eprintln!("{limit} was {} and can't be put back: {error}", before.trim());
            }
        }
    }
}
