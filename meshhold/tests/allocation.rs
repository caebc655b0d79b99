//! The packet path allocates nothing once it runs: counted over the whole process.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::iter;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use meshhold::datapath::workers::offload::checksum::write_ipv4;
use meshhold::datapath::workers::offload::header::{TCP, UDP};
use meshhold::datapath::workers::offload::virtio;
use meshhold::datapath::workers::tun::Offload;
use meshhold_core::session::Cipher;
use support::{Inner, Node, connected, until};

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

/// Events of a node after which the queue for them (tokio's, in blocks of 32) has every block that it will need.
const WARM: usize = 40;
const ROUNDS: usize = 1000;

/// Sends each packet there and waits for it on the other side.
fn pass(from: &Node, to: &Node, packets: &[Vec<u8>], buffer: &mut [u8]) {
    for (n, packet) in packets.iter().enumerate() {
        let queue = n % from.queues.len();
        from.queues[queue].send(packet).unwrap();
        let len = to.queues[queue].recv(buffer).unwrap();
        assert!(buffer[..len] == packet[..]);
    }
}

/// Takes what the workers have to tell, as a daemon does; yields how much that was.
fn hear(node: &mut Node) -> usize {
    iter::from_fn(|| node.events.try_recv().ok()).count()
}

/// Allocations of so many calls of `round`.
fn allocations<T>(rounds: usize, mut round: impl FnMut() -> T) -> u64 {
    let before = ALLOCATIONS.load(Relaxed);
    for _ in 0..rounds {
        round();
    }
    ALLOCATIONS.load(Relaxed) - before
}

#[test]
fn no_allocation_per_packet() {
    let (mut a, mut b) = connected(Offload::TcpAndUdp, Cipher::Aes256Gcm);
    let inner = [Inner::v4(UDP, 200), Inner::v6(UDP, 1200), Inner::v4(TCP, 60_000), Inner::v6(TCP, 1000)];
    let there: Vec<_> = inner.iter().map(Inner::build).collect();
    let back: Vec<_> = inner.iter().map(|inner| inner.back().build()).collect();
    let mut buffer = vec![0; 70_000];
    let mut round = || {
        pass(&a, &b, &there, &mut buffer);
        pass(&b, &a, &back, &mut buffer);
        [hear(&mut a), hear(&mut b)]
    };
    let mut heard = [0, 0];
    let warm = || {
        heard.iter_mut().zip(round()).for_each(|(events, more)| *events += more);
        heard.iter().all(|&events| events >= WARM)
    };
    until(warm, || "the workers tell too little".into());
    assert_eq!(allocations(ROUNDS, round), 0, "in 8,000 packets and super-packets");

    // A datagram that is cut for the mesh, as those of a LAN device are.
    let long = cuttable(Inner { size: 4000, ..Inner::v4(UDP, 2000) });
    let mut round = || {
        a.queues[0].send(&long).unwrap();
        let (mut payload, mut pieces) = (0, 0);
        while payload < 2008 {
            payload += b.queues[0].recv(&mut buffer).unwrap() - virtio::LEN - 20;
            pieces += 1;
        }
        assert_eq!((payload, pieces), (2008, 2));
        hear(&mut a);
        hear(&mut b);
    };
    (0..10).for_each(|_| round());
    assert_eq!(allocations(ROUNDS, round), 0, "in 2,000 fragments");
}

/// Without "don't fragment".
fn cuttable(inner: Inner) -> Vec<u8> {
    let mut read = inner.build();
    let header = &mut read[virtio::LEN..virtio::LEN + 20];
    header[6] = 0;
    write_ipv4(header);
    read
}
