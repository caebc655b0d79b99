//! Keeps flows in order across the two classes: what is sparse is on its way before bulk that came after it.
//!
//! Owns the knowledge whether anything sparse waits or is being handled, and when that matters: a flow has to be kept in order
//! only when it became bulk a moment ago. Sparse workers never wait; bulk workers ask before what they took goes on.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use meshhold_core::wire::{FLAG_PROMOTED, LABEL_HEADER, TYPE_DATA, TYPE_RELAY};

use crate::platform::linux::kernel_word::KernelWord;
use crate::platform::linux::sys_net::Epoll;

/// How much of the sparse workers' work bulk waits for at most, in begins and ends of their turns: more than waits for them
/// unless somebody floods them, which must not stop bulk.
const TURNS: u32 = 256;
/// How long bulk waits at most, should they do nothing. Longer than a busy machine keeps a thread from running, and short
/// enough that one that hangs stops nothing.
const PATIENCE: Duration = Duration::from_millis(50);

/// Shared by all workers of a node.
#[derive(Debug)]
pub(super) struct Gate {
    /// The queues and sockets of the sparse workers.
    waiting: Epoll,
    /// One a sparse worker: begins and ends of its turns so far. Odd while it may hold something that it took.
    turns: Box<[AtomicU32]>,
    /// Changes when a flow of this node becomes bulk; where nothing says so, any may have at any time.
    promoted: Option<KernelWord>,
}

/// What one bulk worker knows of flows that became bulk.
#[derive(Debug, Default)]
pub(super) struct Promotions {
    seen: u64,
    /// When it was seen last that one did.
    at: Option<Instant>,
}

/// Whether these datagrams, received together, may belong to flows that their sender saw become bulk a moment ago. Their first and
/// their last say it: it is so for all that a sender reads in some time.
pub(super) fn are_promoted(bytes: &[u8], segment: usize) -> bool {
    let mut datagrams = bytes.chunks(segment.max(1));
    [datagrams.next(), datagrams.next_back()].into_iter().flatten().any(|datagram| {
        let label = if datagram.starts_with(&[TYPE_RELAY]) { LABEL_HEADER } else { 0 };
        matches!(datagram.get(label..), Some([TYPE_DATA, flags, ..]) if flags & FLAG_PROMOTED != 0)
    })
}

impl Gate {
    /// For so many sparse workers.
    pub(super) fn new(workers: usize, promoted: Option<KernelWord>) -> io::Result<Self> {
        let turns = (0..workers).map(|_| AtomicU32::new(0)).collect();
        Ok(Self { waiting: Epoll::new()?, turns, promoted })
    }

    /// Whether what was read from the TUN before `now` may belong to a flow that was sparse a moment ago.
    pub(super) fn is_promoted(&self, known: &mut Promotions, now: Instant) -> bool {
        let Some(word) = &self.promoted else { return true };
        let latest = word.load();
        if latest != known.seen {
            *known = Promotions { seen: latest, at: Some(now) };
        }
        known.at.is_some_and(|at| now.saturating_duration_since(at) < PATIENCE)
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
        self.set(number, |turns| turns | 1);
    }

    /// All that sparse worker `number` took is on its way.
    pub(super) fn leave(&self, number: usize) {
        self.set(number, |turns| turns.wrapping_add(turns % 2));
    }

    /// Waits until all that was sparse when this was called is on its way.
    pub(super) fn pass(&self) {
        if self.is_clear() {
            return;
        }
        let (begin, turns) = (Instant::now(), self.turns());
        while !self.is_clear() && self.turns().wrapping_sub(turns) < TURNS && begin.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
    }

    /// In this order: what is taken between the two looks is taken by a worker that is busy then.
    fn is_clear(&self) -> bool {
        let empty = self.waiting.wait(Some(Duration::ZERO)).is_ok_and(|ready| ready == 0);
        empty && self.turns.iter().all(|turns| turns.load(SeqCst) % 2 == 0)
    }

    /// For the worker of that number only.
    fn set(&self, number: usize, next: impl Fn(u32) -> u32) {
        if let Some(turns) = self.turns.get(number) {
            turns.store(next(turns.load(SeqCst)), SeqCst);
        }
    }

    /// Of all sparse workers, wrapping.
    fn turns(&self) -> u32 {
        self.turns.iter().fold(0, |sum, turns| sum.wrapping_add(turns.load(SeqCst)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::linux::kernel_word;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn bulk_waits_for_what_waits_and_for_what_is_in_hand() {
        let gate = Arc::new(Gate::new(1, None).unwrap());
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
    fn a_flow_is_promoted_for_a_moment() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let (file, word) = kernel_word::tests::word();
        let (gate, mut known) = (Gate::new(1, Some(word)).unwrap(), Promotions::default());
        assert!(!gate.is_promoted(&mut known, after(0)), "none ever was");
        file.write_all_at(&1_u64.to_ne_bytes(), 0).unwrap();
        let promoted = [10, 59, 60].map(|millis| gate.is_promoted(&mut known, after(millis)));
        assert_eq!(promoted, [true, true, false], "from when it was seen");
        file.write_all_at(&2_u64.to_ne_bytes(), 0).unwrap();
        assert!(gate.is_promoted(&mut known, after(200)), "another one");
        let blind = Gate::new(1, None).unwrap();
        assert!(blind.is_promoted(&mut known, after(900)), "nobody says that none was");
    }

    #[test]
    fn the_ends_of_what_was_received_say_whether_it_is_promoted() {
        let datagrams = |flags: [u8; 3], label: &[u8]| {
            let datagram = |flags: u8| [label, &[TYPE_DATA, flags, 0, 0]].concat();
            are_promoted(&flags.map(datagram).concat(), label.len() + 4)
        };
        let label = &[TYPE_RELAY, 0, 0, 0, 1, 2, 3, 4];
        for label in [&[][..], label] {
            assert!(!datagrams([0, 0, 0], label));
            assert!(datagrams([FLAG_PROMOTED, 0, 0], label));
            assert!(datagrams([0, FLAG_PROMOTED, FLAG_PROMOTED | 1], label));
        }
        assert!(!are_promoted(&[], 0));
        assert!(!are_promoted(label, 8), "nothing behind the label");
    }

    #[test]
    fn bulk_waits_for_a_sparse_worker_that_gets_no_processor() {
        // As often on a busy machine.
        let long = Duration::from_millis(10);
        let gate = Gate::new(1, None).unwrap();
        gate.enter(0);
        let (begin, left) = (Instant::now(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(long);
                left.store(true, SeqCst);
                gate.leave(0);
            });
            gate.pass();
            assert!(
                left.load(SeqCst) || begin.elapsed() >= 5 * long,
                "or this machine let it sleep for far longer"
            );
        });
    }

    #[test]
    fn a_sparse_worker_that_hangs_holds_bulk_up_for_a_moment_only() {
        let gate = Gate::new(1, None).unwrap();
        gate.enter(0);
        let begin = Instant::now();
        gate.pass();
        assert!(begin.elapsed() >= PATIENCE);
    }

    #[test]
    fn sparse_workers_that_never_end_hold_bulk_up_for_some_turns_only() {
        let gate = Gate::new(1, None).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        gate.watch(socket.as_fd()).unwrap();
        socket.send_to(&[1], socket.local_addr().unwrap()).unwrap();
        let stopped = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stopped.load(SeqCst) {
                    gate.enter(0);
                    gate.leave(0);
                }
            });
            let before = gate.turns();
            gate.pass();
            stopped.store(true, SeqCst);
            assert!(gate.turns().wrapping_sub(before) >= TURNS, "they had their turns");
        });
        assert!(!gate.is_clear());
    }
}
