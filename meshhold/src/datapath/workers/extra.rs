//! Own ports beside the shared one, for circuits that get through a NAT by such a port only.
//!
//! Owns what a worker holds of them. Must not know why a circuit has one.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::run::{EXTRA, Ready, Worker};
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

    fn descriptors(&self, id: usize) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.socket(id).into_iter().flat_map(|socket| [socket.descriptor(), socket.sparse()])
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
        for descriptor in
            before.iter().filter(|port| missing(wanted, port)).flat_map(|port| port.descriptors(self.id))
        {
            // Another worker may hold it a little longer.
            let _ = self.epoll.forget(descriptor);
        }
        for descriptor in
            wanted.iter().filter(|port| missing(&before, port)).flat_map(|port| port.descriptors(self.id))
        {
            if let Err(error) = self.epoll.watch(descriptor, EXTRA) {
                tracing::warn!(%error, worker = self.id, "an own port is not heard");
            }
        }
    }

    /// As with the shared port: bulk is taken first and handled last, so that no flow overtakes itself.
    pub(super) fn receive_extra(&mut self, ready: Ready, snapshot: &mut Arc<Snapshot>) {
        if !ready.has(EXTRA) {
            return;
        }
        let ports = Arc::clone(&self.outlet.extra);
        for port in ports.iter() {
            let Some(socket) = port.socket(self.id) else { continue };
            let mut buffer = std::mem::take(&mut self.received);
            let bulk = self.receive_from(socket.descriptor(), &mut buffer);
            self.received = buffer;
            self.receive_sparse(Some(port), snapshot);
            self.receive_bulk(bulk.map(|got| (got, port.number)), snapshot);
        }
    }
}
