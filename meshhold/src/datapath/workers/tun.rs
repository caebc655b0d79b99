//! The TUN interface as the workers see it: one queue each, with or without virtio headers.
//!
//! Owns creation, the choice of offloads and how packets are to be shared out to the queues. Addresses, routes and "up"
//! belong to `platform`. Crate `tun` 0.8 is not used here: it refuses more than one queue.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Context;
use meshhold_common::maps::Steering;

use super::offload::virtio;
use crate::platform::linux::kernel_word::KernelWord;
use crate::platform::linux::sys_net::{self, TunFlags};

/// Checksums and TCP segmentation, ECN included: Linux 2.6.27.
const OFFLOAD_TCP: u32 = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
/// UDP segmentation: Linux 6.2.
const OFFLOAD_UDP: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// MB/s from which sealing is the smaller part of what a worker does with a super-packet: the rest takes some 170 ms a GB
/// (docs/performance.md).
const FAST_SEALING: u32 = 6_000;

/// What packets on the queues look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Bare packets.
    None,
    /// Virtio headers; TCP super-packets.
    Tcp,
    /// Virtio headers; TCP and UDP super-packets.
    TcpAndUdp,
}

/// All queues of one interface.
#[derive(Debug)]
pub struct TunQueues {
    name: String,
    offload: Offload,
    bulk: Vec<File>,
    /// As many, or none.
    sparse: Vec<File>,
    /// Of the steering program: it changes with each flow that becomes bulk.
    promoted: Option<KernelWord>,
}

/// What one worker has of the interface.
#[derive(Debug)]
pub(super) struct TunEnd {
    pub(super) queue: TunQueue,
    /// Whether packets to send come from it; else it is for writing only.
    pub(super) reads: bool,
}

/// One queue.
#[derive(Debug)]
pub(super) struct TunQueue {
    file: File,
    offload: Offload,
}

impl TunQueues {
    /// Creates the interface `name` with two queues for each of `workers`, or attaches them to the one that a former
    /// daemon has left. It goes when the last queue is closed, but for [`Self::keep`]. With `offload` the best the kernel
    /// has is taken.
    ///
    /// # Errors
    /// `/dev/net/tun` or CAP_NET_ADMIN is missing, or the name is taken.
    pub fn create(name: &str, workers: usize, offload: bool) -> anyhow::Result<Self> {
        let flags = TunFlags { multi_queue: true, virtio_header: offload };
        let (first, name) = sys_net::open_tun(name, flags).with_context(|| {
            format!("creating the interface {name} (needs /dev/net/tun and CAP_NET_ADMIN)")
        })?;
        let mut bulk = vec![first];
        for queue in 1..2 * workers {
            let (file, _) =
                sys_net::open_tun(&name, flags).with_context(|| format!("adding queue {queue} to {name}"))?;
            bulk.push(file);
        }
        let offload = if offload { agree(&bulk) } else { refuse(&bulk) };
        let sparse = bulk.split_off(workers.min(bulk.len()));
        Ok(Self { name, offload, bulk, sparse, promoted: None })
    }

    /// Queues that exist already, one a worker: descriptors of a TUN, or datagram sockets that stand for one. Must not
    /// block.
    pub fn from_files(name: &str, files: Vec<File>, offload: Offload) -> Self {
        Self { name: name.into(), offload, bulk: files, sparse: Vec::new(), promoted: None }
    }

    /// Lets `program`, a loaded socket filter, choose the queue of each packet by its return value: those of the
    /// workers in order, then their sparse ones. Without it the kernel spreads flows over all of them. The program changes
    /// `promoted` whenever a flow becomes bulk.
    ///
    /// # Errors
    /// The kernel refuses the program.
    pub fn steer(&mut self, program: BorrowedFd<'_>, promoted: Option<KernelWord>) -> io::Result<()> {
        self.promoted = promoted;
        self.bulk.first().map_or(Ok(()), |queue| sys_net::set_tun_steering(queue.as_fd(), Some(program)))
    }

    /// Takes the program off again that a former daemon may have left.
    pub fn unsteer(&self) {
        if let Some(Err(error)) =
            self.bulk.first().map(|queue| sys_net::set_tun_steering(queue.as_fd(), None))
        {
            tracing::debug!(%error, "the interface keeps a former daemon's steering program");
        }
    }

    /// Lets the interface outlive its queues, so that what hangs on it waits for the next daemon.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn keep(&self) -> io::Result<()> {
        self.bulk.first().map_or(Ok(()), |queue| sys_net::keep_tun(queue.as_fd()))
    }

    /// What the steering program changes, for the workers.
    pub(super) fn take_promoted(&mut self) -> Option<KernelWord> {
        self.promoted.take()
    }

    /// Name of the interface, as the kernel gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How packets are to be shared out, by workers that seal so many MB/s. Of two workers that seal fast and take TCP as
    /// super-packets each can carry what two processors send, and with one for each direction the other processor is left
    /// to the kernel and to programs: a tenth less processor time than with both for all (docs/performance.md).
    pub fn steering(&self, sealing: u32) -> Steering {
        let workers = u32::try_from(self.bulk.len()).unwrap_or(u32::MAX);
        let by_direction = workers == 2 && self.offload != Offload::None && sealing >= FAST_SEALING;
        Steering { workers, spread: u32::from(!by_direction) }
    }

    /// What was agreed with the kernel.
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// An end for each worker: those for bulk, then as many for what is sparse.
    pub(super) fn into_ends(self) -> io::Result<Vec<TunEnd>> {
        let end = |file, reads| TunEnd { queue: TunQueue { file, offload: self.offload }, reads };
        let mut ends: Vec<_> = self.sparse.into_iter().map(|file| end(file, true)).collect();
        for file in self.bulk.iter().skip(ends.len()) {
            ends.push(end(file.try_clone()?, false));
        }
        ends.splice(..0, self.bulk.into_iter().map(|file| end(file, true)));
        Ok(ends)
    }
}

/// The best set of offloads that the kernel takes. Where it takes none, packets still have virtio headers.
fn agree(files: &[File]) -> Offload {
    let Some(first) = files.first() else {
        return Offload::Tcp;
    };
    // The setting belongs to the interface, not to the queue.
    if sys_net::set_tun_offload(first.as_fd(), OFFLOAD_TCP | OFFLOAD_UDP).is_ok() {
        return Offload::TcpAndUdp;
    }
    if let Err(error) = sys_net::set_tun_offload(first.as_fd(), OFFLOAD_TCP) {
        tracing::warn!(%error, "the kernel offers no segmentation offload on the interface");
    }
    Offload::Tcp
}

/// Bare packets only, whatever a former daemon had agreed on.
fn refuse(files: &[File]) -> Offload {
    if let Some(Err(error)) = files.first().map(|first| sys_net::set_tun_offload(first.as_fd(), 0)) {
        tracing::debug!(%error, "the interface keeps the offloads that it had");
    }
    Offload::None
}

impl TunQueue {
    /// One packet or super-packet, after its virtio header if the queue has them.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one packet or super-packet, given in pieces of which the first is the virtio header.
    pub(super) fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let skip = usize::from(self.offload == Offload::None);
        (&self.file).write_vectored(pieces.get(skip..).unwrap_or_default()).map(|_| ())
    }

    pub(super) fn offload(&self) -> Offload {
        self.offload
    }

    /// Bytes before each packet in a read.
    pub(super) fn header(&self) -> usize {
        if self.offload == Offload::None { 0 } else { virtio::LEN }
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(workers: usize, offload: Offload, sealing: u32) -> u32 {
        let files = (0..workers).map(|_| File::open("/dev/null").unwrap()).collect();
        let steering = TunQueues::from_files("mesh", files, offload).steering(sealing);
        assert_eq!(steering.workers as usize, workers);
        steering.spread
    }

    #[test]
    fn two_fast_workers_take_a_direction_each_and_others_all_flows() {
        assert_eq!(spread(2, Offload::TcpAndUdp, FAST_SEALING), 0);
        assert_eq!(spread(2, Offload::Tcp, FAST_SEALING), 0);
        assert_eq!(spread(2, Offload::TcpAndUdp, FAST_SEALING - 1), 1, "they seal slowly");
        assert_eq!(spread(2, Offload::None, FAST_SEALING), 1, "no super-packets");
        assert_eq!(spread(3, Offload::TcpAndUdp, FAST_SEALING), 1, "more processors than two");
    }
}
