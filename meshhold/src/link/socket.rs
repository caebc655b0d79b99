//! The control socket, shared by QUIC and circuit handshakes.
//!
//! Owns the split by first byte ([`QUIC_FIRST_BYTE`]), the swarm MAC on QUIC datagrams, and the mapping
//! of IPv4 addresses on a dual-stack socket. Must not know what a link or a circuit says.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use meshhold_core::path::Path;
use meshhold_core::wire::QUIC_FIRST_BYTE;
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::LinkEvent;
use super::swarm::SwarmKey;
use crate::platform::linux::sys_net::{self, Outgoing};

/// Longest datagram that is handed out as a circuit's; jumbo frames fit.
const MAX_CIRCUIT: usize = 16 << 10;
/// QUIC packets that fill the longest UDP datagram.
const MIN_SEGMENTS: usize = 46;
/// Datagrams from workers that may wait for the QUIC endpoint.
const INJECT_QUEUE: usize = 256;

/// A datagram and where it came from.
type Datagram = (SocketAddr, Vec<u8>);

/// One UDP socket behind a QUIC endpoint, with everything that is not QUIC turned aside.
#[derive(Debug)]
pub(super) struct LinkSocket {
    io: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    swarm: Option<SwarmKey>,
    circuits: mpsc::Sender<LinkEvent>,
    inject: mpsc::Sender<Datagram>,
    injected: Mutex<mpsc::Receiver<Datagram>>,
}

impl LinkSocket {
    /// Wraps a bound socket; datagrams of circuits go to `circuits` and are dropped when that is full.
    ///
    /// # Errors
    /// When the socket refuses an option or is not one that tokio can drive.
    pub(super) fn new(
        socket: std::net::UdpSocket,
        swarm: Option<SwarmKey>,
        circuits: mpsc::Sender<LinkEvent>,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let state = UdpSocketState::new((&socket).into())?;
        let local = socket.local_addr()?;
        let (inject, injected) = mpsc::channel(INJECT_QUEUE);
        let io = UdpSocket::from_std(socket)?;
        Ok(Self { io, state, local, swarm, circuits, inject, injected: Mutex::new(injected) })
    }

    /// Sends one datagram as it is; lost when the socket's buffer is full. From the path's own address, or from another where
    /// this host has that no more.
    pub(super) fn send(&self, path: Path, datagram: &[u8]) {
        let to = self.native(path.remote);
        let whole = Outgoing { bytes: datagram, segment: 0, to, hops: 0, from: path.local };
        // Not through tokio, which knows of no room before its first look at the socket.
        let send = |whole| sys_net::send_many(self.io.as_fd(), [whole]);
        let sent = send(whole).or_else(|error| match path.local {
            Some(_) if error.kind() != io::ErrorKind::WouldBlock => send(Outgoing { from: None, ..whole }),
            _ => Err(error),
        });
        if let Err(error) = sent {
            tracing::trace!(%path, %error, "datagram lost");
        }
    }

    /// Treats a datagram that reached another socket of the port as if it had come here.
    pub(super) fn inject(&self, from: SocketAddr, datagram: Vec<u8>) {
        if datagram.first().is_some_and(|&first| first >= QUIC_FIRST_BYTE) {
            // A full queue loses it like the network would.
            let _ = self.inject.try_send((self.native(from), datagram));
            return;
        }
        self.turn_aside(from.into(), &datagram);
    }

    /// True when a swarm key is set.
    pub(super) fn has_mac(&self) -> bool {
        self.swarm.is_some()
    }

    fn native(&self, addr: SocketAddr) -> SocketAddr {
        match addr.ip() {
            IpAddr::V4(ip) if self.local.is_ipv6() => {
                SocketAddr::new(ip.to_ipv6_mapped().into(), addr.port())
            }
            _ => addr,
        }
    }

    fn transmit(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || self.state.send((&self.io).into(), transmit))
    }

    fn turn_aside(&self, from: Path, datagram: &[u8]) {
        if datagram.is_empty() || datagram.len() > MAX_CIRCUIT {
            return;
        }
        // Whoever floods the port fills this queue; the circuits' own retries outlast it.
        let from = Path { remote: canonical(from.remote), ..from };
        let _ = self.circuits.try_send(LinkEvent::Circuit { from, datagram: datagram.to_vec() });
    }

    /// Keeps the QUIC datagrams of one received buffer, moved together; returns what is left of it.
    fn sift(&self, buffer: &mut [u8], mut meta: RecvMeta) -> RecvMeta {
        let stride = meta.stride.clamp(1, buffer.len().max(1));
        let total = meta.len.min(buffer.len());
        let (mut kept, mut kept_stride) = (0, 0);
        for start in (0..total).step_by(stride) {
            let end = total.min(start + stride);
            let Some(datagram) = buffer.get(start..end) else { break };
            let Some(length) = self.admit(&meta, datagram) else { continue };
            buffer.copy_within(start..start + length, kept);
            kept += length;
            kept_stride = kept_stride.max(length);
        }
        (meta.len, meta.stride) = (kept, kept_stride);
        meta
    }

    /// Length of the QUIC packets in a datagram, or none when it is not for QUIC.
    fn admit(&self, meta: &RecvMeta, datagram: &[u8]) -> Option<usize> {
        if *datagram.first()? < QUIC_FIRST_BYTE {
            let local = meta.dst_ip.and_then(sys_net::own_address);
            self.turn_aside(Path::from(meta.addr).from_address(local), datagram);
            return None;
        }
        match &self.swarm {
            Some(key) => key.open(datagram).map(<[u8]>::len).filter(|&length| length > 0),
            None => Some(datagram.len()),
        }
    }

    fn poll_injected(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Option<RecvMeta> {
        let mut queue = self.injected.lock().unwrap_or_else(PoisonError::into_inner);
        let Poll::Ready(Some((addr, datagram))) = queue.poll_recv(cx) else { return None };
        let len = datagram.len();
        let Some(room) = buffer.get_mut(..len) else { return Some(RecvMeta::default()) };
        room.copy_from_slice(&datagram);
        Some(RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None })
    }
}

/// The address as users know it: an IPv4 address mapped into IPv6 is the IPv4 address.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, addr.port()),
        IpAddr::V6(_) => addr,
    }
}

impl AsyncUdpSocket for LinkSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, waiting: Mutex::new(None) })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(swarm) = &self.swarm else { return self.transmit(transmit) };
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(segment) {
            let sealed = swarm.seal(datagram);
            self.transmit(&Transmit { contents: &sealed, segment_size: None, ..transmit.clone() })?;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if let (Some(buffer), Some(meta)) = (bufs.first_mut(), metas.first_mut())
            && let Some(received) = self.poll_injected(cx, buffer)
        {
            *meta = self.sift(buffer, received);
            return Poll::Ready(Ok(1));
        }
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let receive = || self.state.recv((&self.io).into(), bufs, metas);
            // An error of one datagram (ICMP, truncation) is no reason to stop; a clean one clears readiness.
            let Ok(count) = self.io.try_io(Interest::READABLE, receive) else { continue };
            for (buffer, meta) in bufs.iter_mut().zip(metas.iter_mut()).take(count) {
                *meta = self.sift(buffer, *meta);
            }
            return Poll::Ready(Ok(count));
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        if self.swarm.is_some() { 1 } else { self.state.max_gso_segments() }
    }

    fn max_receive_segments(&self) -> usize {
        // Room for the longest datagram, whatever the kernel joins.
        self.state.gro_segments().max(MIN_SEGMENTS)
    }
}

/// Waits for room in the socket's send buffer, for one task.
struct Writable {
    socket: Arc<LinkSocket>,
    waiting: Mutex<Option<BoxFuture<'static, io::Result<()>>>>,
}

impl std::fmt::Debug for Writable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writable").finish_non_exhaustive()
    }
}

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let future = waiting.get_or_insert_with(|| {
            let socket = self.socket.clone();
            async move { socket.io.writable().await }.boxed()
        });
        let result = ready!(future.as_mut().poll_unpin(cx));
        *waiting = None;
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(swarm: Option<SwarmKey>) -> (LinkSocket, mpsc::Receiver<LinkEvent>) {
        let (events, received) = mpsc::channel(8);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        (LinkSocket::new(socket, swarm, events).unwrap(), received)
    }

    #[tokio::test]
    async fn joined_datagrams_are_told_apart_one_by_one() {
        let from: SocketAddr = "[::ffff:192.0.2.1]:7777".parse().unwrap();
        for key in [None, Some([7; 32])] {
            let swarm = || key.as_ref().map(SwarmKey::new);
            let (socket, mut events) = socket(swarm());
            let quic = |fill: u8, length: usize| match swarm() {
                Some(swarm) => swarm.seal(&vec![fill; length]),
                None => vec![fill; length],
            };
            let stride = quic(0, 100).len();
            let circuit = vec![1; stride];
            let mut buffer = [quic(0xc1, 100), circuit.clone(), quic(0xc2, 100), quic(0xc3, 40)].concat();
            let dst_ip = Some([192, 0, 2, 9].into());
            let meta = RecvMeta { addr: from, len: buffer.len(), stride, ecn: None, dst_ip };
            let left = socket.sift(&mut buffer, meta);
            assert_eq!((left.len, left.stride), (240, 100));
            assert_eq!(buffer[..240], [[0xc1; 100].as_slice(), &[0xc2; 100], &[0xc3; 40]].concat());
            let LinkEvent::Circuit { from, datagram } = events.try_recv().unwrap() else { panic!() };
            let expected = "192.0.2.1:7777 from 192.0.2.9";
            assert_eq!((from.to_string().as_str(), datagram), (expected, circuit));
            assert!(events.try_recv().is_err());
        }
    }
}
