//! The bound: TUN to UDP to TUN with segmentation offloads and one AEAD record a datagram, and nothing else of a VPN:
//! fixed key, no replay window, no routing, no timers, IPv4 only. Never use it on a network.
//!
//! Two threads an end, one a direction. *split* cuts super-packets into packets and joins them again, as a VPN must whose
//! datagrams are packets; *slice* cuts the bytes of a super-packet without looking at them.

mod join;
mod packet;
mod record;
mod slice;
mod split;

use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use meshhold::platform::linux::sys_net::{self, TunFlags};

use self::record::{Key, Outbox};

/// Checksums, TCP and UDP segmentation over IPv4.
const OFFLOADS: u32 = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_USO4 | libc::TUN_F_USO6;
const SOCKET_BUFFER: libc::c_int = 8 << 20;

/// How super-packets become datagrams.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    Split,
    Slice,
}

impl FromStr for Mode {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "split" => Ok(Self::Split),
            "slice" => Ok(Self::Slice),
            _ => bail!("the mode is split or slice, not {text}"),
        }
    }
}

pub(crate) fn run(
    mode: Mode,
    cipher: &str,
    interface: &str,
    local: SocketAddr,
    remote: SocketAddr,
) -> Result<()> {
    let flags = TunFlags { multi_queue: false, virtio_header: true };
    let (tun, _) = sys_net::open_tun(interface, flags).context("cannot make the TUN (root?)")?;
    sys_net::set_tun_offload(tun.as_fd(), OFFLOADS).context("no TCP and UDP segmentation on this TUN")?;
    let socket = open_socket(local)?;
    let (tun_out, socket_in) = (tun.try_clone()?, socket.try_clone()?);
    let key = Key::new(cipher)?;
    let inbound = std::thread::spawn(move || receive(mode, &tun_out, &socket_in, &key));
    let outbox = Outbox::new(Key::new(cipher)?, socket, remote);
    match mode {
        Mode::Split => split::run(&tun, outbox)?,
        Mode::Slice => slice::send(&tun, outbox)?,
    }
    inbound.join().unwrap_or_else(|_| bail!("the receiving thread panicked"))
}

fn receive(mode: Mode, tun: &File, socket: &UdpSocket, key: &Key) -> Result<()> {
    match mode {
        Mode::Split => join::run(tun, socket, key),
        Mode::Slice => slice::receive(tun, socket, key),
    }
}

fn open_socket(local: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(local).with_context(|| format!("cannot bind {local}"))?;
    for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        sys_net::set_option(socket.as_fd(), libc::SOL_SOCKET, option, SOCKET_BUFFER)?;
    }
    sys_net::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).context("no UDP_GRO")?;
    Ok(socket)
}
