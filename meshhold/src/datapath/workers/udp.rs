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

/// Bytes of each receive buffer: what 10 Gbit/s brings in 6 ms.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Bytes of each send buffer, which the kernel doubles: a few super-packets, or a fraction of a millisecond at 10 Gbit/s. When
/// they are full the worker waits and doesn't read the TUN, whose queue discipline then chooses, before the interface has to drop.
const SEND_BUFFER: usize = 256 << 10;
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
    /// Sockets of the workers: those for the lanes, then as many for the sparse lanes.
    pub workers: Vec<UdpSocket>,
    /// What is not circuit data arrives here.
    pub control: UdpSocket,
    /// The kernel joins received datagrams, or nobody wants it to.
    pub joins: bool,
}

impl Port {
    /// Opens two sockets for each of `lanes` and the control socket on `listen`, and steers between them. With `offload`
    /// the workers' sockets join received datagrams (UDP_GRO) where the kernel can.
    ///
    /// # Errors
    /// The port is in use (by another daemon too), or the address is not ours.
    pub fn open(listen: SocketAddr, lanes: usize, offload: bool) -> anyhow::Result<Self> {
        Self::group(claim(listen)?, None, lanes, offload)
    }

    /// Opens the same around `first`, which has a port of its own and becomes the first worker's.
    ///
    /// # Errors
    /// The system has no sockets left.
    pub(super) fn around(first: UdpSocket, lanes: usize, offload: bool) -> anyhow::Result<Self> {
        let address = first.local_addr().context("reading the address of a UDP socket")?;
        let first = Socket::from(first);
        prepare(&first, address, true).context("sharing a UDP port")?;
        Self::group(address, Some(first), lanes, offload)
    }

    /// The order in which they are bound is their number in the group; `first` is bound already.
    fn group(listen: SocketAddr, first: Option<Socket>, lanes: usize, offload: bool) -> anyhow::Result<Self> {
        let open = || bind(listen, true).with_context(|| format!("opening UDP {listen}"));
        let mut sockets: Vec<_> = first.into_iter().collect();
        while sockets.len() < 2 * lanes {
            sockets.push(open()?);
        }
        let joins = !offload || sockets.iter().all(|socket| join_received(socket, true));
        let workers = sockets.into_iter().map(UdpSocket::from).collect();
        let control = bind(listen, true).with_context(|| format!("opening UDP {listen}"))?;
        let program = steering(lanes as u32);
        sys_net::attach_reuseport_filter(control.as_fd(), &program)
            .context("attaching the steering program to the UDP port")?;
        Ok(Self { workers, control: control.into(), joins })
    }
}

impl Port {
    /// Lets the workers see how many hops a datagram may still make: all that the kernel joins came with the same number.
    pub fn show_hops(&self) {
        for socket in &self.workers {
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

/// Makes the kernel join datagrams that the socket receives, or leave them as they come. Whether it does so.
pub(super) fn join_received(socket: &impl AsFd, wanted: bool) -> bool {
    let asked = sys_net::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, i32::from(wanted));
    if let Err(error) = &asked {
        tracing::warn!(%error, wanted, "whether the kernel joins received datagrams can't be chosen");
    }
    asked.is_ok()
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
    prepare(&socket, listen, share)?;
    socket.bind(&listen.into())?;
    Ok(socket)
}

fn prepare(socket: &Socket, listen: SocketAddr, share: bool) -> std::io::Result<()> {
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE);
    }
    // On a dual-stack socket this is what IPv4 datagrams follow.
    set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE);
    if let Err(error) = sys_net::tell_destination(socket.as_fd(), listen.is_ipv6()) {
        tracing::warn!(%error, "answers may leave from another address than was asked");
    }
    socket.set_reuse_port(share)?;
    size_buffers(socket);
    Ok(())
}

fn size_buffers(socket: &Socket) {
    let forced = [(libc::SO_RCVBUFFORCE, RECEIVE_BUFFER), (libc::SO_SNDBUFFORCE, SEND_BUFFER)].map(
        |(option, bytes)| sys_net::set_option(socket.as_fd(), libc::SOL_SOCKET, option, bytes as i32).is_ok(),
    );
    if forced != [true; 2] {
        // Without CAP_NET_ADMIN the system's limits hold; small buffers are slower, not wrong.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        let _ = socket.set_send_buffer_size(SEND_BUFFER);
    }
}

fn set(socket: &Socket, level: i32, option: i32, value: i32) {
    if let Err(error) = sys_net::set_option(socket.as_fd(), level, option, value) {
        tracing::warn!(%error, level, option, "a UDP socket option was refused");
    }
}

/// Circuit data goes to the worker of its lane or of its sparse lane, and so does what a label stands before; everything
/// else to the last of the group: the control socket.
fn steering(lanes: u32) -> [Instruction; 14] {
    let sparse = u32::from(SPARSE_LANE);
    let any = u8::from(lanes > 0);
    [
        (LOAD_BYTE, 0, 0, 0),
        (JUMP_IF_EQUAL, 3 * any, 0, u32::from(TYPE_DATA)),
        (JUMP_IF_EQUAL, any, 0, u32::from(TYPE_RELAY)),
        (RETURN, 0, 0, 2 * lanes),
        (LOAD_INDEX, 0, 0, LABEL_HEADER as u32),
        (LOAD_BYTE_AT_INDEX, 0, 0, 7),
        (JUMP_IF_ANY, 3, 0, sparse),
        (AND, 0, 0, sparse - 1),
        (MODULO, 0, 0, lanes.max(1)),
        (RETURN_ACCUMULATOR, 0, 0, 0),
        (AND, 0, 0, sparse - 1),
        (MODULO, 0, 0, lanes.max(1)),
        (ADD, 0, 0, lanes),
        (RETURN_ACCUMULATOR, 0, 0, 0),
    ]
}

/// One worker's socket, ready for use.
#[derive(Debug)]
pub(super) struct WorkerSocket {
    socket: UdpSocket,
    v6: bool,
}

impl WorkerSocket {
    pub(super) fn new(socket: UdpSocket) -> std::io::Result<Self> {
        let v6 = socket.local_addr()?.is_ipv6();
        Ok(Self { socket, v6 })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
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
            let first = if lane < SPARSE_LANE { 0 } else { 3 };
            let socket = &port.workers[first + usize::from(lane % SPARSE_LANE) % 3];
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

    /// A worker with 8 MB to fill never waits, and the interface drops what it can't take.
    #[test]
    fn much_may_come_and_little_leave_at_a_time() {
        let port = Port::open("127.0.0.1:0".parse().unwrap(), 1, false).unwrap();
        for socket in &port.workers {
            let socket = socket2::SockRef::from(socket);
            // The kernel doubles them (socket(7)).
            assert_eq!(socket.recv_buffer_size().unwrap(), 2 * RECEIVE_BUFFER);
            assert_eq!(socket.send_buffer_size().unwrap(), 2 * SEND_BUFFER);
        }
    }

    #[test]
    fn a_port_of_its_own_is_steered_alike() {
        for workers in [1, 3] {
            let first = UdpSocket::bind("0.0.0.0:0").unwrap();
            let number = first.local_addr().unwrap().port();
            let port = Port::around(first, workers, true).unwrap();
            assert_eq!(
                (port.workers.len() / 2, port.control.local_addr().unwrap().port()),
                (workers, number)
            );
            let to = SocketAddr::from(([127, 0, 0, 1], number));
            for lane in 0..16u8 {
                let datagram = [4, 0, 0, 0, 0xaa, 0xbb, 0xcc, lane];
                sender().send_to(&datagram, to).unwrap();
                let first = if lane < SPARSE_LANE { 0 } else { workers };
                let socket = &port.workers[first + usize::from(lane % SPARSE_LANE) % workers];
                assert_eq!(readable(socket), datagram, "lane {lane} of {workers} workers");
            }
            sender().send_to(&[1; 8], to).unwrap();
            assert_eq!(readable(&port.control), [1; 8]);
        }
    }

    #[test]
    fn datagrams_are_joined_only_while_that_is_wanted() {
        let port = Port::open("127.0.0.1:0".parse().unwrap(), 1, true).unwrap();
        let (to, worker) = (port.control.local_addr().unwrap(), &port.workers[0]);
        let pair = [[TYPE_DATA, 0, 0, 0, 0, 0, 0, 0]; 2].concat();
        for (wanted, arrivals) in [(true, vec![16]), (false, vec![8, 8]), (true, vec![16])] {
            assert!(join_received(worker, wanted));
            let sender = sender();
            sys_net::set_option(sender.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 8).unwrap();
            sender.send_to(&pair, to).unwrap();
            for length in arrivals {
                assert_eq!(readable(worker).len(), length, "wanted: {wanted}");
            }
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
