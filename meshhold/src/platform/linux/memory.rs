//! What the process holds of the host's memory: the allocator's thresholds and free pages, and the program's own pages.
//!
//! Owns the `unsafe` of `mallopt(3)`, `malloc_trim(3)` and `madvise(2)`. Must not know what is allocated.

use std::ffi::CStr;

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

/// Gives free pages in the middle of the heaps back, which the threshold doesn't.
pub fn return_holes() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator gives back what it knows to be free, under its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of the program's own code and constants: the kernel has mapped them in blocks around what was used, most of it once, at
/// the start. What is used comes back from the page cache, without reading.
pub fn forget_code() {
    // SAFETY: the callback has the type that is asked for, and keeps nothing.
    unsafe { libc::dl_iterate_phdr(Some(forget_object), std::ptr::null_mut()) };
}

/// # Safety
/// `info` is what `dl_iterate_phdr` gives.
unsafe extern "C" fn forget_object(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    const PAGE: usize = 4096;
    // SAFETY: the loader gives a whole description, whose name and headers live as long as the object is loaded.
    let (name, base, headers) = unsafe {
        let info = &*info;
        let headers = std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into());
        (CStr::from_ptr(info.dlpi_name), info.dlpi_addr as usize, headers)
    };
    // The kernel's own object comes from no file.
    if name.to_bytes().windows(4).any(|part| part == b"vdso") {
        return 0;
    }
    // A part that is not writable was never written, what is relocated lies in those that are.
    let constant =
        headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0);
    for header in constant {
        let start = base + header.p_vaddr as usize;
        let (from, to) = (start.next_multiple_of(PAGE), (start + header.p_memsz as usize) & !(PAGE - 1));
        if from < to {
            // SAFETY: the range is mapped from the object's file and unchanged, so it reads the same afterwards.
            unsafe { libc::madvise(from as *mut _, to - from, libc::MADV_DONTNEED) };
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kilobytes of file pages that are mapped.
    fn mapped() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn code_comes_back_as_it_was() {
        let text = c"constants too";
        let before = mapped();
        forget_code();
        return_holes();
        let after = mapped();
        assert!(after < before, "{before} kB, then {after}");
        assert_eq!(text.to_str(), Ok("constants too"));
        assert_eq!("4095".parse::<u32>(), Ok(4095));
    }
}
