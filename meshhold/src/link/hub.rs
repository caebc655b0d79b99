//! The task that owns all links of a node: it takes what arrives on them and what the daemon asks for.
//!
//! Owns which links exist, what is queued on them and the gossip state. Must not know QUIC's set-up or frames' bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use meshhold_core::gossip::{Gossip, LinkId, Output, Topic};
use meshhold_core::identity::NodeId;
use meshhold_core::record::Envelope;
use meshhold_core::relay;
use quinn::Connection;
use rand_core::{OsRng, RngCore as _};
use tokio::sync::mpsc;

use super::counts::{GossipCounts, count};
use super::dial::{self, Round, Targets};
use super::frame::Frame;
use super::peer::{self, Close, Greeted};
use super::socket::canonical;
use super::{LinkEvent, LinkStatus, Snapshot, endpoint, tls::Tls};
use crate::clock::Endings;
use crate::platform::linux::sys_net;

/// Frames that may wait on one link: a full topic and some more. Beyond, they are lost and a digest repairs it.
const LINK_QUEUE: usize = 4096 + 256;
/// Between summaries of our topics.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);
/// Between looks at addresses and at links nobody needs.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// Age at which a link that we dialed for a reason that is gone is closed.
const SPARE_AGE: Duration = Duration::from_secs(120);
/// Two links that came up within this time were dialed from both ends at once. Later, who dials has no link.
const RACE: Duration = Duration::from_secs(5);
/// How long a link may take to show that it survived a change of addresses.
const DOUBT: Duration = Duration::from_secs(2);
/// Nodes whose address is remembered.
const MAX_REMEMBERED: usize = 32;

/// Links from which on nodes met by chance are not dialed: on a large LAN everybody would be linked to everybody.
const ENOUGH_LINKS: usize = 16;

/// What links and dials report.
#[derive(Debug)]
pub(super) enum Input {
    /// A new link is ready for use.
    Greeted(Box<Greeted>),
    /// A frame arrived.
    Frame { link: LinkId, frame: Frame },
    /// A link ended.
    Closed { link: LinkId, reason: String },
    /// A round of dialing brought no link.
    DialFailed { node: NodeId, error: String },
}

/// What the daemon asks for.
#[derive(Debug)]
pub(super) enum Command {
    Publish(Box<Envelope>),
    Subscribe(Topic),
    Unsubscribe(Topic),
    Want(Vec<(NodeId, Vec<SocketAddr>)>),
    Say(NodeId, relay::Message),
    Shaken,
    JudgeAgain,
    Found(NodeId, SocketAddr),
}

#[derive(Debug)]
struct Link {
    node: NodeId,
    connection: Connection,
    queue: mpsc::Sender<Frame>,
    outgoing: bool,
    instance: u64,
    remote: SocketAddr,
    since: Instant,
    doubt: Option<Doubt>,
}

/// This host's addresses changed: does the link still work?
#[derive(Clone, Copy, Debug)]
struct Doubt {
    until: Instant,
    /// What had been received by then.
    received: u64,
}

/// What the daemon may look at without asking the task.
#[derive(Debug)]
pub(super) struct State {
    gossip: Gossip,
    counts: GossipCounts,
    links: BTreeMap<LinkId, Link>,
    by_node: BTreeMap<NodeId, LinkId>,
    /// Latest first.
    remembered: Vec<(NodeId, SocketAddr)>,
    /// Envelopes from disk whose topic nobody has subscribed to yet.
    saved: Vec<Arc<Envelope>>,
}

/// [`State`] shared between the task and [`super::Links`].
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<Mutex<State>>);

/// The parts that dialing needs.
#[derive(Clone, Debug)]
pub(super) struct Dialer {
    pub(super) own: NodeId,
    pub(super) endpoint: quinn::Endpoint,
    pub(super) tls: Tls,
    pub(super) with_mac: bool,
    pub(super) instance: u64,
    pub(super) inputs: mpsc::Sender<Input>,
}

/// The task's own part.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) dialer: Dialer,
    pub(super) targets: Targets,
    pub(super) shared: Shared,
    pub(super) events: mpsc::Sender<LinkEvent>,
    pub(super) next_link: LinkId,
    /// This node relays.
    pub(super) relays: bool,
    /// By what envelopes end.
    pub(super) endings: Endings,
}

impl Shared {
    pub(super) fn new(gossip: Gossip, snapshot: Snapshot) -> Self {
        let Snapshot { links: mut remembered, envelopes: saved } = snapshot;
        remembered.truncate(MAX_REMEMBERED);
        let (links, by_node) = (BTreeMap::new(), BTreeMap::new());
        Self(Arc::new(Mutex::new(State {
            gossip,
            counts: GossipCounts::default(),
            links,
            by_node,
            remembered,
            saved,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(super) fn status(&self) -> Vec<LinkStatus> {
        let status = |link: &Link| LinkStatus {
            node: link.node,
            remote: link.remote,
            local: link.connection.local_ip().and_then(sys_net::own_address),
            outgoing: link.outgoing,
            rtt: link.connection.rtt(),
            since: link.since,
        };
        self.links.values().map(status).collect()
    }

    pub(super) fn gossip(&self) -> GossipCounts {
        GossipCounts { envelopes: self.gossip.store().count() as u64, ..self.counts }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let envelopes = self.gossip.store().chain(&self.saved).cloned().collect();
        Snapshot { links: self.remembered.clone(), envelopes }
    }

    fn subscribe(&mut self, topic: Topic) -> Vec<Output> {
        let mut outputs = self.gossip.subscribe(topic);
        outputs.extend(self.restore());
        outputs
    }

    /// Takes back the envelopes from disk that are of our topics. Those that seem to have expired wait: the clock may be set yet.
    fn restore(&mut self) -> Vec<Output> {
        let now = now_unix();
        let saved = std::mem::take(&mut self.saved).into_iter();
        let (ours, others): (Vec<_>, Vec<_>) =
            saved.partition(|saved| self.gossip.takes_part(&saved.topic) && saved.expires > now);
        self.saved = others;
        ours.into_iter().flat_map(|envelope| self.gossip.restore(now, envelope)).collect()
    }

    fn remember(&mut self, node: NodeId, addr: SocketAddr) {
        self.remembered.retain(|(known, _)| *known != node);
        self.remembered.insert(0, (node, addr));
        self.remembered.truncate(MAX_REMEMBERED);
    }

    fn send(&mut self, link: LinkId, frame: Frame) {
        let Some(queue) = self.links.get(&link).map(|link| &link.queue) else { return };
        if queue.try_send(frame).is_err() {
            self.counts.lost += 1;
            tracing::debug!(link, "link is too slow, a message is lost until the next digest");
        }
    }

    /// Asks all far ends for a sign of life.
    fn doubt_all(&mut self, now: Instant) {
        for link in self.links.values_mut() {
            let received = link.connection.stats().udp_rx.datagrams;
            link.doubt = Some(Doubt { until: now + DOUBT, received });
        }
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        links.into_iter().for_each(|link| self.send(link, Frame::Relay(relay::Message::Here)));
    }

    fn next_doubt(&self) -> Option<Instant> {
        self.links.values().filter_map(|link| Some(link.doubt?.until)).min()
    }

    /// Takes note of a far end that is at another address now, and tells it.
    fn follow(&mut self, id: LinkId) -> Vec<LinkEvent> {
        let Some(link) = self.links.get_mut(&id) else { return Vec::new() };
        let (node, remote) = (link.node, canonical(link.connection.remote_address()));
        if std::mem::replace(&mut link.remote, remote) == remote {
            return Vec::new();
        }
        self.send(id, Frame::Observed { address: remote });
        vec![LinkEvent::Moved { node, remote }]
    }

    /// Sends what is to be sent; returns what the daemon is to hear.
    fn carry_out(&mut self, outputs: Vec<Output>) -> Vec<LinkEvent> {
        let mut events = Vec::new();
        for output in outputs {
            match output {
                Output::Send { link, message } => {
                    count(&mut self.counts.sent, &message);
                    self.send(link, Frame::Gossip(message));
                }
                Output::Deliver(envelope) => events.push(LinkEvent::Envelope(envelope.as_ref().clone())),
                Output::Violation { link, reason } => self.violation(link, reason),
            }
        }
        events
    }

    fn violation(&mut self, link: LinkId, reason: &'static str) {
        let Some(link) = self.links.get(&link) else { return };
        self.counts.violations += 1;
        tracing::info!(node = %link.node, reason, "link closed: the far end broke the protocol");
        Close::Violation.apply(&link.connection, reason);
    }
}

impl Hub {
    /// Runs until [`super::Links`] is dropped.
    pub(super) async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        mut commands: mpsc::UnboundedReceiver<Command>,
    ) {
        let mut summaries = tokio::time::interval(SUMMARY_INTERVAL);
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        loop {
            self.dial_due();
            let next = self.next_dial().into_iter().chain(self.shared.lock().next_doubt()).min();
            let events = tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.on_input(input),
                    None => break,
                },
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                _ = summaries.tick() => self.on_summaries(),
                _ = housekeeping.tick() => self.keep_house(),
                () = sleep_until(next) => self.end_dead_links(),
            };
            for event in events {
                // Nobody listens when the daemon stops; the commands end then as well.
                let _ = self.events.send(event).await;
            }
        }
        self.dialer.endpoint.close(0u32.into(), b"stopping");
    }

    fn on_command(&mut self, command: Command) -> Vec<LinkEvent> {
        let mut state = self.shared.lock();
        let outputs = match command {
            Command::Publish(envelope) => state.gossip.publish(now_unix(), *envelope),
            Command::Subscribe(topic) => state.subscribe(topic),
            Command::Unsubscribe(topic) => {
                state.gossip.unsubscribe(&topic);
                Vec::new()
            }
            Command::Say(node, message) => {
                let link = state.by_node.get(&node).copied();
                link.into_iter().for_each(|link| state.send(link, Frame::Relay(message.clone())));
                Vec::new()
            }
            Command::JudgeAgain => {
                let mut outputs = state.restore();
                outputs.extend(state.gossip.judge_again());
                outputs
            }
            Command::Shaken => {
                state.doubt_all(Instant::now());
                Vec::new()
            }
            Command::Found(node, addr) => {
                if state.links.len() < ENOUGH_LINKS && !state.by_node.contains_key(&node) {
                    self.targets.found(node, addr, Instant::now());
                }
                Vec::new()
            }
            Command::Want(wanted) => {
                self.targets.want(wanted, Instant::now());
                let State { gossip, by_node, .. } = &mut *state;
                let needed = by_node.iter().filter(|(node, _)| self.targets.contains(node));
                needed.flat_map(|(_, link)| gossip.introduce(*link)).collect()
            }
        };
        state.carry_out(outputs)
    }

    fn on_input(&mut self, input: Input) -> Vec<LinkEvent> {
        match input {
            Input::Greeted(greeted) => self.on_greeted(*greeted),
            Input::Frame { link, frame } => self.on_frame(link, frame),
            Input::Closed { link, reason } => self.on_closed(link, &reason),
            Input::DialFailed { node, error } => {
                self.on_dial_failed(node, &error);
                Vec::new()
            }
        }
    }

    fn on_frame(&mut self, link: LinkId, frame: Frame) -> Vec<LinkEvent> {
        let mut state = self.shared.lock();
        let Some(from) = state.links.get(&link).map(|link| link.node) else { return Vec::new() };
        let mut events = state.follow(link);
        events.extend(self.on_frame_of(&mut state, from, link, frame));
        events
    }

    fn on_frame_of(&self, state: &mut State, from: NodeId, link: LinkId, frame: Frame) -> Vec<LinkEvent> {
        match frame {
            Frame::Hello { .. } => {
                state.violation(link, "a second Hello");
                Vec::new()
            }
            Frame::Observed { address } => {
                vec![LinkEvent::Reflexive { from, addr: canonical(address) }]
            }
            Frame::Relay(message) => {
                let both_relay = self.relays && matches!(message, relay::Message::Ways(_));
                let outputs = if both_relay { state.gossip.carry(link) } else { Vec::new() };
                let mut events = state.carry_out(outputs);
                events.push(LinkEvent::Relay { from, message });
                events
            }
            Frame::Gossip(message) => {
                count(&mut state.counts.received, &message);
                let outputs = state.gossip.handle(now_unix(), link, message);
                state.carry_out(outputs)
            }
        }
    }

    fn on_greeted(&mut self, greeted: Greeted) -> Vec<LinkEvent> {
        let node = greeted.node;
        let mut state = self.shared.lock();
        let old = state.by_node.get(&node).and_then(|id| Some((*id, state.links.get(id)?)));
        if let Some((id, old)) = old {
            if self.is_better(old, &greeted) {
                Close::Duplicate.apply(&greeted.connection, "another link stays");
                self.targets.linked(&node);
                return Vec::new();
            }
            Close::Duplicate.apply(&old.connection, "another link stays");
            state.links.remove(&id);
            state.gossip.link_down(id);
        }
        self.next_link += 1;
        let link = self.next_link;
        let (queue, frames) = mpsc::channel(LINK_QUEUE);
        let (remote, outgoing, rtt) = (greeted.remote(), greeted.outgoing, greeted.connection.rtt());
        tracing::debug!(%node, %remote, outgoing, "link up");
        state.links.insert(
            link,
            Link {
                node,
                connection: greeted.connection.clone(),
                queue,
                outgoing,
                instance: greeted.instance,
                remote,
                since: Instant::now(),
                doubt: None,
            },
        );
        state.by_node.insert(node, link);
        tokio::spawn(greeted.serve(link, frames, self.dialer.inputs.clone()));
        state.send(link, Frame::Observed { address: remote });
        state.gossip.link_up(now_unix(), link, node);
        let needed = outgoing || self.targets.contains(&node);
        if needed {
            state.remember(node, remote);
        }
        let outputs = if needed { state.gossip.introduce(link) } else { Vec::new() };
        self.targets.linked(&node);
        let mut events = vec![LinkEvent::Up { node, remote, rtt }];
        events.extend(state.carry_out(outputs));
        events
    }

    /// Both ends judge alike: a link to a node's former life never stays, nor one that the dialer had lost; of two in one
    /// direction the later one does, else the one that the lower node id dialed.
    fn is_better(&self, old: &Link, new: &Greeted) -> bool {
        let both_dialed = old.since.elapsed() < RACE;
        if old.instance != new.instance || old.outgoing == new.outgoing || !both_dialed {
            return false;
        }
        old.outgoing == (self.dialer.own < old.node)
    }

    fn on_closed(&mut self, link: LinkId, reason: &str) -> Vec<LinkEvent> {
        let mut state = self.shared.lock();
        let Some(closed) = state.links.remove(&link) else { return Vec::new() };
        let node = closed.node;
        state.gossip.link_down(link);
        state.by_node.remove(&node);
        self.targets.lost(&node, Instant::now(), OsRng.next_u32());
        tracing::debug!(%node, reason, "link down");
        vec![LinkEvent::Down { node }]
    }

    fn on_dial_failed(&mut self, node: NodeId, error: &str) {
        match self.targets.failed(&node, Instant::now(), OsRng.next_u32()) {
            3 => tracing::warn!("{error}; trying on"),
            _ => tracing::debug!("{error}"),
        }
    }

    fn on_summaries(&mut self) -> Vec<LinkEvent> {
        let ends = self.endings.by(Instant::now(), now_unix());
        let mut state = self.shared.lock();
        state.gossip.expire(ends);
        state.saved.retain(|saved| saved.expires > ends);
        let outputs = state.gossip.summaries();
        state.carry_out(outputs)
    }

    /// Tells peers when their address changed, and closes links that we dialed and need no more.
    fn keep_house(&mut self) -> Vec<LinkEvent> {
        let mut state = self.shared.lock();
        let several = state.links.len() > 1;
        for link in state.links.values() {
            let spare = link.outgoing && !self.targets.contains(&link.node);
            if spare && several && link.since.elapsed() > SPARE_AGE {
                Close::Done.apply(&link.connection, "no longer needed");
            }
        }
        let links: Vec<LinkId> = state.links.keys().copied().collect();
        links.into_iter().flat_map(|link| state.follow(link)).collect()
    }

    /// Closes what has not been heard of since this host's addresses changed, and dials anew.
    fn end_dead_links(&mut self) -> Vec<LinkEvent> {
        let mut dead = Vec::new();
        let now = Instant::now();
        for link in self.shared.lock().links.values_mut() {
            let Some(doubt) = link.doubt.take_if(|doubt| doubt.until <= now) else { continue };
            if link.connection.stats().udp_rx.datagrams == doubt.received {
                Close::Done.apply(&link.connection, "no answer since our addresses changed");
                dead.push((link.node, link.remote));
            }
        }
        // Those that dialed us may never hear that they have to dial again.
        for (node, remote) in dead.into_iter().filter(|(node, _)| !self.targets.contains(node)) {
            tokio::spawn(self.dialer.clone().run(Round::to(node, remote)));
        }
        Vec::new()
    }

    fn dial_due(&mut self) {
        let state = self.shared.lock();
        for round in self.targets.due(Instant::now(), |node| state.by_node.contains_key(node)) {
            tokio::spawn(self.dialer.clone().run(round));
        }
    }

    fn next_dial(&self) -> Option<Instant> {
        let state = self.shared.lock();
        self.targets.next(|node| state.by_node.contains_key(node))
    }
}

impl Dialer {
    async fn run(self, round: Round) {
        let node = round.node;
        let input = match self.link(&round).await {
            Ok(greeted) => Input::Greeted(Box::new(greeted)),
            Err(error) => Input::DialFailed { node, error: format!("{error:#}") },
        };
        // The hub is gone only when everything ends.
        let _ = self.inputs.send(input).await;
    }

    async fn link(&self, round: &Round) -> anyhow::Result<Greeted> {
        let config = endpoint::client_config(&self.tls, round.node, self.with_mac)?;
        let connection = dial::dial(self.endpoint.clone(), config, round).await?;
        peer::greet(connection, None, self.instance).await
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
