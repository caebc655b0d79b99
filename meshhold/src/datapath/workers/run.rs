//! One worker: its thread's loop over TUN, socket and commands.
//!
//! Owns all state that belongs to one thread; no lock and no allocation per packet. `transmit` and `receive` hold the two
//! directions.

use std::io::{self, IoSlice};
use std::net::UdpSocket;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshhold_common::Reason;
use meshhold_core::wire::FLAG_PROMOTED;
use tokio::sync::mpsc::Sender;

use super::batch::{Exit, SendBatch};
use super::event::{Command, Inbox, Mailbox, WorkerEvent};
use super::extra::ExtraPorts;
use super::gate::{Gate, Promotions};
use super::hold::Hold;
use super::offload::coalesce::Coalescer;
use super::reads::Reads;
use super::receive::Arrival;
use super::session::{Class, Place, Sessions};
use super::shared::{Shared, Snapshot};
use super::tun::{Offload, TunEnd, TunQueue};
use super::udp::WorkerSocket;
use crate::datapath::counters::ReasonCounters;
use crate::datapath::icmp::Limit;
use crate::platform::linux::sys_net::Epoll;

const TUN: u32 = 0;
const SOCKET: u32 = 1;
const BELL: u32 = 2;
/// All sockets of ports that aren't shared.
pub(super) const EXTRA: u32 = 3;
/// Largest IP packet.
pub(super) const PACKET: usize = 65_535;
/// How often held packets are looked at.
const HOLD_TICK: Duration = Duration::from_millis(250);
/// How often the daemon hears that a worker is busy.
const REPEAT_BUSY: Duration = Duration::from_millis(100);

/// A worker's connections to the rest.
#[derive(Debug)]
pub(super) struct Outside {
    pub(super) shared: Arc<Shared>,
    pub(super) events: Sender<WorkerEvent>,
    /// All workers, this one too.
    pub(super) others: Vec<Mailbox>,
    pub(super) gate: Arc<Gate>,
    pub(super) inbox: Inbox,
}

/// The way out, and the counters of what never got there.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) socket: WorkerSocket,
    pub(super) extra: ExtraPorts,
    worker: usize,
    pub(super) counters: Arc<ReasonCounters>,
}

impl Outlet {
    pub(super) fn exit(&self) -> Exit<'_> {
        Exit { socket: &self.socket, extra: &self.extra, worker: self.worker, counters: &self.counters }
    }
}

/// What one wake-up of the loop works with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wake<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) now: Instant,
}

/// Which descriptors have something: a bit a token.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ready(u32);

impl Ready {
    pub(super) fn has(self, token: u32) -> bool {
        self.0 & 1 << token != 0
    }
}

/// One worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: usize,
    pub(super) place: Place,
    /// MTU inside the tunnel, in bytes.
    pub(super) mtu: usize,
    /// `None` once the interface is gone.
    pub(super) tun: Option<TunEnd>,
    pub(super) outlet: Outlet,
    pub(super) batch: SendBatch,
    pub(super) sessions: Sessions,
    pub(super) coalescer: Coalescer,
    pub(super) hold: Hold,
    pub(super) errors: Limit,
    /// When the daemon was told last that a relayed datagram was too long.
    pub(super) told: Option<Instant>,
    /// When the daemon heard last of a datagram for an unknown session.
    pub(super) stray_told: Option<Instant>,
    /// When the daemon heard last that this worker is busy.
    busy: Option<Instant>,
    pub(super) outside: Outside,
    pub(super) received: Box<[u8]>,
    /// Room for a fragment, with its virtio header.
    pub(super) piece: Vec<u8>,
    reads: Reads,
    promotions: Promotions,
    /// Of the data datagrams that seal what was read last.
    pub(super) flags: u8,
    /// Of the snapshot in use.
    version: u64,
    pub(super) epoll: Epoll,
}

impl Worker {
    /// A worker that is ready to [`Self::run`]. `offload`: segmentation towards the network.
    pub(super) fn new(
        id: usize,
        tun: Option<TunEnd>,
        socket: UdpSocket,
        (mtu, offload): (usize, bool),
        outside: Outside,
    ) -> io::Result<Self> {
        let socket = WorkerSocket::new(socket)?;
        let place = Place::of(id, outside.others.len());
        let joins = tun.as_ref().is_some_and(|end| end.queue.offload() == Offload::TcpAndUdp);
        let counters = outside.shared.reasons(id).unwrap_or_default();
        let worker = Self {
            id,
            place,
            mtu,
            coalescer: Coalescer::new(joins),
            tun,
            outlet: Outlet { socket, extra: ExtraPorts::default(), worker: id, counters },
            batch: SendBatch::new(offload, outside.shared.segmentation_refused()),
            sessions: Sessions::new(place),
            hold: Hold::default(),
            errors: Limit::new(Instant::now()),
            stray_told: None,
            told: None,
            busy: None,
            outside,
            received: vec![0; PACKET].into(),
            piece: Vec::new(),
            reads: Reads::new(),
            promotions: Promotions::default(),
            flags: 0,
            version: 0,
            epoll: Epoll::new()?,
        };
        worker.watch_all()?;
        Ok(worker)
    }

    fn watch_all(&self) -> io::Result<()> {
        let queue = self.tun.as_ref().filter(|end| end.reads).map(|end| (end.queue.descriptor(), TUN));
        let socket = (self.outlet.socket.descriptor(), SOCKET);
        for (descriptor, token) in queue.into_iter().chain([socket]) {
            self.epoll.watch(descriptor, token)?;
            self.watch_sparse(descriptor)?;
        }
        self.epoll.watch(self.outside.inbox.bell(), BELL)
    }

    /// Works until told to stop. A turn takes a bounded share of what waits.
    pub(super) fn run(mut self) {
        let mut snapshot = Arc::default();
        while !self.outside.shared.is_stopped() {
            let ready = match self.look() {
                Ok(ready) => ready,
                Err(error) => return self.report(WorkerEvent::Failed { worker: self.id, error }),
            };
            self.refresh(&mut snapshot);
            if ready.has(BELL) {
                self.outside.inbox.silence();
                self.obey(&mut snapshot);
            }
            if ready.has(SOCKET) {
                self.receive_some(None, &mut snapshot);
            }
            if ready.has(EXTRA) {
                self.receive_extra(&mut snapshot);
            }
            if ready.has(TUN) {
                self.transmit_some(&mut snapshot);
            }
            self.serve_held(&snapshot);
            self.batch.flush(self.outlet.exit());
            self.tell_too_big(&snapshot);
            if let Some(local) = self.batch.take_unusable() {
                self.report(WorkerEvent::Unusable { local });
            }
        }
    }

    /// Sleeps until something is there. What is sparse is in nobody's hand meanwhile.
    fn look(&self) -> io::Result<Ready> {
        let timeout = (!self.hold.is_empty()).then_some(HOLD_TICK);
        if self.place.class == Class::Bulk {
            return self.epoll.wait(timeout).map(Ready);
        }
        let (number, _) = self.place.number();
        self.outside.gate.leave(number);
        // Who fails here holds nothing: bulk must not wait for it.
        let ready = self.epoll.wait(timeout).map(Ready)?;
        self.outside.gate.enter(number);
        Ok(ready)
    }

    /// What comes from there has to pass bulk, if this worker is one for what is sparse.
    pub(super) fn watch_sparse(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        if self.place.class == Class::Bulk { Ok(()) } else { self.outside.gate.watch(descriptor) }
    }

    pub(super) fn forget_sparse(&self, descriptor: BorrowedFd<'_>) {
        if self.place.class == Class::Sparse {
            let _ = self.outside.gate.forget(descriptor);
        }
    }

    /// Keeps flows in order that were sparse a moment ago: what was read of them waits until all sparse that came before it is
    /// on its way, here and at the other end. Yields the time at which that is so.
    fn let_sparse_pass(&mut self) -> Instant {
        let now = Instant::now();
        let promoted =
            self.place.class == Class::Bulk && self.outside.gate.is_promoted(&mut self.promotions, now);
        self.flags = if promoted { FLAG_PROMOTED } else { 0 };
        if !promoted {
            return now;
        }
        self.outside.gate.pass();
        Instant::now()
    }

    /// Takes up a table that was published since. Called for every read, so that no packet that came after
    /// [`super::Workers::publish`] returned is judged by the old one.
    pub(super) fn refresh(&mut self, snapshot: &mut Arc<Snapshot>) {
        let version = self.outside.shared.version();
        if version != self.version {
            self.version = version;
            *snapshot = Arc::clone(&self.outside.shared.load());
            self.sessions.attach(&snapshot.sessions);
            self.watch_extra();
            // What has waited goes before what comes: no reordering inside a flow.
            self.serve_held(snapshot);
        }
    }

    fn obey(&mut self, snapshot: &mut Arc<Snapshot>) {
        while let Some(command) = self.outside.inbox.next() {
            // A command may be about a table that was published just before it.
            self.refresh(snapshot);
            let wake = Wake { snapshot, now: Instant::now() };
            match command {
                Command::Interface(end) => self.take_tun(end),
                Command::Keepalive(local_index) => self.send_keepalive(local_index, &wake),
                Command::Control(local_index, path, message) => {
                    // One whose session ended in between is of no use to anybody.
                    let _ = self.send_control(local_index, path, &message);
                }
                Command::Datagram(from, mut bytes) => {
                    let arrival = Arrival { segment: bytes.len(), from, hops: None };
                    self.receive(&mut bytes, arrival, &wake);
                }
            }
        }
    }

    fn transmit_some(&mut self, snapshot: &mut Arc<Snapshot>) {
        let Some(end) = &self.tun else {
            return;
        };
        let mut reads = std::mem::take(&mut self.reads);
        let filled = reads.fill(|room| end.queue.read(room));
        let now = self.let_sparse_pass();
        // No packet that came after a table was published is judged by the one before.
        self.refresh(snapshot);
        let wake = Wake { snapshot, now };
        self.tell_busy(now);
        for read in reads.iter_mut() {
            self.transmit(read, &wake);
        }
        self.reads = reads;
        if let Err(error) = filled {
            self.lose_tun(error);
        }
    }

    /// Lets the daemon look where workers for bulk should run.
    pub(super) fn tell_busy(&mut self, now: Instant) {
        let recent = self.busy.is_some_and(|told| now.saturating_duration_since(told) < REPEAT_BUSY);
        if self.place.class == Class::Bulk && !recent {
            self.busy = Some(now);
            self.report(WorkerEvent::Busy);
        }
    }

    /// The interface was made anew.
    fn take_tun(&mut self, end: TunEnd) {
        self.leave_tun();
        self.coalescer = Coalescer::new(end.queue.offload() == Offload::TcpAndUdp);
        if end.reads {
            let queue = end.queue.descriptor();
            let watched = self.epoll.watch(queue, TUN).and_then(|()| self.watch_sparse(queue));
            if let Err(error) = watched {
                return self.report(WorkerEvent::Failed { worker: self.id, error });
            }
        }
        self.tun = Some(end);
        self.report(WorkerEvent::Resumed { worker: self.id });
    }

    /// The interface went away. What still arrives is authenticated (the session lives) and counted.
    fn lose_tun(&mut self, error: io::Error) {
        self.leave_tun();
        self.report(WorkerEvent::Failed { worker: self.id, error });
    }

    fn leave_tun(&mut self) {
        if let Some(TunEnd { queue, reads: true }) = self.tun.take() {
            // Closing the descriptor would take it out of the sets as well, unless somebody else holds a copy.
            let _ = self.epoll.forget(queue.descriptor());
            self.forget_sparse(queue.descriptor());
        }
    }

    /// The queue that packets are written to.
    pub(super) fn tun(&self) -> Option<&TunQueue> {
        self.tun.as_ref().map(|end| &end.queue)
    }

    pub(super) fn header_len(&self) -> usize {
        self.tun().map_or(0, TunQueue::header)
    }

    pub(super) fn write_tun(&self, pieces: &[IoSlice<'_>]) {
        if self.tun().is_none_or(|queue| queue.write(pieces).is_err()) {
            self.drop_packet(Reason::QueueFull);
        }
    }

    pub(super) fn drop_packet(&self, reason: Reason) {
        self.outlet.counters.add(reason, 1);
    }

    /// Tells the daemon; while its queue is full, events are lost.
    pub(super) fn report(&self, event: WorkerEvent) {
        if self.outside.events.try_send(event).is_err() {
            tracing::debug!(worker = self.id, "an event was lost: the daemon's queue is full");
        }
    }
}
