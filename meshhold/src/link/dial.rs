//! Whom to dial, where and when.
//!
//! Owns the list of targets with their backoff, and one round of dialing. Must not know what a link is for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use meshhold_core::identity::NodeId;
use meshhold_core::multiaddr::{Family, Host, Multiaddr};
use tokio::task::JoinSet;

use super::socket::canonical;
use super::tls::SERVER_NAME;

const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// For bootstrap peers: when a partition heals, these bring the halves together, and nothing else tells of it.
const BOOTSTRAP_BACKOFF: Duration = Duration::from_secs(5);
/// Failures after which a remembered address is given up.
const REMEMBERED_TRIES: u32 = 6;
/// Addresses of one node that are remembered at once.
const MAX_FOUND: usize = 4;
/// Failures after which a round waits [`PATIENT_ROUND`].
const QUICK_ROUNDS: u32 = 3;
const QUICK_ROUND: Duration = Duration::from_secs(3);
const PATIENT_ROUND: Duration = Duration::from_secs(10);
/// Between the first packets to two addresses of one node.
const STAGGER: Duration = Duration::from_millis(150);
/// Most addresses tried in a round.
const MAX_ADDRESSES: usize = 8;

/// A host and a port, to be resolved anew each round.
pub(super) type Place = (Host, u16);

/// A round of dialing that is due.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) node: NodeId,
    pub(super) places: Vec<Place>,
    pub(super) patience: Duration,
}

impl Round {
    /// One quick try at one address.
    pub(super) fn to(node: NodeId, remote: SocketAddr) -> Self {
        let places = vec![(Host::Address(remote.ip()), remote.port())];
        Self { node, places, patience: QUICK_ROUND }
    }
}

#[derive(Debug)]
struct Target {
    bootstrap: Vec<Place>,
    wanted: Vec<SocketAddr>,
    remembered: Vec<SocketAddr>,
    failures: u32,
    due: Instant,
    dialing: bool,
}

/// The nodes to keep links to.
#[derive(Debug)]
pub(super) struct Targets {
    own: NodeId,
    targets: BTreeMap<NodeId, Target>,
}

impl Targets {
    pub(super) fn new(
        own: NodeId,
        bootstrap: &[Multiaddr],
        remembered: &[(NodeId, SocketAddr)],
        now: Instant,
    ) -> Self {
        let mut targets = Self { own, targets: BTreeMap::new() };
        for peer in bootstrap.iter().filter(|peer| peer.node != own) {
            targets.entry(peer.node, now).bootstrap.push((peer.host.clone(), peer.port));
        }
        for &(node, addr) in remembered.iter().filter(|(node, _)| *node != own) {
            targets.entry(node, now).remembered.push(addr);
        }
        targets
    }

    /// Replaces the members that are wanted. A new address is tried at once.
    pub(super) fn want(&mut self, wanted: Vec<(NodeId, Vec<SocketAddr>)>, now: Instant) {
        let mut wanted: BTreeMap<NodeId, Vec<SocketAddr>> = wanted.into_iter().collect();
        for (node, target) in &mut self.targets {
            let addresses = wanted.remove(node).unwrap_or_default();
            if addresses.iter().any(|addr| !target.wanted.contains(addr)) {
                (target.failures, target.due) = (0, now);
            }
            target.wanted = addresses;
        }
        wanted.remove(&self.own);
        for (node, addresses) in wanted {
            self.entry(node, now).wanted = addresses;
        }
        self.targets.retain(|_, target| target.is_needed());
    }

    /// A node was met at `addr`: dialed at once, and given up as a remembered address is.
    pub(super) fn found(&mut self, node: NodeId, addr: SocketAddr, now: Instant) {
        if node == self.own {
            return;
        }
        let target = self.entry(node, now);
        if !target.remembered.contains(&addr) {
            target.remembered.insert(0, addr);
            target.remembered.truncate(MAX_FOUND);
        }
        (target.failures, target.due) = (0, now);
    }

    pub(super) fn contains(&self, node: &NodeId) -> bool {
        self.targets.contains_key(node)
    }

    /// The rounds to start now; each must be answered by [`Targets::failed`] or [`Targets::linked`].
    pub(super) fn due(&mut self, now: Instant, is_linked: impl Fn(&NodeId) -> bool) -> Vec<Round> {
        let mut rounds = Vec::new();
        for (node, target) in &mut self.targets {
            if !target.dialing && target.due <= now && !is_linked(node) {
                target.dialing = true;
                rounds.push(target.round(*node));
            }
        }
        rounds
    }

    /// When [`Targets::due`] has something again.
    pub(super) fn next(&self, is_linked: impl Fn(&NodeId) -> bool) -> Option<Instant> {
        let waiting = self.targets.iter().filter(|(node, target)| !target.dialing && !is_linked(node));
        waiting.map(|(_, target)| target.due).min()
    }

    /// A round came to nothing; returns how many did in a row. `random` spreads the next one by a quarter.
    pub(super) fn failed(&mut self, node: &NodeId, now: Instant, random: u32) -> u32 {
        let Some(target) = self.targets.get_mut(node) else { return 0 };
        target.dialing = false;
        target.due = now + backoff(target.failures, target.slowest(), random);
        target.failures = target.failures.saturating_add(1);
        if target.failures >= REMEMBERED_TRIES {
            target.remembered.clear();
        }
        let failures = target.failures;
        self.targets.retain(|_, target| target.is_needed());
        failures
    }

    /// There is a link now, whoever dialed it.
    pub(super) fn linked(&mut self, node: &NodeId) {
        let Some(target) = self.targets.get_mut(node) else { return };
        target.remembered.clear();
        (target.dialing, target.failures) = (false, 0);
        self.targets.retain(|_, target| target.is_needed());
    }

    /// The link is gone: dial again, not at once lest two nodes race.
    pub(super) fn lost(&mut self, node: &NodeId, now: Instant, random: u32) {
        let Some(target) = self.targets.get_mut(node) else { return };
        target.due = now + backoff(0, target.slowest(), random);
    }

    fn entry(&mut self, node: NodeId, now: Instant) -> &mut Target {
        self.targets.entry(node).or_insert_with(|| Target {
            bootstrap: Vec::new(),
            wanted: Vec::new(),
            remembered: Vec::new(),
            failures: 0,
            due: now,
            dialing: false,
        })
    }
}

impl Target {
    fn is_needed(&self) -> bool {
        !(self.bootstrap.is_empty() && self.wanted.is_empty() && self.remembered.is_empty())
    }

    fn slowest(&self) -> Duration {
        if self.bootstrap.is_empty() { MAX_BACKOFF } else { BOOTSTRAP_BACKOFF }
    }

    fn round(&self, node: NodeId) -> Round {
        let addresses = self.wanted.iter().chain(&self.remembered);
        let mut places = self.bootstrap.clone();
        places.extend(addresses.map(|addr| (Host::Address(addr.ip()), addr.port())));
        let patience = if self.failures < QUICK_ROUNDS { QUICK_ROUND } else { PATIENT_ROUND };
        Round { node, places, patience }
    }
}

fn backoff(failures: u32, most: Duration, random: u32) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(1 << failures.min(10)).min(most);
    let quarter = doubled / 4;
    doubled - quarter + quarter.mul_f64(2.0 * f64::from(random) / f64::from(u32::MAX))
}

/// Dials every address of a round, a moment apart; the first that proves to be the node wins.
///
/// # Errors
/// When none does within the round's patience, with what went wrong at each address.
pub(super) async fn dial(
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
    round: &Round,
) -> anyhow::Result<quinn::Connection> {
    match tokio::time::timeout(round.patience, race(endpoint, config, round)).await {
        Ok(outcome) => outcome,
        Err(_) => bail!("no answer from node {}; is it running, and is its UDP port reachable?", round.node),
    }
}

async fn race(
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
    round: &Round,
) -> anyhow::Result<quinn::Connection> {
    let (addresses, mut failures) = resolve(&round.places).await;
    let mut attempts = JoinSet::new();
    for (index, addr) in (0u32..).zip(addresses) {
        let (endpoint, config) = (endpoint.clone(), config.clone());
        attempts.spawn(async move {
            tokio::time::sleep(STAGGER * index).await;
            let connecting = endpoint.connect_with(config, addr, SERVER_NAME);
            connecting
                .with_context(|| format!("cannot dial {addr}"))?
                .await
                .with_context(|| format!("at {addr}"))
        });
    }
    while let Some(attempt) = attempts.join_next().await {
        match attempt {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => failures.push(format!("{error:#}")),
            Err(error) => failures.push(error.to_string()),
        }
    }
    bail!("no link to node {}: {}", round.node, failures.join("; "))
}

async fn resolve(places: &[Place]) -> (Vec<SocketAddr>, Vec<String>) {
    let (mut addresses, mut failures) = (Vec::new(), Vec::new());
    for (host, port) in places {
        match host {
            Host::Address(ip) => addresses.push(canonical(SocketAddr::new(*ip, *port))),
            Host::Name(family, name) => match lookup(name, *port, *family).await {
                Ok(found) => addresses.extend(found),
                Err(error) => failures.push(format!("{error:#}")),
            },
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    addresses.retain(|addr| addr.port() != 0 && seen.insert(*addr));
    addresses.truncate(MAX_ADDRESSES);
    (addresses, failures)
}

async fn lookup(name: &str, port: u16, family: Family) -> anyhow::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((name, port)).await;
    let found = found.with_context(|| format!("cannot resolve host name '{name}'"))?;
    let found: Vec<_> = found.filter(|addr| family.admits(addr.ip())).collect();
    if found.is_empty() {
        bail!("host name '{name}' has no address of the kind asked for");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIDDLE: u32 = u32::MAX / 2;

    fn peer(node: u8) -> Multiaddr {
        let host = Host::Address([192, 0, 2, node].into());
        Multiaddr { host, port: 7777, node: NodeId([node; 32]) }
    }

    #[test]
    fn waits_twice_as_long_each_time_up_to_half_a_minute_or_5_s() {
        let now = Instant::now();
        let node = NodeId([1; 32]);
        let addr: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let mut member = Targets::new(NodeId([9; 32]), &[], &[], now);
        member.want(vec![(node, vec![addr])], now);
        let bootstrap = Targets::new(NodeId([9; 32]), &[peer(1), peer(9)], &[], now);
        for (mut targets, most) in [(member, 30_000), (bootstrap, 5000)] {
            for wanted in [500, 1000, 2000, 4000, 8000, 16000, 32000, 64000] {
                assert_eq!(targets.due(now + MAX_BACKOFF, |_| false).len(), 1, "own id is never dialed");
                assert!(targets.next(|_| false).is_none(), "one round at a time");
                targets.failed(&node, now, MIDDLE);
                let wait = targets.next(|_| false).unwrap() - now;
                let wanted = Duration::from_millis(wanted.min(most));
                assert!(wait.abs_diff(wanted) < Duration::from_millis(10), "{wait:?}");
            }
        }
        for random in [0, u32::MAX] {
            let spread = backoff(0, MAX_BACKOFF, random).abs_diff(FIRST_BACKOFF);
            assert_eq!(spread, FIRST_BACKOFF / 4);
        }
    }

    #[test]
    fn dials_what_is_wanted_and_unlinked() {
        let now = Instant::now();
        let (own, member) = (NodeId([9; 32]), NodeId([2; 32]));
        let addr: SocketAddr = "192.0.2.2:1".parse().unwrap();
        let mut targets = Targets::new(own, &[], &[], now);
        targets.want(vec![(member, vec![addr]), (own, vec![addr])], now);
        assert!(targets.due(now, |node| *node == member).is_empty());
        assert_eq!(targets.due(now, |_| false).len(), 1);
        targets.failed(&member, now, MIDDLE);
        assert!(targets.due(now, |_| false).is_empty(), "backs off");
        targets.want(vec![(member, vec![addr, "192.0.2.3:1".parse().unwrap()])], now);
        assert_eq!(targets.due(now, |_| false).len(), 1, "a new address is tried at once");
        targets.want(Vec::new(), now);
        assert!(!targets.contains(&member));
    }

    #[test]
    fn a_found_node_is_dialed_at_once_and_given_up() {
        let now = Instant::now();
        let (own, node) = (NodeId([9; 32]), NodeId([3; 32]));
        let addr = |port| SocketAddr::from(([192, 0, 2, 3], port));
        let mut targets = Targets::new(own, &[], &[], now);
        targets.found(own, addr(1), now);
        assert!(!targets.contains(&own));
        (1..=9).for_each(|port| targets.found(node, addr(port), now));
        let round = targets.due(now, |_| false).pop().unwrap();
        assert_eq!((round.node, round.places.len()), (node, MAX_FOUND));
        targets.failed(&node, now, MIDDLE);
        assert!(targets.due(now, |_| false).is_empty(), "backs off");
        targets.found(node, addr(9), now);
        assert_eq!(targets.due(now, |_| false).len(), 1, "met again");
        (0..REMEMBERED_TRIES).for_each(|_| _ = targets.failed(&node, now, MIDDLE));
        assert!(!targets.contains(&node));
    }

    #[test]
    fn remembered_addresses_are_given_up() {
        let now = Instant::now();
        let node = NodeId([3; 32]);
        let mut targets = Targets::new(NodeId([9; 32]), &[], &[(node, "192.0.2.3:1".parse().unwrap())], now);
        (0..REMEMBERED_TRIES).for_each(|_| _ = targets.failed(&node, now, MIDDLE));
        assert!(!targets.contains(&node));
    }
}
