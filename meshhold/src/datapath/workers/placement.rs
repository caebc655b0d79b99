//! Which share of the processors each worker for bulk stays on: one that has to wait for its processors, while others idle,
//! goes there.
//!
//! Owns when and where to. The kernel would do it at each wake-up, and with the thread move what its cache holds; here it is
//! done when there is much to gain. Must not know what the workers carry.

use std::io;
use std::time::{Duration, Instant};

use rand_core::{OsRng, RngCore};

use crate::platform::linux::processors::{self, ThreadId, Ticks, Turns};
use crate::platform::linux::sched;

/// Time between two looks, at least.
const LOOK: Duration = Duration::from_millis(50);
/// A processor that idles this part of the time has room for a worker.
const ROOM: f64 = 0.4;
/// A worker that waits for its processors this part of the time would run more elsewhere.
const WAIT: f64 = 0.2;
/// One that runs less makes no difference.
const LEAST: f64 = 0.1;
/// Looks in a row that must say the same, for a moment says little.
const AGAIN: u32 = 2;
/// More of them, at most: chance, so that two nodes of one machine don't both make room for the other.
const CHANCE: u32 = 3;
/// Without a look for so long there was no traffic, and every worker goes home: what comes next may fit better as it was.
const REST: Duration = Duration::from_secs(1);

/// The workers for bulk, and where each is.
#[derive(Debug)]
pub(super) struct Placement {
    threads: Vec<ThreadId>,
    /// Number of the share that each stays on; there are as many as workers.
    shares: Vec<usize>,
    before: Option<Sample>,
    /// What the last looks wanted, and how many looks more have to want it.
    wanted: Option<(usize, usize)>,
    left: u32,
    /// A worker was busy at the last look.
    busy: bool,
}

/// What is read at one look.
#[derive(Debug)]
struct Sample {
    at: Instant,
    processors: Vec<(usize, Ticks)>,
    turns: Vec<Turns>,
}

impl Placement {
    /// Of workers that stay on the share of their own number.
    pub(super) fn new(threads: Vec<ThreadId>) -> Self {
        let shares = (0..threads.len()).collect();
        Self { threads, shares, before: None, wanted: None, left: 0, busy: false }
    }

    /// When to look again; `None` while nobody has much to do.
    pub(super) fn next(&self) -> Option<Instant> {
        self.before.as_ref().filter(|_| self.busy).map(|before| before.at + LOOK)
    }

    /// Moves a worker where that is worth it. To be called at [`Self::next`], and whenever a worker says that it is busy.
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
        let turns = self.threads.iter().map(|thread| processors::turns(*thread)).collect::<Result<_, _>>()?;
        let sample = Sample { at: now, processors: processors::ticks()?, turns };
        self.judge(sample).into_iter().try_for_each(|(worker, share)| self.go(worker, share))
    }

    /// Which workers should be on which share, of those that should move.
    fn judge(&mut self, sample: Sample) -> Vec<(usize, usize)> {
        let workers = self.threads.len();
        let recent = |before: &Sample| sample.at.saturating_duration_since(before.at) < REST;
        let load =
            self.before.as_ref().filter(|before| recent(before)).map(|before| sample.since(before, workers));
        self.before = Some(sample);
        self.busy = load.as_ref().is_none_or(|load| load.runs.iter().any(|runs| *runs >= LEAST));
        let Some(load) = load else { return (0..workers).map(|home| (home, home)).collect() };
        let wanted = self.choose(&load);
        if wanted != self.wanted {
            (self.wanted, self.left) = (wanted, AGAIN + OsRng.next_u32() % CHANCE);
        }
        self.left = self.left.saturating_sub(1);
        wanted.filter(|_| self.left == 0).into_iter().collect()
    }

    fn go(&mut self, worker: usize, share: usize) -> io::Result<()> {
        let (Some(thread), Some(place)) = (self.threads.get(worker), self.shares.get_mut(worker)) else {
            return Ok(());
        };
        if *place != share {
            sched::put_on(*thread, share, self.threads.len())?;
            tracing::debug!(worker, from = *place, to = share, "goes to other processors");
            *place = share;
            self.wanted = None;
        }
        Ok(())
    }

    /// Which worker should go to which share.
    fn choose(&self, load: &Load) -> Option<(usize, usize)> {
        let (target, room) = load.idle.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
        let runs = |worker: usize| load.runs.get(worker).copied().unwrap_or_default();
        let waiting = load.waits.iter().copied().enumerate().filter(|(worker, waits)| {
            *waits >= WAIT && runs(*worker) >= LEAST && self.shares.get(*worker) != Some(&target)
        });
        let (worker, _) = waiting.max_by(|a, b| a.1.total_cmp(&b.1))?;
        (room >= ROOM).then_some((worker, target))
    }
}

/// Parts of the time between two looks.
#[derive(Debug)]
struct Load {
    /// Of each share's idlest processor: how much it idled.
    idle: Vec<f64>,
    /// Of each worker: how much it ran.
    runs: Vec<f64>,
    /// Of each worker: how much it waited for a processor.
    waits: Vec<f64>,
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
        let part = |of: fn(&Turns) -> Duration| {
            let spans = self.turns.iter().zip(&before.turns);
            spans.map(|(now, before)| of(now).saturating_sub(of(before)).as_secs_f64() / time).collect()
        };
        Load { idle, runs: part(|turns| turns.ran), waits: part(|turns| turns.waited) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(shares: [usize; 2], idle: [f64; 2], runs: [f64; 2], waits: [f64; 2]) -> Option<(usize, usize)> {
        let thread = processors::own_thread().unwrap();
        let placement = Placement { shares: shares.to_vec(), ..Placement::new(vec![thread; 2]) };
        placement.choose(&Load { idle: idle.to_vec(), runs: runs.to_vec(), waits: waits.to_vec() })
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

    #[test]
    fn some_looks_move_a_worker_and_a_rest_brings_it_home() {
        let (thread, start) = (processors::own_thread().unwrap(), Instant::now());
        let mut placement = Placement::new(vec![thread; 2]);
        // Processor 0 is full, 1 idles; the first worker runs for a third of the time and waits for another.
        let mut judge = |millis: u64| {
            let idle = [0, millis].map(|idle| Ticks { idle, all: millis });
            let third = Duration::from_millis(millis / 3);
            placement.judge(Sample {
                at: start + Duration::from_millis(millis),
                processors: vec![(0, idle[0]), (1, idle[1])],
                turns: vec![Turns { ran: third, waited: third }, Turns::default()],
            })
        };
        let home = vec![(0, 0), (1, 1)];
        assert_eq!(judge(0), home, "nothing is known yet");
        assert_eq!(judge(50), [], "once");
        let moves: Vec<_> = (2..=AGAIN + CHANCE).map(|look| judge(50 * u64::from(look))).collect();
        assert_eq!(moves.concat().first(), Some(&(0, 1)));
        assert_eq!(judge(2_000), home, "there was no traffic");
    }

    #[test]
    fn the_load_is_what_came_since() {
        let start = Instant::now();
        let ticks = |idle, all| Ticks { idle, all };
        let turns = |ran, waited| {
            let [ran, waited] = [ran, waited].map(Duration::from_millis);
            Turns { ran, waited }
        };
        let before = Sample {
            at: start,
            processors: vec![(0, ticks(0, 100)), (1, ticks(50, 100)), (2, ticks(0, 100))],
            turns: vec![turns(0, 10), turns(50, 0)],
        };
        let now = Sample {
            at: start + Duration::from_millis(200),
            processors: vec![(0, ticks(5, 200)), (1, ticks(50, 200)), (2, ticks(30, 200)), (3, ticks(9, 9))],
            turns: vec![turns(100, 60), turns(50, 0)],
        };
        let load = now.since(&before, 2);
        assert_eq!((load.idle, load.runs, load.waits), (vec![0.3, 0.0], vec![0.5, 0.0], vec![0.25, 0.0]));
    }
}
