//! What goes between a worker and the rest: events up, commands down.
//!
//! Owns the two queues, both bounded. Must not know what is done about an event.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use meshhold_core::path::Path;

use super::tun::TunEnd;
use crate::datapath::relay::Hop;
use crate::platform::linux::sys_net;

/// Events that may wait for the daemon; while the queue is full, workers keep theirs for later or drop them.
pub(super) const EVENTS: usize = 1024;

/// What a worker noticed.
#[derive(Debug)]
pub enum WorkerEvent {
    /// First authenticated datagram on a session.
    Confirmed {
        /// Of the session.
        local_index: u32,
    },
    /// An authenticated packet came by another path than the one in use.
    Moved {
        /// Of the session.
        local_index: u32,
        /// The new path.
        from: Path,
    },
    /// A message about paths, authenticated.
    Control {
        /// Of the session.
        local_index: u32,
        /// The path to answer by.
        from: Path,
        /// Its bytes.
        message: Vec<u8>,
    },
    /// Packets wait for a peer that has no session to send on. Repeated while they wait.
    Wanted {
        /// [`crate::datapath::table::PeerRoute::index`].
        peer_index: u32,
    },
    /// The session's send counter reached its limit.
    Exhausted {
        /// Of the session.
        local_index: u32,
    },
    /// A data datagram came for a session that nobody here has, perhaps from before a restart. Told seldom.
    Stray {
        /// Sender, as the datagram claims.
        from: Path,
    },
    /// A datagram that is not circuit data arrived at a worker's socket.
    Foreign {
        /// Sender.
        from: Path,
        /// Its bytes.
        datagram: Vec<u8>,
    },
    /// What is relayed is longer than the way to the next hop takes.
    TooBig {
        /// By what it is known.
        hop: Hop,
        /// Bytes of UDP payload that the way takes.
        carries: u16,
    },
    /// Nothing can be sent from this own address, though to the same destination from another: it went from there.
    Unusable {
        /// The address.
        local: IpAddr,
    },
    /// A worker for bulk has something to do. Repeated while it has.
    Busy,
    /// A worker lost its TUN queue; it goes on without.
    Failed {
        /// Number of the worker.
        worker: usize,
        /// Why.
        error: io::Error,
    },
    /// It uses the queue of an interface that was made anew.
    Resumed {
        /// Its number.
        worker: usize,
    },
}

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Treat these bytes as received from there.
    Datagram(Path, Vec<u8>),
    /// Use this end of a new interface from now on.
    Interface(TunEnd),
    /// Send an empty data datagram on this session.
    Keepalive(u32),
    /// Send this message about paths on this session, by this path.
    Control(u32, Path, Vec<u8>),
}

/// The sending end of a worker's commands.
#[derive(Clone, Debug)]
pub(super) struct Mailbox {
    commands: SyncSender<Command>,
    bell: Arc<File>,
}

/// The worker's end.
#[derive(Debug)]
pub(super) struct Inbox {
    commands: Receiver<Command>,
    bell: Arc<File>,
}

/// A command queue with room for `capacity`.
pub(super) fn mailbox(capacity: usize) -> io::Result<(Mailbox, Inbox)> {
    let bell = Arc::new(sys_net::event_fd()?);
    let (sender, commands) = sync_channel(capacity);
    Ok((Mailbox { commands: sender, bell: bell.clone() }, Inbox { commands, bell }))
}

impl Mailbox {
    /// Queues `command`; false where the queue is full or the worker is gone.
    pub(super) fn send(&self, command: Command) -> bool {
        let taken = self.commands.try_send(command).is_ok();
        self.wake();
        taken
    }

    /// Makes the worker look at its commands and at the table.
    pub(super) fn wake(&self) {
        // Full means that the bell is ringing already.
        let _ = (&*self.bell).write(&1u64.to_ne_bytes());
    }
}

impl Inbox {
    /// What to wait on.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Stops the ringing; to be called before the commands are taken.
    pub(super) fn silence(&self) {
        let _ = (&*self.bell).read(&mut [0; 8]);
    }

    /// The next command.
    pub(super) fn next(&self) -> Option<Command> {
        self.commands.try_recv().ok()
    }
}
