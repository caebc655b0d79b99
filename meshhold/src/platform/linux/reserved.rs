//! The ports that translated flows leave from, kept free of the host's own sockets.
//!
//! Owns one entry of `net.ipv4.ip_local_reserved_ports`; what others reserved stays. The entry tells by itself whose it is,
//! so it is taken back after a crash as well. Explicit binds aren't hindered.

use std::{fs, io};

use meshhold_common::nat::FIRST_PORT;

const FILE: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Adds the entry, or takes it out; true where that changed something.
///
/// # Errors
/// The file can't be read or written (a read-only `/proc/sys`).
pub fn set(wanted: bool) -> io::Result<bool> {
    let before = fs::read_to_string(FILE)?;
    let after = with_entry(before.trim(), wanted);
    if after == before.trim() {
        return Ok(false);
    }
    fs::write(FILE, format!("{after}\n")).map(|()| true)
}

/// Whether the entry is there; `None` where that can't be read.
pub fn is_set() -> Option<bool> {
    let list = fs::read_to_string(FILE).ok()?;
    Some(with_entry(list.trim(), true) == list.trim())
}

fn with_entry(list: &str, wanted: bool) -> String {
    let entry = format!("{FIRST_PORT}-{}", u16::MAX);
    let others = list.split(',').filter(|other| !other.is_empty() && *other != entry);
    let entries: Vec<&str> = others.chain(wanted.then_some(entry.as_str())).collect();
    entries.join(",")
}

#[cfg(test)]
mod tests {
    use super::with_entry;

    #[test]
    fn others_entries_stay() {
        assert_eq!(with_entry("", true), "49152-65535");
        assert_eq!(with_entry("8080,9000-9010", true), "8080,9000-9010,49152-65535");
        assert_eq!(with_entry("8080,49152-65535", true), "8080,49152-65535");
        assert_eq!(with_entry("8080,49152-65535", false), "8080");
        assert_eq!(with_entry("49152-65535", false), "");
    }
}
