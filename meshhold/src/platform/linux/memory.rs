//! The allocator's thresholds.
//!
//! Owns the `unsafe` of `mallopt(3)`. Must not know what is allocated.

/// Blocks from this size on, in bytes, are mapped on their own, and as much free memory at the heap's end goes back to
/// the system. It is glibc's default, which glibc raises for good with every larger block that is freed.
#[cfg(target_env = "gnu")]
const THRESHOLD: libc::c_int = 128 << 10;

/// Keeps glibc from holding on to what a burst took: a table of 10,000 peers is built anew with every change, and each
/// old one would leave a hole that no later one fits. Nothing to do with other C libraries.
pub fn return_what_is_freed() {
    #[cfg(target_env = "gnu")]
    for option in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: sets a number of the allocator, under its own lock.
        let _set = unsafe { libc::mallopt(option, THRESHOLD) };
    }
}
