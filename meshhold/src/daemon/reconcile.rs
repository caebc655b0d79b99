//! Keeps what the host's kernel holds equal to what this node wants, whoever changed it.
//!
//! Owns when that is compared, and what is said: on each change that the kernel tells of, at once where a setting or program
//! is seen to be gone, and every half minute. Must not know how a thing is put back: each part does so by difference.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::Daemon;
use crate::platform::linux::suspects;

/// Changes come in bunches: a flush is many messages.
const BUNCH: Duration = Duration::from_millis(50);
/// How often all is compared without cause.
const LOOK: Duration = Duration::from_secs(30);
/// The same changes so often within [`FIGHT`] are somebody's who wants it otherwise.
const OFTEN: usize = 3;
/// So are so many of one thing, whatever comes with it.
const VERY_OFTEN: usize = 8;
const FIGHT: Duration = Duration::from_secs(60);
/// How long what is fought over waits then.
const PAUSE: Duration = Duration::from_secs(10);

/// When to compare, and what was found lately.
#[derive(Debug)]
pub(super) struct Reconciler {
    due: Instant,
    /// When each thing was put back, and all of a time together.
    mended: BTreeMap<String, VecDeque<Instant>>,
    /// Who is at it, while a fight goes on.
    fight: Option<(Instant, String)>,
    /// What can't be put back.
    failed: Option<String>,
    /// Workers that lost their queue for another reason than that the interface went.
    stopped: BTreeMap<usize, String>,
}

impl Default for Reconciler {
    fn default() -> Self {
        Self {
            due: Instant::now() + LOOK,
            mended: BTreeMap::new(),
            fight: None,
            failed: None,
            stopped: BTreeMap::new(),
        }
    }
}

impl Reconciler {
    /// When to compare next.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Something may have changed.
    pub(super) fn soon(&mut self, now: Instant) {
        let paused = self.fight.as_ref().map(|(until, _)| *until);
        self.due = self.due.min(paused.unwrap_or(now + BUNCH).max(now + BUNCH));
    }

    /// The worker has a queue again.
    pub(super) fn resumed(&mut self, worker: usize) {
        self.stopped.remove(&worker);
    }

    /// Says what was put back, or can't be.
    fn note(&mut self, now: Instant, interface: &str, outcome: &Mended) {
        self.due = now + LOOK;
        self.fight.take_if(|(until, _)| *until + FIGHT < now);
        if !outcome.mended.is_empty() {
            tracing::warn!("put back what was gone or changed: {}", outcome.mended.join(", "));
        }
        self.count(now, &outcome.mended);
        let fought: Vec<&str> = outcome
            .mended
            .iter()
            .map(String::as_str)
            .filter(|thing| self.is_fought(thing, outcome))
            .collect();
        if !fought.is_empty() {
            let text = contested(interface, &fought);
            if self.fight.is_none() {
                tracing::warn!("{text}");
            }
            self.fight = Some((now + PAUSE, text));
        }
        if let Some(error) = &outcome.failed
            && self.failed.as_ref() != Some(error)
        {
            tracing::error!("{error}");
        }
        if outcome.failed.is_some() {
            self.due = now + PAUSE;
        }
        self.failed.clone_from(&outcome.failed);
    }

    fn count(&mut self, now: Instant, mended: &[String]) {
        let is_recent = |at: &Instant| now.duration_since(*at) < FIGHT;
        let together = (!mended.is_empty()).then(|| mended.join(", "));
        for thing in mended.iter().cloned().chain(together).collect::<BTreeSet<_>>() {
            self.mended.entry(thing).or_default().push_back(now);
        }
        self.mended.values_mut().for_each(|times| times.retain(is_recent));
        self.mended.retain(|_, times| !times.is_empty());
    }

    fn is_fought(&self, thing: &str, outcome: &Mended) -> bool {
        let times = |thing: &str| self.mended.get(thing).map_or(0, VecDeque::len);
        times(&outcome.mended.join(", ")) >= OFTEN || times(thing) >= VERY_OFTEN
    }

    /// A sentence for each thing that isn't as it should be.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        let fight = self.fight.as_ref().map(|(_, text)| text.clone());
        fight.into_iter().chain(self.failed.clone()).chain(self.stopped.values().cloned())
    }
}

/// What one comparison did.
#[derive(Debug, Default)]
pub(super) struct Mended {
    /// What was put back, a phrase each.
    pub(super) mended: Vec<String>,
    /// What can't be.
    pub(super) failed: Option<String>,
}

fn contested(interface: &str, things: &[&str]) -> String {
    let running = suspects::running();
    let who = if running.is_empty() {
        "none that is known to do that runs here: look with `ip monitor`".to_owned()
    } else {
        running.join("; ").replace("NAME", interface)
    };
    let things = things.join(", ");
    format!(
        "something on this host takes away again and again what MeshHold needs ({things}); it is put back every {} s. \
         Programs here that manage the network: {who}",
        PAUSE.as_secs()
    )
}

impl Daemon {
    /// Compares what the kernel holds with what is wanted, and puts back what isn't so.
    pub(super) async fn reconcile(&mut self) {
        let setup = self.interface_setup();
        let was_there = self.lan.is_there();
        let outcome = self.lan.reconcile(&setup).await;
        if self.lan.is_there() && !was_there {
            self.stale.addresses = true;
            self.stale.policy = true;
            self.find_endpoints().await;
        }
        if !outcome.mended.is_empty() {
            self.names.compare();
        }
        self.reconciler.note(Instant::now(), &setup.interface, &outcome);
    }

    /// Looks at what changes without the kernel telling.
    pub(super) fn look_at_host(&mut self, now: Instant) {
        if self.lan.is_undone() {
            self.reconciler.soon(now);
        }
    }

    /// A worker lost its queue: mostly because somebody deleted the interface, which is made anew then.
    pub(super) fn on_worker_failed(&mut self, worker: usize, error: &std::io::Error) {
        tracing::debug!("worker {worker} lost its queue: {error}");
        // It may be late to tell of an interface that another has taken the place of: then it says so next.
        if !self.lan.is_gone() {
            let text = format!("worker {worker} stopped: {error}; restart the daemon");
            self.reconciler.stopped.insert(worker, text);
        }
        self.reconciler.soon(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mended(thing: &str) -> Mended {
        Mended { mended: vec![thing.to_owned()], failed: None }
    }

    #[test]
    fn what_is_fought_over_waits_and_is_said() {
        let (mut reconciler, start) = (Reconciler::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in [1, 2] {
            reconciler.note(at(second), "mesh0", &mended("rule"));
            reconciler.soon(at(second));
            assert_eq!(reconciler.due(), at(second) + BUNCH);
        }
        reconciler.note(at(3), "mesh0", &mended("route"));
        assert_eq!(reconciler.warnings().count(), 0, "another thing");
        reconciler.note(at(4), "mesh0", &mended("rule"));
        assert!(reconciler.warnings().any(|text| text.contains("(rule)")));
        reconciler.soon(at(5));
        assert_eq!(reconciler.due(), at(4) + PAUSE);
        reconciler.note(at(14), "mesh0", &Mended::default());
        assert_eq!(reconciler.warnings().count(), 1, "it may come back");
        reconciler.note(at(100), "mesh0", &Mended::default());
        assert_eq!(reconciler.warnings().count(), 0);
    }

    #[test]
    fn what_cannot_be_put_back_is_said_until_it_can() {
        let (mut reconciler, start) = (Reconciler::default(), Instant::now());
        let failed = Mended { mended: Vec::new(), failed: Some("no".to_owned()) };
        reconciler.note(start, "mesh0", &failed);
        assert_eq!(reconciler.warnings().collect::<Vec<_>>(), ["no"]);
        assert_eq!(reconciler.due(), start + PAUSE);
        reconciler.note(start + PAUSE, "mesh0", &Mended::default());
        assert_eq!(reconciler.warnings().count(), 0);
    }
}
