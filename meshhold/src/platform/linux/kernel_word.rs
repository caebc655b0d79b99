//! A number that a kernel program writes and this process reads without a system call.
//!
//! Owns the `unsafe` of `mmap(2)` on a map of the kernel programs. Must not know what the number says.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Acquire};

/// The first value of an array map whose values are one number of 64 bits (`BPF_F_MMAPABLE`, Linux 5.5).
#[derive(Debug)]
pub struct KernelWord(NonNull<AtomicU64>);

// SAFETY: the number is only read, and as an atomic one; the mapping belongs to no thread.
unsafe impl Send for KernelWord {}
// SAFETY: as above.
unsafe impl Sync for KernelWord {}

impl KernelWord {
    /// Maps the map of that descriptor.
    ///
    /// # Errors
    /// It is no such map, or there is no memory.
    pub fn of(map: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a new mapping of the kernel's choice; it lives as long as this value.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<AtomicU64>(),
                libc::PROT_READ,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(at) {
            Some(place) if at != libc::MAP_FAILED => Ok(Self(place.cast())),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// What it is now.
    pub fn load(&self) -> u64 {
        // SAFETY: mapped and aligned to a page while this value lives.
        unsafe { self.0.as_ref() }.load(Acquire)
    }
}

impl Drop for KernelWord {
    fn drop(&mut self) {
        // SAFETY: the mapping that `of` made, and nobody else has it.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<AtomicU64>()) };
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    /// A file that stands for a map, and its word.
    pub(crate) fn word() -> (File, KernelWord) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let word = KernelWord::of(file.as_fd()).unwrap();
        (file, word)
    }

    #[test]
    fn what_is_written_elsewhere_is_seen() {
        let (file, word) = word();
        assert_eq!(word.load(), 0);
        file.write_all_at(&7_u64.to_ne_bytes(), 0).unwrap();
        assert_eq!(word.load(), 7);
    }

    #[test]
    fn what_is_no_map_is_refused() {
        let (reader, _writer) = io::pipe().unwrap();
        assert!(KernelWord::of(reader.as_fd()).is_err());
    }
}
