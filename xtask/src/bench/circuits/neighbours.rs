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

/// The limits are high until this goes.
pub(super) struct Neighbours([String; LIMITS.len()]);

impl Neighbours {
    /// Raises the limits.
    pub(super) fn make_room() -> Result<Self> {
        let read = |limit| fs::read_to_string(limit).with_context(|| format!("cannot read {limit}"));
        let [v4, v6] = LIMITS;
        let before = Self([read(v4)?, read(v6)?]);
        for (limit, now) in LIMITS.iter().zip(&before.0) {
            if now.trim().parse::<u32>().is_ok_and(|now| now < ROOM) {
                fs::write(limit, ROOM.to_string()).with_context(|| format!("cannot raise {limit}"))?;
            }
        }
        Ok(before)
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        for (limit, before) in LIMITS.iter().zip(&self.0) {
            if let Err(error) = fs::write(limit, before) {
                eprintln!("{limit} was {} and can't be put back: {error}", before.trim());
            }
        }
    }
}
