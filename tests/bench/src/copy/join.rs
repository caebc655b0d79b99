//! UDP to TUN: packets that arrived together become super-packets, written from where they lie.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::net::UdpSocket;
use std::ops::Range;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use meshhold::platform::linux::sys_net;

use super::packet::{
    GSO_TCP, GSO_UDP, NEEDS_CHECKSUM, TCP, VIRTIO, Virtio, checksum, get, get_long, set_length, transport,
};
use super::record::{HEADER, Key, Note};

const LARGEST: usize = 65_535;
const MOST_PARTS: usize = 64;
const MOST_HEADERS: usize = 60 + 60;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

pub(super) fn run(tun: &File, socket: &UdpSocket, key: &Key) -> Result<()> {
    let mut buffer = vec![0; LARGEST];
    let mut packets = Vec::with_capacity(MOST_PARTS);
    loop {
        let received = sys_net::receive(socket.as_fd(), &mut buffer).context("cannot receive")?;
        packets.clear();
        let datagrams = buffer.get_mut(..received.len).unwrap_or_default();
        for (index, record) in datagrams.chunks_mut(received.segment).enumerate() {
            let begin = index * received.segment + HEADER;
            packets.extend(key.open(record).map(|(note, length)| (note, begin..begin + length)));
        }
        deliver(tun, &buffer, &packets);
    }
}

/// Packets of one flow, in order.
struct Run {
    virtio: Virtio,
    protocol: u8,
    transport: usize,
    headers: usize,
    first: Range<usize>,
    parts: [(usize, usize); MOST_PARTS],
    count: usize,
    payload: usize,
    closed: bool,
}

fn deliver(tun: &File, buffer: &[u8], packets: &[(Note, Range<usize>)]) {
    let mut run: Option<Run> = None;
    for (note, range) in packets {
        let packet = buffer.get(range.clone()).unwrap_or_default();
        if run.as_mut().is_some_and(|run| run.take(buffer, packet, range)) {
            continue;
        }
        if let Some(done) = run.take() {
            done.write(tun, buffer);
        }
        run = Run::begin(note, packet, range);
        if run.is_none() {
            write(tun, &[IoSlice::new(&single(note).write()), IoSlice::new(packet)]);
        }
    }
    if let Some(done) = run {
        done.write(tun, buffer);
    }
}

fn single(note: &Note) -> Virtio {
    let (start, offset) = (get(note, 0), get(note, 2));
    let flags = if start > 0 { NEEDS_CHECKSUM } else { 0 };
    Virtio { flags, start, offset, ..Virtio::default() }
}

impl Run {
    /// A run of one packet; `None` where nothing can follow it.
    fn begin(note: &Note, packet: &[u8], range: &Range<usize>) -> Option<Self> {
        let virtio = single(note);
        let (protocol, transport, headers) = transport(packet)?;
        let payload = packet.len() - headers;
        let begins = protocol != TCP || packet.get(transport + 13) == Some(&ACK);
        if virtio.flags == 0 || payload == 0 || !begins {
            return None;
        }
        let mut parts = [(0, 0); MOST_PARTS];
        if let Some(first) = parts.first_mut() {
            *first = (range.start + headers, range.end);
        }
        let first = range.clone();
        Some(Self { virtio, protocol, transport, headers, first, parts, count: 1, payload, closed: false })
    }

    /// Bytes of the first packet's payload: the size of all but the last.
    fn size(&self) -> usize {
        self.first.len() - self.headers
    }

    /// Adds the packet if it continues the run.
    fn take(&mut self, buffer: &[u8], packet: &[u8], range: &Range<usize>) -> bool {
        let head = buffer.get(self.first.clone()).unwrap_or_default();
        let payload = packet.len().saturating_sub(self.headers);
        let fits = self.count < MOST_PARTS && self.headers + self.payload + payload <= LARGEST;
        if self.closed || !fits || payload == 0 || payload > self.size() || !self.continues(head, packet) {
            return false;
        }
        let Some(part) = self.parts.get_mut(self.count) else { return false };
        *part = (range.start + self.headers, range.end);
        self.count += 1;
        self.payload += payload;
        let ends = self.protocol == TCP && packet.get(self.transport + 13) != Some(&ACK);
        self.closed = ends || payload < self.size();
        true
    }

    /// Same addresses, ports and options; for TCP the next sequence number, and no flag but ACK and PSH.
    fn continues(&self, head: &[u8], packet: &[u8]) -> bool {
        let at = self.transport;
        let same = |range: Range<usize>| head.get(range.clone()) == packet.get(range);
        if !same(0..2) || !same(8..10) || !same(12..at + 4) {
            return false;
        }
        let next = get_long(head, at + 4).wrapping_add(self.payload as u32);
        let flags = packet.get(at + 13).map_or(0, |flags| flags & !PSH);
        self.protocol != TCP
            || get_long(packet, at + 4) == next
                && flags == ACK
                && same(at + 8..at + 13)
                && same(at + 14..at + 16)
                && same(at + 20..self.headers)
    }

    fn write(self, tun: &File, buffer: &[u8]) {
        if self.count == 1 {
            let packet = buffer.get(self.first).unwrap_or_default();
            return write(tun, &[IoSlice::new(&self.virtio.write()), IoSlice::new(packet)]);
        }
        let mut head = [0; VIRTIO + MOST_HEADERS];
        let (virtio, headers) = head.split_at_mut(VIRTIO);
        virtio.copy_from_slice(&self.describe().write());
        let Some(headers) = headers.get_mut(..self.headers) else { return };
        let first = self.first.start;
        headers.copy_from_slice(buffer.get(first..first + self.headers).unwrap_or_default());
        set_length(headers, self.protocol, self.transport, self.headers + self.payload);
        self.push(headers, buffer);
        let mut pieces = [IoSlice::new(&[]); MOST_PARTS + 1];
        let all = std::iter::once(head.get(..VIRTIO + self.headers))
            .chain(self.parts.iter().map(|(begin, end)| buffer.get(*begin..*end)));
        pieces
            .iter_mut()
            .zip(all)
            .for_each(|(piece, bytes)| *piece = IoSlice::new(bytes.unwrap_or_default()));
        write(tun, pieces.get(..=self.count).unwrap_or_default());
    }

    /// PSH of the last packet is PSH of the whole.
    fn push(&self, headers: &mut [u8], buffer: &[u8]) {
        let last = self.parts.get(self.count - 1).map_or(0, |(begin, _)| begin - self.headers);
        let flags = buffer.get(last + self.transport + 13).copied();
        if let (TCP, Some(to), Some(flags)) = (self.protocol, headers.get_mut(self.transport + 13), flags) {
            *to |= flags & PSH;
        }
    }

    fn describe(&self) -> Virtio {
        Virtio {
            flags: NEEDS_CHECKSUM,
            kind: if self.protocol == TCP { GSO_TCP } else { GSO_UDP },
            headers: self.headers as u16,
            size: self.size() as u16,
            start: self.transport as u16,
            offset: checksum(self.protocol) as u16,
        }
    }
}

fn write(mut tun: &File, pieces: &[IoSlice<'_>]) {
    // What the kernel refuses is lost, as on any network.
    let _ = tun.write_vectored(pieces);
}

#[cfg(test)]
mod tests {
    use super::super::packet::{put, put_long, sum};
    use super::*;

    const NOTE: Note = [0, 20, 0, 16, 0, 0, 0, 0];

    /// IPv4 and TCP without options.
    fn segment(sequence: u32, flags: u8, payload: usize) -> Vec<u8> {
        let mut packet = vec![0; 40 + payload];
        (packet[0], packet[9], packet[32], packet[33]) = (0x45, TCP, 0x50, flags);
        put(&mut packet, 2, 40 + payload as u16);
        put_long(&mut packet, 24, sequence);
        packet
    }

    fn joined(packets: &[Vec<u8>]) -> usize {
        let mut ranges = Vec::new();
        let mut buffer = Vec::new();
        for packet in packets {
            ranges.push(buffer.len()..buffer.len() + packet.len());
            buffer.extend_from_slice(packet);
        }
        let mut run = Run::begin(&NOTE, &packets[0], &ranges[0]).unwrap();
        for (packet, range) in packets.iter().zip(&ranges).skip(1) {
            run.take(&buffer, packet, range);
        }
        run.count
    }

    #[test]
    fn runs_are_of_one_flow_in_order() {
        let first = segment(1000, ACK, 100);
        let count = |others: &[Vec<u8>]| joined(&[std::slice::from_ref(&first), others].concat());
        assert_eq!(count(&[segment(1100, ACK, 100), segment(1200, ACK | PSH, 30)]), 3);
        assert_eq!(count(&[segment(1101, ACK, 100)]), 1, "a gap");
        assert_eq!(count(&[segment(1100, ACK, 101)]), 1, "longer than the first");
        assert_eq!(count(&[segment(1100, ACK, 99), segment(1199, ACK, 99)]), 2, "after a short one");
        assert_eq!(count(&[segment(1100, ACK | PSH, 100), segment(1200, ACK, 100)]), 2, "after PSH");
        assert_eq!(count(&[segment(1100, 0x11, 100)]), 1, "FIN");
        let mut stranger = segment(1100, ACK, 100);
        stranger[15] = 9;
        assert_eq!(count(&[stranger]), 1, "another address");
    }

    #[test]
    fn headers_of_a_run_add_up() {
        let mut headers = segment(1, ACK, 0);
        set_length(&mut headers, TCP, 20, 3040);
        assert_eq!((get(&headers, 2), sum(&headers[..20])), (3040, 0xffff));
        assert_eq!(get(&headers, 36), 3020 + u16::from(TCP));
    }
}
