//! Which datagrams travel: their sizes, their marks, and which of them leave the program together.
//!
//! Both ends make the same plan from the same seed. Must not know sockets.

use super::content::{self, Random};
use super::{Direction, End};

/// Bytes of a datagram's number, at its head. Shorter datagrams have none and are told by their size.
pub(super) const NUMBER: usize = 8;
/// Where the content of shorter ones comes from; no datagram has this number.
const TINY: u64 = u64::MAX;
/// Payloads at which something ends: MTU of the mesh interface and of its caller route, of Ethernet, by family.
const EDGES: [usize; 14] =
    [1200, 1252, 1280, 1344, 1364, 1372, 1392, 1400, 1420, 1452, 1472, 1500, 2784, 4096];
/// DSCP values that are in use (RFC 4594), in their place.
const CLASSES: [u8; 4] = [0, 10 << 2, 26 << 2, 46 << 2];
/// Most segments of one burst (the kernel's UDP_MAX_SEGMENTS of old), and its most bytes.
const BURST: usize = 64;
const BURST_BYTES: usize = 60_000;
/// Most datagrams of one size that are sent one after another.
const RUN: usize = 24;
/// Largest of them: a whole packet on each path.
const RUN_SIZE: usize = 1364;

/// Payload sizes that the path allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Of any datagram.
    pub(super) largest: usize,
    /// Of the segments of a burst: these are never fragmented. 0 = no bursts.
    pub(super) segment: usize,
}

/// One or more datagrams that one system call sends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Burst {
    /// Number of the first datagram.
    pub(super) first: u64,
    /// Payload of each but the last, in bytes.
    pub(super) segment: usize,
    /// Payload of all, in bytes.
    pub(super) bytes: usize,
    /// DSCP and ECN.
    pub(super) mark: u8,
}

impl Burst {
    /// Number of datagrams; the empty one is one.
    pub(super) fn count(&self) -> usize {
        self.bytes.div_ceil(self.segment.max(1)).max(1)
    }

    /// Number and size of each datagram.
    pub(super) fn datagrams(self) -> impl Iterator<Item = (u64, usize)> {
        (0..self.count()).map(move |at| {
            let size = self.segment.min(self.bytes - at * self.segment);
            (self.first + at as u64, size)
        })
    }
}

/// What a datagram of that number and size holds.
pub(super) fn payload(seed: u64, direction: Direction, number: u64, out: &mut [u8]) {
    if out.len() < NUMBER {
        let size = out.len() as u64;
        return content::fill(seed, direction, TINY, size * NUMBER as u64, out);
    }
    let (head, body) = out.split_at_mut(NUMBER);
    head.copy_from_slice(&number.to_le_bytes());
    // 0 is the stream's.
    content::fill(seed, direction, 1 + number, 0, body);
}

/// All bursts of one direction.
pub(super) fn bursts(end: End, direction: Direction, limits: Limits) -> Vec<Burst> {
    let mut plan = Plan { random: Random::new(!end.seed, direction), limits, bursts: Vec::new(), next: 0 };
    let mut bytes = 0;
    while bytes < end.bytes {
        let from = plan.bursts.len();
        plan.extend();
        bytes += plan.bursts.iter().skip(from).map(|burst| burst.bytes as u64).sum::<u64>();
    }
    plan.bursts
}

struct Plan {
    random: Random,
    limits: Limits,
    bursts: Vec<Burst>,
    next: u64,
}

impl Plan {
    fn extend(&mut self) {
        let Limits { largest, segment } = self.limits;
        match self.random.below(16) {
            0 | 1 => self.single(|random| random.below(2 * NUMBER)),
            2 | 3 => self.single(|random| (random.pick(&EDGES) + random.below(3)).saturating_sub(1)),
            4 => self.single(|random| random.below(largest + 1)),
            5 => self.single(|random| largest - random.below(4)),
            6..=9 => self.single(|random| random.below(1501)),
            13.. if segment > 0 => self.burst(segment),
            _ => self.run(),
        }
    }

    fn single(&mut self, size: impl FnOnce(&mut Random) -> usize) {
        let (size, mark) = (size(&mut self.random), self.mark());
        self.push(size, size, mark);
    }

    /// Datagrams of one size, of which some have another mark than the one before: what may and what must not be joined.
    fn run(&mut self) {
        let (size, mut mark) = (1 + self.random.below(RUN_SIZE), self.mark());
        for _ in 0..2 + self.random.below(RUN - 1) {
            self.push(size, size, mark);
            if self.random.below(4) == 0 {
                mark = self.mark();
            }
        }
    }

    fn burst(&mut self, longest: usize) {
        let segment = match self.random.below(3) {
            0 => longest,
            _ => 1 + self.random.below(longest),
        };
        let most = (BURST_BYTES / segment).min(BURST);
        let last = 1 + self.random.below(segment);
        let bytes = segment * (1 + self.random.below(most - 1)) + last;
        let mark = self.mark();
        self.push(segment, bytes, mark);
    }

    fn mark(&mut self) -> u8 {
        let ecn = self.random.pick(&[0, 1, 2, 3]);
        self.random.pick(&CLASSES) | ecn
    }

    fn push(&mut self, segment: usize, bytes: usize, mark: u8) {
        let burst = Burst { first: self.next, segment, bytes, mark };
        self.next += burst.count() as u64;
        self.bursts.push(burst);
    }
}
