//! Which counters of a lane have been received (RFC 6479: a ring of words, no shifting).
//!
//! Owns one window with a single writer. Must not know keys: a counter is accepted only after its datagram has
//! been authenticated.

const WORD: u64 = u64::BITS as u64;
const WORDS: usize = 128;
/// Counters below the highest accepted one that can still be accepted. One word of the ring is being refilled.
pub const WINDOW: u64 = (WORDS as u64 - 1) * WORD;

/// The window of one lane. 1 KiB, no allocation after creation.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    next: u64,
    seen: Box<[u64; WORDS]>,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { next: 0, seen: Box::new([0; WORDS]) }
    }
}

impl ReplayWindow {
    /// Whether `counter` is new enough and was not accepted before. Changes nothing.
    pub fn would_accept(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter < u64::MAX;
        }
        self.next - 1 - counter < WINDOW && self.word(counter) & bit(counter) == 0
    }

    /// Marks `counter` as received; false (and no change) where [`ReplayWindow::would_accept`] is false.
    pub fn accept(&mut self, counter: u64) -> bool {
        if !self.would_accept(counter) {
            return false;
        }
        if counter >= self.next {
            self.advance(counter);
        }
        if let Some(word) = self.seen.get_mut(slot(counter)) {
            *word |= bit(counter);
        }
        true
    }

    /// Clears the words between the old and the new highest counter.
    fn advance(&mut self, counter: u64) {
        let first = self.next.div_ceil(WORD);
        let last = counter / WORD;
        let words = (last + 1).saturating_sub(first).min(WORDS as u64);
        for word in 0..words {
            if let Some(word) = self.seen.get_mut(slot((last - word) * WORD)) {
                *word = 0;
            }
        }
        self.next = counter + 1;
    }

    fn word(&self, counter: u64) -> u64 {
        self.seen.get(slot(counter)).copied().unwrap_or(u64::MAX)
    }
}

fn slot(counter: u64) -> usize {
    (counter / WORD) as usize % WORDS
}

fn bit(counter: u64) -> u64 {
    1 << (counter % WORD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use std::collections::BTreeSet;

    #[test]
    fn edges_of_the_window() {
        let mut window = ReplayWindow::default();
        let steps = [
            (0, true),
            (1, true),
            (1, false),
            (9, true),
            (8, true),
            (7, true),
            (7, false),
            (WINDOW, true),
            (WINDOW - 1, true),
            (WINDOW - 1, false),
            (2, true),
            (2, false),
            (WINDOW + 16, true),
            (3, false),
            (WINDOW + 16, false),
            (WINDOW * 4, true),
            (WINDOW * 4 - (WINDOW - 1), true),
            (10, false),
            (WINDOW * 4 - WINDOW, false),
            (WINDOW * 4 - (WINDOW + 1), false),
            (WINDOW * 4 + 1, true),
            (0, false),
            (u64::MAX, false),
            (u64::MAX - 1, true),
            (u64::MAX - 1, false),
            (u64::MAX - WINDOW, true),
        ];
        for (at, (counter, accepted)) in steps.into_iter().enumerate() {
            assert_eq!(window.would_accept(counter), accepted, "step {at}: counter {counter}");
            assert_eq!(window.accept(counter), accepted, "step {at}: counter {counter}");
        }
        const { assert!(WINDOW >= 8_128) };
    }

    #[test]
    fn a_million_random_counters_agree_with_a_set() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(7);
        let (mut window, mut model, mut highest) = (ReplayWindow::default(), BTreeSet::new(), 0u64);
        for _ in 0..1_000_000 {
            let reach = if rng.gen_ratio(1, 50) { 3 * WINDOW } else { 300 };
            let low = highest.saturating_sub(if rng.gen_ratio(1, 10) { WINDOW + 200 } else { 400 });
            let counter = rng.gen_range(low..=highest + reach / 20 + 1);
            let in_window = model.is_empty() || counter > highest || highest - counter < WINDOW;
            let expected = in_window && model.insert(counter);
            assert_eq!(window.accept(counter), expected, "counter {counter}, highest {highest}");
            highest = highest.max(counter);
            while model.first().is_some_and(|first| highest - first > 2 * WINDOW) {
                model.pop_first();
            }
        }
    }
}
