//! Super-packets that are never split: their bytes are read into slots with room for header and tag, sealed where they
//! lie, and written back whole. A lost slice costs the whole packet, so this is a bound and no design.

use std::fs::File;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::UdpSocket;
use std::ops::Range;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use meshhold::platform::linux::sys_net::{self, Epoll};

use super::packet::{get, put};
use super::record::{HEADER, Key, Note, Outbox, TAG};

/// Bytes of a super-packet in one datagram: together 1472, what an MTU of 1500 leaves.
const SLICE: usize = 1440;
const SLOT: usize = HEADER + SLICE + TAG;
/// Enough for 65,535 bytes and a virtio header.
const SLOTS: usize = 46;

pub(super) fn send(tun: &File, mut outbox: Outbox) -> Result<()> {
    let ready = Epoll::new()?;
    ready.watch(tun.as_fd(), 0)?;
    let mut buffer = vec![0; SLOTS * SLOT];
    loop {
        match read(tun, &mut buffer) {
            Ok(length) => {
                let (whole, rest) = (length / SLICE, length % SLICE);
                let count = whole + usize::from(rest > 0);
                let end = whole * SLOT + if rest > 0 { HEADER + rest + TAG } else { 0 };
                let records = buffer.get_mut(..end).unwrap_or_default();
                outbox.send_in_place(records, SLOT, |index| note(index, count));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ready.wait(None)?;
            }
            Err(error) => return Err(error).context("cannot read the TUN"),
        }
    }
}

fn read(mut tun: &File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut slots = buffer.chunks_mut(SLOT);
    let mut bodies: [IoSliceMut<'_>; SLOTS] = std::array::from_fn(|_| {
        let slot = slots.next().unwrap_or_default();
        IoSliceMut::new(slot.get_mut(HEADER..HEADER + SLICE).unwrap_or_default())
    });
    tun.read_vectored(&mut bodies)
}

fn note(index: usize, count: usize) -> Note {
    let mut note = [0; 8];
    put(&mut note, 0, index as u16);
    put(&mut note, 2, count as u16);
    note
}

pub(super) fn receive(tun: &File, socket: &UdpSocket, key: &Key) -> Result<()> {
    let mut buffer = vec![0; 65_535];
    let mut opened = Vec::with_capacity(SLOTS);
    let mut carried = Carried { bytes: Vec::with_capacity(SLOTS * SLICE), slices: 0 };
    loop {
        open_all(socket, key, &mut buffer, &mut opened)?;
        let mut rest = opened.as_slice();
        while let Some((first, _)) = rest.first() {
            let (index, count) = (usize::from(get(first, 0)), usize::from(get(first, 2)));
            let most = count.saturating_sub(index).max(1);
            let follows = |(n, (note, _)): &(usize, &Slice)| usize::from(get(note, 0)) == index + n;
            let there = rest.iter().take(most).enumerate().take_while(follows).count();
            let parts = rest.iter().take(there);
            let parts = parts.map(|(_, range)| buffer.get(range.clone()).unwrap_or_default());
            carried.deliver(tun, parts, index, (there, count));
            rest = rest.get(there..).unwrap_or_default();
        }
    }
}

/// An opened slice: its place in the packet, and where its bytes are.
type Slice = (Note, Range<usize>);

fn open_all(socket: &UdpSocket, key: &Key, buffer: &mut [u8], opened: &mut Vec<Slice>) -> Result<()> {
    let received = sys_net::receive(socket.as_fd(), buffer).context("cannot receive")?;
    opened.clear();
    let datagrams = buffer.get_mut(..received.len).unwrap_or_default();
    for (index, record) in datagrams.chunks_mut(received.segment).enumerate() {
        let begin = index * received.segment + HEADER;
        opened.extend(key.open(record).map(|(note, length)| (note, begin..begin + length)));
    }
    Ok(())
}

/// The beginning of a packet whose end is in a later receive.
struct Carried {
    bytes: Vec<u8>,
    slices: usize,
}

impl Carried {
    /// Takes slices `index` and following of a packet; writes the packet when it is whole, forgets it when one is missing.
    fn deliver<'a>(
        &mut self,
        tun: &File,
        parts: impl Iterator<Item = &'a [u8]>,
        index: usize,
        (there, count): (usize, usize),
    ) {
        if index == 0 {
            self.bytes.clear();
            self.slices = 0;
        }
        if index != self.slices {
            self.slices = usize::MAX;
        } else if index + there == count {
            write(tun, &self.bytes, parts);
            self.slices = usize::MAX;
        } else {
            parts.for_each(|part| self.bytes.extend_from_slice(part));
            self.slices += there;
        }
    }
}

fn write<'a>(mut tun: &File, carried: &[u8], parts: impl Iterator<Item = &'a [u8]>) {
    let mut pieces = [IoSlice::new(&[]); SLOTS + 1];
    let (first, others) = pieces.split_at_mut(1);
    first.fill(IoSlice::new(carried));
    let mut count = 1;
    for (piece, part) in others.iter_mut().zip(parts) {
        *piece = IoSlice::new(part);
        count += 1;
    }
    // What the kernel refuses is lost, as on any network.
    let _ = tun.write_vectored(pieces.get(..count).unwrap_or_default());
}
