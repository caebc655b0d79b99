//! Which share of the processors each worker for bulk stays on: one that has to wait for its processors, while others idle,
//! changes places with the worker there, and comes back where that was a loss.
//!
//! Owns when and where to. The kernel would do it at each wake-up, and with the thread move what its cache holds; here it is
//! done when there is much to gain. Must not know what the workers carry.

mod sample;
mod trial;

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::time::{Duration, Instant};

use self::sample::{Load, Progress, Sample};
use self::trial::{MEASURE, Trial};
use crate::platform::linux::processors::ThreadId;
use crate::platform::linux::sched;

/// Time between two looks, at least.
const LOOK: Duration = Duration::from_millis(25);
/// A processor that idles this part of the time has room for a worker that carries little.
const ROOM: f64 = 0.4;
/// Of one that carries much it takes so many seconds more for each gigabyte: what two workers of one machine hand each other, both
/// ends of a circuit or it and a program, then goes from one processor's cache to the other's. Measured: 0.35 (docs/performance.md).
const CROSSING: f64 = 0.55;
/// A worker that waits for its processors this part of the time would run more elsewhere.
const WAIT: f64 = 0.2;
/// One that runs less makes no difference.
const LEAST: f64 = 0.1;
/// Looks over which the load is taken: a moment says little, and at its beginning a transfer takes what it will not take later.
const LOOKS: usize = 5;
const _: () = assert!(MEASURE <= LOOKS);
/// So many for a node that sends more than it receives: of two nodes of one machine the receiver goes first, for if both made room
/// for the other they would be together again.
const SENDER_LOOKS: usize = 11;
/// Where a flow's workers carry so many bytes a second, and copy more than they compute, over so many times as many looks: they lose
/// most by a move, and room beside them mostly is the kernel's misplacing of programs, which it mends by itself.
const FAST: f64 = 1e9;
/// See [`FAST`].
const FAST_TIMES: usize = 4;
/// The last ones have to say the same, if less clearly: they know of others that moved meanwhile.
const LAST_LOOKS: usize = 2;
/// So clearly.
const STILL: f64 = 0.5;
/// How long nobody moves after a move, the first time and at most; twice as long each time until there is no traffic. Where the
/// kernel puts the programs that send and receive, the load is uneven for half a second now and then.
const PAUSE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(32)];
/// Between looks that are further apart there was no traffic. What comes next may be of another kind: all begin where they were.
const REST: Duration = Duration::from_millis(500);

/// The workers for bulk, and where each is.
#[derive(Debug)]
pub(super) struct Placement {
    threads: Vec<ThreadId>,
    /// Number of the share that each stays on; there are as many as workers, and each has one.
    shares: Vec<usize>,
    /// The last ones, with no move among them.
    samples: VecDeque<Sample>,
    trial: Option<Trial>,
    /// Nobody moves before.
    not_before: Option<Instant>,
    /// How long then, after the next move.
    pause: Duration,
    /// A worker was busy at the last look.
    busy: bool,
}

impl Placement {
    /// Of workers that stay on the share of their own number.
    pub(super) fn new(threads: Vec<ThreadId>) -> Self {
        let shares = (0..threads.len()).collect();
        let samples = VecDeque::new();
        let [pause, _] = PAUSE;
        Self { threads, shares, samples, trial: None, not_before: None, pause, busy: false }
    }

    /// When to look again; `None` while nobody has much to do.
    pub(super) fn next(&self) -> Option<Instant> {
        self.samples.back().filter(|_| self.busy).map(|last| last.progress.at + LOOK)
    }

    /// Moves a worker where that is worth it. `carried`: bytes sent and received, by all workers so far. To be called at
    /// [`Self::next`], and whenever a worker says that it is busy.
    ///
    /// # Errors
    /// `/proc` doesn't say what is needed, or the kernel refuses the move.
    pub(super) fn look(&mut self, now: Instant, carried: impl FnOnce() -> [u64; 2]) -> io::Result<()> {
        let since = self.samples.back().map(|last| now.saturating_duration_since(last.progress.at));
        if self.threads.len() < 2 || since.is_some_and(|since| since < LOOK) {
            return Ok(());
        }
        // Where nothing can be read there is nothing to wait for.
        self.busy = false;
        if since.is_some_and(|since| since >= REST) {
            self.go_home()?;
        }
        let [sent, received] = carried();
        let sample = Sample::take(&self.threads, Progress { at: now, sent, received })?;
        self.judge(sample).map_or(Ok(()), |(worker, share)| self.go(worker, share))
    }

    /// Which worker should go to which share now.
    fn judge(&mut self, sample: Sample) -> Option<(usize, usize)> {
        let now = sample.progress;
        let load = self.samples.back().map(|last| sample.since(last, self.threads.len()));
        self.busy = load.is_none_or(|load| load.runs.iter().any(|runs| *runs >= LEAST));
        self.samples.push_back(sample);
        let old = self.samples.len().saturating_sub(FAST_TIMES * SENDER_LOOKS + 1);
        self.samples.drain(..old);
        match self.trial.take() {
            Some(trial) => self.measure(trial, now),
            None => self.consider(now),
        }
    }

    /// Goes on with a trial; yields the way back where it ends badly.
    fn measure(&mut self, mut trial: Trial, now: Progress) -> Option<(usize, usize)> {
        let Some(stays) = trial.verdict(now) else {
            self.trial = Some(trial);
            return None;
        };
        self.begin_anew();
        let [_, longest] = PAUSE;
        self.not_before = Some(now.at + self.pause);
        self.pause = longest.min(2 * self.pause);
        (!stays).then_some(trial.back)
    }

    /// Who goes where, if enough looks say so; then it is on trial.
    fn consider(&mut self, now: Progress) -> Option<(usize, usize)> {
        if self.not_before.is_some_and(|then| now.at < then) {
            self.begin_anew();
        }
        let ago =
            |looks: usize| self.samples.len().checked_sub(looks + 1).and_then(|at| self.samples.get(at));
        // A flow has two workers; what each pair carries isn't known.
        let rate = |before: &Sample| now.rate(before.progress) * 2.0 / self.threads.len() as f64;
        let latest = ago(LOOKS)?;
        let looks = if latest.progress.receives(now) { LOOKS } else { SENDER_LOOKS };
        let first = ago(if rate(latest) < FAST { looks } else { FAST_TIMES * looks })?;
        let since = |before: &Sample| Some(self.samples.back()?.since(before, self.threads.len()));
        let room = ROOM.max(CROSSING * rate(first) / 1e9);
        let (worker, share) = self.choose(&since(first)?, room)?;
        if self.choose(&since(ago(LAST_LOOKS)?)?, STILL * room) != Some((worker, share)) {
            return None;
        }
        let back = (worker, self.shares.get(worker).copied()?);
        self.trial = Some(Trial::new(back, ago(MEASURE)?.progress, now));
        self.begin_anew();
        Some((worker, share))
    }

    /// What was seen so far says nothing any more.
    fn begin_anew(&mut self) {
        let old = self.samples.len().saturating_sub(1);
        self.samples.drain(..old);
    }

    /// Every worker to the share of its own number; what was learnt is forgotten.
    fn go_home(&mut self) -> io::Result<()> {
        for worker in 0..self.shares.len() {
            if self.shares.get(worker) != Some(&worker) {
                self.go(worker, worker)?;
            }
        }
        *self = Self::new(mem::take(&mut self.threads));
        Ok(())
    }

    /// Moves the worker there, and who is there to where it was.
    fn go(&mut self, worker: usize, share: usize) -> io::Result<()> {
        let other = self.shares.iter().position(|of| *of == share);
        let (Some(from), Some(other)) = (self.shares.get(worker).copied(), other) else {
            return Ok(());
        };
        for (number, to) in [(worker, share), (other, from)] {
            if let Some(thread) = self.threads.get(number) {
                sched::put_on(*thread, to, self.threads.len())?;
            }
        }
        tracing::debug!(worker, from, to = share, other, "change places");
        self.shares.swap(worker, other);
        Ok(())
    }

    /// Which worker should go to which share, if that has so much room.
    fn choose(&self, load: &Load, least: f64) -> Option<(usize, usize)> {
        let (target, room) = load.idle.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
        let runs = |worker: usize| load.runs.get(worker).copied().unwrap_or_default();
        let waiting = load.waits.iter().copied().enumerate().filter(|(worker, waits)| {
            *waits >= WAIT && runs(*worker) >= LEAST && self.shares.get(*worker) != Some(&target)
        });
        let (worker, _) = waiting.max_by(|a, b| a.1.total_cmp(&b.1))?;
        (room >= least).then_some((worker, target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::linux::processors::{self, Ticks, Turns};

    fn choice(shares: [usize; 2], idle: [f64; 2], runs: [f64; 2], waits: [f64; 2]) -> Option<(usize, usize)> {
        let thread = processors::own_thread().unwrap();
        let placement = Placement { shares: shares.to_vec(), ..Placement::new(vec![thread; 2]) };
        placement.choose(&Load { idle: idle.to_vec(), runs: runs.to_vec(), waits: waits.to_vec() }, ROOM)
    }

    #[test]
    fn only_who_waits_goes_and_only_to_a_processor_that_idles() {
        let [busy, waits] = [[0.5, 0.1], [0.4, 0.1]];
        assert_eq!(choice([0, 1], [0.01, 0.5], busy, waits), Some((0, 1)));
        assert_eq!(choice([0, 0], [0.01, 0.5], [0.3, 0.3], [0.3, 0.4]), Some((1, 1)), "who waits most");
        assert_eq!(choice([1, 0], [0.01, 0.5], busy, waits), None, "it waits beside one that idles");
        assert_eq!(choice([0, 1], [0.01, 0.35], busy, waits), None, "no room");
        assert_eq!(choice([0, 1], [0.01, 0.5], busy, [0.1, 0.1]), None, "it has what it wants");
        assert_eq!(choice([0, 1], [0.01, 0.5], [0.01, 0.1], waits), None, "it does nothing");
    }

    /// Processor 0 is full, 1 idles; the first worker runs for a third of the time and waits for another.
    fn uneven(start: Instant, millis: u64, [sent, received]: [u64; 2]) -> Sample {
        let third = Duration::from_millis(millis / 3);
        let idle = |idle| Ticks { idle, all: millis };
        Sample {
            progress: Progress { at: start + Duration::from_millis(millis), sent, received },
            processors: vec![(0, idle(0)), (1, idle(millis))],
            turns: vec![Turns { ran: third, waited: third }, Turns::default()],
        }
    }

    /// At which look the first worker goes where, when so much is sent and received from one look to the next, so much later, and so
    /// many percent of it after the worker moved.
    fn moves(traffic: [u64; 2], percent: u64) -> Vec<(usize, (usize, usize))> {
        moves_of(2, traffic, percent)
    }

    /// The same with so many workers, of which but the first do nothing.
    fn moves_of(workers: usize, [sent, received]: [u64; 2], percent: u64) -> Vec<(usize, (usize, usize))> {
        let (thread, start) = (processors::own_thread().unwrap(), Instant::now());
        let mut placement = Placement::new(vec![thread; workers]);
        let (mut moves, mut bytes) = (Vec::new(), [0, 0]);
        for look in 0..30 {
            let found = placement.judge(uneven(start, 50 * look as u64, bytes));
            // Where it is now it waits for nothing.
            found.iter().for_each(|(worker, share)| placement.go(*worker, *share).unwrap());
            moves.extend(found.map(|to| (look, to)));
            let part = if moves.is_empty() { 100 } else { percent };
            bytes = [bytes[0] + sent * part / 100, bytes[1] + received * part / 100];
        }
        moves
    }

    #[test]
    fn a_worker_moves_and_stays_where_it_loses_nothing() {
        assert_eq!(moves([100, 1000], 95), [(LOOKS, (0, 1))]);
    }

    #[test]
    fn two_workers_change_places() {
        let mut placement = Placement::new(vec![processors::own_thread().unwrap(); 3]);
        placement.go(0, 2).unwrap();
        assert_eq!(placement.shares, [2, 1, 0]);
        placement.go(0, 0).unwrap();
        assert_eq!(placement.shares, [0, 1, 2]);
    }

    #[test]
    fn the_sending_end_waits_for_the_receiving_one() {
        assert_eq!(moves([1000, 100], 95), [(SENDER_LOOKS, (0, 1))]);
    }

    #[test]
    fn a_worker_that_loses_comes_back_and_stays() {
        assert_eq!(moves([100, 1000], 90), [(LOOKS, (0, 1)), (12, (0, 0))]);
    }

    #[test]
    fn what_carries_much_waits_longer_and_what_carries_more_than_another_cache_would_take_stays() {
        let gigabytes_a_second = 50_000_000;
        assert_eq!(moves([0, gigabytes_a_second / 2], 100), [(LOOKS, (0, 1))]);
        assert_eq!(moves([0, gigabytes_a_second * 3 / 2], 100), [(FAST_TIMES * LOOKS, (0, 1))]);
        assert_eq!(moves([0, 2 * gigabytes_a_second], 100), []);
        assert_eq!(moves_of(8, [0, 2 * gigabytes_a_second], 100), [(LOOKS, (0, 1))], "four pairs share it");
    }

    #[test]
    fn after_a_rest_all_are_where_they_were() {
        let mut placement = Placement::new(vec![processors::own_thread().unwrap(); 2]);
        let start = Instant::now();
        placement.look(start, || [0, 0]).unwrap();
        placement.go(0, 1).unwrap();
        placement.look(start + REST / 2, || [0, 0]).unwrap();
        assert_eq!((&placement.shares[..], placement.samples.len()), (&[1, 0][..], 2));
        placement.look(start + 2 * REST, || [0, 0]).unwrap();
        assert_eq!((&placement.shares[..], placement.samples.len()), (&[0, 1][..], 1));
    }
}
