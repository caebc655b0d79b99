//! Whether something about the host's resolver may have changed, seen by a few looks at files: cheap enough for every tick.
//!
//! Owns which files tell. Must not know what changed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

/// systemd-resolved writes the first anew when it starts and when a link's settings change, and puts a file into the second
/// for each link that was given settings; the others say which way lookups take.
const FILES: [&str; 4] = [
    "/run/systemd/resolve/stub-resolv.conf",
    "/run/systemd/resolve/netif",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
];

/// What the files looked like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace([Option<(u64, i64, i64)>; FILES.len()]);

impl Trace {
    /// Looks at them.
    pub fn now() -> Self {
        Self(FILES.map(|file| fs::metadata(file).ok().map(|at| (at.ino(), at.mtime(), at.mtime_nsec()))))
    }
}
