//! The longest packet that a path carries, found by probes (RFC 8899): no belief in ICMP, which anybody can forge.
//!
//! Owns the search. Starts with the hope that all fits, for nearly always it does. Must not know how a probe travels.
//!
//! A probe that is not answered in time may have waited in a queue that the circuit itself has filled. So a late answer
//! counts as well, what a search found is tried once more before anybody may be told, and a search that found too little
//! goes on upwards.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Never below this inside (RFC 8200 section 5), in bytes.
pub(super) const FLOOR: u16 = 1280;
/// How exact the search is.
const EXACT: u16 = 8;
/// Losses of one size that mean that it doesn't fit.
const TRIES: u32 = 3;
/// A size that fits is tried again after this, and what didn't fit as well.
const AGAIN: Duration = Duration::from_secs(60);
/// The same right after a search, for the queue that may have misled it.
const SOON: Duration = Duration::from_secs(2);
/// Probes whose answers may still come.
const REMEMBERED: usize = 8;

/// What a path carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Longest packet that is known to get through, or hoped to before anything is known, in bytes.
    pub fits: u16,
    /// Longest packet that may yet be found to get through: only of what is longer may a sender be told, for he remembers.
    pub limit: u16,
}

impl Sizes {
    /// Where nothing bounds them.
    pub const ANY: Self = Self { fits: u16::MAX, limit: u16::MAX };
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    id: u32,
    size: u16,
    until: Instant,
}

/// What is being found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Whether what is in use fits.
    Confirm,
    /// What fits between what does and what doesn't.
    Search,
    /// Whether all fits now.
    Raise,
    /// Whether a little more than what is in use fits.
    Above,
}

/// What is known of one path.
#[derive(Clone, Debug)]
pub(super) struct Mtu {
    /// Wanted, and enough.
    most: u16,
    in_use: u16,
    /// Shortest that doesn't fit, as far as is known; above `most` where nothing was refused.
    fails: u16,
    step: Step,
    /// Nothing longer than what is in use fits, which was tried at another time than that of the search.
    settled: bool,
    lost: u32,
    /// What somebody said that fits: tried first.
    hint: u16,
    probe: Option<Probe>,
    /// Identifiers and sizes of probes that were given up.
    late: VecDeque<(u32, u16)>,
    next: Instant,
    /// When more is tried, whatever is confirmed in between.
    again: Instant,
}

impl Mtu {
    /// Of a path that has to carry `most` bytes.
    pub(super) fn new(most: u16, now: Instant) -> Self {
        let most = most.max(FLOOR);
        Self {
            most,
            in_use: most,
            fails: most + 1,
            step: Step::Confirm,
            settled: false,
            lost: 0,
            hint: 0,
            probe: None,
            late: VecDeque::new(),
            next: now,
            again: now,
        }
    }

    /// What may be sent.
    pub(super) fn sizes(&self) -> Sizes {
        Sizes { fits: self.in_use, limit: if self.settled { self.in_use } else { self.most } }
    }

    /// When to look again.
    pub(super) fn next(&self) -> Instant {
        self.probe.map_or(self.next, |probe| probe.until)
    }

    /// The size to try at `now`, if it is time.
    pub(super) fn due(&mut self, now: Instant) -> Option<u16> {
        if let Some(probe) = self.probe.take_if(|probe| probe.until <= now) {
            self.remember(probe);
            self.miss(now, probe.size);
        }
        (self.probe.is_none() && self.next <= now).then(|| self.size())
    }

    /// A probe of that size is under way.
    pub(super) fn sent(&mut self, id: u32, size: u16, until: Instant) {
        self.probe = Some(Probe { id, size, until });
    }

    /// A probe came through.
    pub(super) fn answered(&mut self, id: u32, now: Instant) {
        if let Some(probe) = self.probe.take_if(|probe| probe.id == id) {
            return self.carried(probe.size, now);
        }
        let late = self.late.iter().find(|(late, _)| *late == id).map(|(_, size)| *size);
        let is_news = |size: &u16| *size > self.in_use || self.step == Step::Confirm && *size == self.in_use;
        if let Some(size) = late.filter(is_news) {
            self.probe.take().into_iter().for_each(|probe| self.remember(probe));
            self.carried(size, now);
        }
    }

    /// A relay says that no more than `size` bytes fit. Perhaps it lies, so what is sent follows from probes alone.
    pub(super) fn hint(&mut self, now: Instant, size: u16) {
        if size < self.in_use {
            self.hint = size;
            self.doubt(now);
        }
    }

    /// Long packets may have been lost: is what fitted still so?
    pub(super) fn doubt(&mut self, now: Instant) {
        if self.probe.is_none() && self.step != Step::Search {
            (self.step, self.lost, self.next) = (Step::Confirm, 0, now);
        }
    }

    /// Its answer may still come.
    fn remember(&mut self, probe: Probe) {
        if self.late.len() == REMEMBERED {
            self.late.pop_front();
        }
        self.late.push_back((probe.id, probe.size));
    }

    fn carried(&mut self, size: u16, now: Instant) {
        self.lost = 0;
        if size > self.in_use {
            self.settled = false;
        }
        self.in_use = size;
        if self.fails <= size {
            self.fails = self.most + 1;
        }
        match self.step {
            _ if size == self.most => {
                (self.settled, self.again) = (true, now + AGAIN);
                self.rest(now);
            }
            Step::Confirm => self.rest(now),
            Step::Search | Step::Raise | Step::Above => self.narrow(now),
        }
    }

    fn size(&self) -> u16 {
        match self.step {
            Step::Confirm => self.in_use,
            Step::Search if (self.in_use + 1..self.fails).contains(&self.hint) => self.hint,
            Step::Search => self.in_use + (self.fails - self.in_use) / 2,
            Step::Raise => self.most,
            Step::Above => (self.in_use + EXACT).min(self.most),
        }
    }

    fn miss(&mut self, now: Instant, size: u16) {
        self.lost += 1;
        self.next = now;
        if self.lost < TRIES {
            return;
        }
        self.lost = 0;
        match self.step {
            Step::Raise => self.step = Step::Above,
            Step::Above => (self.settled, self.step, self.again) = (true, Step::Confirm, now + AGAIN),
            // Nothing shorter is ever sent, so nothing is left to find out.
            Step::Confirm if self.in_use == FLOOR => self.rest(now),
            Step::Confirm => {
                (self.step, self.fails, self.in_use, self.settled) = (Step::Search, size, FLOOR, false);
            }
            Step::Search => {
                self.fails = size;
                self.narrow(now);
            }
        }
    }

    fn narrow(&mut self, now: Instant) {
        (self.step, self.next) = (Step::Search, now);
        if self.fails <= self.in_use + EXACT {
            self.again = now + SOON;
            self.rest(now);
        }
    }

    fn rest(&mut self, now: Instant) {
        self.step = match self.settled {
            false => Step::Above,
            true if self.in_use < self.most => Step::Raise,
            true => Step::Confirm,
        };
        self.next = self.again.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    /// Lets the search run over a path that carries `carries` bytes and answers after `delay`; yields how many probes were sent.
    fn run_late(mtu: &mut Mtu, now: &mut Instant, carries: u16, delay: Duration, time: Duration) -> usize {
        let (mut sent, until) = (0, *now + time);
        let mut answers = VecDeque::new();
        while *now < until {
            while let Some((id, _)) = answers.pop_front_if(|(_, at)| *at <= *now) {
                mtu.answered(id, *now);
            }
            if let Some(size) = mtu.due(*now) {
                sent += 1;
                mtu.sent(sent, size, *now + STEP);
                if size <= carries {
                    answers.push_back((sent, *now + delay));
                }
            }
            *now += STEP / 10;
        }
        sent as usize
    }

    fn run(mtu: &mut Mtu, now: &mut Instant, carries: u16, time: Duration) -> usize {
        run_late(mtu, now, carries, Duration::ZERO, time)
    }

    #[test]
    fn finds_what_fits_and_never_goes_below_the_floor() {
        for (carries, wanted) in
            [(9000, 1420), (1420, 1420), (1419, 1411), (1392, 1384), (1300, 1292), (1000, 1280)]
        {
            let mut now = Instant::now();
            let mut mtu = Mtu::new(1420, now);
            assert_eq!(mtu.sizes(), Sizes { fits: 1420, limit: 1420 }, "hope first");
            run(&mut mtu, &mut now, carries, Duration::from_secs(12));
            let Sizes { fits, limit } = mtu.sizes();
            assert!((wanted..=carries.clamp(FLOOR, 1420)).contains(&fits), "{carries}: {fits}");
            assert_eq!(limit, fits, "{carries}: it is known");
        }
    }

    #[test]
    fn nobody_is_told_less_than_is_found_in_the_end() {
        for (carries, delay) in [(1350, 0), (1300, 50), (1400, 150), (1325, 250), (1420, 400), (1281, 350)] {
            let mut now = Instant::now();
            let mut mtu = Mtu::new(1420, now);
            let mut told = 1420;
            for _ in 0..400 {
                run_late(&mut mtu, &mut now, carries, Duration::from_millis(delay), STEP * 3);
                let Sizes { fits, limit } = mtu.sizes();
                assert!(fits <= carries || told == 1420, "{carries} {delay}");
                told = told.min(limit);
            }
            let Sizes { fits, .. } = mtu.sizes();
            assert!(told >= fits, "{carries} after {delay} ms: {told} was told, {fits} fits");
        }
    }

    #[test]
    fn doubts_do_not_put_off_the_second_look() {
        let mut now = Instant::now();
        let mut mtu = Mtu::new(1420, now);
        run(&mut mtu, &mut now, 0, Duration::from_secs(3));
        for _ in 0..30 {
            run(&mut mtu, &mut now, 1350, Duration::from_millis(500));
            mtu.doubt(now);
        }
        run(&mut mtu, &mut now, 1350, Duration::from_millis(500));
        let Sizes { fits, limit } = mtu.sizes();
        assert!((1342..=1350).contains(&fits) && limit == fits, "{fits}, {limit}");
    }

    #[test]
    fn answers_later_than_patience_count() {
        for delay in [150, 250, 450, 900] {
            let mut now = Instant::now();
            let mut mtu = Mtu::new(1420, now);
            run_late(&mut mtu, &mut now, 1350, Duration::from_millis(delay), Duration::from_secs(30));
            let fits = mtu.sizes().fits;
            assert!((1342..=1350).contains(&fits), "{fits} after {delay} ms");
        }
    }

    #[test]
    fn finds_what_fits_after_a_search_whose_probes_a_full_queue_ate() {
        let mut now = Instant::now();
        let mut mtu = Mtu::new(1420, now);
        run(&mut mtu, &mut now, 0, Duration::from_secs(3));
        assert_eq!(mtu.sizes(), Sizes { fits: FLOOR, limit: 1420 });
        run(&mut mtu, &mut now, 1350, Duration::from_secs(12));
        let Sizes { fits, limit } = mtu.sizes();
        assert!((1342..=1350).contains(&fits) && limit == fits, "{fits}, {limit}");
    }

    #[test]
    fn what_a_relay_says_is_tried_first_and_believed_if_it_fits() {
        for (said, carries) in [(1350, 1350), (1350, 1320), (1290, 1350), (1000, 1350), (1300, 1420)] {
            let mut now = Instant::now();
            let mut mtu = Mtu::new(1420, now);
            run(&mut mtu, &mut now, 1420, Duration::from_secs(5));
            mtu.hint(now, said);
            let probes = run(&mut mtu, &mut now, carries, STEP * 3 + STEP / 2);
            let fits = mtu.sizes().fits;
            let is_right = said >= FLOOR && said <= carries && carries < 1420;
            assert_eq!(fits == said, is_right, "{said}, {carries}: {fits} after {probes} probes");
            run(&mut mtu, &mut now, carries, Duration::from_secs(12));
            let fits = mtu.sizes().fits;
            assert!(fits <= carries && fits + EXACT > carries, "{said}, {carries}: {fits}");
        }
    }

    #[test]
    fn follows_a_path_that_shrinks_and_grows_again() {
        let mut now = Instant::now();
        let mut mtu = Mtu::new(1420, now);
        run(&mut mtu, &mut now, 1420, Duration::from_secs(5));
        mtu.doubt(now);
        run(&mut mtu, &mut now, 1350, Duration::from_secs(12));
        assert!((1342..=1350).contains(&mtu.sizes().fits), "{:?}", mtu.sizes());
        let sent = run(&mut mtu, &mut now, 1350, Duration::from_secs(600));
        assert!(sent <= 80, "{sent} probes in ten minutes");
        assert!((1342..=1350).contains(&mtu.sizes().fits), "asking for more costs nothing that works");
        run(&mut mtu, &mut now, 1420, Duration::from_secs(70));
        assert_eq!(mtu.sizes().fits, 1420);
    }
}
