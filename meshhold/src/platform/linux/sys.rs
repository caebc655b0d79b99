//! System calls that neither the standard library nor a dependency wraps.
//!
//! Owns the only `unsafe` of the platform's configuration side. Must not know why a call is made.

use std::{ffi::CString, io, os::unix::ffi::OsStrExt as _, path::Path};

/// `f_type` of a BPF file system (linux/magic.h).
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

/// Whether `path` lies on a mounted BPF file system.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut info = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `path` is a NUL-terminated string and `info` has room for one statfs, both for the whole call.
    let result = unsafe { libc::statfs(path.as_ptr(), info.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the kernel filled the structure.
    let info = unsafe { info.assume_init() };
    // The field's type differs between architectures; the magic number is its low 32 bits.
    Ok(info.f_type as u32 == BPF_FS_MAGIC)
}

/// Mounts a BPF file system at `path`, readable by root only. Needs `CAP_SYS_ADMIN`.
pub fn mount_bpffs(path: &Path) -> io::Result<()> {
    let target = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: all four pointers are NUL-terminated strings that live for the whole call.
    let result = unsafe {
        libc::mount(c"bpf".as_ptr(), target.as_ptr(), c"bpf".as_ptr(), flags, c"mode=0700".as_ptr().cast())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Index of an interface of this network namespace, `None` where there is none of that name.
pub fn index_of(interface: &str) -> Option<u32> {
    let name = CString::new(interface).ok()?;
    // SAFETY: `name` is a NUL-terminated string for the whole call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// The monotonic clock that the kernel programs read, in nanoseconds.
pub fn monotonic() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one structure into the live local; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// How many files this process may have open, and how far it may raise that itself.
pub fn open_files() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one structure into the live local.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if result == 0 { Ok((limit.rlim_cur, limit.rlim_max)) } else { Err(io::Error::last_os_error()) }
}

/// Sets both of [`open_files`].
pub fn set_open_files(now: u64, most: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: now, rlim_max: most };
    // SAFETY: the kernel reads one structure from the live local.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Effective user id of the process.
pub fn effective_uid() -> u32 {
    // SAFETY: takes no argument and can't fail.
    unsafe { libc::geteuid() }
}

/// Ids of the programs that hang on an interface by tcx, on its way in or out.
///
/// # Errors
/// The kernel has no tcx (EINVAL), doesn't tell (EPERM), or the interface is gone (ENODEV).
pub fn tcx_programs(interface: u32, egress: bool) -> io::Result<Vec<u32>> {
    /// `BPF_PROG_QUERY` of linux/bpf.h.
    const QUERY: libc::c_long = 16;
    const TCX_INGRESS: u32 = 46;
    /// More than an interface takes.
    const MOST: usize = 64;
    /// The part of union bpf_attr that the command reads.
    #[repr(C)]
    struct Query {
        interface: u32,
        attach_type: u32,
        flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
        more: [u64; 4],
    }
    let mut ids = [0_u32; MOST];
    let mut query = Query {
        interface,
        attach_type: TCX_INGRESS + u32::from(egress),
        flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: MOST as u32,
        padding: 0,
        more: [0; 4],
    };
    // SAFETY: the kernel reads and writes the live local up to the size given, and writes at most `count` numbers to `ids`.
    let result = unsafe { libc::syscall(libc::SYS_bpf, QUERY, &raw mut query, size_of::<Query>()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ids.iter().copied().take(query.count as usize).collect())
}
