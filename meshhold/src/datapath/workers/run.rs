//! One worker: its thread's loop over TUN, socket and commands.
//!
//! Owns all state that belongs to one thread; no lock and no allocation per packet. `transmit` and `receive` hold the two
//! directions.

use std::io::{self, ErrorKind, IoSlice};
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshhold_common::Reason;
use tokio::sync::mpsc::Sender;

use super::batch::{Exit, SendBatch};
use super::event::{Command, Inbox, Mailbox, WorkerEvent};
use super::hold::Hold;
use super::offload::coalesce::Coalescer;
use super::offload::virtio;
use super::session::Sessions;
use super::shared::{Shared, Snapshot};
use super::tun::{Offload, TunQueue};
use super::udp::WorkerSocket;
use crate::datapath::counters::ReasonCounters;
use crate::datapath::icmp::Limit;
use crate::platform::linux::sys_net::Epoll;

const TUN: u32 = 0;
const SOCKET: u32 = 1;
const BELL: u32 = 2;
/// Largest IP packet.
const PACKET: usize = 65_535;
/// TUN reads before the socket gets its turn.
const BURST: usize = 64;
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

/// One worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: usize,
    /// MTU inside the tunnel, in bytes.
    pub(super) mtu: usize,
    /// `None` once the interface is gone.
    pub(super) tun: Option<TunQueue>,
    pub(super) outlet: Outlet,
    pub(super) batch: SendBatch,
    pub(super) sessions: Sessions,
    pub(super) coalescer: Coalescer,
    pub(super) hold: Hold,
    pub(super) errors: Limit,
    pub(super) outside: Outside,
    pub(super) receive_buffer: Box<[u8]>,
    read_buffer: Box<[u8]>,
    /// Of the snapshot in use.
    version: u64,
    epoll: Epoll,
}

impl Worker {
    /// A worker that is ready to [`Self::run`]. `offload`: segmentation towards the network.
    pub(super) fn new(
        id: usize,
        tun: TunQueue,
        socket: UdpSocket,
        (mtu, offload): (usize, bool),
        outside: Outside,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let socket = WorkerSocket::new(socket)?;
        epoll.watch(tun.descriptor(), TUN)?;
        epoll.watch(socket.descriptor(), SOCKET)?;
        epoll.watch(outside.inbox.bell(), BELL)?;
        let counters = outside.shared.reasons(id).unwrap_or_default();
        Ok(Self {
            id,
            mtu,
            coalescer: Coalescer::new(tun.offload() == Offload::TcpAndUdp),
            tun: Some(tun),
            outlet: Outlet { socket, counters },
            batch: SendBatch::new(offload),
            sessions: Sessions::new(id, outside.others.len()),
            hold: Hold::default(),
            errors: Limit::new(Instant::now()),
            outside,
            receive_buffer: vec![0; PACKET].into(),
            read_buffer: vec![0; virtio::LEN + PACKET].into(),
            version: 0,
            epoll,
        })
    }

    /// Works until told to stop.
    pub(super) fn run(mut self) {
        let mut snapshot = Arc::default();
        while !self.outside.shared.is_stopped() {
            let timeout = (!self.hold.is_empty()).then_some(HOLD_TICK);
            let ready = match self.epoll.wait(timeout) {
                Ok(ready) => ready,
                Err(error) => return self.report(WorkerEvent::Failed { worker: self.id, error }),
            };
            let is_ready = |token: u32| ready & 1 << token != 0;
            if is_ready(BELL) {
                self.outside.inbox.silence();
            }
            self.refresh(&mut snapshot);
            if is_ready(BELL) {
                self.obey(&mut snapshot);
            }
            if is_ready(SOCKET) {
                self.receive_burst(&mut snapshot);
            }
            if is_ready(TUN) {
                self.transmit_burst(&mut snapshot);
            }
            self.serve_held(&Wake { snapshot: &snapshot, now: Instant::now() });
            self.batch.flush(self.outlet.exit());
        }
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
                Command::Datagram(from, mut bytes) => {
                    let len = bytes.len();
                    self.receive(&mut bytes, len, from, &wake);
                }
            }
        }
    }

    fn transmit_burst(&mut self, snapshot: &mut Arc<Snapshot>) {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let now = Instant::now();
        for _ in 0..BURST {
            let Some(queue) = &self.tun else {
                break;
            };
            match queue.read(&mut buffer) {
                Ok(len) => {
                    self.refresh(snapshot);
                    let wake = Wake { snapshot, now };
                    self.transmit(buffer.get_mut(..len).unwrap_or_default(), &wake);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_temporary(&error) => break,
                Err(error) => self.lose_tun(error),
            }
        }
        self.read_buffer = buffer;
    }

    /// The interface went away. What still arrives is authenticated (the session lives) and counted.
    fn lose_tun(&mut self, error: io::Error) {
        if let Some(queue) = self.tun.take() {
            // Closing the descriptor would take it out of the set as well, unless somebody else holds a copy.
            let _ = self.epoll.forget(queue.descriptor());
        }
        self.report(WorkerEvent::Failed { worker: self.id, error });
    }

    pub(super) fn header_len(&self) -> usize {
        self.tun.as_ref().map_or(0, TunQueue::header)
    }

    pub(super) fn write_tun(&self, pieces: &[IoSlice<'_>]) {
        if self.tun.as_ref().is_none_or(|queue| queue.write(pieces).is_err()) {
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

fn is_temporary(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
        || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}
