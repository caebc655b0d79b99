//! A UDP socket with marks: each datagram is sent with DSCP and ECN, and tells those it came with.
//!
//! Owns ancillary data.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg, setsockopt, sockopt,
};

/// What a receiver that is held up for a moment can keep.
const BUFFER: usize = 16 << 20;
/// Tries where the kernel has no memory for a datagram at the moment.
const TRIES: u32 = 100;

/// The socket of one exchange.
#[derive(Debug)]
pub(super) struct Marked {
    socket: UdpSocket,
    ipv6: bool,
}

/// A received datagram.
pub(super) struct Arrival {
    pub(super) length: usize,
    /// DSCP and ECN.
    pub(super) mark: u8,
}

impl Marked {
    pub(super) fn bind(address: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
        let ipv6 = address.is_ipv6();
        if ipv6 {
            setsockopt(&socket, sockopt::Ipv6RecvTClass, &true)?;
        } else {
            setsockopt(&socket, sockopt::IpRecvTos, &true)?;
        }
        Ok(Self { socket, ipv6 })
    }

    pub(super) fn connect(server: SocketAddr) -> Result<Self> {
        let any = if server.is_ipv6() {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        } else {
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
        };
        let marked = Self::bind(any)?;
        marked.socket.connect(server)?;
        Ok(marked)
    }

    /// Connects to whoever sends the first datagram, which stays to be received.
    pub(super) fn connect_to_first(&self, patience: Duration) -> Result<()> {
        self.socket.set_read_timeout(Some(patience))?;
        let (_, from) = self.socket.peek_from(&mut [0]).context("no datagram came")?;
        Ok(self.socket.connect(from)?)
    }

    /// How long [`Self::receive`] waits.
    pub(super) fn set_timeout(&self, timeout: Duration) -> Result<()> {
        Ok(self.socket.set_read_timeout(Some(timeout))?)
    }

    /// Sends `bytes`, cut into datagrams of `segment` bytes where they are more.
    pub(super) fn send(&self, bytes: &[u8], segment: usize, mark: u8) -> Result<()> {
        let (class, size) = (i32::from(mark), u16::try_from(segment)?);
        let mark =
            if self.ipv6 { ControlMessage::Ipv6TClass(&class) } else { ControlMessage::Ipv4Tos(&mark) };
        let both = [mark, ControlMessage::UdpGsoSegments(&size)];
        let ancillary = if bytes.len() > segment { &both[..] } else { &both[..1] };
        let (socket, pieces) = (self.socket.as_raw_fd(), [IoSlice::new(bytes)]);
        for _ in 0..TRIES {
            match sendmsg::<()>(socket, &pieces, ancillary, MsgFlags::empty(), None) {
                Ok(_) => return Ok(()),
                // The path was found to be smaller (RFC 8201): the kernel cuts the next ones accordingly.
                Err(Errno::EMSGSIZE) => {}
                Err(Errno::ENOBUFS) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => bail!("cannot send {} bytes in segments of {segment}: {error}", bytes.len()),
            }
        }
        bail!("the kernel has no memory for datagrams")
    }

    /// The next datagram; `None` where none came in time.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Result<Option<Arrival>> {
        let mut ancillary = nix::cmsg_space!(i32);
        let mut pieces = [IoSliceMut::new(buffer)];
        let socket = self.socket.as_raw_fd();
        let message = match recvmsg::<()>(socket, &mut pieces, Some(&mut ancillary), MsgFlags::empty()) {
            Err(Errno::EAGAIN | Errno::EINTR | Errno::EMSGSIZE) => return Ok(None),
            other => other.context("cannot receive")?,
        };
        let mark = message.cmsgs()?.find_map(|ancillary| match ancillary {
            ControlMessageOwned::Ipv4Tos(mark) => Some(mark),
            ControlMessageOwned::Ipv6TClass(mark) => u8::try_from(mark).ok(),
            _ => None,
        });
        Ok(Some(Arrival { length: message.bytes, mark: mark.context("a datagram without DSCP and ECN")? }))
    }
}
