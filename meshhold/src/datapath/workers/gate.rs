//! Keeps flows in order across the two classes: what is sparse is on its way before bulk that came after it.
//!
//! Owns the knowledge whether anything sparse waits or is being handled. Sparse workers never wait for it; bulk workers
//! ask once a turn, which costs a system call of a moment.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::platform::linux::sys_net::Epoll;

/// How long bulk waits at most. Longer than a sparse worker's turn takes even on a busy machine, and short enough that
/// one that hangs stops nothing.
const PATIENCE: Duration = Duration::from_millis(2);

/// Shared by all workers of a node.
#[derive(Debug)]
pub(super) struct Gate {
    /// The queues and sockets of the sparse workers.
    waiting: Epoll,
    /// One a sparse worker: it may hold something that it took.
    busy: Box<[AtomicBool]>,
}

impl Gate {
    /// For so many sparse workers.
    pub(super) fn new(workers: usize) -> io::Result<Self> {
        Ok(Self { waiting: Epoll::new()?, busy: (0..workers).map(|_| AtomicBool::new(false)).collect() })
    }

    /// What waits at `descriptor` is sparse.
    pub(super) fn watch(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.waiting.watch(descriptor, 0)
    }

    /// The descriptor is about to be closed.
    pub(super) fn forget(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.waiting.forget(descriptor)
    }

    /// Sparse worker `number` is about to take something.
    pub(super) fn enter(&self, number: usize) {
        self.set(number, true);
    }

    /// All that sparse worker `number` took is on its way.
    pub(super) fn leave(&self, number: usize) {
        self.set(number, false);
    }

    /// Waits until all that was sparse when this was called is on its way.
    pub(super) fn pass(&self) {
        let mut until = None;
        while !self.is_clear() {
            let now = Instant::now();
            if now > *until.get_or_insert(now + PATIENCE) {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// In this order: what is taken between the two looks is taken by a worker that is busy then.
    fn is_clear(&self) -> bool {
        let empty = self.waiting.wait(Some(Duration::ZERO)).is_ok_and(|ready| ready == 0);
        empty && !self.busy.iter().any(|busy| busy.load(SeqCst))
    }

    fn set(&self, number: usize, busy: bool) {
        if let Some(flag) = self.busy.get(number) {
            flag.store(busy, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn bulk_waits_for_what_waits_and_for_what_is_in_hand() {
        let gate = Arc::new(Gate::new(1).unwrap());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        gate.watch(socket.as_fd()).unwrap();
        assert!(gate.is_clear());
        socket.send_to(&[1], socket.local_addr().unwrap()).unwrap();
        assert!(!gate.is_clear(), "it waits");
        gate.enter(0);
        socket.recv(&mut [0; 1]).unwrap();
        assert!(!gate.is_clear(), "it is in hand");
        let step = Arc::new(AtomicU32::new(0));
        let bulk = std::thread::spawn({
            let (gate, step) = (gate.clone(), step.clone());
            move || {
                gate.pass();
                step.load(SeqCst)
            }
        });
        step.store(1, SeqCst);
        gate.leave(0);
        assert!(bulk.join().unwrap() <= 1);
        assert!(gate.is_clear());
    }

    #[test]
    fn a_sparse_worker_that_hangs_holds_bulk_up_for_a_moment_only() {
        let gate = Gate::new(1).unwrap();
        gate.enter(0);
        let begin = Instant::now();
        gate.pass();
        assert!(begin.elapsed() >= PATIENCE);
    }
}
