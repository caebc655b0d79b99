//! Scheduling of the packet workers, and of what must not hold them up.
//!
//! Owns the `unsafe` of `sched_setattr(2)` and `sched_setaffinity(2)`, which std doesn't wrap. Must not know what the threads do.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::time::Duration;

use super::processors::ThreadId;

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
    set_attributes(&Attributes { runtime: slice.as_nanos() as u64, ..attributes()? })
}

/// Makes the calling thread batch work (`SCHED_BATCH`, `sched(7)`): when it wakes it waits for the end of another's turn, so
/// that more is there for it, and gets the same share of the processor.
///
/// # Errors
/// As `sched_setattr(2)`.
pub fn work_in_batches() -> io::Result<()> {
    set_attributes(&Attributes { policy: libc::SCHED_BATCH as u32, ..attributes()? })
}

/// Lets the calling thread work with what others leave of the processor where all of it is wanted: a tenth of a usual
/// thread's share.
///
/// # Errors
/// As `setpriority(2)`.
pub fn stand_back() -> io::Result<()> {
    const NICE: libc::c_int = 10;
    // SAFETY: no pointers; on Linux the calling thread alone is meant.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keeps the calling thread on every `of`-th processor from `number` on, of those that it may use; where that leaves
/// none, it stays as it is.
///
/// # Errors
/// As `sched_setaffinity(2)`.
pub fn stay_on(number: usize, of: usize) -> io::Result<()> {
    const CALLING: ThreadId = ThreadId(0);
    put_on(CALLING, number, of)
}

/// The same for another thread, of those processors that the calling one may use.
///
/// # Errors
/// As `sched_setaffinity(2)`.
pub fn put_on(ThreadId(thread): ThreadId, number: usize, of: usize) -> io::Result<()> {
    let allowed = affinity()?;
    // SAFETY: cpu_set_t is plain old data; all zeroes is the empty set.
    let mut wanted: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
    for cpu in (number..libc::CPU_SETSIZE as usize).step_by(of.max(1)) {
        // SAFETY: both sets hold CPU_SETSIZE bits, and `cpu` is below that.
        unsafe {
            if libc::CPU_ISSET(cpu, &allowed) {
                libc::CPU_SET(cpu, &mut wanted);
            }
        }
    }
    // SAFETY: the kernel reads one set, a live local.
    let result = unsafe { libc::sched_setaffinity(thread, size_of::<libc::cpu_set_t>(), &raw const wanted) };
    let error = io::Error::last_os_error();
    match result {
        0 => Ok(()),
        // None of them is there.
        _ if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        _ => Err(error),
    }
}

/// Numbers of the processors that the calling thread may use, in order.
///
/// # Errors
/// As `sched_getaffinity(2)`.
pub fn usable() -> io::Result<Vec<usize>> {
    let allowed = affinity()?;
    // SAFETY: the set holds CPU_SETSIZE bits.
    let is_allowed = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &allowed) };
    Ok((0..libc::CPU_SETSIZE as usize).filter(is_allowed).collect())
}

fn affinity() -> io::Result<libc::cpu_set_t> {
    // SAFETY: as above.
    let mut allowed: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the kernel writes at most one set into the live local.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut allowed) };
    if result == 0 { Ok(allowed) } else { Err(io::Error::last_os_error()) }
}

fn set_attributes(wanted: &Attributes) -> io::Result<()> {
    // SAFETY: the kernel reads one structure, of the size that it names.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const *wanted, 0) };
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

    #[test]
    fn only_the_calling_thread_works_in_batches() {
        let policy = || attributes().unwrap().policy;
        let inside = std::thread::spawn(move || {
            work_in_batches().unwrap();
            policy()
        });
        assert_eq!([inside.join().unwrap(), policy()], [3, 0]);
    }

    #[test]
    fn only_the_calling_thread_stands_back() {
        let nice = || attributes().unwrap().nice;
        let before = nice();
        let inside = std::thread::spawn(move || {
            stand_back().unwrap();
            nice()
        });
        assert_eq!(inside.join().unwrap(), 10);
        assert_eq!(nice(), before);
    }

    #[test]
    fn a_thread_stays_on_its_share_of_the_processors() {
        let stayed = std::thread::spawn(|| {
            stay_on(0, 1).unwrap();
            let all = affinity().unwrap();
            stay_on(1, 2).unwrap();
            (all, affinity().unwrap())
        });
        let (all, share) = stayed.join().unwrap();
        // SAFETY: both sets hold CPU_SETSIZE bits.
        let is_set = |cpu, set| unsafe { libc::CPU_ISSET(cpu, set) };
        let of = |set, step| (0..64).filter(|cpu| cpu % 2 >= step && is_set(*cpu, set)).count();
        let wanted = if of(&all, 1) > 0 { of(&all, 1) } else { of(&all, 0) };
        assert_eq!(of(&share, 0), wanted);
    }
}
