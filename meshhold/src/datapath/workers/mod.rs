//! The workers: one thread each, with its own TUN queue and its own socket on the shared UDP port.
//!
//! Owns starting, feeding and stopping them. Must not know circuits: sessions come in with the [`Table`], what
//! workers notice goes out as [`WorkerEvent`]s.

mod batch;
pub mod event;
mod hold;
pub mod offload;
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
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use meshhold_common::Reason;
use meshhold_core::path::Path;
use meshhold_core::wire::{LABEL_HEADER, MAX_LANES, SPARSE_LANE, TYPE_RELAY};
use tokio::sync::mpsc;

pub use self::batch::largest_super_packet;
pub use self::event::WorkerEvent;
use self::event::{Command, EVENTS, Mailbox};
use self::run::Worker;
use self::shared::Shared;
pub use self::tun::TunQueues;
use self::udp::Port;
use super::counters::Activity;
use super::relay::{Hop, LegTraffic};
use super::table::Table;
use crate::platform::linux::sched;

/// Commands that may wait for one worker; more are dropped.
const COMMANDS: usize = 1024;
/// A worker's turn on a processor that it shares: the shortest that the kernel grants.
const SLICE: Duration = Duration::from_micros(100);

/// What workers are started with.
#[derive(Debug)]
pub struct WorkersConfig {
    /// The TUN queues, one a worker; `None` starts only the control socket, unless this node relays.
    pub interface: Option<TunQueues>,
    /// Relay: start workers where there is no interface too.
    pub relay: bool,
    /// The shared UDP port; `[::]:7777` serves IPv4 too. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// Number of workers, 1 to [`MAX_LANES`].
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
    mailboxes: Vec<Mailbox>,
    threads: Vec<JoinHandle<()>>,
}

/// What [`Workers::start`] gives: the handle, the control socket of the port, and the events.
pub type Started = (Workers, UdpSocket, mpsc::Receiver<WorkerEvent>);

impl Workers {
    /// Opens the port and starts the threads.
    ///
    /// # Errors
    /// The port is taken, or a socket or thread can't be made.
    pub fn start(config: WorkersConfig) -> anyhow::Result<Started> {
        let queues = config.interface.map(TunQueues::into_pairs).unwrap_or_default();
        let most = if queues.is_empty() && config.relay { config.count } else { queues.len() };
        let count = config.count.min(most).min(usize::from(MAX_LANES));
        let queues = queues.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
        let port = Port::open(config.listen, count, config.offload)?;
        if config.relay {
            port.show_hops();
        }
        let shared = Arc::new(Shared::new(count));
        let (events, receiver) = mpsc::channel(EVENTS);
        let (mut mailboxes, mut inboxes) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (mailbox, inbox) = event::mailbox(COMMANDS).context("making a worker's event descriptor")?;
            mailboxes.push(mailbox);
            inboxes.push(inbox);
        }
        let mut workers = Self { shared, mailboxes, threads: Vec::new() };
        let parts = queues.zip(port.workers).zip(inboxes);
        for (id, ((queues, sockets), inbox)) in parts.enumerate() {
            let outside = run::Outside {
                shared: workers.shared.clone(),
                events: events.clone(),
                others: workers.mailboxes.clone(),
                inbox,
            };
            let worker = Worker::new(id, queues, sockets, (usize::from(config.mtu), config.offload), outside)
                .with_context(|| format!("preparing worker {id}"))?;
            workers.threads.push(spawn(id, worker)?);
        }
        Ok((workers, port.control, receiver))
    }

    /// How many threads run.
    pub fn count(&self) -> usize {
        self.mailboxes.len()
    }

    /// Makes all workers use `table` from their next packet on.
    pub fn publish(&self, table: Arc<Table>) {
        self.shared.publish(table);
        for mailbox in &self.mailboxes {
            mailbox.wake();
        }
    }

    /// Sends an empty data datagram on the session, on its first lane.
    pub fn send_keepalive(&self, local_index: u32) {
        if let Some(mailbox) = self.mailboxes.first() {
            mailbox.send(Command::Keepalive(local_index));
        }
    }

    /// Sends a message about paths on the session, by any path.
    pub fn send_control(&self, local_index: u32, path: Path, message: Vec<u8>) {
        if let Some(mailbox) = self.mailboxes.first() {
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

    /// Stops the threads and waits for them; the TUN queues and sockets close with them.
    pub fn stop(&mut self) {
        self.shared.stop();
        self.mailboxes.iter().for_each(Mailbox::wake);
        for thread in self.threads.drain(..) {
            // A worker that panicked has been reported by its panic; there is nothing left to do for it.
            let _ = thread.join();
        }
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
    let lane = datagram.get(front + 7).map_or(0, |byte| byte & (SPARSE_LANE - 1));
    usize::from(lane) % workers.max(1)
}

fn spawn(id: usize, worker: Worker) -> anyhow::Result<JoinHandle<()>> {
    let body = move || {
        if let Err(error) = sched::ask_for_short_turns(SLICE) {
            tracing::debug!(worker = id, %error, "no short turns");
        }
        worker.run();
    };
    std::thread::Builder::new()
        .name(format!("worker-{id}"))
        .spawn(body)
        .with_context(|| format!("starting the thread of worker {id}"))
}
