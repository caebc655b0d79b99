//! What the processors do, and how long threads of this process ran.
//!
//! Owns the reading of `/proc/stat` and `/proc/self/task` (`proc(5)`). Must not know what the threads do.

use std::io::{self, ErrorKind};
use std::time::Duration;

/// A thread of this process, as the kernel numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId(pub(super) libc::pid_t);

/// Time of one processor since boot, in ticks of the kernel's choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    /// Of these it had nothing to do, or waited for a disk.
    pub idle: u64,
    /// All.
    pub all: u64,
}

/// Time of a thread since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// It had a processor.
    pub ran: Duration,
    /// It wanted one that another thread had.
    pub waited: Duration,
}

/// The calling thread.
///
/// # Errors
/// There is no `/proc`.
pub fn own_thread() -> io::Result<ThreadId> {
    let link = std::fs::read_link("/proc/thread-self")?;
    let number = link.file_name().and_then(|name| name.to_str()?.parse().ok());
    number.map(ThreadId).ok_or_else(|| unreadable("/proc/thread-self"))
}

/// How long a thread has had a processor, and waited for one.
///
/// # Errors
/// The thread is gone, or this kernel keeps no such statistics.
pub fn turns(ThreadId(number): ThreadId) -> io::Result<Turns> {
    let path = format!("/proc/self/task/{number}/schedstat");
    let text = std::fs::read_to_string(&path)?;
    let mut words = text.split_whitespace().map(|word| word.parse().ok().map(Duration::from_nanos));
    let mut next = || words.next().flatten().ok_or_else(|| unreadable(&path));
    Ok(Turns { ran: next()?, waited: next()? })
}

/// All processors that are on, by number.
///
/// # Errors
/// `/proc/stat` can't be read.
pub fn ticks() -> io::Result<Vec<(usize, Ticks)>> {
    let text = std::fs::read_to_string("/proc/stat")?;
    Ok(text.lines().filter_map(of_line).collect())
}

/// `cpu<number> user nice system idle iowait irq softirq steal …`: what guests had is in user and nice already.
fn of_line(line: &str) -> Option<(usize, Ticks)> {
    let (number, times) = line.strip_prefix("cpu")?.split_once(' ')?;
    let (number, mut words) = (number.parse().ok()?, times.split_whitespace());
    let [user, nice, system, idle, wait, irq, softirq, steal] =
        std::array::from_fn(|_| words.next().and_then(|word| word.parse().ok()).unwrap_or(0_u64));
    let idle = idle + wait;
    Some((number, Ticks { idle, all: user + nice + system + idle + irq + softirq + steal }))
}

fn unreadable(path: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("{path} can't be understood"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_a_line() {
        assert_eq!(of_line("cpu3 1 2 3 4 5 6 7 8 9 10"), Some((3, Ticks { idle: 9, all: 36 })));
        assert_eq!(of_line("cpu  1 2 3 4 5 6 7 8 9 10"), None, "all together");
        assert_eq!(of_line("ctxt 115315"), None);
        assert!(!ticks().unwrap().is_empty());
    }

    #[test]
    fn a_thread_that_works_runs() {
        let thread = own_thread().unwrap();
        let before = turns(thread).unwrap().ran;
        let begin = std::time::Instant::now();
        while turns(thread).unwrap().ran == before {
            assert!(begin.elapsed() < Duration::from_secs(10), "it never ran");
        }
    }
}
