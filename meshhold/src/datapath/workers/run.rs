//! One worker: its thread's loop over TUN, socket and commands.
//!
//! Owns all state that belongs to one thread; no lock and no allocation per packet. `transmit` and `receive` hold the two
//! directions.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshhold_common::Reason;
use tokio::sync::mpsc::Sender;

use super::batch::{Exit, SendBatch};
use super::event::{Command, Inbox, Mailbox, WorkerEvent};
use super::hold::Hold;
use super::offload::coalesce::Coalescer;
use super::reads::Reads;
use super::receive::Arrival;
use super::session::{Class, Sessions};
use super::shared::{Shared, Snapshot};
use super::tun::{Offload, TunPair, TunQueue};
use super::udp::{Pair, WorkerSocket};
use crate::datapath::counters::ReasonCounters;
use crate::datapath::icmp::Limit;
use crate::platform::linux::sys_net::Epoll;

const TUN: u32 = 0;
pub(super) const SOCKET: u32 = 1;
const BELL: u32 = 2;
const SPARSE_TUN: u32 = 3;
const SPARSE_SOCKET: u32 = 4;
/// Largest IP packet.
pub(super) const PACKET: usize = 65_535;
/// How often held packets are looked at.
const HOLD_TICK: Duration = Duration::from_millis(250);

/// A worker's connections to the rest.
#[derive(Debug)]
pub(super) struct Outside {
    pub(super) shared: Arc<Shared>,
    pub(super) events: Sender<WorkerEvent>,
    /// All workers, this one too.
    pub(super) others: Vec<Mailbox>,
    pub(super) inbox: Inbox,
}

/// The way out, and the counters of what never got there.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) socket: WorkerSocket,
    pub(super) counters: Arc<ReasonCounters>,
}

impl Outlet {
    pub(super) fn exit(&self) -> Exit<'_> {
        Exit { socket: &self.socket, counters: &self.counters }
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
    /// MTU inside the tunnel, in bytes.
    pub(super) mtu: usize,
    /// `None` once the interface is gone.
    pub(super) tun: Option<TunPair>,
    pub(super) outlet: Outlet,
    pub(super) batch: SendBatch,
    pub(super) sessions: Sessions,
    pub(super) coalescer: Coalescer,
    pub(super) hold: Hold,
    pub(super) errors: Limit,
    /// When the daemon was told last that a relayed datagram was too long.
    pub(super) told: Option<Instant>,
    pub(super) outside: Outside,
    pub(super) received: Box<[u8]>,
    pub(super) sparse_received: Box<[u8]>,
    /// Room for a fragment, with its virtio header.
    pub(super) piece: Vec<u8>,
    reads: Reads,
    sparse_reads: Reads,
    /// Of the snapshot in use.
    version: u64,
    epoll: Epoll,
}

impl Worker {
    /// A worker that is ready to [`Self::run`]. `offload`: segmentation towards the network.
    pub(super) fn new(
        id: usize,
        tun: Option<TunPair>,
        sockets: Pair,
        (mtu, offload): (usize, bool),
        outside: Outside,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let socket = WorkerSocket::new(sockets)?;
        if let Some(pair) = &tun {
            epoll.watch(pair.bulk.descriptor(), TUN)?;
            if let Some(sparse) = &pair.sparse {
                epoll.watch(sparse.descriptor(), SPARSE_TUN)?;
            }
        }
        let joins = tun.as_ref().is_some_and(|pair| pair.bulk.offload() == Offload::TcpAndUdp);
        epoll.watch(socket.descriptor(), SOCKET)?;
        epoll.watch(socket.sparse(), SPARSE_SOCKET)?;
        epoll.watch(outside.inbox.bell(), BELL)?;
        let counters = outside.shared.reasons(id).unwrap_or_default();
        Ok(Self {
            id,
            mtu,
            coalescer: Coalescer::new(joins),
            tun,
            outlet: Outlet { socket, counters },
            batch: SendBatch::new(offload),
            sessions: Sessions::new(id, outside.others.len()),
            hold: Hold::default(),
            errors: Limit::new(Instant::now()),
            told: None,
            outside,
            received: vec![0; PACKET].into(),
            sparse_received: vec![0; PACKET].into(),
            piece: Vec::new(),
            reads: Reads::new(),
            sparse_reads: Reads::new(),
            version: 0,
            epoll,
        })
    }

    /// Works until told to stop. A turn takes a bounded share of what is bulk, looks for what is sparse, and handles the
    /// sparse before the bulk: a flow that has just become bulk keeps its order.
    pub(super) fn run(mut self) {
        let mut snapshot = Arc::default();
        let mut ready = Ready::default();
        while !self.outside.shared.is_stopped() {
            let received = self.take_bulk(ready);
            let reads = self.read_bulk(ready);
            let idle = received.is_none() && reads.is_empty();
            ready = match self.look(idle) {
                Ok(ready) => ready,
                Err(error) => return self.report(WorkerEvent::Failed { worker: self.id, error }),
            };
            self.refresh(&mut snapshot);
            if ready.has(BELL) {
                self.outside.inbox.silence();
                self.obey(&mut snapshot);
            }
            if ready.has(SPARSE_SOCKET) {
                self.receive_sparse(&mut snapshot);
            }
            if ready.has(SPARSE_TUN) {
                self.transmit_sparse(&snapshot);
            }
            self.receive_bulk(received, &mut snapshot);
            self.transmit_bulk(reads, &snapshot);
            self.serve_held(&Wake { snapshot: &snapshot, now: Instant::now() });
            self.batch.flush(self.outlet.exit());
            self.tell_too_big(&snapshot);
        }
    }

    /// What has something; sleeps until there is if this worker is `idle`.
    fn look(&self, idle: bool) -> io::Result<Ready> {
        let timeout = match (idle, self.hold.is_empty()) {
            (false, _) => Some(Duration::ZERO),
            (true, false) => Some(HOLD_TICK),
            (true, true) => None,
        };
        self.epoll.wait(timeout).map(Ready)
    }

    /// Takes up a table that was published since. Called for every read, so that no packet that came after
    /// [`super::Workers::publish`] returned is judged by the old one.
    pub(super) fn refresh(&mut self, snapshot: &mut Arc<Snapshot>) {
        let version = self.outside.shared.version();
        if version != self.version {
            self.version = version;
            *snapshot = Arc::clone(&self.outside.shared.load());
            self.sessions.attach(&snapshot.sessions);
            // What has waited goes before what comes: no reordering inside a flow.
            self.serve_held(&Wake { snapshot, now: Instant::now() });
        }
    }

    fn obey(&mut self, snapshot: &mut Arc<Snapshot>) {
        while let Some(command) = self.outside.inbox.next() {
            // A command may be about a table that was published just before it.
            self.refresh(snapshot);
            let wake = Wake { snapshot, now: Instant::now() };
            match command {
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

    /// The reads of this turn, to be given back by [`Self::transmit_bulk`].
    fn read_bulk(&mut self, ready: Ready) -> Reads {
        let mut reads = std::mem::take(&mut self.reads);
        reads.clear();
        if ready.has(TUN) {
            self.fill(&mut reads, Class::Bulk);
        }
        reads
    }

    fn transmit_bulk(&mut self, mut reads: Reads, snapshot: &Snapshot) {
        if !reads.is_empty() {
            let wake = Wake { snapshot, now: Instant::now() };
            for read in reads.iter_mut() {
                self.transmit(read, Class::Bulk, &wake);
            }
        }
        self.reads = reads;
    }

    fn transmit_sparse(&mut self, snapshot: &Snapshot) {
        let mut reads = std::mem::take(&mut self.sparse_reads);
        self.fill(&mut reads, Class::Sparse);
        let wake = Wake { snapshot, now: Instant::now() };
        for read in reads.iter_mut() {
            self.transmit(read, Class::Sparse, &wake);
        }
        self.batch.flush(self.outlet.exit());
        self.sparse_reads = reads;
    }

    fn fill(&mut self, reads: &mut Reads, class: Class) {
        let Some(queue) = self.queue(class) else {
            return;
        };
        if let Err(error) = reads.fill(|room| queue.read(room)) {
            self.lose_tun(error);
        }
    }

    fn queue(&self, class: Class) -> Option<&TunQueue> {
        let pair = self.tun.as_ref()?;
        match class {
            Class::Bulk => Some(&pair.bulk),
            Class::Sparse => pair.sparse.as_ref(),
        }
    }

    /// The interface went away. What still arrives is authenticated (the session lives) and counted.
    fn lose_tun(&mut self, error: io::Error) {
        for queue in self.tun.take().iter().flat_map(|pair| pair.sparse.iter().chain([&pair.bulk])) {
            // Closing the descriptor would take it out of the set as well, unless somebody else holds a copy.
            let _ = self.epoll.forget(queue.descriptor());
        }
        self.report(WorkerEvent::Failed { worker: self.id, error });
    }

    /// The queue that packets are written to.
    pub(super) fn tun(&self) -> Option<&TunQueue> {
        self.queue(Class::Bulk)
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
