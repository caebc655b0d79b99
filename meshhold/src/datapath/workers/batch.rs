//! Datagrams on their way out, gathered so that few system calls send many.
//!
//! Owns the send buffer and what is done when the kernel refuses. Datagrams of one size to one remote become a run, which
//! the kernel cuts up again (UDP_SEGMENT). Must not know what the datagrams hold.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use meshhold_common::Reason;
use meshhold_core::path::Path;
use meshhold_core::wire::{DATA_HEADER, LABEL_HEADER, TAG, TYPE_RELAY};

use super::extra::ExtraPort;
use super::udp::WorkerSocket;
use crate::datapath::counters::ReasonCounters;
use crate::platform::linux::sys_net::{self, MAX_RUNS, Outgoing};

/// Room for two full runs.
const CAPACITY: usize = 2 * MAX_RUN;
/// Most bytes of one run: a UDP datagram over IPv4 holds 65,507.
const MAX_RUN: usize = 65_500;
/// Most datagrams of one run (the kernel's UDP_MAX_SEGMENTS of old).
const MAX_DATAGRAMS: usize = 64;
/// How long a full socket buffer may hold up the worker before datagrams are dropped. Meanwhile the TUN is not
/// read, so its queue discipline decides what waits.
const PATIENCE: Duration = Duration::from_millis(20);

/// Headers of a segment: TCP over IPv4 with timestamps, and what the route to caller addresses leaves for the change of
/// family.
const SEGMENT_HEADERS: usize = 52 + 28;
/// What the kernel keeps of a super-packet for headers (MAX_TCP_HEADER).
const KEPT: usize = 321;

/// Bytes of TCP super-packets: as many segments as one `sendmsg` takes when they are sealed and labelled, so that none is
/// left over for a second one.
pub fn largest_super_packet(mtu: u16) -> u32 {
    let mtu = usize::from(mtu);
    let segments = (MAX_RUN / (mtu + LABEL_HEADER + DATA_HEADER + TAG)).min(MAX_DATAGRAMS);
    (segments * mtu.saturating_sub(SEGMENT_HEADERS) + KEPT) as u32
}

#[derive(Clone, Copy, Debug)]
struct Run {
    start: usize,
    len: usize,
    /// Size of each datagram but the last.
    segment: usize,
    datagrams: usize,
    to: Target,
    closed: bool,
}

/// Where datagrams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    path: Path,
    /// Hops that they may still make; 0 is the system's own number.
    hops: u8,
}

impl From<Path> for Target {
    fn from(path: Path) -> Self {
        Self { path, hops: 0 }
    }
}

/// The gathered datagrams of one worker.
#[derive(Debug)]
pub(super) struct SendBatch {
    buffer: Box<[u8]>,
    used: usize,
    runs: Vec<Run>,
    segmentation: bool,
    /// Tells others that the kernel refused it.
    unsegmented: Arc<AtomicBool>,
    /// Next hop and label of a relayed datagram that was too long for the interface.
    refused: Option<(SocketAddr, u32)>,
    /// An own address that nothing could be sent from.
    unusable: Option<IpAddr>,
}

/// Where a batch goes and who counts what doesn't.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exit<'a> {
    pub(super) socket: &'a WorkerSocket,
    pub(super) extra: &'a [Arc<ExtraPort>],
    pub(super) worker: usize,
    pub(super) counters: &'a ReasonCounters,
}

impl<'a> Exit<'a> {
    /// The sockets of an own port, 0 being the shared one.
    fn socket_of(self, local_port: u16) -> Option<&'a WorkerSocket> {
        if local_port == 0 {
            return Some(self.socket);
        }
        self.extra.iter().find(|port| port.number == local_port)?.socket(self.worker)
    }

    /// As the socket of the path's own port must be given its address.
    fn native(self, to: Path) -> SocketAddr {
        self.socket_of(to.local_port).map_or(to.remote, |socket| socket.native(to.remote))
    }
}

impl SendBatch {
    /// `segmentation`: whether runs may hold several datagrams.
    pub(super) fn new(segmentation: bool, unsegmented: Arc<AtomicBool>) -> Self {
        let (buffer, runs) = (vec![0; CAPACITY].into(), Vec::with_capacity(MAX_RUNS));
        Self { buffer, used: 0, runs, segmentation, unsegmented, refused: None, unusable: None }
    }

    /// Room for the next datagram of `len` bytes to `to`, behind a label where the path has one; sends what is there if there is too little. `None` where no
    /// datagram can be that long. The room becomes part of the batch by [`Self::commit`].
    pub(super) fn room(&mut self, len: usize, to: &Target, exit: Exit<'_>) -> Option<&mut [u8]> {
        let header = to.path.label.map(label_header);
        let front = header.map_or(0, |header| header.len());
        let len = front + len;
        if len > MAX_RUN {
            return None;
        }
        let joins = self.runs.last().is_some_and(|run| self.segmentation && run.takes(len, to));
        if self.used + len > self.buffer.len() || (!joins && self.runs.len() == MAX_RUNS) {
            self.flush(exit);
        }
        let (before, room) = self.buffer.get_mut(self.used..self.used + len)?.split_at_mut_checked(front)?;
        header.iter().for_each(|header| before.copy_from_slice(header));
        Some(room)
    }

    /// Adds the datagram that was written into the room of the same `len` and `to`.
    pub(super) fn commit(&mut self, len: usize, to: &Target) {
        let len = len + to.path.label.map_or(0, |_| LABEL_HEADER);
        let segmentation = self.segmentation;
        match self.runs.last_mut() {
            Some(run) if segmentation && run.takes(len, to) => {
                run.len += len;
                run.datagrams += 1;
                run.closed = len < run.segment;
            }
            _ => {
                let to = *to;
                self.runs.push(Run { start: self.used, len, segment: len, datagrams: 1, to, closed: false });
            }
        }
        self.used += len;
    }

    /// Sends `bytes` as they are, as datagrams of `segment` bytes that may make so many `hops`, after all that waits.
    pub(super) fn forward(&mut self, bytes: &[u8], segment: usize, to: (SocketAddr, u8), exit: Exit<'_>) {
        let (remote, hops) = to;
        let target = Target { path: remote.into(), hops };
        if bytes.len() <= segment
            && let Some(room) = self.room(bytes.len(), &target, exit)
        {
            room.copy_from_slice(bytes);
            return self.commit(bytes.len(), &target);
        }
        self.flush(exit);
        let to = exit.socket.native(remote);
        let whole = Outgoing { bytes, segment: segment as u16, to, hops, from: None };
        if let Err(error) = send([whole], 0, exit) {
            exit.counters.add(reason(&error), bytes.len().div_ceil(segment.max(1)) as u64);
            self.refused = labelled(&error, bytes, remote).or(self.refused);
        }
    }

    /// Sends one datagram now, and doesn't mind if it gets nowhere.
    pub(super) fn probe(&mut self, datagram: &[u8], path: Path, exit: Exit<'_>) {
        let header = path.label.map(label_header);
        let bytes = [header.as_ref().map_or(&[][..], |header| &header[..]), datagram].concat();
        let Some(socket) = exit.socket_of(path.local_port) else { return };
        let to = socket.native(path.remote);
        let whole = Outgoing { bytes: &bytes, segment: 0, to, hops: 0, from: path.local };
        let send = |whole| sys_net::send_many(socket.descriptor(), [whole]);
        let sent = match (send(whole), path.local) {
            (Err(error), Some(local)) if is_about_source(&error) => {
                send(Outgoing { from: None, ..whole }).inspect(|_| self.unusable = Some(local))
            }
            (sent, _) => sent,
        };
        if let Err(error) = sent {
            tracing::trace!(%path, %error, "a probe was not sent");
        }
    }

    /// Next hop and label of what was too long for the interface since the last call.
    pub(super) fn take_refused(&mut self) -> Option<(SocketAddr, u32)> {
        self.refused.take()
    }

    /// An own address that nothing could be sent from since the last call, though to the same destination from another.
    pub(super) fn take_unusable(&mut self) -> Option<IpAddr> {
        self.unusable.take()
    }

    /// Sends everything; what the kernel still doesn't take after [`PATIENCE`] is dropped and counted.
    pub(super) fn flush(&mut self, exit: Exit<'_>) {
        let mut sent = 0;
        while sent < self.runs.len() {
            match self.send_from(sent, exit) {
                Ok(count) => sent += count.max(1),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left: usize = self.runs.iter().skip(sent).map(|run| run.datagrams).sum();
                    exit.counters.add(Reason::QueueFull, left as u64);
                    break;
                }
                Err(error) => {
                    self.settle(sent, error, exit);
                    sent += 1;
                }
            }
        }
        self.runs.clear();
        self.used = 0;
    }

    /// One system call with the runs from `first` on that leave by one port.
    fn send_from(&self, first: usize, exit: Exit<'_>) -> io::Result<usize> {
        let local_port = self.runs.get(first).map_or(0, |run| run.to.path.local_port);
        let alike = self.runs.iter().skip(first).take_while(|run| run.to.path.local_port == local_port);
        send(alike.map(|run| self.outgoing(run, exit)), local_port, exit)
    }

    fn outgoing(&self, run: &Run, exit: Exit<'_>) -> Outgoing<'_> {
        let bytes = self.buffer.get(run.start..run.start + run.len).unwrap_or_default();
        let segment = if run.datagrams > 1 { run.segment as u16 } else { 0 };
        let Target { path, hops } = run.to;
        Outgoing { bytes, segment, to: exit.native(path), hops, from: path.local }
    }

    /// A run was refused: from another address if that was why, one by one if it was a run of several, else dropped and counted.
    fn settle(&mut self, at: usize, mut error: io::Error, exit: Exit<'_>) {
        let Some(run) = self.runs.get(at) else {
            return;
        };
        let Path { remote, local_port, local, .. } = run.to.path;
        let mut whole = self.outgoing(run, exit);
        if let Some(local) = local.filter(|_| is_about_source(&error)) {
            whole.from = None;
            match send([whole], local_port, exit) {
                Ok(_) => {
                    self.unusable = Some(local);
                    return;
                }
                Err(other) => error = other,
            }
        }
        if run.datagrams == 1 {
            exit.counters.add(reason(&error), 1);
            self.refused = labelled(&error, whole.bytes, remote).or(self.refused);
            return;
        }
        let (mut failed, mut refused) = (0, None);
        for bytes in whole.bytes.chunks(run.segment.max(1)) {
            if let Err(error) = send([Outgoing { bytes, segment: 0, ..whole }], local_port, exit) {
                exit.counters.add(reason(&error), 1);
                refused = labelled(&error, bytes, remote).or(refused);
                failed += 1;
            }
        }
        self.refused = refused.or(self.refused);
        if failed == 0 {
            tracing::warn!(%error, "UDP segmentation offload is refused; sending datagrams singly");
            self.segmentation = false;
            self.unsegmented.store(true, Relaxed);
        }
    }
}

impl Run {
    fn takes(&self, len: usize, to: &Target) -> bool {
        !self.closed
            && len <= self.segment
            && self.to == *to
            && self.datagrams < MAX_DATAGRAMS
            && self.len + len <= MAX_RUN
    }
}

/// Where a labelled datagram was going that is too long for the interface.
fn labelled(error: &io::Error, datagram: &[u8], to: SocketAddr) -> Option<(SocketAddr, u32)> {
    let &[TYPE_RELAY, _, _, _, a, b, c, d] = datagram.first_chunk::<LABEL_HEADER>()? else { return None };
    (reason(error) == Reason::TooBig).then_some((to, u32::from_be_bytes([a, b, c, d])))
}

/// Whether the kernel may have refused the source address: it is this host's no more, or no route leads from there.
fn is_about_source(error: &io::Error) -> bool {
    let codes = [libc::EINVAL, libc::EADDRNOTAVAIL, libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ENODEV];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

fn label_header(label: u32) -> [u8; LABEL_HEADER] {
    let [a, b, c, d] = label.to_be_bytes();
    [TYPE_RELAY, 0, 0, 0, a, b, c, d]
}

/// Waits while the socket is full, but no longer than [`PATIENCE`].
fn send<'a>(
    runs: impl IntoIterator<Item = Outgoing<'a>> + Clone,
    local_port: u16,
    exit: Exit<'_>,
) -> io::Result<usize> {
    let socket = exit.socket_of(local_port).ok_or(ErrorKind::AddrNotAvailable)?;
    let descriptor = socket.descriptor();
    loop {
        match sys_net::send_many(descriptor, runs.clone()) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if !sys_net::wait_writable(descriptor, PATIENCE) {
                    return Err(error);
                }
            }
            other => return other,
        }
    }
}

fn reason(error: &io::Error) -> Reason {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => Reason::TooBig,
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Reason::QueueFull,
        _ => Reason::NoPath,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_super_packet_is_one_run_even_when_labelled() {
        for mtu in [1280, 1420, 1500, 8920] {
            let payload = usize::from(mtu) - SEGMENT_HEADERS;
            let segments = (largest_super_packet(mtu) as usize - KEPT).div_ceil(payload);
            let sealed = usize::from(mtu) + DATA_HEADER + TAG + LABEL_HEADER;
            assert!(segments <= MAX_DATAGRAMS && segments * sealed <= MAX_RUN, "{mtu}: {segments}");
            assert!(
                segments + 1 > MAX_DATAGRAMS || (segments + 1) * sealed > MAX_RUN,
                "{mtu}: room for more"
            );
        }
    }
}
