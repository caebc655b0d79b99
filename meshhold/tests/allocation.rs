//! The packet path allocates nothing once it runs: counted over the whole process.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use meshhold::datapath::workers::offload::checksum::write_ipv4;
use meshhold::datapath::workers::offload::header::{TCP, UDP};
use meshhold::datapath::workers::offload::virtio;
use meshhold::datapath::workers::tun::Offload;
use meshhold_core::session::Cipher;
use support::{Inner, Node, connected};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise is the one that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Sends each packet there and waits for it on the other side.
fn pass(from: &Node, to: &Node, packets: &[Vec<u8>], rounds: usize, buffer: &mut [u8]) {
    for _ in 0..rounds {
        for (n, packet) in packets.iter().enumerate() {
            let queue = n % from.queues.len();
            from.queues[queue].send(packet).unwrap();
            let len = to.queues[queue].recv(buffer).unwrap();
            assert!(buffer[..len] == packet[..]);
        }
    }
}

#[test]
fn no_allocation_per_packet() {
    let (a, b) = connected(Offload::TcpAndUdp, Cipher::Aes256Gcm);
    let inner = [Inner::v4(UDP, 200), Inner::v6(UDP, 1200), Inner::v4(TCP, 60_000), Inner::v6(TCP, 1000)];
    let there: Vec<_> = inner.iter().map(Inner::build).collect();
    let back: Vec<_> = inner.iter().map(|inner| inner.back().build()).collect();
    let mut buffer = vec![0; 70_000];
    let mut run = |rounds| {
        pass(&a, &b, &there, rounds, &mut buffer);
        pass(&b, &a, &back, rounds, &mut buffer);
    };
    run(10);
    let before = ALLOCATIONS.load(Relaxed);
    run(1000);
    let allocations = ALLOCATIONS.load(Relaxed) - before;
    assert_eq!(allocations, 0, "in 8,000 packets and super-packets");

    // A datagram that is cut for the mesh, as those of a LAN device are.
    let long = cuttable(Inner { size: 4000, ..Inner::v4(UDP, 2000) });
    let mut run = |rounds| {
        for _ in 0..rounds {
            a.queues[0].send(&long).unwrap();
            let (mut payload, mut pieces) = (0, 0);
            while payload < 2008 {
                payload += b.queues[0].recv(&mut buffer).unwrap() - virtio::LEN - 20;
                pieces += 1;
            }
            assert_eq!((payload, pieces), (2008, 2));
        }
    };
    run(10);
    let before = ALLOCATIONS.load(Relaxed);
    run(1000);
    assert_eq!(ALLOCATIONS.load(Relaxed) - before, 0, "in 2,000 fragments");
}

/// Without "don't fragment".
fn cuttable(inner: Inner) -> Vec<u8> {
    let mut read = inner.build();
    let header = &mut read[virtio::LEN..virtio::LEN + 20];
    header[6] = 0;
    write_ipv4(header);
    read
}
