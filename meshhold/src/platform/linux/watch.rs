//! Interfaces as they come and go, and changes of addresses.
//!
//! Owns the subscription and its recovery after lost notifications. Must not know what a change leads to.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::ready,
    io,
};

use rtnetlink::sys::{
    AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE,
};
use tokio::sync::mpsc;

use super::{
    error::NetError,
    links::{RawLink, attribute, dump_request, split_message},
    routes::{PROTOCOL, is_our_table},
};

/// How the packets of an interface begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// With a 14-byte Ethernet header.
    Ethernet,
    /// With the IP header.
    L3,
}

/// An interface other than `lo` and the mesh: what the LAN guard is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its index, unique in the namespace while it exists.
    pub index: u32,
    /// How its packets begin.
    pub kind: LinkKind,
}

/// A change of the host's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// The interface appeared, or was there when the watch began. Its state may still be down.
    LinkUp(Link),
    /// The interface vanished or was renamed.
    LinkGone(Link),
    /// IPv4 routes other than default routes changed: a range may be in use that was free.
    RoutesChanged,
    /// The mesh interface changed, or rules or routes that MeshHold made. Comes for changes of our own too.
    OwnChanged,
    /// Addresses or default routes changed. Comes too often rather than too seldom: compare the results.
    AddressesChanged,
}

const QUEUE: usize = 64;
/// Bytes of struct rtmsg, and of struct fib_rule_hdr.
const ROUTE_HEADER: usize = 12;
/// `RTA_TABLE` and `FRA_TABLE`.
const TABLE: u16 = 15;

/// Starts to watch. The interfaces there now come first, as [`NetEvent::LinkUp`]; the watch ends when the
/// receiver is dropped, and the channel closes if the kernel's socket fails.
pub fn watch(mesh: &str) -> Result<mpsc::Receiver<NetEvent>, NetError> {
    let failed = |error| NetError::io("watch the network's configuration", error);
    let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(failed)?;
    let groups = [
        libc::RTNLGRP_LINK,
        libc::RTNLGRP_IPV4_IFADDR,
        libc::RTNLGRP_IPV6_IFADDR,
        libc::RTNLGRP_IPV4_ROUTE,
        libc::RTNLGRP_IPV6_ROUTE,
        libc::RTNLGRP_IPV4_RULE,
        libc::RTNLGRP_IPV6_RULE,
    ];
    let mask = groups.iter().fold(0_u32, |mask, group| mask | 1 << (group - 1));
    socket.socket_mut().bind(&SocketAddr::new(0, mask)).map_err(failed)?;

    let (events, receiver) = mpsc::channel(QUEUE);
    let tracker = Tracker::new(mesh);
    tokio::spawn(async move {
        if let Err(error) = run(&socket, tracker, &events).await {
            tracing::warn!(%error, "network changes are no longer seen");
        }
    });
    Ok(receiver)
}

async fn run(socket: &TokioSocket, mut tracker: Tracker, events: &mpsc::Sender<NetEvent>) -> io::Result<()> {
    let mut listing_due = true;
    loop {
        let received = tokio::select! {
            biased;
            received = socket.recv_from_full() => received,
            // Only once the queue is empty: after an overflow it holds messages older than the listing, and
            // until it is empty the kernel drops further ones without another error.
            () = ready(()), if listing_due => {
                listing_due = false;
                tracker.listing_begins();
                request_links(socket)?;
                continue;
            }
            () = events.closed() => return Ok(()),
        };
        let found = match received {
            // Only the kernel has port 0; any process may send to a netlink socket.
            Ok((datagram, from)) if from.port_number() == 0 => tracker.take(&datagram),
            Ok(_) => continue,
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                tracing::debug!("network changes came too fast, listing interfaces again");
                listing_due = true;
                vec![NetEvent::AddressesChanged, NetEvent::OwnChanged]
            }
            Err(error) => return Err(error),
        };
        for event in found {
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
    }
}

fn request_links(socket: &TokioSocket) -> io::Result<()> {
    socket.socket_ref().send_to(&dump_request(), &SocketAddr::new(0, 0), 0)?;
    Ok(())
}

/// What is known from the messages so far.
struct Tracker {
    mesh: String,
    mesh_index: Option<u32>,
    links: BTreeMap<u32, Link>,
    /// Indices in the listing under way; what isn't among them at its end has vanished unnoticed.
    listed: Option<BTreeSet<u32>>,
}

impl Tracker {
    fn new(mesh: &str) -> Self {
        Self {
            mesh: mesh.to_owned(),
            mesh_index: None,
            links: BTreeMap::new(),
            listed: Some(BTreeSet::new()),
        }
    }

    fn listing_begins(&mut self) {
        self.listed = Some(BTreeSet::new());
    }

    /// The events of one datagram, which holds any number of messages.
    fn take(&mut self, datagram: &[u8]) -> Vec<NetEvent> {
        let mut events = Vec::new();
        let mut rest = datagram;
        while let Some((kind, payload, after)) = split_message(rest) {
            if is_of_ours(kind, is_replacement(rest), payload) {
                push(&mut events, NetEvent::OwnChanged);
            }
            rest = after;
            match kind {
                libc::RTM_NEWLINK => self.link(payload, &mut events),
                libc::RTM_DELLINK => self.link_gone(payload, &mut events),
                libc::RTM_NEWADDR | libc::RTM_DELADDR => self.address(payload, &mut events),
                // Byte 1 of rtmsg is the destination's prefix length: default routes only.
                libc::RTM_NEWROUTE | libc::RTM_DELROUTE if payload.get(1) == Some(&0) => {
                    push(&mut events, NetEvent::AddressesChanged);
                }
                libc::RTM_NEWROUTE if is_ipv4_route(payload) => push(&mut events, NetEvent::RoutesChanged),
                kind if i32::from(kind) == libc::NLMSG_DONE => self.listing_ends(&mut events),
                _ => {}
            }
        }
        events
    }

    fn link(&mut self, payload: &[u8], events: &mut Vec<NetEvent>) {
        let Some(found) = RawLink::parse(payload) else { return };
        if let Some(listed) = &mut self.listed {
            listed.insert(found.index);
        }
        let is_mesh = found.name == self.mesh;
        if is_mesh || self.mesh_index == Some(found.index) {
            self.mesh_index = is_mesh.then_some(found.index);
            push(events, NetEvent::OwnChanged);
        }
        // Another daemon's turns out to be one when it is marked.
        let index = found.index;
        let Some(link) = found.guarded().filter(|_| !is_mesh) else { return self.forget(index, events) };
        if self.links.get(&link.index) == Some(&link) {
            return;
        }
        self.forget(link.index, events);
        self.links.insert(link.index, link.clone());
        events.push(NetEvent::LinkUp(link));
    }

    fn link_gone(&mut self, payload: &[u8], events: &mut Vec<NetEvent>) {
        let Some(found) = RawLink::parse(payload) else { return };
        // With this family the message means "is no longer a port of its bridge".
        if found.family == libc::AF_BRIDGE {
            return;
        }
        if self.mesh_index == Some(found.index) || found.name == self.mesh {
            self.mesh_index = None;
            push(events, NetEvent::OwnChanged);
        }
        self.forget(found.index, events);
    }

    fn address(&self, payload: &[u8], events: &mut Vec<NetEvent>) {
        let index = payload.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        let is_mesh = index.is_some() && index == self.mesh_index;
        push(events, if is_mesh { NetEvent::OwnChanged } else { NetEvent::AddressesChanged });
    }

    fn listing_ends(&mut self, events: &mut Vec<NetEvent>) {
        let Some(listed) = self.listed.take() else { return };
        let vanished: Vec<u32> = self.links.keys().copied().filter(|index| !listed.contains(index)).collect();
        for index in vanished {
            self.forget(index, events);
        }
    }

    fn forget(&mut self, index: u32, events: &mut Vec<NetEvent>) {
        if let Some(link) = self.links.remove(&index) {
            events.push(NetEvent::LinkGone(link));
        }
    }
}

/// One notice a datagram says as much as many.
fn push(events: &mut Vec<NetEvent>, event: NetEvent) {
    if !events.contains(&event) {
        events.push(event);
    }
}

/// Whether the message that begins here is about something that took another's place.
fn is_replacement(message: &[u8]) -> bool {
    let flags = message.get(6..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes);
    i32::from(flags) & libc::NLM_F_REPLACE != 0
}

/// Rules of our tables; routes that we made, that came into our tables, or that took some other's place.
fn is_of_ours(kind: u16, replaces: bool, payload: &[u8]) -> bool {
    // Struct rtmsg and struct fib_rule_hdr have the same size.
    let in_our_table = || {
        let table = attribute(payload.get(ROUTE_HEADER..).unwrap_or_default(), TABLE);
        table.and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes).is_some_and(is_our_table)
    };
    // Byte 5 of rtmsg: who made it.
    let by_us = || payload.get(5) == Some(&PROTOCOL);
    match kind {
        libc::RTM_NEWRULE | libc::RTM_DELRULE => in_our_table(),
        libc::RTM_DELROUTE => by_us(),
        libc::RTM_NEWROUTE => !by_us() && (replaces || in_our_table()),
        _ => false,
    }
}

/// By struct rtmsg: family and table. Entries of `local` stand for addresses, whose changes are told as such.
fn is_ipv4_route(payload: &[u8]) -> bool {
    payload.first().copied().map(i32::from) == Some(libc::AF_INET)
        && payload.get(4) != Some(&libc::RT_TABLE_LOCAL)
}
