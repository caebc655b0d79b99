//! What a broken or hostile kernel may put before packets: any virtio header is survived by the whole path, and what comes
//! out at the other end is nothing or valid.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod support;

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use meshhold::datapath::workers::offload::checksum::is_valid;
use meshhold::datapath::workers::offload::header::{Layout, TCP, UDP};
use meshhold::datapath::workers::offload::segment::Segments;
use meshhold::datapath::workers::offload::virtio::{
    self, DATA_VALID, GSO_NONE, NEEDS_CHECKSUM, VirtioHeader,
};
use meshhold::datapath::workers::tun::Offload;
use meshhold_core::session::Cipher;
use support::{Inner, WAIT, connected};

const MTU: usize = 1420;
const HEADERS: usize = 6000;
/// Headers between two looks whether the path still works.
const BATCH: usize = 100;
/// Good packets go to this port, by which they are told from the others.
const MARKER: u16 = 9;
const AGAIN: Duration = Duration::from_millis(200);

const FLAGS: [u8; 5] = [0, NEEDS_CHECKSUM, DATA_VALID, NEEDS_CHECKSUM | DATA_VALID, 255];
const HEADER_LENGTHS: [u16; 6] = [0, 1, 28, 40, 60, 65_535];
const SIZES: [u16; 11] = [0, 1, 2, 500, 1300, 1372, 1380, 1381, 1392, 1393, 65_535];
const STARTS: [u16; 9] = [0, 1, 19, 20, 40, 1000, 2999, 3040, 65_535];
const OFFSETS: [u16; 6] = [0, 6, 7, 16, 2000, 65_535];
/// SplitMix64's increment: a sequence that never repeats here.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A packet behind a header of extremes; sometimes cut off, sometimes itself corrupted.
    fn hostile(&mut self, number: usize) -> Vec<u8> {
        let protocol = self.pick(&[TCP, UDP]);
        let payload = if self.below(50) == 0 { 60_000 } else { self.below(3000) };
        let inner =
            if self.below(2) == 0 { Inner::v4(protocol, payload) } else { Inner::v6(protocol, payload) };
        let mut read = inner.build();
        let (good, packet) = VirtioHeader::split(&mut read).unwrap();
        if self.below(4) == 0 {
            let at = self.below(packet.len().min(80));
            packet[at] = self.below(256) as u8;
        }
        let types = [good.gso_type, virtio::GSO_TCP4, virtio::GSO_TCP6, virtio::GSO_UDP, GSO_NONE];
        // Every type there can be, and often the ones that mean something.
        let gso_type = if number.is_multiple_of(2) { (number / 2) as u8 } else { self.pick(&types) };
        let bad = VirtioHeader {
            flags: self.pick(&FLAGS),
            gso_type,
            header_len: self.pick(&HEADER_LENGTHS),
            gso_size: self.pick(&SIZES),
            checksum_start: self.pick(&STARTS),
            checksum_offset: self.pick(&OFFSETS),
        };
        read[..virtio::LEN].copy_from_slice(&bad.to_bytes());
        if self.below(8) == 0 {
            read.truncate(self.below(read.len() + 1));
        }
        read
    }
}

/// Judges all that comes out, until told to stop.
fn judge(queue: &UnixDatagram, markers: &AtomicUsize, over: &AtomicBool) -> usize {
    let (mut bytes, mut judged) = (vec![0; 70_000], 0);
    while !over.load(Relaxed) {
        let Ok(len) = queue.recv(&mut bytes) else { continue };
        let (header, packet) = VirtioHeader::split(&mut bytes[..len]).expect("a virtio header");
        assert_valid(header, packet);
        judged += 1;
        if is_marker(packet) {
            markers.fetch_add(1, Relaxed);
        }
    }
    judged
}

/// What Linux takes from a TUN, and packets that fit the path.
fn assert_valid(header: VirtioHeader, packet: &mut [u8]) {
    let layout = Layout::of(packet).unwrap_or_else(|| panic!("{header:?}: not an IP packet"));
    assert_eq!(layout.total(), packet.len(), "{header:?}: bytes beyond the packet");
    assert_eq!(header.flags & !(NEEDS_CHECKSUM | DATA_VALID), 0, "{header:?}");
    if header.flags & NEEDS_CHECKSUM != 0 {
        let end = usize::from(header.checksum_start) + usize::from(header.checksum_offset) + 2;
        assert!(end <= packet.len(), "{header:?}: the checksum is outside of {} bytes", packet.len());
    }
    if header.gso_type == GSO_NONE {
        assert!(packet.len() <= MTU, "{header:?}: {} bytes", packet.len());
        assert!(header.flags & DATA_VALID == 0 || is_valid(packet, &layout), "{header:?}: a wrong checksum");
        return;
    }
    assert!(usize::from(header.header_len) <= packet.len(), "{header:?}");
    assert!(header.gso_size > 0 && header.flags & NEEDS_CHECKSUM != 0, "{header:?}");
    let segments = Segments::plan(header, packet).unwrap_or_else(|| panic!("{header:?}: not a super-packet"));
    assert!(segments.longest() <= MTU, "{header:?}: {} bytes", segments.longest());
}

fn is_marker(packet: &[u8]) -> bool {
    let Some(layout) = Layout::of(packet) else { return false };
    let port = packet.get(layout.transport() + 2..layout.transport() + 4);
    !layout.v6 && layout.protocol == UDP && port == Some(&MARKER.to_be_bytes()[..])
}

/// Sends good packets until one more arrives; where the path is full, some are lost.
fn await_marker(queue: &UnixDatagram, markers: &AtomicUsize) {
    let marker = Inner { port: MARKER, ..Inner::v4(UDP, 30) }.build();
    let (started, known) = (Instant::now(), markers.load(Relaxed));
    while markers.load(Relaxed) == known {
        assert!(started.elapsed() < WAIT, "the path no longer works");
        queue.send(&marker).unwrap();
        let sent = Instant::now();
        while markers.load(Relaxed) == known && sent.elapsed() < AGAIN {
            std::thread::yield_now();
        }
    }
}

#[test]
fn any_virtio_header_is_survived() {
    for offload in [Offload::TcpAndUdp, Offload::Tcp] {
        let (a, b) = connected(offload, Cipher::Aes256Gcm);
        let (markers, over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let queue = b.queues[0].try_clone().unwrap();
        queue.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let judge = std::thread::spawn({
            let (markers, over) = (markers.clone(), over.clone());
            move || judge(&queue, &markers, &over)
        });
        let mut random = Random(11);
        for number in 0..HEADERS {
            a.queues[0].send(&random.hostile(number)).unwrap();
            if number % BATCH == 0 {
                await_marker(&a.queues[0], &markers);
            }
            assert!(!judge.is_finished(), "something invalid came out");
        }
        await_marker(&a.queues[0], &markers);
        over.store(true, Relaxed);
        let judged = judge.join().unwrap();
        assert!(judged > HEADERS / 20, "{judged} came out of {HEADERS}");
    }
}
