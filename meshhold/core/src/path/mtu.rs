//! The longest packet that a path carries, found by probes (RFC 8899): no belief in ICMP, which anybody can forge.
//!
//! Owns the search. Starts with the hope that all fits, for nearly always it does. Must not know how a probe travels.

use std::time::{Duration, Instant};

/// Never below this inside (RFC 8200 section 5), in bytes.
pub(super) const FLOOR: u16 = 1280;
/// How exact the search is.
const EXACT: u16 = 8;
/// Losses of one size that mean that it doesn't fit.
const TRIES: u32 = 3;
/// A size that fits is tried again after this, and what didn't fit as well.
const AGAIN: Duration = Duration::from_secs(60);

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
    /// What fits between the floor and what doesn't.
    Search,
    /// Whether all fits now.
    Raise,
}

/// What is known of one path.
#[derive(Clone, Debug)]
pub(super) struct Mtu {
    /// Wanted, and enough.
    most: u16,
    in_use: u16,
    fits: u16,
    fails: u16,
    step: Step,
    lost: u32,
    probe: Option<Probe>,
    next: Instant,
}

impl Mtu {
    /// Of a path that has to carry `most` bytes.
    pub(super) fn new(most: u16, now: Instant) -> Self {
        let most = most.max(FLOOR);
        Self {
            most,
            in_use: most,
            fits: FLOOR,
            fails: most,
            step: Step::Confirm,
            lost: 0,
            probe: None,
            next: now,
        }
    }

    /// Longest packet that may be sent.
    pub(super) fn get(&self) -> u16 {
        self.in_use
    }

    /// When to look again.
    pub(super) fn next(&self) -> Instant {
        self.probe.map_or(self.next, |probe| probe.until)
    }

    /// The size to try at `now`, if it is time.
    pub(super) fn due(&mut self, now: Instant) -> Option<u16> {
        if let Some(probe) = self.probe.take_if(|probe| probe.until <= now) {
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
        let Some(probe) = self.probe.take_if(|probe| probe.id == id) else { return };
        self.lost = 0;
        self.fits = probe.size;
        self.in_use = probe.size;
        match self.step {
            Step::Search => self.narrow(now),
            Step::Confirm | Step::Raise => self.rest(now),
        }
    }

    /// Long packets may have been lost: is what fitted still so?
    pub(super) fn doubt(&mut self, now: Instant) {
        if self.probe.is_none() {
            (self.step, self.next) = (Step::Confirm, now);
        }
    }

    fn size(&self) -> u16 {
        match self.step {
            Step::Confirm => self.in_use,
            Step::Search => self.fits + (self.fails - self.fits) / 2,
            Step::Raise => self.most,
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
            Step::Raise => self.step = Step::Confirm,
            // Nothing shorter is ever sent, so nothing is left to find out.
            Step::Confirm if self.in_use == FLOOR => self.rest(now),
            Step::Confirm => {
                (self.step, self.fails, self.fits, self.in_use) = (Step::Search, size, FLOOR, FLOOR);
            }
            Step::Search => {
                self.fails = size;
                self.narrow(now);
            }
        }
    }

    fn narrow(&mut self, now: Instant) {
        self.next = now;
        if self.fails <= self.fits + EXACT {
            self.rest(now);
        }
    }

    fn rest(&mut self, now: Instant) {
        self.step = if self.in_use < self.most { Step::Raise } else { Step::Confirm };
        self.next = now + AGAIN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    /// Lets the search run over a path that carries `carries` bytes; yields how many probes were sent.
    fn run(mtu: &mut Mtu, now: &mut Instant, carries: u16, time: Duration) -> usize {
        let (mut sent, until) = (0, *now + time);
        while *now < until {
            if let Some(size) = mtu.due(*now) {
                sent += 1;
                mtu.sent(sent, size, *now + STEP);
                if size <= carries {
                    mtu.answered(sent, *now);
                }
            }
            *now += STEP / 2;
        }
        sent as usize
    }

    #[test]
    fn finds_what_fits_and_never_goes_below_the_floor() {
        for (carries, wanted) in
            [(9000, 1420), (1420, 1420), (1419, 1411), (1392, 1384), (1300, 1292), (1000, 1280)]
        {
            let mut now = Instant::now();
            let mut mtu = Mtu::new(1420, now);
            assert_eq!(mtu.get(), 1420, "hope first");
            run(&mut mtu, &mut now, carries, Duration::from_secs(5));
            assert!((wanted..=carries.clamp(FLOOR, 1420)).contains(&mtu.get()), "{carries}: {}", mtu.get());
            assert!(mtu.fits <= carries.max(FLOOR));
        }
    }

    #[test]
    fn follows_a_path_that_shrinks_and_grows_again() {
        let mut now = Instant::now();
        let mut mtu = Mtu::new(1420, now);
        run(&mut mtu, &mut now, 1420, Duration::from_secs(5));
        mtu.doubt(now);
        run(&mut mtu, &mut now, 1350, Duration::from_secs(5));
        assert!((1342..=1350).contains(&mtu.get()), "{}", mtu.get());
        let sent = run(&mut mtu, &mut now, 1350, Duration::from_secs(600));
        assert!(sent <= 45, "{sent} probes in ten minutes");
        assert!((1342..=1350).contains(&mtu.get()), "asking for more costs nothing that works");
        run(&mut mtu, &mut now, 1420, Duration::from_secs(70));
        assert_eq!(mtu.get(), 1420);
    }
}
