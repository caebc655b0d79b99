//! What is read at one look, and what two of them say.
//!
//! Owns the arithmetic. Must not know what follows from it.

use std::io;
use std::time::{Duration, Instant};

use crate::platform::linux::processors::{self, ThreadId, Ticks, Turns};
use crate::platform::linux::sched;

/// How far the workers have come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub(super) at: Instant,
    /// Bytes, by all workers.
    pub(super) sent: u64,
    /// Bytes, by all workers.
    pub(super) received: u64,
}

/// What is read at one look.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) progress: Progress,
    /// Those that the daemon may use, by number.
    pub(super) processors: Vec<(usize, Ticks)>,
    pub(super) turns: Vec<Turns>,
}

/// Parts of the time between two looks.
#[derive(Debug)]
pub(super) struct Load {
    /// Of each share's idlest processor: how much it idled.
    pub(super) idle: Vec<f64>,
    /// Of each worker: how much it ran.
    pub(super) runs: Vec<f64>,
    /// Of each worker: how much it waited for a processor.
    pub(super) waits: Vec<f64>,
}

impl Progress {
    /// Bytes a second since `before`.
    pub(super) fn rate(self, before: Self) -> f64 {
        let time = self.at.saturating_duration_since(before.at).as_secs_f64();
        let carried = |progress: Self| progress.sent + progress.received;
        carried(self).saturating_sub(carried(before)) as f64 / time
    }

    /// Whether more came in than went out from here to `now`.
    pub(super) fn receives(self, now: Self) -> bool {
        now.received.saturating_sub(self.received) >= now.sent.saturating_sub(self.sent)
    }
}

impl Sample {
    /// # Errors
    /// `/proc` doesn't say what is needed.
    pub(super) fn take(threads: &[ThreadId], progress: Progress) -> io::Result<Self> {
        let turns = threads.iter().map(|thread| processors::turns(*thread)).collect::<Result<_, _>>()?;
        let usable = sched::usable()?;
        let mut processors = processors::ticks()?;
        processors.retain(|(number, _)| usable.contains(number));
        Ok(Self { progress, processors, turns })
    }

    /// What happened since `before`, over so many shares.
    pub(super) fn since(&self, before: &Self, shares: usize) -> Load {
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
        let time = self.progress.at.saturating_duration_since(before.progress.at).as_secs_f64();
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

    #[test]
    fn processors_that_others_have_alone_are_not_looked_at() {
        let progress = Progress { at: Instant::now(), sent: 0, received: 0 };
        let numbers = || {
            let sample = Sample::take(&[], progress).unwrap();
            sample.processors.into_iter().map(|(number, _)| number).collect::<Vec<_>>()
        };
        let all = numbers();
        assert_eq!(all, sched::usable().unwrap());
        let (first, many) = (all[0], all.last().unwrap() + 1);
        sched::stay_on(first, many).unwrap();
        assert_eq!(numbers(), [first]);
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
            progress: Progress { at: start, sent: 60, received: 40 },
            processors: vec![(0, ticks(0, 100)), (1, ticks(50, 100)), (2, ticks(0, 100))],
            turns: vec![turns(0, 10), turns(50, 0)],
        };
        let now = Sample {
            progress: Progress { at: start + Duration::from_millis(200), sent: 80, received: 220 },
            processors: vec![(0, ticks(5, 200)), (1, ticks(50, 200)), (2, ticks(30, 200)), (3, ticks(9, 9))],
            turns: vec![turns(100, 60), turns(50, 0)],
        };
        let load = now.since(&before, 2);
        assert_eq!((load.idle, load.runs, load.waits), (vec![0.3, 0.0], vec![0.5, 0.0], vec![0.25, 0.0]));
        assert!((now.progress.rate(before.progress) - 1000.0).abs() < 1e-6);
        assert!(before.progress.receives(now.progress));
    }
}
