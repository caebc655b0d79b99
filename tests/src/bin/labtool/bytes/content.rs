//! Content that both ends can make from a seed, at any place, and random numbers for sizes.
//!
//! Must not know how it travels.

use super::Direction;

/// Content number `number` of a direction, from `offset` on.
pub(super) fn fill(seed: u64, direction: Direction, number: u64, offset: u64, out: &mut [u8]) {
    let mut hasher = blake3::Hasher::new();
    for word in [seed, direction as u64, number] {
        hasher.update(&word.to_le_bytes());
    }
    let mut endless = hasher.finalize_xof();
    endless.set_position(offset);
    endless.fill(out);
}

/// SplitMix64: the same numbers for the same seed.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64, direction: Direction) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(direction as u64))
    }

    /// From 0 to `end - 1`; 0 where there is nothing below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap_or_default()
    }

    /// One of them.
    pub(super) fn pick<T: Copy + Default>(&mut self, from: &[T]) -> T {
        from.get(self.below(from.len())).copied().unwrap_or_default()
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
