//! Two nodes' workers on loopback, with datagram sockets in place of TUN queues, and the packets to send through them.
//!
//! Nothing here needs privileges or namespaces.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshhold::datapath::policy::Policy;
use meshhold::datapath::table::{OwnNetwork, PeerRoute, Table, TransmitPath};
use meshhold::datapath::workers::offload::checksum::{fold, pseudo, put_u16, write_ipv4};
use meshhold::datapath::workers::offload::header::{Layout, TCP};
use meshhold::datapath::workers::offload::virtio::{self, VirtioHeader};
use meshhold::datapath::workers::tun::Offload;
use meshhold::datapath::workers::{TunQueues, WorkerEvent, Workers, WorkersConfig};
use meshhold_common::Reason;
use meshhold_core::path::Sizes;
use meshhold_core::session::{Cipher, Secret, Session};
use tokio::sync::mpsc::Receiver;

pub const WAIT: Duration = Duration::from_secs(10);
pub const LANES: u8 = 2;

/// One end: its workers and the far ends of its queues.
pub struct Node {
    pub workers: Workers,
    pub events: Receiver<WorkerEvent>,
    pub control: UdpSocket,
    pub queues: Vec<UnixDatagram>,
    pub address: SocketAddr,
}

impl Node {
    pub fn start(offload: Offload) -> Self {
        Self::with(offload, false)
    }

    /// One that relays as well.
    pub fn relay() -> Self {
        Self::with(Offload::None, true)
    }

    fn with(offload: Offload, relay: bool) -> Self {
        let (mut files, mut queues) = (Vec::new(), Vec::new());
        for _ in 0..LANES {
            let (near, far) = UnixDatagram::pair().unwrap();
            near.set_nonblocking(true).unwrap();
            far.set_read_timeout(Some(WAIT)).unwrap();
            files.push(File::from(OwnedFd::from(near)));
            queues.push(far);
        }
        let config = WorkersConfig {
            interface_may_come: false,
            relay,
            interface: Some(TunQueues::from_files("test", files, offload)),
            listen: "[::]:0".parse().unwrap(),
            count: usize::from(LANES),
            mtu: 1420,
            offload: true,
        };
        let (workers, control, events) = Workers::start(config).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], control.local_addr().unwrap().port()));
        Self { workers, events, control, queues, address }
    }

    pub fn count(&self, reason: Reason) -> u64 {
        self.workers.counters()[reason as usize]
    }

    /// Waits until `reason` has been counted `n` times.
    pub fn expect(&self, reason: Reason, n: u64) {
        until(|| self.count(reason) >= n, || format!("{reason:?}: {} of {n}", self.count(reason)));
        assert_eq!(self.count(reason), n, "{reason:?}");
    }

    /// The next event, if there is one; that a worker is busy says only that something was sent.
    pub fn next_event(&mut self) -> Option<WorkerEvent> {
        loop {
            match self.events.try_recv().ok()? {
                WorkerEvent::Busy => {}
                event => return Some(event),
            }
        }
    }

    pub fn event(&mut self) -> WorkerEvent {
        let mut got = None;
        until(
            || {
                got = self.next_event();
                got.is_some()
            },
            || "no event".into(),
        );
        got.unwrap()
    }

    /// The next packet that this node's queue `n` is given.
    pub fn read(&self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; 70_000];
        let len = self.queues[n].recv(&mut bytes).expect("a packet from the worker");
        bytes.truncate(len);
        bytes
    }

    /// Nothing waits in any queue. To be called when what could have come must have come.
    pub fn is_silent(&self) -> bool {
        self.queues.iter().all(|queue| {
            queue.set_nonblocking(true).unwrap();
            let empty = queue.recv(&mut [0; 16]).is_err();
            queue.set_nonblocking(false).unwrap();
            empty
        })
    }
}

/// Waits for a condition; `what` says what is missing after [`WAIT`].
pub fn until(mut done: impl FnMut() -> bool, what: impl Fn() -> String) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < WAIT, "{}", what());
        std::thread::yield_now();
    }
}

pub fn own4(node: u8) -> Ipv4Addr {
    [198, 18, 0, 16 * node + 1].into()
}

pub fn own6(node: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd12, 1, 0, u16::from(node), 0, 0, 0, 1)
}

/// The session between nodes 1 and 2 as `node` holds it; `number` tells several apart.
pub fn session(node: u8, number: u32, cipher: Cipher) -> Arc<Session> {
    let index = |node: u8| u32::from(node) << 28 | number << 4;
    let key = |node: u8| Secret([node * 16 + number as u8; 32]);
    let other = 3 - node;
    Arc::new(Session {
        local_index: index(node),
        remote_index: index(other),
        lanes: LANES,
        cipher,
        send: key(node),
        recv: key(other),
    })
}

/// The table of `node` with the other one as its peer number 7.
pub fn table(
    node: u8,
    sessions: &[&Arc<Session>],
    remote: Option<SocketAddr>,
    policy: Option<Arc<Policy>>,
) -> Table {
    let other = 3 - node;
    let network = OwnNetwork {
        index: 0,
        range: ([198, 18, 0, 0].into(), 18),
        prefix6: (Ipv6Addr::new(0xfd12, 1, 0, 0, 0, 0, 0, 0), 32),
        own4: Some(own4(node)),
        own6: own6(node),
        devices: Vec::new(),
    };
    let newest = sessions.last().copied();
    let peer = PeerRoute {
        index: 7,
        network: 0,
        block4: (Ipv4Addr::from(own4(other).to_bits() - 1), 28),
        net6: (Ipv6Addr::from(own6(other).to_bits() - 1), 64),
        view: None,
        without_ipv6: false,
        transmit: newest.zip(remote).map(|(s, remote)| TransmitPath {
            session: s.clone(),
            path: remote.into(),
            sizes: Sizes::ANY,
        }),
    };
    let sessions = sessions.iter().map(|session| (7, Arc::clone(session))).collect();
    Table::new(vec![network], vec![peer], sessions, policy)
}

/// Two nodes that know each other directly.
pub fn connected(offload: Offload, cipher: Cipher) -> (Node, Node) {
    let (a, b) = (Node::start(offload), Node::start(offload));
    a.workers.publish(Arc::new(table(1, &[&session(1, 0, cipher)], Some(b.address), None)));
    b.workers.publish(Arc::new(table(2, &[&session(2, 0, cipher)], Some(a.address), None)));
    (a, b)
}

/// A packet or super-packet as a kernel would put it into the TUN: virtio header first, checksum partial.
#[derive(Clone, Copy)]
pub struct Inner {
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: u8,
    pub port: u16,
    pub payload: usize,
    pub size: usize,
    pub seed: u8,
}

impl Inner {
    pub fn v4(protocol: u8, payload: usize) -> Self {
        let (from, to) = (own4(1).into(), own4(2).into());
        Self { from, to, protocol, port: 80, payload, size: 1300, seed: 1 }
    }

    pub fn v6(protocol: u8, payload: usize) -> Self {
        Self { from: own6(1).into(), to: own6(2).into(), ..Self::v4(protocol, payload) }
    }

    /// From the second node to the first.
    pub fn back(self) -> Self {
        Self { from: self.to, to: self.from, ..self }
    }

    pub fn headers(&self) -> usize {
        (if self.from.is_ipv6() { 40 } else { 20 }) + if self.protocol == TCP { 20 } else { 8 }
    }

    pub fn build(&self) -> Vec<u8> {
        let total = self.headers() + self.payload;
        let transport = if self.from.is_ipv6() { 40 } else { 20 };
        let mut packet: Vec<u8> = (0..total).map(|n| (n as u8).wrapping_mul(self.seed)).collect();
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                packet[..2].copy_from_slice(&[0x45, 0]);
                put_u16(&mut packet, 2, total as u16);
                packet[6..10].copy_from_slice(&[0x40, 0, 64, self.protocol]);
                packet[12..16].copy_from_slice(&from.octets());
                packet[16..20].copy_from_slice(&to.octets());
                write_ipv4(&mut packet[..20]);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                packet[..4].copy_from_slice(&[0x60, 0, 0, 0]);
                put_u16(&mut packet, 4, (total - 40) as u16);
                packet[6..8].copy_from_slice(&[self.protocol, 64]);
                packet[8..24].copy_from_slice(&from.octets());
                packet[24..40].copy_from_slice(&to.octets());
            }
            _ => panic!("mixed families"),
        }
        put_u16(&mut packet, transport, 4000);
        put_u16(&mut packet, transport + 2, self.port);
        let offset = if self.protocol == TCP { 16 } else { 6 };
        if self.protocol == TCP {
            packet[transport + 12..transport + 14].copy_from_slice(&[0x50, 0x10]);
        } else {
            put_u16(&mut packet, transport + 4, (total - transport) as u16);
        }
        let layout = Layout::of(&packet).unwrap();
        let check = fold(pseudo(&packet, &layout) + (total - transport) as u32);
        put_u16(&mut packet, transport + offset, check);
        let mut read = self.virtio(transport, offset).to_bytes().to_vec();
        read.extend(packet);
        read
    }

    fn virtio(&self, transport: usize, offset: usize) -> VirtioHeader {
        let many = self.payload > self.size;
        let gso_type = match (self.protocol == TCP, self.from.is_ipv6()) {
            _ if !many => virtio::GSO_NONE,
            (false, _) => virtio::GSO_UDP,
            (true, false) => virtio::GSO_TCP4,
            (true, true) => virtio::GSO_TCP6,
        };
        VirtioHeader {
            flags: virtio::NEEDS_CHECKSUM,
            gso_type,
            header_len: if many { self.headers() as u16 } else { 0 },
            gso_size: if many { self.size as u16 } else { 0 },
            checksum_start: transport as u16,
            checksum_offset: offset as u16,
        }
    }
}
