//! From the TUN to the network: route, segment, seal, gather.
//!
//! Owns the order of the checks on outgoing packets. Nothing of a read is trusted, the virtio header neither.

use std::io::IoSlice;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use meshhold_common::Reason;
use meshhold_core::path::Path;
use meshhold_core::wire::{DATA_HEADER, FLAG_CONTROL, FLAG_PARTIAL_CHECKSUM, FLAG_PROMOTED, TAG};

use super::batch::Target;
use super::event::WorkerEvent;
use super::offload::checksum::finish;
use super::offload::fragment::Fragments;
use super::offload::header::Layout;
use super::offload::mss;
use super::offload::segment::{Segments, leaves_partial};
use super::offload::virtio::{self, GSO_NONE, NEEDS_CHECKSUM, VirtioHeader};
use super::run::{Wake, Worker};
use super::session::LocalSession;
use super::shared::Snapshot;
use crate::datapath::icmp::{self, MAX_ERROR};
use crate::datapath::renumber::LocalView;
use crate::datapath::table::{Owner, PeerRoute, TransmitPath};

impl Worker {
    /// Takes one read of the TUN to its end: gathered for sending, held, or dropped and counted.
    pub(super) fn transmit(&mut self, read: &mut [u8], wake: &Wake<'_>) {
        let outcome = self.admit(read, wake).and_then(|()| self.forward(read, wake));
        if let Err(reason) = outcome {
            self.drop_packet(reason);
        }
    }

    /// The user-space rules, where the kernel enforces none.
    fn admit(&self, read: &[u8], wake: &Wake<'_>) -> Result<(), Reason> {
        let Some(rules) = &wake.snapshot.rules else {
            return Ok(());
        };
        let packet = read.get(self.header_len()..).ok_or(Reason::Truncated)?;
        let reason = rules.egress(packet, self.outside.shared.second(wake.now));
        if !reason.is_pass() {
            return Err(reason);
        }
        self.outlet.counters.add(reason, 1);
        Ok(())
    }

    /// The virtio header of a read, one of nothing where the queue has none, and the packet.
    fn split<'a>(&self, read: &'a mut [u8]) -> Option<(VirtioHeader, &'a mut [u8])> {
        if self.header_len() == 0 {
            return Some((VirtioHeader::default(), read));
        }
        VirtioHeader::split(read)
    }

    /// Routes a read that has been admitted.
    pub(super) fn forward(&mut self, read: &mut [u8], wake: &Wake<'_>) -> Result<(), Reason> {
        let table = &wake.snapshot.table;
        let packet = read.get(self.header_len()..).ok_or(Reason::Truncated)?;
        let layout = Layout::of(packet).ok_or(Reason::Malformed)?;
        let destination = layout.destination(packet).ok_or(Reason::Malformed)?;
        let peer = match table.owner(destination) {
            Owner::Peer(peer) => peer,
            Owner::Nobody => {
                self.reject(icmp::Error::HostUnreachable, packet, wake);
                return Err(Reason::NoOwner);
            }
            Owner::Outside if is_multicast(destination) => return Err(Reason::Multicast),
            Owner::Outside => return Err(Reason::NotMesh),
        };
        if peer.is_deaf(destination) && layout.is_echo_request6(packet) {
            self.reject(icmp::Error::HostUnreachable, packet, wake);
            return Err(Reason::NoOwner);
        }
        if !layout.source(packet).is_some_and(|source| table.is_own(peer.network, source)) {
            return Err(Reason::SpoofedSource);
        }
        match &peer.transmit {
            Some(path) => {
                if mss::is_syn(packet, &layout) {
                    self.clamp(read, &layout, path);
                }
                self.send_on((path, peer.view), read, wake)
            }
            None => self.hold_back(peer, read, wake),
        }
    }

    /// Lets the other end offer no longer segments than the path carries.
    fn clamp(&self, read: &mut [u8], layout: &Layout, path: &TransmitPath) {
        let Some((virtio, packet)) = self.split(read) else { return };
        let partial = leaves_partial(virtio, packet);
        mss::clamp(packet, layout, self.mtu.min(path.sizes.fits.into()), partial);
    }

    fn send_on(
        &mut self,
        (path, view): (&TransmitPath, Option<LocalView>),
        read: &mut [u8],
        wake: &Wake<'_>,
    ) -> Result<(), Reason> {
        let (virtio, packet) = self.split(read).ok_or(Reason::Truncated)?;
        if let Some(view) = view {
            view.to_real().packet(packet, leaves_partial(virtio, packet));
        }
        let segments = Segments::plan(virtio, packet).ok_or(Reason::Malformed)?;
        if segments.longest() > self.mtu.min(path.sizes.fits.into()) {
            return self.send_long((path, view), read, wake);
        }
        self.seal(path, segments)
    }

    /// Segments as they are.
    fn seal(&mut self, path: &TransmitPath, mut segments: Segments<'_>) -> Result<(), Reason> {
        let flags = self.flags | if segments.partial() { FLAG_PARTIAL_CHECKSUM } else { 0 };
        let (to, exit) = (Target::from(path.path), self.outlet.exit());
        let local = self.sessions.find(path.session.local_index).ok_or(Reason::NoSession)?;
        let hash = || segments.layout().flow_hash(segments.packet());
        let position = local.position_for(hash);
        let (mut packets, mut bytes) = (0, 0);
        while let Some(packet) = segments.next_packet() {
            let size = DATA_HEADER + packet.len() + TAG;
            let room = self.batch.room(size, &to, exit).ok_or(Reason::TooBig)?;
            let lane = local.lane(position).ok_or(Reason::NoSession)?;
            if lane.seal(flags, packet, room).is_none() {
                report_exhausted(local, &self.outside.events);
                return Err(Reason::NoSession);
            }
            self.batch.commit(size, &to);
            packets += 1;
            bytes += packet.len() as u64;
        }
        if let Some(traffic) = local.shared.traffic(self.id) {
            traffic.tx_packets.add(packets);
            traffic.tx_bytes.add(bytes);
        }
        Ok(())
    }

    /// The kernel heeds the interface's MTU; LAN devices that this node fronts don't know it, and a path may carry less. TCP goes on in shorter
    /// segments, what may be fragmented in fragments. The rest goes as it is while it may yet fit. The sender is told of what can't.
    fn send_long(
        &mut self,
        (path, view): (&TransmitPath, Option<LocalView>),
        read: &mut [u8],
        wake: &Wake<'_>,
    ) -> Result<(), Reason> {
        let (virtio, packet) = self.split(read).ok_or(Reason::Truncated)?;
        let mut segments = Segments::plan(virtio, packet).ok_or(Reason::Malformed)?;
        let [fits, limit] = [path.sizes.fits, path.sizes.limit].map(|size| self.mtu.min(size.into()));
        let is_too_long = segments.longest() > limit;
        let outcome = match segments.shorten(fits) {
            Some(()) => self.seal(path, segments),
            None if virtio.gso_type == GSO_NONE && Fragments::plan(segments.packet(), fits).is_some() => {
                return self.send_fragments((path, view), read, wake);
            }
            None if is_too_long => Err(Reason::TooBig),
            None => self.seal(path, segments),
        };
        if is_too_long {
            // The sender knows the addresses that this host sees.
            if let Some(view) = view {
                view.to_shown().packet(packet, leaves_partial(virtio, packet));
            }
            self.reject(icmp::Error::TooBig(limit as u16), packet, wake);
        }
        outcome
    }

    fn send_fragments(
        &mut self,
        (path, view): (&TransmitPath, Option<LocalView>),
        read: &mut [u8],
        wake: &Wake<'_>,
    ) -> Result<(), Reason> {
        let header = self.header_len();
        let (virtio, packet) = self.split(read).ok_or(Reason::Truncated)?;
        // Each piece is sent like a read.
        if let Some(view) = view {
            view.to_shown().packet(packet, leaves_partial(virtio, packet));
        }
        if virtio.flags & NEEDS_CHECKSUM != 0 {
            finish(packet, virtio.checksum_start.into(), virtio.checksum_offset.into())
                .ok_or(Reason::Malformed)?;
        }
        let mtu = self.mtu.min(path.sizes.fits.into());
        let mut fragments = Fragments::plan(packet, mtu).ok_or(Reason::TooBig)?;
        let mut piece = std::mem::take(&mut self.piece);
        let mut outcome = Ok(());
        while let (Ok(()), Some(len)) = (outcome, fragments.next_len()) {
            // Zeros before it: a virtio header of nothing.
            piece.clear();
            piece.resize(header + len, 0);
            outcome = fragments
                .write_next(piece.get_mut(header..).unwrap_or_default())
                .ok_or(Reason::Malformed)
                .and_then(|()| self.send_on((path, view), &mut piece, wake));
        }
        self.piece = piece;
        outcome
    }

    fn hold_back(&mut self, peer: &PeerRoute, read: &[u8], wake: &Wake<'_>) -> Result<(), Reason> {
        let kept = self.hold.keep(peer.index, read, wake.now);
        if self.hold.ask(peer.index, wake.now) {
            self.report(WorkerEvent::Wanted { peer_index: peer.index });
        }
        if kept { Ok(()) } else { Err(Reason::NoSession) }
    }

    /// Sends what waited for peers that can be reached now, and gives up what waited too long.
    pub(super) fn serve_held(&mut self, snapshot: &Snapshot) {
        if self.hold.is_empty() {
            return;
        }
        // While they waited their flows may have become bulk.
        self.flags = FLAG_PROMOTED;
        let wake = &Wake { snapshot, now: Instant::now() };
        for peer in self.hold.peers() {
            let route = wake.snapshot.table.peer(peer);
            if route.is_some_and(|route| route.transmit.is_none()) {
                if self.hold.ask(peer, wake.now) {
                    self.report(WorkerEvent::Wanted { peer_index: peer });
                }
                continue;
            }
            for mut read in self.hold.take(peer) {
                if let Err(reason) = self.forward(&mut read, wake) {
                    self.drop_packet(reason);
                }
            }
        }
        for read in self.hold.expire(wake.now) {
            self.drop_packet(Reason::NoSession);
            self.reject(
                icmp::Error::HostUnreachable,
                read.get(self.header_len()..).unwrap_or_default(),
                wake,
            );
        }
    }

    /// An empty data datagram: keeps the path alive, and confirms a new session to the other end.
    pub(super) fn send_keepalive(&mut self, local_index: u32, wake: &Wake<'_>) {
        let Some(local) = self.sessions.find(local_index) else {
            return;
        };
        let peer = wake.snapshot.table.peer(local.shared.peer);
        let Some(path) = peer.and_then(|peer| peer.transmit.as_ref()).map(|transmit| transmit.path) else {
            return;
        };
        if self.seal_empty(local_index, path).is_none() {
            self.drop_packet(Reason::NoSession);
        }
    }

    fn seal_empty(&mut self, local_index: u32, path: Path) -> Option<()> {
        const SIZE: usize = DATA_HEADER + TAG;
        let local = self.sessions.find(local_index)?;
        let to = Target::from(path);
        let room = self.batch.room(SIZE, &to, self.outlet.exit())?;
        local.lane(0)?.seal(0, &[], room)?;
        self.batch.commit(SIZE, &to);
        local.shared.traffic(self.id)?.tx_packets.add(1);
        Some(())
    }

    /// A message about paths, by any path. It is no packet: nothing of it is counted, and that it may get nowhere is what is
    /// to be found out. It is no part of any flow either: a queue of bulk packets says nothing about a path.
    pub(super) fn send_control(&mut self, local_index: u32, path: Path, message: &[u8]) -> Option<()> {
        let mut datagram = vec![0; DATA_HEADER + message.len() + TAG];
        let lane = self.sessions.find(local_index)?.lane(0)?;
        lane.seal(FLAG_CONTROL, message, &mut datagram)?;
        self.batch.probe(&datagram, path, self.outlet.exit());
        Some(())
    }

    /// Tells the sender on this side at once what is wrong.
    fn reject(&mut self, kind: icmp::Error, packet: &[u8], wake: &Wake<'_>) {
        let mut error = [0; MAX_ERROR];
        let Some(len) = icmp::error(kind, packet, &mut error) else {
            return;
        };
        if self.errors.take(wake.now) {
            let header = [0; virtio::LEN];
            let body = error.get(..len).unwrap_or_default();
            self.write_tun(&[IoSlice::new(&header), IoSlice::new(body)]);
        }
    }
}

fn report_exhausted(local: &LocalSession, events: &tokio::sync::mpsc::Sender<WorkerEvent>) {
    if local.shared.exhausted.swap(true, Relaxed) {
        return;
    }
    let local_index = local.shared.session.local_index;
    if events.try_send(WorkerEvent::Exhausted { local_index }).is_err() {
        local.shared.exhausted.store(false, Relaxed);
    }
}

fn is_multicast(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
}
