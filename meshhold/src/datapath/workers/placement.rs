//! Which share of the processors each worker for bulk stays on: one that has to share its processors, which are full, goes to
//! others that idle.
//!
//! Owns when and where to. The kernel would do it at each wake-up, and with the thread move what its cache holds; here it is
//! done when there is much to gain. Must not know what the workers carry.

use std::io;
use std::time::{Duration, Instant};

use rand_core::{OsRng, RngCore};

use crate::platform::linux::processors::{self, ThreadId, Ticks};
use crate::platform::linux::sched;

/// Time between two looks, at least.
const LOOK: Duration = Duration::from_millis(100);
/// A processor that idles no larger part of the time is full.
const FULL: f64 = 0.05;
/// One that idles this part has room for what takes [`LARGEST`] of one.
const ROOM: f64 = 0.45;
/// What a worker takes of its processor that may leave it. One that takes more has it for itself, or the others there may go.
const LARGEST: f64 = 0.5;
/// A worker that takes less makes no difference.
const LEAST: f64 = 0.1;
/// Looks in a row that must say the same, for a moment says little.
const AGAIN: u32 = 2;
/// Looks after a move before the next one, at most: chance, so that two nodes of one machine don't change places for ever.
const PATIENCE: u32 = 4;
/// Without a look for so long there was no traffic, and every worker goes home: what comes next may fit better as it was.
const REST: Duration = Duration::from_secs(1);

/// The workers for bulk, and where each is.
#[derive(Debug)]
pub(super) struct Placement {
    threads: Vec<ThreadId>,
    /// Number of the share that each stays on; there are as many as workers.
    shares: Vec<usize>,
    before: Option<Sample>,
    /// Looks that pass without a move.
    pause: u32,
    /// What the last looks wanted, and how many of them.
    wanted: Option<(usize, usize)>,
    times: u32,
    /// A worker was busy at the last look.
    busy: bool,
}

/// What is read at one look.
#[derive(Debug)]
struct Sample {
    at: Instant,
    processors: Vec<(usize, Ticks)>,
    ran: Vec<Duration>,
}

impl Placement {
    /// Of workers that stay on the share of their own number.
    pub(super) fn new(threads: Vec<ThreadId>) -> Self {
        let shares = (0..threads.len()).collect();
        Self { threads, shares, before: None, pause: 0, wanted: None, times: 0, busy: false }
    }

    /// When to look again; `None` while nobody has much to do.
    pub(super) fn next(&self) -> Option<Instant> {
        self.before.as_ref().filter(|_| self.busy).map(|before| before.at + LOOK)
    }

    /// Moves a worker where that is worth it. To be called at [`Self::next`], and now and then while there is traffic.
    ///
    /// # Errors
    /// `/proc` doesn't say what is needed, or the kernel refuses the move.
    pub(super) fn look(&mut self, now: Instant) -> io::Result<()> {
        let soon = |before: &Sample| now.saturating_duration_since(before.at) < LOOK;
        if self.threads.len() < 2 || self.before.as_ref().is_some_and(soon) {
            return Ok(());
        }
        // Where nothing can be read there is nothing to wait for.
        self.busy = false;
        let ran = self.threads.iter().map(|thread| processors::ran(*thread)).collect::<Result<_, _>>()?;
        let sample = Sample { at: now, processors: processors::ticks()?, ran };
        self.judge(sample).into_iter().try_for_each(|(worker, share)| self.go(worker, share))
    }

    /// Which workers should be on which share, of those that should move.
    fn judge(&mut self, sample: Sample) -> Vec<(usize, usize)> {
        let workers = self.threads.len();
        let recent = |before: &Sample| sample.at.saturating_duration_since(before.at) < REST;
        let load =
            self.before.as_ref().filter(|before| recent(before)).map(|before| sample.since(before, workers));
        self.before = Some(sample);
        self.busy = load.as_ref().is_none_or(|load| load.taken.iter().any(|taken| *taken >= LEAST));
        let Some(load) = load else { return (0..workers).map(|home| (home, home)).collect() };
        if self.pause > 0 {
            self.pause -= 1;
            return Vec::new();
        }
        let wanted = self.choose(&load);
        self.times = if wanted == self.wanted { self.times + 1 } else { 1 };
        self.wanted = wanted;
        let Some(wanted) = wanted.filter(|_| self.times >= AGAIN) else { return Vec::new() };
        self.pause = 1 + OsRng.next_u32() % PATIENCE;
        vec![wanted]
    }

    fn go(&mut self, worker: usize, share: usize) -> io::Result<()> {
        let (Some(thread), Some(place)) = (self.threads.get(worker), self.shares.get_mut(worker)) else {
            return Ok(());
        };
        if *place != share {
            sched::put_on(*thread, share, self.threads.len())?;
            tracing::debug!(worker, from = *place, to = share, "goes to other processors");
            *place = share;
            (self.wanted, self.times) = (None, 0);
        }
        Ok(())
    }

    /// Which worker should go to which share.
    fn choose(&self, load: &Load) -> Option<(usize, usize)> {
        let idle = |share: usize| load.idle.get(share).copied().unwrap_or_default();
        let (target, room) = load.idle.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
        let may_go = |worker: &usize| {
            let takes = load.taken.get(*worker).copied().unwrap_or_default();
            let place = self.shares.get(*worker).copied().unwrap_or_default();
            (LEAST..LARGEST).contains(&takes) && idle(place) < FULL
        };
        let worker = (0..self.threads.len()).find(may_go)?;
        (room > ROOM).then_some((worker, target))
    }
}

/// Parts of the time between two looks.
#[derive(Debug)]
struct Load {
    /// Of each share's idlest processor: how much it idled.
    idle: Vec<f64>,
    /// Of each worker: how much it ran.
    taken: Vec<f64>,
}

impl Sample {
    /// What happened since `before`, over so many shares.
    fn since(&self, before: &Self, shares: usize) -> Load {
        let mut idle = vec![0.0_f64; shares];
        for (number, ticks) in &self.processors {
            let Some((_, old)) = before.processors.iter().find(|(other, _)| other == number) else {
                continue;
            };
            let [idled, all] = [ticks.idle.saturating_sub(old.idle), ticks.all.saturating_sub(old.all)];
            if let (Some(most), 1..) = (idle.get_mut(number % shares), all) {
                *most = most.max(idled as f64 / all as f64);
            }
        }
        let time = self.at.saturating_duration_since(before.at).as_secs_f64();
        let spans = self.ran.iter().zip(&before.ran).map(|(now, before)| now.saturating_sub(*before));
        Load { idle, taken: spans.map(|span| span.as_secs_f64() / time).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(shares: [usize; 2], idle: [f64; 2], taken: [f64; 2]) -> Option<(usize, usize)> {
        let thread = processors::own_thread().unwrap();
        let placement = Placement { shares: shares.to_vec(), ..Placement::new(vec![thread; 2]) };
        placement.choose(&Load { idle: idle.to_vec(), taken: taken.to_vec() })
    }

    #[test]
    fn only_who_shares_a_full_processor_goes_and_only_to_one_that_idles() {
        assert_eq!(choice([0, 1], [0.01, 0.5], [0.35, 0.1]), Some((0, 1)));
        assert_eq!(choice([1, 0], [0.01, 0.5], [0.35, 0.2]), Some((1, 1)), "the one that is there");
        assert_eq!(choice([0, 1], [0.01, 0.4], [0.35, 0.1]), None, "no room");
        assert_eq!(choice([0, 1], [0.1, 0.5], [0.35, 0.1]), None, "not full");
        assert_eq!(choice([0, 1], [0.01, 0.5], [0.6, 0.1]), None, "it has most of it");
        assert_eq!(choice([0, 1], [0.01, 0.5], [0.01, 0.1]), None, "it does nothing");
    }

    #[test]
    fn two_looks_move_a_worker_and_a_rest_brings_it_home() {
        let (thread, start) = (processors::own_thread().unwrap(), Instant::now());
        let mut placement = Placement::new(vec![thread; 2]);
        // Processor 0 is full, 1 idles; the first worker takes a third.
        let mut judge = |millis: u64| {
            let idle = [0, millis].map(|idle| Ticks { idle, all: millis });
            let ran = vec![Duration::from_millis(millis / 3), Duration::ZERO];
            placement.judge(Sample {
                at: start + Duration::from_millis(millis),
                processors: vec![(0, idle[0]), (1, idle[1])],
                ran,
            })
        };
        let home = vec![(0, 0), (1, 1)];
        assert_eq!(judge(0), home, "nothing is known yet");
        assert_eq!(judge(100), [], "once");
        assert_eq!(judge(200), [(0, 1)]);
        assert_eq!(judge(300), [], "it rests after a move");
        assert_eq!(judge(2_000), home, "there was no traffic");
    }

    #[test]
    fn the_load_is_what_came_since() {
        let start = Instant::now();
        let ticks = |idle, all| Ticks { idle, all };
        let before = Sample {
            at: start,
            processors: vec![(0, ticks(0, 100)), (1, ticks(50, 100)), (2, ticks(0, 100))],
            ran: vec![Duration::ZERO, Duration::from_millis(50)],
        };
        let now = Sample {
            at: start + Duration::from_millis(200),
            processors: vec![(0, ticks(5, 200)), (1, ticks(50, 200)), (2, ticks(30, 200)), (3, ticks(9, 9))],
            ran: vec![Duration::from_millis(100), Duration::from_millis(50)],
        };
        let load = now.since(&before, 2);
        assert_eq!((load.idle, load.taken), (vec![0.3, 0.0], vec![0.5, 0.0]));
    }
}
