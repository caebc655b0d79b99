//! The workers: one thread each, with its own TUN queue and its own socket on the shared UDP port, staying on its
//! processors. Half of them carry what is bulk, and push nobody aside for it; the other half what is sparse.
//!
//! Owns starting, feeding and stopping them. Must not know circuits: sessions come in with the [`Table`], what
//! workers notice goes out as [`WorkerEvent`]s.

mod batch;
pub mod event;
mod extra;
mod gate;
mod hold;
pub mod offload;
mod placement;
mod reads;
mod receive;
mod relay;
mod run;
mod session;
mod shared;
mod transmit;
pub mod tun;
pub mod udp;

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, mpsc as channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use meshhold_common::Reason;
use meshhold_core::path::Path;
use meshhold_core::wire::{LABEL_HEADER, MAX_LANES, SPARSE_LANE, TYPE_RELAY};
use tokio::sync::mpsc;

pub use self::batch::largest_super_packet;
pub use self::event::WorkerEvent;
use self::event::{Command, EVENTS, Mailbox};
use self::extra::ExtraPort;
use self::gate::Gate;
use self::placement::Placement;
use self::run::Worker;
use self::session::{Class, Place};
use self::shared::Shared;
pub use self::tun::TunQueues;
use self::udp::Port;
use super::counters::Activity;
use super::relay::{Hop, LegTraffic};
use super::table::Table;
use crate::platform::linux::processors::{self, ThreadId};
use crate::platform::linux::sched;

/// Commands that may wait for one worker; more are dropped.
const COMMANDS: usize = 1024;
/// The turn of a worker for what is sparse on a processor that it shares: the shortest that the kernel grants.
const SLICE: Duration = Duration::from_micros(100);

/// What workers are started with.
#[derive(Debug)]
pub struct WorkersConfig {
    /// The TUN queues, one a worker; `None` starts only the control socket, unless this node relays.
    pub interface: Option<TunQueues>,
    /// Relay.
    pub relay: bool,
    /// Start workers where there is no interface, for one that may come.
    pub interface_may_come: bool,
    /// The shared UDP port; `[::]:7777` serves IPv4 too. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// Number of lanes, 1 to [`MAX_LANES`]: each has a worker for bulk and one for what is sparse.
    pub count: usize,
    /// MTU inside the tunnel, in bytes.
    pub mtu: u16,
    /// Segmentation offload towards the network (UDP_SEGMENT, UDP_GRO).
    pub offload: bool,
}

/// Running workers.
#[derive(Debug)]
pub struct Workers {
    shared: Arc<Shared>,
    /// The workers' own, for what is set from outside.
    sockets: Vec<UdpSocket>,
    /// Received datagrams are joined, or nobody wants them to be.
    joins: bool,
    mailboxes: Vec<Mailbox>,
    threads: Vec<JoinHandle<()>>,
    placement: Placement,
    offload: bool,
}

/// What [`Workers::start`] gives: the handle, the control socket of the port, and the events.
pub type Started = (Workers, UdpSocket, mpsc::Receiver<WorkerEvent>);

impl Workers {
    /// Opens the port and starts the threads.
    ///
    /// # Errors
    /// The port is taken, or a socket or thread can't be made.
    pub fn start(mut config: WorkersConfig) -> anyhow::Result<Started> {
        let promoted = config.interface.as_mut().and_then(TunQueues::take_promoted);
        let ends = config.interface.map(TunQueues::into_ends).transpose().context("copying TUN queues")?;
        let ends = ends.unwrap_or_default();
        let without = config.relay || config.interface_may_come;
        let most = if ends.is_empty() && without { config.count } else { ends.len() / 2 };
        let lanes = config.count.min(most).min(usize::from(MAX_LANES));
        let ends = ends.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
        let port = Port::open(config.listen, lanes, config.offload)?;
        if config.relay {
            port.show_hops();
        }
        let count = port.workers.len();
        let sockets: Result<_, _> = port.workers.iter().map(UdpSocket::try_clone).collect();
        let sockets = sockets.context("copying the workers' sockets")?;
        let shared = Arc::new(Shared::new(count));
        let gate = Arc::new(Gate::new(lanes, promoted).context("making the gate between bulk and sparse")?);
        let (events, receiver) = mpsc::channel(EVENTS);
        let (mut mailboxes, mut inboxes) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (mailbox, inbox) = event::mailbox(COMMANDS).context("making a worker's event descriptor")?;
            mailboxes.push(mailbox);
            inboxes.push(inbox);
        }
        let (offload, joins) = (config.offload, port.joins);
        let placement = Placement::new(Vec::new());
        let mut workers = Self { shared, sockets, mailboxes, threads: Vec::new(), placement, offload, joins };
        let mut bulk = Vec::new();
        let parts = ends.zip(port.workers).zip(inboxes);
        for (id, ((end, socket), inbox)) in parts.enumerate() {
            let outside = run::Outside {
                shared: workers.shared.clone(),
                events: events.clone(),
                others: workers.mailboxes.clone(),
                gate: gate.clone(),
                inbox,
            };
            let worker = Worker::new(id, end, socket, (usize::from(config.mtu), config.offload), outside)
                .with_context(|| format!("preparing worker {id}"))?;
            let class = worker.place.class;
            let (handle, thread) = spawn(id, worker)?;
            workers.threads.push(handle);
            bulk.extend(thread.filter(|_| class == Class::Bulk));
        }
        workers.placement = Placement::new(bulk);
        Ok((workers, port.control, receiver))
    }

    /// How many lanes a circuit can have here: half the number of threads.
    pub fn lanes(&self) -> usize {
        self.mailboxes.len() / 2
    }

    /// When [`Self::place`] has something to look at.
    pub fn next_place(&self) -> Option<Instant> {
        self.placement.next()
    }

    /// Moves a worker for bulk that waits for its processors to others that idle. To be called when [`Self::next_place`]
    /// says, and at each [`WorkerEvent::Busy`].
    pub fn place(&mut self, now: Instant) {
        let carried = || {
            let activity = self.shared.activity();
            let sum = |of: fn(&Activity) -> u64| activity.iter().map(of).sum::<u64>();
            // Counted once: what a relay receives it sends.
            let relayed = self.shared.relayed().iter().map(|(_, of)| of.bytes).sum::<u64>();
            [sum(|of| of.tx_bytes), sum(|of| of.rx_bytes) + relayed]
        };
        if let Err(error) = self.placement.look(now, carried) {
            tracing::debug!(%error, "workers stay where they are");
        }
    }

    /// Makes all workers use `table` from their next packet on.
    pub fn publish(&self, table: Arc<Table>) {
        self.shared.publish(table);
        for mailbox in &self.mailboxes {
            mailbox.wake();
        }
    }

    /// Makes the workers use the queues of an interface that was made anew, from their next command on. To be steered by the
    /// same program as those before.
    ///
    /// # Errors
    /// There are no workers, or the system has no descriptors left.
    pub fn renew(&self, interface: TunQueues) -> anyhow::Result<()> {
        anyhow::ensure!(!self.mailboxes.is_empty(), "no worker is there to use an interface");
        let ends = interface.into_ends().context("copying TUN queues")?;
        for (mailbox, end) in self.mailboxes.iter().zip(ends) {
            anyhow::ensure!(mailbox.send(Command::Interface(end)), "a worker takes no commands");
        }
        Ok(())
    }

    /// Whether the kernel joins what arrives (UDP_GRO), where offloads are not switched off. It then joins what only passes
    /// by too, and cuts it up again where it leaves.
    pub fn join_received(&self, wanted: bool) {
        if self.offload && self.joins {
            self.sockets.iter().for_each(|socket| {
                udp::join_received(socket, wanted);
            });
        }
    }

    /// Sends and receives by `first`'s port too, from the next command or packet on: on paths that leave from it. Yields the
    /// socket to which what is not circuit data comes.
    ///
    /// # Errors
    /// There is no worker, or the system has no sockets left.
    pub fn adopt(&self, first: UdpSocket) -> anyhow::Result<UdpSocket> {
        anyhow::ensure!(self.lanes() > 0, "no worker is there to use a port");
        let number = first.local_addr().context("reading the address of a UDP socket")?.port();
        let port = Port::around(first, self.lanes(), self.offload)?;
        let (port, control) = ExtraPort::new(number, port).context("preparing a port")?;
        self.shared.change_extra(|ports| ports.push(Arc::new(port)));
        self.mailboxes.iter().for_each(Mailbox::wake);
        Ok(control)
    }

    /// Closes such a port.
    pub fn leave(&self, number: u16) {
        self.shared.change_extra(|ports| ports.retain(|port| port.number != number));
        self.mailboxes.iter().for_each(Mailbox::wake);
    }

    /// Sends an empty data datagram on the session, on its first lane.
    pub fn send_keepalive(&self, local_index: u32) {
        if let Some(mailbox) = self.mailboxes.first() {
            mailbox.send(Command::Keepalive(local_index));
        }
    }

    /// Sends a message about paths on the session, on its first sparse lane, by any path.
    pub fn send_control(&self, local_index: u32, path: Path, message: Vec<u8>) {
        if let Some(mailbox) = self.mailboxes.get(self.lanes()) {
            mailbox.send(Command::Control(local_index, path, message));
        }
    }

    /// Hands over a data datagram that arrived at the control socket.
    pub fn inject(&self, from: Path, datagram: Vec<u8>) {
        if let Some(mailbox) = self.mailboxes.get(owner(&datagram, self.mailboxes.len())) {
            mailbox.send(Command::Datagram(from, datagram));
        }
    }

    /// Packets per [`Reason`] over all workers. In kernel mode these are the workers' own drops only.
    pub fn counters(&self) -> [u64; Reason::COUNT] {
        self.shared.counters()
    }

    /// Traffic of every current session.
    pub fn activity(&self) -> Vec<Activity> {
        self.shared.activity()
    }

    /// What the workers did for each leg.
    pub fn relayed(&self) -> Vec<(Hop, LegTraffic)> {
        self.shared.relayed()
    }

    /// Offloads towards the network that the kernel refused: `send`, `receive`.
    pub fn without_offloads(&self) -> impl Iterator<Item = &'static str> {
        let send = self.shared.is_segmentation_refused().then_some("send");
        send.into_iter().chain((!self.joins).then_some("receive"))
    }

    /// Stops the threads and waits for them; the TUN queues and sockets close with them.
    pub fn stop(&mut self) {
        self.shared.stop();
        self.mailboxes.iter().for_each(Mailbox::wake);
        for thread in self.threads.drain(..) {
            // A worker that panicked has been reported by its panic; there is nothing left to do for it.
            let _ = thread.join();
        }
        self.sockets.clear();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The worker that owns the lane of a data datagram's receiver index, behind a label too.
fn owner(datagram: &[u8], workers: usize) -> usize {
    let front = if datagram.first() == Some(&TYPE_RELAY) { LABEL_HEADER } else { 0 };
    let lane = datagram.get(front + 7).copied().unwrap_or_default();
    let class = if lane & SPARSE_LANE == 0 { Class::Bulk } else { Class::Sparse };
    Place::of(0, workers).owner(usize::from(lane & (SPARSE_LANE - 1)), class)
}

/// Starts a worker's thread. Where `/proc` is missing its number isn't known.
fn spawn(id: usize, worker: Worker) -> anyhow::Result<(JoinHandle<()>, Option<ThreadId>)> {
    let (number, known) = channel::sync_channel(1);
    let body = move || {
        // Whoever starts threads waits for it.
        let _ = number.send(processors::own_thread().ok());
        let (share, of) = worker.place.number();
        let asked = match worker.place.class {
            Class::Bulk => sched::work_in_batches(),
            Class::Sparse => sched::ask_for_short_turns(SLICE),
        };
        for error in [asked, sched::stay_on(share, of)].into_iter().filter_map(Result::err) {
            tracing::debug!(worker = id, %error, "the scheduler treats it like any thread");
        }
        worker.run();
    };
    let handle = std::thread::Builder::new()
        .name(format!("worker-{id}"))
        .spawn(body)
        .with_context(|| format!("starting the thread of worker {id}"))?;
    Ok((handle, known.recv().ok().flatten()))
}
