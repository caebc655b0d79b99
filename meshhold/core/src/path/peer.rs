//! The paths to one peer: which are tried, which is in use, and when to doubt it.
//!
//! Owns the rules of choice and all its timing. Must not know other peers, what is sent for a probe, or how.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::birthday::SPARE;
use super::mtu::{Mtu, Sizes};
use super::{Mapping, Path};
use crate::circuit::Traffic;
use crate::wire::{DATA_HEADER, LABEL_HEADER, TAG};

/// Most paths tried for one peer.
const MAX_TRIALS: usize = 24;
/// Decisions that are remembered.
const MAX_DECISIONS: usize = 32;
/// Pauses between the probes of a new path; then it rests until the next punch.
const PAUSES: [u64; 5] = [100, 200, 400, 800, 1_600];
/// After this a probe is lost.
const LOST: Duration = Duration::from_secs(3);
/// For how long after its last packet a circuit is active.
const ACTIVE: Duration = Duration::from_secs(2);
/// Silence after sending, on an active circuit, that raises doubt.
const UNANSWERED: Duration = Duration::from_millis(200);
/// The same where nothing was sent.
const SILENT: Duration = Duration::from_millis(250);
/// The same where the peer answers probes only: perhaps what is sent needs no answer.
const ONE_WAY: Duration = Duration::from_secs(1);
/// Shortest wait for the answer to a doubt.
const PATIENCE: Duration = Duration::from_millis(100);
/// Rounds of doubt that come quickly; after them one a second.
const QUICK_ROUNDS: u32 = 12;
/// For how long after its last packet a circuit's path is doubted.
const GIVEN_UP: Duration = Duration::from_secs(30);
/// For how long after its last packet a direct path is kept open.
const KEPT: Duration = Duration::from_secs(180);
/// Silence that a path is trusted to survive, until it shows that it doesn't.
const KEEPALIVE: Duration = Duration::from_secs(20);
const SHORTEST_KEEPALIVE: Duration = Duration::from_secs(1);
/// How long after a change of path stragglers on the old one mean nothing.
const STRAGGLERS: Duration = Duration::from_millis(500);
/// Pause between attempts to leave a relayed path; doubles up to the longest.
const FIRST_PUNCH: Duration = Duration::from_secs(2);
const LONGEST_PUNCH: Duration = Duration::from_secs(120);
/// What another path of the same kind must be better by: an eighth, and this.
const BETTER_BY: Duration = Duration::from_millis(3);

/// Longest inner packet by a path over the usual Ethernet; where `most` is more, the underlay is not the usual.
fn usual(path: Path, most: u16) -> u16 {
    const ETHERNET: usize = 1500;
    let outer = if path.remote.is_ipv4() { 28 } else { 48 } + path.label.map_or(0, |_| LABEL_HEADER);
    if usize::from(most) > ETHERNET { most } else { (ETHERNET - outer - DATA_HEADER - TAG) as u16 }
}

/// Why a path was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// When.
    pub at: Instant,
    /// The path.
    pub path: Path,
    /// A part of a sentence.
    pub reason: String,
}

/// One path that was tried.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The path.
    pub path: Path,
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// Probes sent.
    pub sent: u32,
    /// Probes answered.
    pub answered: u32,
    /// Last answer.
    pub proven: Option<Instant>,
    /// The peer has sent from there.
    heard: bool,
    pending: VecDeque<(u32, Instant)>,
    pauses: usize,
    next: Option<Instant>,
}

impl Trial {
    fn new(path: Path, now: Instant) -> Self {
        let pending = VecDeque::new();
        let next = Some(now);
        Self { path, rtt: None, sent: 0, answered: 0, proven: None, heard: false, pending, pauses: 0, next }
    }

    /// A few probes from `now` on.
    fn probe(&mut self, now: Instant) {
        (self.pauses, self.next) = (0, Some(now));
    }

    /// One probe now.
    fn probe_once(&mut self, now: Instant) {
        (self.pauses, self.next) = (PAUSES.len(), Some(now));
    }
}

/// A doubt about the path in use.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    since: Instant,
    round: u32,
    next: Instant,
}

/// The paths to one peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) current: Option<Path>,
    pub(super) trials: Vec<Trial>,
    pub(super) decisions: VecDeque<Decision>,
    pub(super) wants_relay: bool,
    pub(super) wants_punch: bool,
    pub(super) wants_renewal: bool,
    pub(super) wants_show: bool,
    /// How the peer's NAT maps it, as it says.
    pub(super) mapping: Mapping,
    /// How many ports of which address were tried at last.
    pub(super) tried: Option<(IpAddr, u32)>,
    /// Our addresses changed, and no probe was answered since.
    is_shaken: bool,
    /// Of the path in use.
    mtu: Mtu,
    most: u16,
    pub(super) left: Option<(Path, Instant)>,
    traffic: Option<Traffic>,
    /// Last datagram with a packet in it.
    used: Instant,
    /// Something was sent since the last sign of life.
    owed: bool,
    /// Only probes were answered lately.
    one_way: bool,
    /// The path in use was known to work.
    verified: Instant,
    /// Datagrams came by another path.
    astray: Option<Instant>,
    doubt: Option<Doubt>,
    /// Its traffic is looked at.
    watched: bool,
    keepalive: Duration,
    punch: (Instant, Duration),
}

impl Peer {
    pub(super) fn new(most: u16, now: Instant) -> Self {
        Self {
            mtu: Mtu::new(most, now),
            most,
            current: None,
            trials: Vec::new(),
            decisions: VecDeque::new(),
            wants_relay: false,
            wants_punch: false,
            wants_renewal: false,
            wants_show: false,
            mapping: Mapping::Unknown,
            tried: None,
            is_shaken: false,
            left: None,
            traffic: None,
            used: now,
            owed: false,
            one_way: false,
            verified: now,
            astray: None,
            doubt: None,
            watched: true,
            keepalive: KEEPALIVE,
            punch: (now + FIRST_PUNCH, FIRST_PUNCH),
        }
    }

    pub(super) fn knows(&self, path: Path) -> bool {
        self.trials.iter().any(|trial| trial.path == path)
    }

    pub(super) fn is_active(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) < ACTIVE
    }

    /// Paths that may work. One that is known and rests is tried again.
    pub(super) fn add(&mut self, now: Instant, paths: impl IntoIterator<Item = Path>) {
        for path in paths {
            match self.trials.iter_mut().find(|trial| path.covers(trial.path)) {
                Some(trial) if trial.next.is_none() && trial.proven.is_none() => trial.probe(now),
                Some(_) => {}
                None => self.begin(now, path),
            }
        }
    }

    /// A path that isn't tried yet.
    pub(super) fn begin(&mut self, now: Instant, path: Path) {
        if !self.knows(path) {
            self.make_room();
            self.trials.push(Trial::new(path, now));
            self.punch.1 = FIRST_PUNCH;
        }
    }

    /// As [`Self::add`], of one by which the peer has sent.
    pub(super) fn heard(&mut self, now: Instant, path: Path) {
        if !self.knows(path) {
            self.pin(now, path);
        }
        self.add(now, [path]);
        self.trials.iter_mut().filter(|trial| trial.path == path).for_each(|trial| trial.heard = true);
    }

    /// The address of a trial that nothing but the peer's word speaks for, and whether no path is known to work.
    pub(super) fn only_named(&self, at: usize) -> Option<(SocketAddr, bool)> {
        let trial = self.trials.get(at)?;
        let known = trial.heard || trial.proven.is_some() || !trial.path.is_direct();
        (!known && self.current != Some(trial.path)).then_some((trial.path.remote, self.doubt.is_some()))
    }

    /// The trial has had its probes for now.
    pub(super) fn skip(&mut self, at: usize) {
        if let Some(trial) = self.trials.get_mut(at) {
            trial.next = None;
        }
    }

    fn make_room(&mut self) {
        if self.trials.len() < MAX_TRIALS {
            return;
        }
        let current = self.current;
        let spare = |trial: &&Trial| Some(trial.path) != current;
        let oldest =
            self.trials.iter().filter(spare).min_by_key(|trial| trial.proven).map(|trial| trial.path);
        self.trials.retain(|trial| Some(trial.path) != oldest);
    }

    pub(super) fn forget(&mut self, now: Instant, path: Path) {
        self.trials.retain(|trial| trial.path != path);
        if self.current == Some(path) {
            self.doubt(now);
        }
    }

    /// Takes `path`.
    pub(super) fn take(&mut self, now: Instant, path: Path, reason: String) {
        if self.current.is_some_and(|current| current.covers(path)) {
            return self.pin(now, path);
        }
        self.left = self.current.replace(path).map(|left| (left, now));
        (self.verified, self.doubt, self.owed, self.astray) = (now, None, false, None);
        self.mtu = Mtu::new(self.most.min(usual(path, self.most)), now);
        self.begin(now, path);
        if !path.is_direct() {
            self.punch = (now + FIRST_PUNCH, FIRST_PUNCH);
        }
        if self.decisions.len() == MAX_DECISIONS {
            self.decisions.pop_front();
        }
        self.decisions.push_back(Decision { at: now, path, reason });
    }

    /// Says more about why the path in use is.
    pub(super) fn remark(&mut self, remark: &str) {
        let Some(decision) = self.decisions.back_mut() else { return };
        let reason = decision.reason.split("; ").next().unwrap_or_default();
        decision.reason = format!("{reason}; {remark}");
    }

    /// Since when a relayed path is in use that carries something.
    pub(super) fn relayed_since(&self) -> Option<Instant> {
        let relayed = self.current.is_some_and(|path| !path.is_direct()) && self.watched;
        self.decisions.back().filter(|_| relayed).map(|decision| decision.at)
    }

    /// When an own port isn't needed any more; `None` while the path in use leaves from it.
    pub(super) fn leaves_port(&self, port: u16) -> Option<Instant> {
        match self.left {
            _ if self.current.is_some_and(|path| path.local_port == port) => None,
            Some((path, at)) if path.local_port == port => Some(at + SPARE),
            _ => Some(self.verified),
        }
    }

    pub(super) fn forget_port(&mut self, port: u16) {
        self.trials.retain(|trial| trial.path.local_port != port);
    }

    /// How a direct path was found, where that took more than knowing its address.
    fn how(&self, path: Path) -> String {
        match self.tried {
            Some((_, count)) if path.local_port != 0 => {
                format!("; the peer met one of {count} ports, as our NAT draws one for each destination")
            }
            Some((address, count)) if path.is_direct() && path.remote.ip() == address => {
                format!("; one of {count} ports tried, as the peer's NAT draws one for each destination")
            }
            _ => String::new(),
        }
    }

    /// A few probes by every path but the one in use.
    pub(super) fn try_all(&mut self, now: Instant) {
        let current = self.current;
        self.trials.iter_mut().filter(|trial| Some(trial.path) != current).for_each(|trial| trial.probe(now));
    }

    /// Whether what comes by `from` may have been sent before the peer knew that we left that path.
    pub(super) fn is_straggler(&self, now: Instant, from: Path) -> bool {
        self.left.is_some_and(|(left, at)| left.covers(from) && now.duration_since(at) < STRAGGLERS)
    }

    /// An authenticated datagram came by `from`.
    pub(super) fn arrived(&mut self, now: Instant, from: Path) {
        let Some(current) = self.current.filter(|current| *current != from) else { return };
        if current.covers(from) {
            return self.pin(now, from);
        }
        if self.is_straggler(now, from) {
            return;
        }
        self.heard(now, from);
        if from.is_direct() || !current.is_direct() {
            return self.take(now, from, format!("the peer sends by it{}", self.how(from)));
        }
        // Perhaps the peer has just not left the relay yet, perhaps it had to go back to it.
        self.astray = Some(now);
        if self.doubt.is_none() {
            self.doubt(now);
        }
    }

    /// A probe was answered; the answer came by `from`.
    pub(super) fn answered(&mut self, now: Instant, id: u32, from: Path) {
        self.mtu.answered(id, now);
        let found = |trial: &Trial| trial.pending.iter().any(|(pending, _)| *pending == id);
        if self.trials.iter().any(|trial| found(trial) && trial.path.covers(from)) {
            self.pin(now, from);
        }
        let Some(trial) = self.trials.iter_mut().find(|trial| found(trial)) else { return };
        let sent = trial.pending.iter().find(|(pending, _)| *pending == id).map_or(now, |(_, sent)| *sent);
        let rtt = now.saturating_duration_since(sent);
        trial.pending.retain(|(pending, _)| *pending != id);
        trial.answered += 1;
        trial.rtt = Some(trial.rtt.map_or(rtt, |old| (old * 3 + rtt) / 4));
        (trial.proven, trial.next) = (Some(now), None);
        let path = trial.path;
        if self.current == Some(path) {
            if self.owed && self.doubt.is_some() {
                // Small ones get through; what about those that carry data?
                self.mtu.doubt(now);
            }
            self.wants_show |= std::mem::take(&mut self.is_shaken);
            (self.verified, self.doubt, self.astray, self.one_way) = (now, None, None, self.owed);
            return;
        }
        self.consider(now, path);
    }

    /// Whether a path that has just proven itself is better than the one in use.
    fn consider(&mut self, now: Instant, path: Path) {
        let Some(current) = self.current else { return };
        if self.doubt.is_some_and(|doubt| now.duration_since(doubt.since) > self.patience() / 2) {
            if current.is_direct() && now.duration_since(self.verified) > self.keepalive / 2 {
                self.keepalive = (self.keepalive / 2).max(SHORTEST_KEEPALIVE);
            }
            return self.take(now, path, format!("no answer by {current}"));
        }
        match (path.is_direct(), current.is_direct()) {
            (true, false) => self.take(now, path, format!("direct and proven{}", self.how(path))),
            (false, true) => {}
            _ => self.compare(now, path, current),
        }
    }

    fn compare(&mut self, now: Instant, path: Path, current: Path) {
        let rtt = |path| self.trials.iter().find(|trial| trial.path == path)?.rtt;
        let (Some(new), Some(old)) = (rtt(path), rtt(current)) else { return };
        // Of two alike IPv6 is taken: there is no NAT to be kept open.
        let alike = path.remote.is_ipv6() && current.remote.is_ipv4() && new < old + BETTER_BY;
        if alike || new + new / 8 + BETTER_BY < old {
            self.take(now, path, format!("it takes {:.2} ms instead of {:.2}", millis(new), millis(old)));
        }
    }

    /// Counts what was sent and received.
    pub(super) fn account(&mut self, now: Instant, total: Traffic) {
        let Some(before) = self.traffic.replace(total) else { return };
        if total.tx_bytes > before.tx_bytes || total.rx_bytes > before.rx_bytes {
            (self.used, self.watched) = (now, true);
        }
        let is_astray = self.astray.is_some_and(|at| now.duration_since(at) < STRAGGLERS);
        if total.rx_packets > before.rx_packets && !is_astray {
            (self.verified, self.owed, self.one_way) = (now, false, false);
            self.doubt = None;
        }
        self.owed |= total.tx_bytes > before.tx_bytes;
    }

    /// This host's addresses or routes changed.
    pub(super) fn shaken(&mut self, now: Instant) {
        self.is_shaken = true;
        self.try_system_choice(now);
        self.doubt(now);
    }

    /// Doubts the path in use: probes it now.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.doubt = Some(Doubt { since: now, round: 0, next: now });
        self.look(now);
    }

    /// Does what is due.
    pub(super) fn look(&mut self, now: Instant) {
        self.lose_old(now);
        match self.doubt {
            Some(doubt) if doubt.next <= now => self.doubt_more(now, doubt),
            None if self.watched && self.doubt_at() <= now => self.begin_to_doubt(now),
            _ => {}
        }
        if self.keepalive_at().is_some_and(|at| at <= now) {
            self.probe_current(now);
        }
        if self.punch_at().is_some_and(|at| at <= now) {
            self.wants_punch = true;
            self.punch = (now + self.punch.1, (self.punch.1 * 2).min(LONGEST_PUNCH));
        }
    }

    /// What the path in use carries.
    pub(super) fn sizes(&self) -> Option<Sizes> {
        self.current.map(|_| self.mtu.sizes())
    }

    /// A relay of the path in use takes no more than so many bytes of UDP payload.
    pub(super) fn too_big(&mut self, now: Instant, carries: u16) {
        let around = (LABEL_HEADER + DATA_HEADER + TAG) as u16;
        self.mtu.hint(now, carries.saturating_sub(around));
    }

    /// The path in use, and the length of a probe that is due.
    pub(super) fn mtu_due(&mut self, now: Instant) -> Option<(Path, u16)> {
        let path = self.current.filter(|_| self.watched && self.doubt.is_none())?;
        Some((path, self.mtu.due(now)?))
    }

    pub(super) fn mtu_sent(&mut self, now: Instant, id: u32, size: u16) {
        self.mtu.sent(id, size, now + self.patience());
    }

    /// How long an answer by the path in use may take.
    fn patience(&self) -> Duration {
        let current = self.trials.iter().find(|trial| Some(trial.path) == self.current);
        PATIENCE.max(current.and_then(|trial| trial.rtt).unwrap_or_default() * 5 / 2)
    }

    /// When something has to be looked at.
    pub(super) fn next(&self) -> Option<Instant> {
        let probe = self.trials.iter().filter_map(|trial| trial.next).min();
        let doubt = self.doubt.map(|doubt| doubt.next).or(self.watched.then(|| self.doubt_at()));
        let size = (self.watched && self.doubt.is_none() && self.current.is_some()).then(|| self.mtu.next());
        [probe, doubt, size, self.keepalive_at(), self.punch_at()].into_iter().flatten().min()
    }

    fn doubt_at(&self) -> Instant {
        match (self.owed, self.one_way) {
            (true, false) => self.verified + UNANSWERED,
            (false, _) => self.verified + SILENT,
            (true, true) => self.verified + ONE_WAY,
        }
    }

    fn begin_to_doubt(&mut self, now: Instant) {
        if !self.is_active(now) {
            self.watched = false;
            return;
        }
        self.doubt = Some(Doubt { since: now, round: 0, next: now });
        // A circuit that has fallen silent is asked once; only what is sent later is reason to ask again.
        self.watched = self.owed;
        if let Some(doubt) = self.doubt {
            self.doubt_more(now, doubt);
        }
    }

    fn doubt_more(&mut self, now: Instant, Doubt { since, round, .. }: Doubt) {
        if now.saturating_duration_since(self.used) > GIVEN_UP {
            self.doubt = None;
            return;
        }
        let pause = if round > QUICK_ROUNDS { Duration::from_secs(1) } else { self.patience() };
        self.doubt = Some(Doubt { since, round: round + 1, next: now + pause });
        if round >= 1 {
            self.try_system_choice(now);
            self.trials.iter_mut().for_each(|trial| trial.probe_once(now));
            self.wants_relay |= round % 8 == 1;
            self.wants_punch |= round % 8 == 2;
            self.wants_renewal |= round % 8 == 3;
        }
        self.probe_current(now);
    }

    fn probe_current(&mut self, now: Instant) {
        let current = self.current;
        let trial = self.trials.iter_mut().find(|trial| Some(trial.path) == current);
        trial.into_iter().for_each(|trial| trial.probe_once(now));
    }

    /// When the path in use needs a datagram, lest a NAT forgets it.
    fn keepalive_at(&self) -> Option<Instant> {
        let current = self.trials.iter().find(|trial| Some(trial.path) == self.current)?;
        let last = current.pending.back().map(|(_, sent)| *sent).into_iter().chain(current.proven);
        let at = last.chain([self.verified]).max()? + self.keepalive;
        (current.path.is_direct() && self.doubt.is_none() && at < self.used + KEPT).then_some(at)
    }

    fn punch_at(&self) -> Option<Instant> {
        let relayed = self.current.is_some_and(|path| !path.is_direct());
        (relayed && self.watched).then_some(self.punch.0)
    }

    fn lose_old(&mut self, now: Instant) {
        for trial in &mut self.trials {
            trial.pending.retain(|(_, sent)| now.duration_since(*sent) < LOST);
        }
    }

    /// Place of a trial whose probe is due.
    pub(super) fn due(&self, now: Instant) -> Option<usize> {
        self.trials.iter().position(|trial| trial.next.is_some_and(|at| at <= now))
    }

    pub(super) fn postpone(&mut self, at: usize, to: Instant) {
        if let Some(trial) = self.trials.get_mut(at) {
            trial.next = Some(to);
        }
    }

    /// A probe with this id is sent; yields where.
    pub(super) fn sent(&mut self, at: usize, id: u32, now: Instant) -> Option<Path> {
        let trial = self.trials.get_mut(at)?;
        trial.next = PAUSES.get(trial.pauses).map(|pause| now + Duration::from_millis(*pause));
        trial.pauses += 1;
        trial.sent += 1;
        trial.pending.push_back((id, now));
        Some(trial.path)
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
