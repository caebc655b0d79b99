//! Own UDP ports beside the shared one: many for a moment, while one is looked for by which a peer gets through the NAT here,
//! and those that were found.
//!
//! Owns the sockets. Must not know when they are wanted (that is `meshhold-core`) or what their datagrams hold.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use anyhow::Context as _;
use meshhold_core::path::Path;
use meshhold_core::wire::TYPE_DATA;
use socket2::SockRef;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Daemon;

/// What opens a NAT: no datagram of ours begins so, whoever gets it drops it.
const OPENING: [u8; 1] = [0];
/// Datagrams that may wait for the daemon.
const QUEUE: usize = 256;
/// Longest datagram that is taken; jumbo frames fit.
const LONGEST: usize = 16 << 10;

/// A datagram of such a port.
pub(super) struct Heard {
    from: Path,
    datagram: Vec<u8>,
}

/// Sockets with a task that hears them, until dropped.
struct Listened {
    sockets: Arc<[UdpSocket]>,
    task: JoinHandle<()>,
}

impl Drop for Listened {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The ports of this node.
pub(super) struct Ports {
    /// The address that this node listens on.
    listen: IpAddr,
    gathered: Vec<Listened>,
    kept: BTreeMap<u16, Listened>,
    heard: mpsc::Sender<Heard>,
}

impl Ports {
    /// None yet; what is heard on those to come can be received.
    pub(super) fn new(listen: IpAddr) -> (Self, mpsc::Receiver<Heard>) {
        let (heard, receiver) = mpsc::channel(QUEUE);
        (Self { listen, gathered: Vec::new(), kept: BTreeMap::new(), heard }, receiver)
    }

    /// Opens `count` ports and sends from each to `to`.
    fn gather(&mut self, to: SocketAddrV4, count: u32) {
        let address = match self.listen {
            IpAddr::V4(address) => address,
            IpAddr::V6(address) if address.is_unspecified() => Ipv4Addr::UNSPECIFIED,
            IpAddr::V6(_) => return,
        };
        let opened = (0..count).map(|_| open(address, to)).collect::<Vec<_>>();
        let failed = opened.iter().find_map(|socket| socket.as_ref().err().map(ToString::to_string));
        if let Some(error) = failed {
            tracing::debug!(%error, "not all ports could be opened that may be met");
        }
        let sockets: Arc<[UdpSocket]> = opened.into_iter().flatten().collect();
        self.gathered.push(self.listen(sockets, Some(to.into())));
    }

    /// The port for the workers, of those that were gathered.
    fn taken(&self, local_port: u16) -> anyhow::Result<std::net::UdpSocket> {
        let mut sockets = self.gathered.iter().flat_map(|listened| listened.sockets.iter());
        let socket = sockets.find(|socket| port_of(socket) == local_port).context("it isn't open")?;
        Ok(socket.as_fd().try_clone_to_owned()?.into())
    }

    fn keep(&mut self, local_port: u16, control: std::net::UdpSocket) -> anyhow::Result<()> {
        let socket = UdpSocket::from_std(control)?;
        let listened = self.listen([socket].into(), None);
        self.kept.insert(local_port, listened);
        Ok(())
    }

    /// Sends a datagram from a port that is kept; lost when there is none.
    pub(super) fn send(&self, path: Path, datagram: &[u8]) {
        let socket = self.kept.get(&path.local_port).and_then(|listened| listened.sockets.first());
        // Not through tokio, which knows of no room before its first look at the socket.
        let sent = socket.map(|socket| SockRef::from(socket).send_to(datagram, &path.remote.into()));
        tracing::trace!(%path, ?sent, "a datagram by an own port");
    }

    /// Hears `sockets`, or of what comes there what is `only` from one address.
    fn listen(&self, sockets: Arc<[UdpSocket]>, only: Option<SocketAddr>) -> Listened {
        let (heard, on) = (self.heard.clone(), sockets.clone());
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; LONGEST];
            loop {
                let (from, len) = poll_fn(|cx| poll_any(&on, &mut buffer, cx)).await;
                if only.is_none_or(|only| only == from.remote) {
                    let datagram = buffer.get(..len).unwrap_or_default().to_vec();
                    // A full queue loses it like the network would.
                    let _ = heard.try_send(Heard { from, datagram });
                }
            }
        });
        Listened { sockets, task }
    }
}

impl Daemon {
    /// Opens that many ports towards an address.
    pub(super) fn gather_ports(&mut self, to: SocketAddrV4, count: u32) {
        self.ports.gather(to, count);
    }

    /// Hands one of them to the workers.
    pub(super) fn keep_port(&mut self, local_port: u16) {
        let adopted = self.ports.taken(local_port).and_then(|socket| self.lan.adopt(socket));
        if let Err(error) = adopted.and_then(|control| self.ports.keep(local_port, control)) {
            tracing::warn!("the port {local_port} that a peer has met can't be used: {error:#}");
        }
    }

    /// Closes all that aren't kept.
    pub(super) fn scatter_ports(&mut self) {
        self.ports.gathered.clear();
    }

    /// Closes one that was kept.
    pub(super) fn leave_port(&mut self, local_port: u16) {
        self.ports.kept.remove(&local_port);
        self.lan.leave(local_port);
    }

    /// Only what a worker has authenticated makes a port one that is kept; handshakes come by those that are.
    pub(super) fn on_heard(&mut self, heard: Heard) {
        let Heard { from, datagram } = heard;
        match datagram.first() {
            Some(&TYPE_DATA) => self.lan.inject(from, datagram),
            _ if self.ports.kept.contains_key(&from.local_port) => {
                self.circuits.machine.handle_datagram(Instant::now(), from, &datagram);
            }
            _ => {}
        }
    }
}

fn open(address: Ipv4Addr, to: SocketAddrV4) -> std::io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind((address, 0))?;
    socket.set_nonblocking(true)?;
    socket.send_to(&OPENING, to)?;
    UdpSocket::from_std(socket)
}

fn port_of(socket: &UdpSocket) -> u16 {
    socket.local_addr().map_or(0, |address| address.port())
}

/// The next datagram of any of them: by which path it came, and its length.
fn poll_any(sockets: &[UdpSocket], buffer: &mut [u8], cx: &mut TaskContext<'_>) -> Poll<(Path, usize)> {
    for socket in sockets {
        let mut room = ReadBuf::new(buffer);
        // An error of one datagram (ICMP) is no reason to stop; the next look finds what is behind it.
        while let Poll::Ready(received) = socket.poll_recv_from(cx, &mut room) {
            if let Ok(from) = received {
                return Poll::Ready((Path::from(from).from_port(port_of(socket)), room.filled().len()));
            }
        }
    }
    Poll::Pending
}
