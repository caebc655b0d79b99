//! Scheduling of the packet workers.
//!
//! Owns the `unsafe` of `sched_setattr(2)`, which neither std nor libc wraps. Must not know what the threads do.

use std::io;
use std::mem::size_of;
use std::time::Duration;

/// `struct sched_attr` of linux/sched/types.h, its first version.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Lets the calling thread ask for turns of `slice` (the custom slice of EEVDF, Linux 6.12): it is let in sooner after it
/// slept, and gets no larger share of the processor. Older kernels ignore the wish.
///
/// # Errors
/// As `sched_setattr(2)`.
pub fn ask_for_short_turns(slice: Duration) -> io::Result<()> {
    let wanted = Attributes { runtime: slice.as_nanos() as u64, ..attributes()? };
    // SAFETY: the kernel reads one structure, of the size that it names.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn attributes() -> io::Result<Attributes> {
    let mut now = Attributes::default();
    // SAFETY: the kernel writes at most the named size into the live local.
    let result = unsafe {
        libc::syscall(libc::SYS_sched_getattr, 0, &raw mut now, size_of::<Attributes>() as libc::c_uint, 0)
    };
    if result == 0 { Ok(now) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_calling_thread_gets_short_turns() {
        const SLICE: Duration = Duration::from_micros(100);
        let runtime = || attributes().unwrap().runtime;
        let before = runtime();
        let inside = std::thread::spawn(move || {
            ask_for_short_turns(SLICE).unwrap();
            runtime()
        });
        // Kernels before 6.12 show nothing.
        assert!([0, SLICE.as_nanos() as u64].contains(&inside.join().unwrap()));
        assert_eq!(runtime(), before);
    }
}
