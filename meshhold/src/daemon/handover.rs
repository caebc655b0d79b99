//! Keeps programs of this host getting our answers: the host's resolver is told, told again when it forgets, and what
//! programs really get is looked at.
//!
//! Owns the times of that, in a task of its own, as resolvers take theirs. Must not know records or DNS messages.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::platform::linux::names::{self, Hindrance, Settings, Trace, Way, Whose, resolved};

/// How often what programs get is looked at when nothing seems to have changed.
const LOOK: Duration = Duration::from_secs(30);
/// After a failure; doubled by each further one up to [`LOOK`].
const RETRY: Duration = Duration::from_millis(250);
/// However much happens on the host.
const LEAST: Duration = Duration::from_millis(500);
/// Failures that are waited out before anybody is told: resolvers take a moment.
const QUIET: u32 = 3;
/// Somebody who takes it away more often than this within [`LOOK`] is told of, and followed slowly.
const FIGHT: usize = 3;

/// What programs of this host are to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// What resolved is told.
    pub(super) settings: Settings,
    /// The suffix of all names.
    pub(super) suffix: String,
    /// A name of this node, and its addresses: what is asked for to see whether it works.
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
}

/// What they get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Our answers.
    pub(super) works: bool,
    /// What is in the way.
    pub(super) hindrance: Option<Hindrance>,
}

/// The task.
pub(super) struct HandOver {
    wanted: watch::Sender<Option<Wanted>>,
    outcome: watch::Receiver<Outcome>,
    now: Arc<Notify>,
    trace: Trace,
    interface: String,
    task: JoinHandle<()>,
}

impl HandOver {
    pub(super) fn start(interface: &str) -> Self {
        let (wanted, wanted_receiver) = watch::channel(None);
        let (outcome_sender, outcome) = watch::channel(Outcome::default());
        let now = Arc::new(Notify::new());
        let task = tokio::spawn(keep(wanted_receiver, outcome_sender, Arc::clone(&now)));
        Self { wanted, outcome, now, trace: Trace::now(), interface: interface.to_owned(), task }
    }

    /// What is wanted from now on; `None` leaves the resolver alone.
    pub(super) fn want(&self, wanted: Option<Wanted>) {
        self.wanted.send_if_modified(|before| {
            let changed = *before != wanted;
            *before = wanted;
            changed
        });
    }

    /// Compares at once if the host's resolver left a trace since the last call.
    pub(super) fn look(&mut self) {
        let trace = Trace::now();
        if trace != std::mem::replace(&mut self.trace, trace) {
            self.compare();
        }
    }

    /// Compares at once.
    pub(super) fn compare(&self) {
        self.now.notify_one();
    }

    pub(super) fn outcome(&self) -> Outcome {
        self.outcome.borrow().clone()
    }

    /// Leaves the host's resolver as it was.
    pub(super) async fn close(self) {
        let told = self.wanted.borrow().is_some();
        self.task.abort();
        let _ = self.task.await;
        if told && let Err(error) = resolved::take_back(&self.interface).await {
            tracing::warn!("{error}");
        }
    }
}

async fn keep(
    mut wanted: watch::Receiver<Option<Wanted>>,
    outcome: watch::Sender<Outcome>,
    now: Arc<Notify>,
) {
    let mut keeper = Keeper::default();
    loop {
        let current = wanted.borrow_and_update().clone();
        let pause = match &current {
            Some(wanted) => {
                outcome.send_replace(keeper.compare(wanted).await);
                keeper.pause()
            }
            None => LOOK,
        };
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = suspicion(&now) => keeper.suspect(),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// At least [`LEAST`] after it began to be waited for.
async fn suspicion(now: &Notify) {
    tokio::join!(now.notified(), tokio::time::sleep(LEAST));
}

/// What is known from the last comparisons.
#[derive(Default)]
struct Keeper {
    /// What resolved was last told.
    told: Option<Settings>,
    works: bool,
    /// Something may have changed what resolved knows.
    suspicious: bool,
    failures: u32,
    /// When somebody was seen to have taken it away.
    taken: Vec<Instant>,
    /// What the log was last told to be in the way, and whether it was told that all is well.
    said: Option<String>,
    greeted: bool,
}

impl Keeper {
    /// Something may have changed: looks closely, and soon again where that shows nothing good.
    fn suspect(&mut self) {
        self.suspicious = true;
        self.failures = 0;
    }

    /// Tells resolved what it doesn't know, and looks at what programs get.
    async fn compare(&mut self, wanted: &Wanted) -> Outcome {
        let whose = spawn_blocking(Whose::look).await.unwrap_or_default();
        let refused = self.tell(whose, wanted).await;
        let way = Way::read();
        self.works = match (&refused, way.stays_here(whose)) {
            (_, false) => false,
            (None, true) => gets(wanted).await.unwrap_or(whose == Whose::Ours),
            (Some(_), true) => gets(wanted).await.unwrap_or(false),
        };
        self.suspicious = !self.works;
        self.failures = if self.works { 0 } else { self.failures.saturating_add(1) };
        let hindrance = (!self.works).then(|| match refused {
            Some(why) => Hindrance { why, remedy: "systemctl restart systemd-resolved".to_owned() },
            None => way.hindrance(whose, wanted.settings.server, &wanted.suffix),
        });
        self.say(wanted, hindrance.as_ref());
        Outcome { works: self.works, hindrance: hindrance.filter(|_| self.said.is_some()) }
    }

    /// Tells resolved, unless it knows. Yields why it couldn't be told.
    async fn tell(&mut self, whose: Whose, wanted: &Wanted) -> Option<String> {
        if whose != Whose::Ours {
            self.told = None;
            return None;
        }
        let knew = self.told.as_ref() == Some(&wanted.settings);
        if knew && (!self.suspicious || wanted.settings.stand().await) {
            return None;
        }
        if knew && self.is_fight() {
            return Some(format!(
                "something on this host keeps taking the settings of {} away from systemd-resolved (NetworkManager?)",
                wanted.settings.interface
            ));
        }
        match wanted.settings.tell().await {
            Ok(()) => {
                if knew {
                    tracing::info!(
                        "systemd-resolved had lost what it was told of {}: told again",
                        wanted.settings.interface
                    );
                }
                self.told = Some(wanted.settings.clone());
                None
            }
            Err(error) => Some(error.to_string()),
        }
    }

    /// Notes that it was taken away, and says whether that happens too often to be mended each time.
    fn is_fight(&mut self) -> bool {
        let now = Instant::now();
        self.taken.retain(|at| now.duration_since(*at) < LOOK);
        if self.taken.len() >= FIGHT {
            return true;
        }
        self.taken.push(now);
        false
    }

    fn pause(&self) -> Duration {
        match self.failures {
            0 => LOOK,
            failures => RETRY.saturating_mul(1 << (failures - 1).min(8)).min(LOOK),
        }
    }

    /// Tells the log what changed, once it has lasted.
    fn say(&mut self, wanted: &Wanted, hindrance: Option<&Hindrance>) {
        let suffix = &wanted.suffix;
        match hindrance {
            None if self.said.take().is_some() || !self.greeted => {
                self.greeted = true;
                tracing::info!("names in .{suffix} are resolved on this host");
            }
            Some(Hindrance { why, remedy }) if self.failures > QUIET && self.said.as_ref() != Some(why) => {
                tracing::warn!(
                    "programs on this host don't see names in .{suffix}: {why}; addresses work; {remedy}"
                );
                self.said = Some(why.clone());
            }
            _ => {}
        }
    }
}

/// Whether programs get our answer; `None` where it can't be seen.
async fn gets(wanted: &Wanted) -> Option<bool> {
    if wanted.addresses.is_empty() {
        return None;
    }
    let found = names::ask(&wanted.name).await.ok()?;
    Some(found.iter().any(|address| wanted.addresses.contains(address)))
}
