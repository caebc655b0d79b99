//! Discovery on the LAN: sealed announcements by multicast, in both families, on every interface that carries the underlay.
//!
//! Owns the sockets, the times of announcing and the bounds on what a flood may cost. Must not know what an announcement
//! looks like, nor what is done with a node that was found.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use meshhold_core::identity::NodeId;
use meshhold_core::session::Secret;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use super::heard::Heard;
use super::seal::{Announcement, DATAGRAM, Purpose};
use super::{Found, spread};
use crate::platform::linux::{InterfaceSetup, Net, families};

/// UDP port of announcements.
pub const PORT: u16 = 7776;
/// Organisation-local (RFC 2365); routers don't pass it on, and announcements live for one hop anyway.
pub const GROUP4: Ipv4Addr = Ipv4Addr::new(239, 255, 77, 69);
/// Link-local, transient (RFC 4291 section 2.7).
pub const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0x6d65, 0x7368);

/// Keys under which a node announces itself at most.
const MOST_SEALS: usize = 16;
/// Announcements on arrival: one may be lost, or come before a switch forwards.
const BURST: u32 = 3;
const BURST_PAUSE: Duration = Duration::from_millis(400);
/// Between announcements of a node alone on its LAN, and what each other node adds: the LAN's load stays the same.
const PERIOD: Duration = Duration::from_secs(60);
const PERIOD_EACH: Duration = Duration::from_secs(4);
/// Between answers: those to several nodes that ask are one.
const ANSWER_PAUSE: Duration = Duration::from_secs(1);
const ANSWER_DELAY: Duration = Duration::from_millis(100);
/// Datagrams that are looked at in a [`WINDOW`]; the kernel drops what it can't keep beyond.
const BUDGET: u32 = 64;
const WINDOW: Duration = Duration::from_millis(100);

/// What the daemon knows and this part needs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct View {
    seals: Vec<Secret>,
    mesh: Option<InterfaceSetup>,
    looks: u64,
    /// How often the clock was set.
    clocks: u64,
}

/// Discovery on the LAN. Dropping it ends it.
#[derive(Debug)]
pub struct LanDiscovery(watch::Sender<View>);

impl LanDiscovery {
    /// Starts; nothing is announced before [`LanDiscovery::set`]. `listen` is where links are taken.
    ///
    /// # Errors
    /// When neither family's socket can be had, or the host's interfaces can't be asked for.
    pub fn start(own: NodeId, listen: SocketAddr, found: mpsc::Sender<Found>) -> anyhow::Result<Self> {
        let sockets = [listen4(), listen6()];
        let [v4, v6] = match sockets {
            [Err(error), Err(_)] => return Err(error.into()),
            sockets => sockets.map(Result::ok),
        };
        let (sender, view) = watch::channel(View { seals: Vec::new(), mesh: None, looks: 0, clocks: 0 });
        let now = Instant::now();
        let task = Task {
            own,
            listen,
            net: Net::new()?,
            v4,
            v6,
            view,
            found,
            seals: Vec::new(),
            places: Vec::new(),
            joined: BTreeSet::new(),
            heard: Heard::default(),
            clocks: 0,
            burst: 0,
            due: now + PERIOD,
            answer: None,
            answered: None,
            window: (now, 0),
        };
        tokio::spawn(task.run());
        Ok(Self(sender))
    }

    /// Announces under these keys from now on, everywhere but on the mesh.
    pub fn set(&self, mut seals: Vec<Secret>, mesh: InterfaceSetup) {
        seals.truncate(MOST_SEALS);
        self.0.send_if_modified(|view| {
            if view.seals == seals && view.mesh.as_ref() == Some(&mesh) {
                return false;
            }
            (view.seals, view.mesh) = (seals, Some(mesh));
            true
        });
    }

    /// Interfaces or addresses changed.
    pub fn look_again(&self) {
        self.0.send_modify(|view| view.looks = view.looks.wrapping_add(1));
    }

    /// This host's clock was set: whom it met is met again by the new one.
    pub fn clock_set(&self) {
        self.0.send_modify(|view| view.clocks = view.clocks.wrapping_add(1));
    }
}

struct Task {
    own: NodeId,
    listen: SocketAddr,
    net: Net,
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    view: watch::Receiver<View>,
    found: mpsc::Sender<Found>,
    seals: Vec<Secret>,
    /// Addresses to announce from, with their interfaces.
    places: Vec<(IpAddr, u32)>,
    /// Interfaces on which we listen, by family (`true`: IPv6).
    joined: BTreeSet<(bool, u32)>,
    heard: Heard,
    clocks: u64,
    /// Announcements of the present burst that are left.
    burst: u32,
    due: Instant,
    answer: Option<Instant>,
    answered: Option<Instant>,
    /// When the present window began, and the datagrams in it.
    window: (Instant, u32),
}

impl Task {
    /// Until [`LanDiscovery`] is dropped.
    async fn run(mut self) {
        let (mut buffer4, mut buffer6) = ([0; DATAGRAM + 1], [0; DATAGRAM + 1]);
        loop {
            let due = self.answer.map_or(self.due, |answer| answer.min(self.due));
            tokio::select! {
                changed = self.view.changed() => match changed {
                    Ok(()) => self.look().await,
                    Err(_) => return,
                },
                (length, from) = receive(self.v4.as_ref(), &mut buffer4) => {
                    self.on_datagram(buffer4.get(..length).unwrap_or_default(), from).await;
                }
                (length, from) = receive(self.v6.as_ref(), &mut buffer6) => {
                    self.on_datagram(buffer6.get(..length).unwrap_or_default(), from).await;
                }
                () = tokio::time::sleep_until(due.into()) => self.on_time().await,
            }
        }
    }

    /// Sees what changed; what is new is announced at once.
    async fn look(&mut self) {
        let View { seals, mesh, clocks, .. } = self.view.borrow_and_update().clone();
        let Some(mesh) = mesh else { return };
        let places = match self.net.places(&mesh).await {
            Ok(places) => places,
            Err(error) => {
                tracing::debug!(%error, "cannot look for LANs");
                return;
            }
        };
        let places: Vec<_> =
            places.into_iter().filter(|(ip, _)| families::serves(self.listen.ip(), *ip)).collect();
        self.join(&places);
        let clock_set = std::mem::replace(&mut self.clocks, clocks) != clocks;
        if clock_set {
            self.heard = Heard::default();
        }
        if clock_set || places != self.places || seals != self.seals {
            (self.places, self.seals) = (places, seals);
            (self.burst, self.due) = (BURST, Instant::now());
        }
    }

    fn join(&mut self, places: &[(IpAddr, u32)]) {
        let wanted: BTreeSet<_> = places.iter().map(|(ip, index)| (ip.is_ipv6(), *index)).collect();
        // The kernel forgets those of interfaces that are gone.
        self.joined.retain(|joined| wanted.contains(joined));
        for (ipv6, index) in wanted {
            if self.joined.contains(&(ipv6, index)) {
                continue;
            }
            match join(self.v4.as_ref(), self.v6.as_ref(), ipv6, index) {
                Ok(()) => _ = self.joined.insert((ipv6, index)),
                Err(error) => tracing::debug!(%error, index, ipv6, "cannot listen to announcements"),
            }
        }
    }

    async fn on_datagram(&mut self, datagram: &[u8], from: SocketAddr) {
        self.pace().await;
        let Some(said) = self.seals.iter().find_map(|key| Announcement::open(key, datagram)) else { return };
        if said.node == self.own {
            return;
        }
        let now = Instant::now();
        let judged = self.heard.judge(&said, from, unix_millis(), now);
        if let Some(found) = judged.found {
            tracing::debug!(node = %found.node, addr = %found.addr, "met on the LAN");
            // One that is lost because the daemon is busy announces itself again.
            let _ = self.found.try_send(found);
        }
        if judged.answer && self.answer.is_none() {
            let soonest = self.answered.map_or(now, |answered| answered + ANSWER_PAUSE);
            self.answer = Some(soonest.max(now) + spread(ANSWER_DELAY));
        }
    }

    /// Waits when too much came in a short time.
    async fn pace(&mut self) {
        let (began, count) = self.window;
        if began.elapsed() >= WINDOW {
            self.window = (Instant::now(), 1);
            return;
        }
        self.window.1 = count + 1;
        if count >= BUDGET {
            tokio::time::sleep_until((began + WINDOW).into()).await;
        }
    }

    async fn on_time(&mut self) {
        let now = Instant::now();
        if self.answer.is_some_and(|answer| answer <= now) {
            (self.answer, self.answered) = (None, Some(now));
            self.announce(Purpose::Answer);
        }
        if self.due > now {
            return;
        }
        if self.burst == 0 {
            self.due =
                now + spread(PERIOD + PERIOD_EACH * u32::try_from(self.heard.len()).unwrap_or(u32::MAX));
            self.announce(Purpose::Tell);
            // In case a change went unnoticed.
            self.look().await;
            return;
        }
        self.announce(Purpose::Ask);
        self.burst -= 1;
        self.due = now + if self.burst > 0 { BURST_PAUSE } else { spread(PERIOD) };
    }

    fn announce(&self, purpose: Purpose) {
        for &(source, index) in &self.places {
            let at = unix_millis();
            let said = Announcement { node: self.own, source, at, port: self.listen.port(), purpose };
            let datagrams = self.seals.iter().map(|key| said.seal(key));
            if let Err(error) = send(source, index, datagrams) {
                tracing::debug!(%error, %source, "cannot announce");
            }
        }
    }
}

fn listen4() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Else groups that others of this host joined would come here too.
    socket.set_multicast_all_v4(false)?;
    listen(socket, (Ipv4Addr::UNSPECIFIED, PORT).into())
}

fn listen6() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(true)?;
    socket.set_multicast_all_v6(false)?;
    listen(socket, (Ipv6Addr::UNSPECIFIED, PORT).into())
}

fn listen(socket: Socket, address: SocketAddr) -> io::Result<UdpSocket> {
    // Several daemons of a host hear the same announcements.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

fn join(v4: Option<&UdpSocket>, v6: Option<&UdpSocket>, ipv6: bool, index: u32) -> io::Result<()> {
    let joined = match (ipv6, v4, v6) {
        (true, _, Some(socket)) => socket2::SockRef::from(socket).join_multicast_v6(&GROUP6, index),
        (false, Some(socket), _) => socket2::SockRef::from(socket)
            .join_multicast_v4_n(&GROUP4, &InterfaceIndexOrAddress::Index(index)),
        _ => Ok(()),
    };
    match joined {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        joined => joined,
    }
}

/// The next datagram; never when there is no socket.
async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> (usize, SocketAddr) {
    let Some(socket) = socket else { return std::future::pending().await };
    loop {
        match socket.recv_from(buffer).await {
            Ok(received) => return received,
            Err(error) => {
                tracing::debug!(%error, "cannot receive announcements");
                tokio::time::sleep(WINDOW).await;
            }
        }
    }
}

/// Sends from exactly this address and interface. A socket for each time: addresses come and go.
fn send(source: IpAddr, index: u32, datagrams: impl Iterator<Item = Vec<u8>>) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address((source, 0).into()), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    let group: SocketAddr = match source {
        IpAddr::V4(ip) => {
            socket.set_multicast_if_v4(&ip)?;
            (GROUP4, PORT).into()
        }
        IpAddr::V6(_) => {
            socket.set_multicast_if_v6(index)?;
            SocketAddrV6::new(GROUP6, PORT, 0, index).into()
        }
    };
    for datagram in datagrams {
        socket.send_to(&datagram, &group.into())?;
    }
    Ok(())
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
