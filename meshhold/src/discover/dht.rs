//! Optional rendezvous in the BitTorrent mainline DHT: members write where they are under keys of the day.
//!
//! A network has a few slots a day, each a mutable item (BEP 44) whose signing key only members can derive: all may write
//! to all of them, a compare-and-swap merges what they write, and a DHT node keeps nothing but 936 sealed bytes.
//! `announce_peer` would take any number of members too, but tells everyone who knows the hash who is in the network.
//! Each round has a DHT client of its own: in between there is no thread, no socket, and nothing served to others.
//!
//! Owns the rounds and their times. Must not know what a slot holds, nor what is done with a node that was found.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use mainline::async_dht::AsyncDht;
use mainline::{Dht, MutableItem, SigningKey};
use meshhold_core::identity::NodeId;
use meshhold_core::session::Secret;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::slots::{Entry, Slot, choose, newest};
use super::{Found, spread};

/// Networks that are looked for at most.
const MOST_NETWORKS: usize = 16;
/// Between rounds of a node that has links to members, and the longest pause of any.
const PERIOD: Duration = Duration::from_secs(20 * 60);
/// Of a node without, which doubles each time.
const EAGER: Duration = Duration::from_secs(2);
/// Between rounds, whatever changes.
const GAP: Duration = Duration::from_secs(30);
/// From a change to the round that it causes: others may follow.
const SETTLE: Duration = Duration::from_millis(500);
/// How long an answer may take. Each place is held by twenty DHT nodes, and one that is gone costs all of it.
const ANSWER: Duration = Duration::from_secs(1);
/// Longest time of a round.
const LIMIT: Duration = Duration::from_secs(120);
/// Seconds after which an entry that is as it should be is written again.
const REFRESH: u64 = 15 * 60;
/// Attempts of a round to write, each after reading what another wrote. The last has no swap condition: DHT nodes that
/// missed a version would refuse forever, and what they all held is in what we write.
const ATTEMPTS: u32 = 3;
/// Versions of a slot that are looked at; honest DHT nodes have one or two.
const VERSIONS: usize = 32;

/// A network whose members are to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// From which the keys of each day are derived.
    pub secret: Secret,
    /// There is no link to any member.
    pub alone: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct View {
    networks: Vec<Wanted>,
    endpoints: Vec<SocketAddr>,
}

/// Rendezvous in the DHT. Dropping it ends it.
#[derive(Debug)]
pub struct DhtDiscovery(watch::Sender<View>);

impl DhtDiscovery {
    /// Starts; nothing is sent before [`DhtDiscovery::set`]. `bootstrap` are DHT nodes as `host:port`, empty for the
    /// well-known ones.
    pub fn start(own: NodeId, bootstrap: Vec<String>, found: mpsc::Sender<Found>) -> Self {
        let (sender, view) = watch::channel(View::default());
        let due = Instant::now() + PERIOD;
        let task = Task { own, bootstrap, found, view, seen: View::default(), pause: EAGER, due, last: None };
        tokio::spawn(task.run());
        Self(sender)
    }

    /// Looks for members of these networks from now on, and tells them of these endpoints.
    pub fn set(&self, mut networks: Vec<Wanted>, endpoints: Vec<SocketAddr>) {
        networks.truncate(MOST_NETWORKS);
        let view = View { networks, endpoints: choose(endpoints) };
        self.0.send_if_modified(|known| {
            let news = *known != view;
            *known = view;
            news
        });
    }
}

struct Task {
    own: NodeId,
    bootstrap: Vec<String>,
    found: mpsc::Sender<Found>,
    view: watch::Receiver<View>,
    seen: View,
    /// Before the next round of a node without links.
    pause: Duration,
    due: Instant,
    last: Option<Instant>,
}

impl Task {
    /// Until [`DhtDiscovery`] is dropped.
    async fn run(mut self) {
        loop {
            tokio::select! {
                changed = self.view.changed() => match changed {
                    Ok(()) => self.look(),
                    Err(_) => return,
                },
                () = tokio::time::sleep_until(self.due.into()) => self.on_time().await,
            }
        }
    }

    /// A link that came up is no reason for a round, one that went down is.
    fn look(&mut self) {
        let view = self.view.borrow_and_update().clone();
        let waits =
            |wanted: &&Wanted| wanted.alone || self.seen.networks.iter().all(|n| n.secret != wanted.secret);
        let news = view.networks.iter().filter(waits).any(|wanted| !self.seen.networks.contains(wanted));
        if news || view.endpoints != self.seen.endpoints {
            let now = Instant::now();
            let soonest = self.last.map_or(now, |last| last + GAP).max(now) + SETTLE;
            (self.pause, self.due) = (EAGER, self.due.min(soonest));
        }
        self.seen = view;
    }

    async fn on_time(&mut self) {
        let now = Instant::now();
        self.last = Some(now);
        if !self.seen.networks.is_empty() {
            self.round().await;
        }
        let alone = self.seen.networks.iter().any(|wanted| wanted.alone);
        let pause = if alone { self.pause } else { PERIOD };
        self.pause = (self.pause * 2).min(PERIOD);
        self.due = Instant::now() + spread(pause);
    }

    /// In a task of its own: what a hostile answer does to the client ends the round and no more.
    async fn round(&self) {
        let mut tasks = JoinSet::new();
        let round = Round { own: self.own, view: self.seen.clone(), found: self.found.clone() };
        tasks.spawn(round.run(self.bootstrap.clone()));
        match tokio::time::timeout(LIMIT, tasks.join_next()).await {
            Ok(Some(Ok(Err(error)))) => tracing::warn!("no rendezvous in the DHT: {error:#}"),
            Ok(Some(Err(error))) => {
                tracing::warn!(%error, "the DHT's client failed; the next round has a new one")
            }
            Ok(_) => {}
            Err(_) => tracing::debug!("the DHT didn't answer in time"),
        }
    }
}

/// One look into the DHT.
struct Round {
    own: NodeId,
    view: View,
    found: mpsc::Sender<Found>,
}

/// What a slot held, and the number of its latest version.
#[derive(Default)]
struct Held {
    entries: Vec<Entry>,
    version: Option<i64>,
}

impl Round {
    async fn run(self, bootstrap: Vec<String>) -> anyhow::Result<()> {
        let dht = client(bootstrap).await?;
        for wanted in &self.view.networks {
            // First: of two that start at a time, one is to see the other.
            self.publish(&dht, &wanted.secret).await;
            if wanted.alone {
                self.tell(search(&dht, &wanted.secret).await);
            }
        }
        Ok(())
    }

    /// Brings our entry up to date.
    async fn publish(&self, dht: &AsyncDht, network: &Secret) {
        if self.view.endpoints.is_empty() {
            return;
        }
        for attempt in 1..=ATTEMPTS {
            let unix = unix_now();
            let slot = Slot::of(network, &self.own, unix);
            let held = read(dht, slot.clone(), unix).await;
            if self.is_current(&held.entries, unix) {
                return;
            }
            match self.write(dht, &slot, held, unix, attempt < ATTEMPTS).await {
                Ok(()) => return,
                Err(error) => tracing::debug!("cannot write to the DHT: {error:#}"),
            }
        }
    }

    fn is_current(&self, entries: &[Entry], unix: u64) -> bool {
        let own = entries.iter().find(|entry| entry.node == self.own);
        own.is_some_and(|own| own.endpoints == self.view.endpoints && own.at + REFRESH > unix)
    }

    async fn write(
        &self,
        dht: &AsyncDht,
        slot: &Slot,
        held: Held,
        unix: u64,
        swap: bool,
    ) -> anyhow::Result<()> {
        let own = Entry { node: self.own, at: unix, endpoints: self.view.endpoints.clone() };
        let others = held.entries.into_iter().filter(|entry| entry.node != self.own);
        let entries: Vec<_> = std::iter::once(own).chain(others).collect();
        let next = held.version.map_or(Some(0), |version| version.checked_add(1));
        let next =
            next.context("a member used the slot's last version number; tomorrow's slot is free again")?;
        let version = next.max(i64::try_from(unix)?);
        let signer = SigningKey::from_bytes(&slot.signer.0);
        let item = MutableItem::new(signer, &slot.seal(&entries), version, None);
        dht.put_mutable(item, held.version.filter(|_| swap)).await?;
        tracing::debug!(version, members = entries.len(), "written to the DHT");
        Ok(())
    }

    fn tell(&self, entries: Vec<Entry>) {
        for Entry { node, endpoints, .. } in entries.into_iter().filter(|entry| entry.node != self.own) {
            tracing::debug!(%node, ?endpoints, "found in the DHT");
            for addr in endpoints {
                // One that is lost because the daemon is busy is there in the next round too.
                let _ = self.found.try_send(Found { node, addr });
            }
        }
    }
}

async fn search(dht: &AsyncDht, network: &Secret) -> Vec<Entry> {
    let unix = unix_now();
    let mut reads = JoinSet::new();
    for slot in Slot::all(network, unix) {
        let dht = dht.clone();
        reads.spawn(async move { read(&dht, slot, unix).await.entries });
    }
    let mut entries = Vec::new();
    while let Some(read) = reads.join_next().await {
        entries.extend(read.unwrap_or_default());
    }
    let found = newest(entries);
    tracing::debug!(members = found.len(), "looked into the DHT");
    found
}

async fn read(dht: &AsyncDht, slot: Slot, unix: u64) -> Held {
    let place = SigningKey::from_bytes(&slot.signer.0).verifying_key().to_bytes();
    let mut items = dht.get_mutable(&place, None, None).take(VERSIONS);
    let mut held = Held::default();
    while let Some(item) = items.next().await {
        held.version = held.version.max(Some(item.seq()));
        held.entries = newest([held.entries, slot.open(item.value(), unix)].concat());
    }
    held
}

/// A client that asks and never answers. Made in a thread: it looks up names, and a daemon that stops must not wait.
async fn client(bootstrap: Vec<String>) -> anyhow::Result<AsyncDht> {
    let (sender, made) = oneshot::channel();
    let make = move || {
        let mut builder = Dht::builder();
        builder.port(0).request_timeout(ANSWER);
        if !bootstrap.is_empty() {
            builder.bootstrap(&bootstrap);
        }
        // Nobody listens any more when the round took too long.
        let _ = sender.send(builder.build());
    };
    std::thread::Builder::new().name("dht-start".to_owned()).spawn(make).context("cannot start a thread")?;
    Ok(made.await.context("the client ended at its start")?.context("cannot open a UDP socket")?.as_async())
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
