//! The shared UDP port: the workers' sockets and the control socket in one reuseport group, and sending in batches.
//!
//! Owns the steering program and the socket options. Must not know what the datagrams hold beyond their first bytes.
//!
//! Path MTU: `IP_PMTUDISC_PROBE`, that is the don't-fragment bit and no belief in ICMP that anybody can forge. An outer
//! datagram is never fragmented; one above the interface MTU is counted as too big.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Context;
use meshhold_core::wire::{LABEL_HEADER, SPARSE_LANE, TYPE_DATA, TYPE_RELAY};
use socket2::{Domain, Protocol, Socket, Type};

use crate::platform::linux::sys_net::{self, Instruction};

/// Bytes of each socket buffer: what 10 Gbit/s brings in 6 ms.
const BUFFER: usize = 8 << 20;
const LOAD_BYTE: u16 = 0x30;
/// The index is 0 unless loaded.
const LOAD_INDEX: u16 = 0x01;
const LOAD_BYTE_AT_INDEX: u16 = 0x50;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_ANY: u16 = 0x45;
const ADD: u16 = 0x04;
const AND: u16 = 0x54;
const MODULO: u16 = 0x94;
const RETURN: u16 = 0x06;
const RETURN_ACCUMULATOR: u16 = 0x16;

/// All sockets of the port.
#[derive(Debug)]
pub struct Port {
    /// Sockets of the workers, in order.
    pub workers: Vec<Pair>,
    /// What is not circuit data arrives here.
    pub control: UdpSocket,
}

/// One worker's sockets.
#[derive(Debug)]
pub struct Pair {
    /// For the lanes.
    pub bulk: UdpSocket,
    /// For the sparse lanes.
    pub sparse: UdpSocket,
}

impl Port {
    /// Opens two sockets for each of `workers` and the control socket on `listen`, and steers between them. With `offload`
    /// the workers' sockets join received datagrams (UDP_GRO) where the kernel can.
    ///
    /// # Errors
    /// The port is in use (by another daemon too), or the address is not ours.
    pub fn open(listen: SocketAddr, workers: usize, offload: bool) -> anyhow::Result<Self> {
        let listen = claim(listen)?;
        let open = || open_worker(listen, offload).with_context(|| format!("opening UDP {listen}"));
        // The order in which they are bound is their number in the group.
        let bulk = (0..workers).map(|_| open()).collect::<anyhow::Result<Vec<_>>>()?;
        let sparse = (0..workers).map(|_| open()).collect::<anyhow::Result<Vec<_>>>()?;
        let pairs = bulk.into_iter().zip(sparse).map(|(bulk, sparse)| Pair { bulk, sparse });
        let control = bind(listen, true).with_context(|| format!("opening UDP {listen}"))?;
        let program = steering(workers as u32);
        sys_net::attach_reuseport_filter(control.as_fd(), &program)
            .context("attaching the steering program to the UDP port")?;
        Ok(Self { workers: pairs.collect(), control: control.into() })
    }
}

impl Port {
    /// Lets the workers see how many hops a datagram may still make: all that the kernel joins came with the same number.
    pub fn show_hops(&self) {
        for socket in self.workers.iter().flat_map(|pair| [&pair.bulk, &pair.sparse]) {
            let v6 = socket.local_addr().is_ok_and(|address| address.is_ipv6());
            let ipv6 = v6.then_some((libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT));
            for (level, option) in ipv6.into_iter().chain([(libc::IPPROTO_IP, libc::IP_RECVTTL)]) {
                if let Err(error) = sys_net::set_option(socket.as_fd(), level, option, 1) {
                    tracing::warn!(%error, "what the workers relay starts with all its hops again");
                }
            }
        }
    }
}

fn open_worker(listen: SocketAddr, offload: bool) -> anyhow::Result<UdpSocket> {
    let socket = bind(listen, true)?;
    if offload && let Err(error) = sys_net::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1) {
        tracing::warn!(%error, "the kernel does not join received datagrams");
    }
    Ok(socket.into())
}

/// Fails where anybody has the port: with SO_REUSEPORT a second daemon would silently share it. Returns the address
/// with the port that the kernel chose for port 0.
fn claim(listen: SocketAddr) -> anyhow::Result<SocketAddr> {
    let probe =
        bind(listen, false).with_context(|| format!("opening UDP {listen}: is another daemon running?"))?;
    let bound = probe.local_addr().context("reading the UDP address")?.as_socket();
    bound.with_context(|| format!("the kernel shows no address for UDP {listen}"))
}

fn bind(listen: SocketAddr, share: bool) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE);
    }
    // On a dual-stack socket this is what IPv4 datagrams follow.
    set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE);
    socket.set_reuse_port(share)?;
    enlarge(&socket);
    socket.bind(&listen.into())?;
    Ok(socket)
}

fn enlarge(socket: &Socket) {
    let forced = [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE]
        .map(|option| sys_net::set_option(socket.as_fd(), libc::SOL_SOCKET, option, BUFFER as i32).is_ok());
    if forced != [true; 2] {
        // Without CAP_NET_ADMIN the system's limits hold; small buffers are slower, not wrong.
        let _ = socket.set_recv_buffer_size(BUFFER);
        let _ = socket.set_send_buffer_size(BUFFER);
    }
}

fn set(socket: &Socket, level: i32, option: i32, value: i32) {
    if let Err(error) = sys_net::set_option(socket.as_fd(), level, option, value) {
        tracing::warn!(%error, level, option, "a UDP socket option was refused");
    }
}

/// Circuit data goes to the worker of its lane, there to the bulk or the sparse socket, and so does what a label stands
/// before; everything else to the last of the group: the control socket.
fn steering(workers: u32) -> [Instruction; 14] {
    let sparse = u32::from(SPARSE_LANE);
    let any = u8::from(workers > 0);
    [
        (LOAD_BYTE, 0, 0, 0),
        (JUMP_IF_EQUAL, 3 * any, 0, u32::from(TYPE_DATA)),
        (JUMP_IF_EQUAL, any, 0, u32::from(TYPE_RELAY)),
        (RETURN, 0, 0, 2 * workers),
        (LOAD_INDEX, 0, 0, LABEL_HEADER as u32),
        (LOAD_BYTE_AT_INDEX, 0, 0, 7),
        (JUMP_IF_ANY, 3, 0, sparse),
        (AND, 0, 0, sparse - 1),
        (MODULO, 0, 0, workers.max(1)),
        (RETURN_ACCUMULATOR, 0, 0, 0),
        (AND, 0, 0, sparse - 1),
        (MODULO, 0, 0, workers.max(1)),
        (ADD, 0, 0, workers),
        (RETURN_ACCUMULATOR, 0, 0, 0),
    ]
}

/// One worker's sockets, ready for use.
#[derive(Debug)]
pub(super) struct WorkerSocket {
    pair: Pair,
    v6: bool,
}

impl WorkerSocket {
    pub(super) fn new(pair: Pair) -> std::io::Result<Self> {
        let v6 = pair.bulk.local_addr()?.is_ipv6();
        Ok(Self { pair, v6 })
    }

    /// Receives what came on the lanes; sends everything.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.pair.bulk.as_fd()
    }

    /// Receives what came on the sparse lanes.
    pub(super) fn sparse(&self) -> BorrowedFd<'_> {
        self.pair.sparse.as_fd()
    }

    /// `to` as this socket must be given it: a dual-stack socket takes IPv4 addresses mapped only.
    pub(super) fn native(&self, to: SocketAddr) -> SocketAddr {
        match to {
            SocketAddr::V4(v4) if self.v6 => mapped(v4.ip().to_ipv6_mapped(), v4.port()),
            other => other,
        }
    }
}

fn mapped(ip: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddrV6::new(ip, port, 0, 0).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sender() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").unwrap()
    }

    fn readable(socket: &UdpSocket) -> Vec<u8> {
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut bytes = [0; 64];
        let n = socket.recv(&mut bytes).unwrap();
        bytes[..n].to_vec()
    }

    #[test]
    fn data_goes_to_the_worker_of_its_lane_and_the_rest_to_control() {
        let port = Port::open("[::]:0".parse().unwrap(), 3, false).unwrap();
        let to = SocketAddr::from(([127, 0, 0, 1], port.control.local_addr().unwrap().port()));
        for lane in 0..16u8 {
            let datagram = [4, 0, 0, 0, 0xaa, 0xbb, 0xcc, 0x50 | lane, lane];
            sender().send_to(&datagram, to).unwrap();
            let pair = &port.workers[usize::from(lane % SPARSE_LANE) % 3];
            let socket = if lane < SPARSE_LANE { &pair.bulk } else { &pair.sparse };
            assert_eq!(readable(socket), datagram, "lane {lane}");
            let labelled = [&[TYPE_RELAY, 0, 0, 0, 1, 2, 3, 0x47][..], &datagram].concat();
            sender().send_to(&labelled, to).unwrap();
            assert_eq!(readable(socket), labelled, "lane {lane} behind a label");
        }
        for first in [1, 2, 3, 6, 0x40, 0xc0, 0xff] {
            let datagram = [first, 0, 0, 0, 0, 0, 0, 1];
            sender().send_to(&datagram, to).unwrap();
            assert_eq!(readable(&port.control), datagram, "first byte {first}");
        }
    }

    #[test]
    fn without_workers_all_goes_to_control() {
        let port = Port::open("127.0.0.1:0".parse().unwrap(), 0, true).unwrap();
        let to = port.control.local_addr().unwrap();
        for first in [4, 5, 1, 0x40] {
            sender().send_to(&[first; 16], to).unwrap();
            assert_eq!(readable(&port.control), [first; 16]);
        }
    }

    #[test]
    fn a_second_daemon_on_the_port_is_refused() {
        let port = Port::open("127.0.0.1:0".parse().unwrap(), 2, true).unwrap();
        let error = Port::open(port.control.local_addr().unwrap(), 2, true).unwrap_err();
        assert!(error.to_string().contains("is another daemon running"), "{error}");
    }
}
