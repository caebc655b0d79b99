//! Empties the connection tracking of a namespace, by netlink: what a router's reboot does to its mappings.

use std::io::Read;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

/// From `linux/netlink.h` and `linux/netfilter/nfnetlink*.h`.
const AF_NETLINK: i32 = 16;
const NETLINK_NETFILTER: i32 = 12;
const CT_DELETE: u16 = (1 << 8) | 2;
const REQUEST_WITH_ACK: u16 = 1 | 4;
const ERROR: u16 = 2;

/// A header, and of what it names nothing but "any family": all flows.
const LENGTH: u32 = 20;

pub(crate) fn run() -> Result<()> {
    let mut socket =
        Socket::new(Domain::from(AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_NETFILTER)))
            .context("cannot open a netfilter socket (root?)")?;
    let mut request = LENGTH.to_ne_bytes().to_vec();
    request.extend(CT_DELETE.to_ne_bytes());
    request.extend(REQUEST_WITH_ACK.to_ne_bytes());
    request.resize(LENGTH as usize, 0);
    socket.send(&request)?;
    let mut answer = [0; 256];
    let length = socket.read(&mut answer)?;
    let answer = answer.get(..length).unwrap_or_default();
    let (kind, code) = (answer.get(4..6), answer.get(16..20));
    ensure!(kind == Some(&ERROR.to_ne_bytes()), "not an acknowledgement: {answer:?}");
    ensure!(code == Some(&[0; 4]), "connection tracking was not emptied: {answer:?}");
    println!("forgotten");
    Ok(())
}
