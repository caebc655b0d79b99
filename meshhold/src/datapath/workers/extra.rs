//! Own ports beside the shared one, for circuits that get through a NAT by such a port only.
//!
//! Owns what a worker holds of them. Must not know why a circuit has one.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::run::{EXTRA, Worker};
use super::shared::Snapshot;
use super::udp::{Port, WorkerSocket};

/// One such port.
#[derive(Debug)]
pub(super) struct ExtraPort {
    pub(super) number: u16,
    /// One a worker.
    sockets: Vec<WorkerSocket>,
}

/// All of them.
pub(super) type ExtraPorts = Arc<Vec<Arc<ExtraPort>>>;

impl ExtraPort {
    pub(super) fn new(number: u16, port: Port) -> std::io::Result<(Self, std::net::UdpSocket)> {
        let sockets = port.workers.into_iter().map(WorkerSocket::new).collect::<Result<Vec<_>, _>>()?;
        Ok((Self { number, sockets }, port.control))
    }

    /// The sockets of worker `id`.
    pub(super) fn socket(&self, id: usize) -> Option<&WorkerSocket> {
        self.sockets.get(id)
    }

    fn descriptor(&self, id: usize) -> Option<BorrowedFd<'_>> {
        self.socket(id).map(WorkerSocket::descriptor)
    }
}

impl Worker {
    /// Takes up the ports that there are now.
    pub(super) fn watch_extra(&mut self) {
        let wanted = self.outside.shared.extra();
        let before = std::mem::replace(&mut self.outlet.extra, wanted);
        let wanted = &self.outlet.extra;
        let missing =
            |of: &ExtraPorts, port: &Arc<ExtraPort>| !of.iter().any(|other| Arc::ptr_eq(other, port));
        let id = self.id;
        for descriptor in
            before.iter().filter(|port| missing(wanted, port)).filter_map(|port| port.descriptor(id))
        {
            // Another worker may hold it a little longer.
            let _ = self.epoll.forget(descriptor);
            self.forget_sparse(descriptor);
        }
        for descriptor in
            wanted.iter().filter(|port| missing(&before, port)).filter_map(|port| port.descriptor(id))
        {
            let watched = self.epoll.watch(descriptor, EXTRA).and_then(|()| self.watch_sparse(descriptor));
            if let Err(error) = watched {
                tracing::warn!(%error, worker = self.id, "an own port is not heard");
            }
        }
    }

    pub(super) fn receive_extra(&mut self, snapshot: &mut Arc<Snapshot>) {
        let ports = Arc::clone(&self.outlet.extra);
        for port in ports.iter() {
            self.receive_some(Some(port), snapshot);
        }
    }
}
