//! From the network to the TUN: authenticate, check, join, write.
//!
//! Owns the order of the checks on incoming datagrams. Nothing is written to the TUN that was not authenticated and
//! whose inner source is not the sender's own.

use std::io::{ErrorKind, IoSlice};
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use meshhold_common::Reason;
use meshhold_core::path::Path;
use meshhold_core::wire::{
    DATA_HEADER, FLAG_CONTROL, FLAG_PARTIAL_CHECKSUM, FLAG_PROMOTED, LABEL_HEADER, TAG, TYPE_DATA, TYPE_RELAY,
};

use super::event::{Command, WorkerEvent};
use super::extra::ExtraPort;
use super::gate;
use super::offload::checksum::{field_offset, finish};
use super::offload::coalesce::PacketSink;
use super::offload::header::Layout;
use super::offload::mss;
use super::offload::virtio;
use super::relay;
use super::run::{Wake, Worker};
use super::session::{Class, DataHeader, LocalSession};
use super::shared::Snapshot;
use super::tun::{Offload, TunEnd, TunQueue};
use crate::datapath::counters::ReasonCounters;
use crate::datapath::icmp::{self, MAX_ERROR};
use crate::datapath::relay::Hop;
use crate::datapath::table::{PeerRoute, Table};
use crate::platform::linux::sys_net::{self, Received};

/// How often the same other path of a session is reported.
const REPEAT_MOVED: Duration = Duration::from_millis(250);

/// How often a datagram for an unknown session is reported.
const REPEAT_STRAY: Duration = Duration::from_millis(100);

/// Bytes of a keepalive behind a label: it gives a worker nothing to do.
const KEEPALIVE: usize = LABEL_HEADER + DATA_HEADER + TAG;

/// How datagrams came that were received together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// Bytes of each but the last; not 0.
    pub(super) segment: usize,
    pub(super) from: Path,
    /// Hops that they may still make, this one too, where that is known.
    pub(super) hops: Option<u8>,
}

/// An inner packet that may go to the TUN: where it starts in the receive buffer.
struct Opened {
    at: usize,
    layout: Layout,
    partial: bool,
}

impl Worker {
    /// Receives what waits at the shared port or at another, lets pass what is sparse and came before where that matters, then
    /// handles it.
    pub(super) fn receive_some(&mut self, port: Option<&ExtraPort>, snapshot: &mut Arc<Snapshot>) {
        let mut buffer = std::mem::take(&mut self.received);
        let socket = port.and_then(|port| port.socket(self.id)).unwrap_or(&self.outlet.socket);
        if let Some(got) = self.take(socket.descriptor(), &mut buffer) {
            if self.place.class == Class::Bulk
                && gate::are_promoted(buffer.get(..got.len).unwrap_or_default(), got.segment)
            {
                self.outside.gate.pass();
            }
            self.handle(&mut buffer, got, port.map_or(0, |port| port.number), snapshot);
        }
        self.received = buffer;
    }

    fn take(&self, descriptor: BorrowedFd<'_>, buffer: &mut [u8]) -> Option<Received> {
        loop {
            match sys_net::receive(descriptor, buffer) {
                Ok(got) => return Some(got),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => {
                    tracing::debug!(%error, worker = self.id, "receiving failed");
                    return None;
                }
            }
        }
    }

    fn handle(&mut self, buffer: &mut [u8], got: Received, port: u16, snapshot: &mut Arc<Snapshot>) {
        self.refresh(snapshot);
        let bytes = buffer.get_mut(..got.len).unwrap_or_default();
        let from = Path::from(got.from).from_port(port).from_address(got.to);
        let arrival = Arrival { segment: got.segment.max(1), from, hops: got.hops };
        let wake = Wake { snapshot, now: Instant::now() };
        if got.len > KEEPALIVE {
            self.tell_busy(wake.now);
        }
        self.receive(bytes, arrival, &wake);
    }

    /// Takes datagrams from one sender.
    pub(super) fn receive(&mut self, bytes: &mut [u8], arrival: Arrival, wake: &Wake<'_>) {
        let mut start = 0;
        while start < bytes.len() {
            let (hop, len) = relay::run(bytes.get(start..).unwrap_or_default(), arrival);
            let run = start..start + len;
            if !self.relay(hop, bytes.get(run.clone()).unwrap_or_default(), arrival, wake) {
                self.open_all(bytes, (hop, run), arrival, wake);
            }
            start += len;
        }
        let Some(end) = &self.tun else {
            return;
        };
        self.coalescer.flush(bytes, &mut TunSink { queue: &end.queue, counters: &self.outlet.counters });
    }

    /// Authenticates datagrams that have one label or none, and delivers what they hold.
    fn open_all(
        &mut self,
        bytes: &mut [u8],
        (hop, run): (Option<Hop>, Range<usize>),
        arrival: Arrival,
        wake: &Wake<'_>,
    ) {
        let Arrival { segment, mut from, .. } = arrival;
        let mut label = 0;
        if let Some(hop) = hop {
            let Some(back) = wake.snapshot.table.doors.get(&hop) else {
                let count = run.len().div_ceil(segment) as u64;
                return self.outlet.counters.add(Reason::UnknownLabel, count);
            };
            (label, from) = (LABEL_HEADER, *back);
        }
        for start in run.clone().step_by(segment) {
            let end = (start + segment).min(run.end);
            match self.open(bytes, start + label..end, from, wake) {
                Ok(Some(opened)) => self.deliver(bytes, opened),
                Ok(None) => {}
                Err(reason) => self.drop_packet(reason),
            }
        }
    }

    /// Authenticates one datagram. `None` where it holds no packet for us: a keepalive, or not our business.
    fn open(
        &mut self,
        bytes: &mut [u8],
        range: Range<usize>,
        from: Path,
        wake: &Wake<'_>,
    ) -> Result<Option<Opened>, Reason> {
        let start = range.start + DATA_HEADER;
        let datagram = bytes.get_mut(range).unwrap_or_default();
        let Some(header) = DataHeader::of(datagram) else {
            return self.pass_on_foreign(datagram, from).map(|()| None);
        };
        let owner = self.place.owner(header.lane, header.class);
        if owner != self.id {
            let command = Command::Datagram(from, datagram.to_vec());
            let taken = self.outside.others.get(owner).is_some_and(|other| other.send(command));
            return if taken { Ok(None) } else { Err(Reason::QueueFull) };
        }
        let position = self.place.position(header.lane);
        let Some(local) = self.sessions.find(header.session) else {
            return self.refuse_stray(from, wake.now);
        };
        let lane = local.lane(position).ok_or(Reason::NoSession)?;
        if !lane.is_new(header.counter) {
            return Err(Reason::Replay);
        }
        let sealed = datagram.get_mut(DATA_HEADER..).unwrap_or_default();
        let len = lane.open(&header, sealed).ok_or(Reason::BadTag)?;
        let packet = sealed.get_mut(..len).unwrap_or_default();
        let peer = wake.snapshot.table.peer(local.shared.peer).ok_or(Reason::NoSession)?;
        confirm(local, &self.outside.events);
        if header.flags & FLAG_CONTROL != 0 {
            let local_index = local.shared.session.local_index;
            self.report(WorkerEvent::Control { local_index, from, message: packet.to_vec() });
            return Ok(None);
        }
        if let Some(traffic) = local.shared.traffic(self.id) {
            traffic.rx_packets.add(1);
            traffic.rx_bytes.add(len as u64);
        }
        report_arrival(local, peer, from, wake, &self.outside.events);
        if packet.is_empty() {
            return Ok(None);
        }
        if header.flags & !(FLAG_PARTIAL_CHECKSUM | FLAG_PROMOTED) != 0 {
            return Err(Reason::Malformed);
        }
        let layout = check(packet, peer, &wake.snapshot.table)?;
        let partial = header.flags & FLAG_PARTIAL_CHECKSUM != 0;
        if let Some(view) = peer.view {
            view.to_shown().packet(packet, partial);
        }
        if mss::is_syn(packet, &layout)
            && let Some(path) = &peer.transmit
        {
            mss::clamp(packet, &layout, self.mtu.min(path.sizes.fits.into()), partial);
        }
        if is_too_big(packet, &layout, peer, &wake.snapshot.table) {
            return self.refuse_too_big(packet, peer.network, wake).map(|()| None);
        }
        self.admit_incoming(packet.get(..layout.total()).unwrap_or_default(), wake)?;
        Ok(Some(Opened { at: start, layout, partial }))
    }

    /// Tells a peer that the LAN device it sends to takes no packets of this size.
    fn refuse_too_big(&mut self, packet: &[u8], network: u16, wake: &Wake<'_>) -> Result<(), Reason> {
        let destination = Layout::of(packet).and_then(|layout| layout.destination(packet));
        let mtu = destination.and_then(|device| wake.snapshot.table.device_mtu(network, device));
        let mut error = [0; MAX_ERROR];
        let len = icmp::error(icmp::Error::TooBig(mtu.unwrap_or(u16::MAX)), packet, &mut error);
        if let (Some(len), true) = (len, self.errors.take(wake.now)) {
            let header = self.header_len();
            let mut read = [0; virtio::LEN + MAX_ERROR];
            let whole = read.get_mut(..header + len).ok_or(Reason::TooBig)?;
            let (_, body) = whole.split_at_mut_checked(header).ok_or(Reason::TooBig)?;
            body.copy_from_slice(error.get(..len).ok_or(Reason::TooBig)?);
            self.forward(whole, wake)?;
        }
        Err(Reason::TooBig)
    }

    /// The sender may be a peer that has a session from before a restart: who knows peers can tell.
    fn refuse_stray(&mut self, from: Path, now: Instant) -> Result<Option<Opened>, Reason> {
        let is_due = |at| now.saturating_duration_since(at) >= REPEAT_STRAY;
        if self.stray_told.is_none_or(is_due) {
            self.stray_told = Some(now);
            self.report(WorkerEvent::Stray { from });
        }
        Err(Reason::NoSession)
    }

    /// Handshakes come here behind a label. Others and QUIC belong to the control socket, and get here only when the steering
    /// program doesn't work.
    fn pass_on_foreign(&self, datagram: &[u8], from: Path) -> Result<(), Reason> {
        match datagram.first() {
            None | Some(&TYPE_DATA | &TYPE_RELAY) => Err(Reason::Truncated),
            Some(_) => {
                self.report(WorkerEvent::Foreign { from, datagram: datagram.to_vec() });
                Ok(())
            }
        }
    }

    /// The user-space rules, where the kernel enforces none.
    fn admit_incoming(&self, packet: &[u8], wake: &Wake<'_>) -> Result<(), Reason> {
        let Some(rules) = &wake.snapshot.rules else {
            return Ok(());
        };
        let reason = rules.ingress(packet, self.outside.shared.second(wake.now));
        if !reason.is_pass() {
            return Err(reason);
        }
        self.outlet.counters.add(reason, 1);
        Ok(())
    }

    fn deliver(&mut self, bytes: &mut [u8], opened: Opened) {
        let Some(TunEnd { queue, .. }) = &self.tun else {
            return self.drop_packet(Reason::QueueFull);
        };
        let mut sink = TunSink { queue, counters: &self.outlet.counters };
        if queue.offload() != Offload::None {
            return self.coalescer.push(bytes, (opened.at, opened.layout), opened.partial, &mut sink);
        }
        let packet = bytes.get_mut(opened.at..opened.at + opened.layout.total()).unwrap_or_default();
        if opened.partial {
            complete(packet);
        }
        sink.put(&[IoSlice::new(&[]), IoSlice::new(packet)]);
    }
}

/// The packet's layout, if it comes from the sender's blocks and goes to our address.
fn check(packet: &[u8], peer: &PeerRoute, table: &Table) -> Result<Layout, Reason> {
    let layout = Layout::of(packet).ok_or(Reason::Malformed)?;
    let shown = |address: IpAddr| peer.view.map_or(Some(address), |view| view.to_shown().address(address));
    if !layout.source(packet).and_then(shown).is_some_and(|source| peer.owns(source)) {
        return Err(Reason::SpoofedSource);
    }
    let is_own = |destination| table.is_own(peer.network, destination);
    if !layout.destination(packet).and_then(shown).is_some_and(is_own) {
        return Err(Reason::NotForUs);
    }
    Ok(layout)
}

/// Whether the packet is for a LAN device of ours that takes none of this size.
fn is_too_big(packet: &[u8], layout: &Layout, peer: &PeerRoute, table: &Table) -> bool {
    let mtu = || table.device_mtu(peer.network, layout.destination(packet)?);
    table.has_devices() && mtu().is_some_and(|mtu| layout.total() > usize::from(mtu))
}

/// Completes a partial transport checksum for an interface that can't take one.
fn complete(packet: &mut [u8]) {
    let Some(layout) = Layout::of(packet) else {
        return;
    };
    if let (Some(_), Some(offset)) = (layout.payload(packet), field_offset(layout.protocol)) {
        finish(packet, layout.transport(), offset);
    }
}

/// The peer has shown that it has the session.
fn confirm(local: &LocalSession, events: &tokio::sync::mpsc::Sender<WorkerEvent>) {
    let local_index = local.shared.session.local_index;
    let confirmed = &local.shared.confirmed;
    if !confirmed.load(Relaxed)
        && !confirmed.swap(true, Relaxed)
        && events.try_send(WorkerEvent::Confirmed { local_index }).is_err()
    {
        confirmed.store(false, Relaxed);
    }
}

fn report_arrival(
    local: &mut LocalSession,
    peer: &PeerRoute,
    from: Path,
    wake: &Wake<'_>,
    events: &tokio::sync::mpsc::Sender<WorkerEvent>,
) {
    let local_index = local.shared.session.local_index;
    let Some(known) = peer.transmit.as_ref().map(|transmit| transmit.path) else {
        return;
    };
    let reported = |(path, at)| path == from && wake.now.saturating_duration_since(at) < REPEAT_MOVED;
    if known == from || local.moved.is_some_and(reported) {
        return;
    }
    if events.try_send(WorkerEvent::Moved { local_index, from }).is_ok() {
        local.moved = Some((from, wake.now));
    }
}

/// The TUN as the end of the incoming path.
struct TunSink<'a> {
    queue: &'a TunQueue,
    counters: &'a ReasonCounters,
}

impl PacketSink for TunSink<'_> {
    fn put(&mut self, pieces: &[IoSlice<'_>]) {
        let Err(error) = self.queue.write(pieces) else {
            return;
        };
        let refused = matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE));
        self.counters.add(if refused { Reason::TooBig } else { Reason::QueueFull }, 1);
    }
}
