//! TUN to UDP: super-packets become packets, straight into the send buffer.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use meshhold::platform::linux::sys_net::Epoll;

use super::packet::{
    GSO_TCP, GSO_UDP, NEEDS_CHECKSUM, TCP, UDP, VIRTIO, Virtio, get, get_long, put, put_long, set_length,
    transport,
};
use super::record::{Note, Outbox};

const FIN_AND_PSH: u8 = 0x09;
const LARGEST: usize = VIRTIO + 65_535;

pub(super) fn run(mut tun: &File, mut outbox: Outbox) -> Result<()> {
    let ready = Epoll::new()?;
    ready.watch(tun.as_fd(), 0)?;
    let mut buffer = vec![0; LARGEST];
    loop {
        match tun.read(&mut buffer) {
            Ok(length) => take(buffer.get(..length).unwrap_or_default(), &mut outbox),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                outbox.send();
                ready.wait(None)?;
            }
            Err(error) => return Err(error).context("cannot read the TUN"),
        }
    }
}

fn take(read: &[u8], outbox: &mut Outbox) {
    let Some((virtio, packet)) = read.split_first_chunk::<VIRTIO>() else { return };
    let virtio = Virtio::read(*virtio);
    match (virtio.kind, transport(packet)) {
        (GSO_TCP, Some((TCP, begin, end))) => cut(packet, virtio, (TCP, begin, end), outbox),
        (GSO_UDP, Some((UDP, begin, end))) => cut(packet, virtio, (UDP, begin, end), outbox),
        (0, _) => outbox.add(packet.len(), note(virtio), |record| record.copy_from_slice(packet)),
        // IPv6 was not asked for.
        _ => {}
    }
}

/// Where the receiving kernel finds the checksum that is to be completed.
fn note(virtio: Virtio) -> Note {
    let mut note = [0; 8];
    if virtio.flags & NEEDS_CHECKSUM != 0 {
        put(&mut note, 0, virtio.start);
        put(&mut note, 2, virtio.offset);
    }
    note
}

fn cut(packet: &[u8], virtio: Virtio, (protocol, begin, end): (u8, usize, usize), outbox: &mut Outbox) {
    let (headers, payload) = packet.split_at(end);
    let note = note(virtio);
    let (id, size) = (get(headers, 4), usize::from(virtio.size).max(1));
    for (index, part) in payload.chunks(size).enumerate() {
        outbox.add(end + part.len(), note, |record| {
            let (head, body) = record.split_at_mut(end);
            head.copy_from_slice(headers);
            body.copy_from_slice(part);
            put(head, 4, id.wrapping_add(index as u16));
            set_length(head, protocol, begin, end + part.len());
            if protocol == TCP {
                let done = index * size;
                put_long(head, begin + 4, get_long(headers, begin + 4).wrapping_add(done as u32));
                keep_flags(head.get_mut(begin + 13), done + part.len() == payload.len());
            }
        });
    }
    // Not together with the next: what was one packet stays one receive at the other end.
    outbox.send();
}

/// FIN and PSH belong to the last packet only.
fn keep_flags(flags: Option<&mut u8>, last: bool) {
    if let (Some(flags), false) = (flags, last) {
        *flags &= !FIN_AND_PSH;
    }
}
