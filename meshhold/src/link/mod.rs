//! Links: authenticated QUIC connections to other nodes, members or not, on the shared UDP port.
//!
//! Owns the control socket, whom to dial, and the gossip that runs over links. Must not know network
//! keys, the packet path or the configuration file; what an envelope says stays sealed here.

mod admit;
mod counts;
mod dial;
mod endpoint;
mod frame;
mod hub;
mod packed;
mod peer;
mod reset;
mod socket;
mod swarm;
mod tls;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use meshhold_core::gossip::{Gossip, Limits, Topic};
use meshhold_core::identity::{Identity, NodeId};
use meshhold_core::multiaddr::Multiaddr;
use meshhold_core::path::Path;
use meshhold_core::record::Envelope;
use meshhold_core::relay;
use rand_core::{OsRng, RngCore as _};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use admit::{Admission, Verdict};
pub use counts::{ByKind, GossipCounts, KINDS};
use dial::Targets;
use hub::{Command, Dialer, Hub, Input, Shared};
use reset::ResetKey;
use socket::LinkSocket;
use swarm::SwarmKey;
use tls::Tls;

use crate::clock::Endings;

/// Events that may wait for the daemon.
/// How long far ends are given to hear that links close.
const GOODBYE: Duration = Duration::from_millis(250);
const EVENT_QUEUE: usize = 1024;
/// Frames that may wait for the hub.
const INPUT_QUEUE: usize = 256;

/// What [`Links::start`] needs.
#[derive(Debug)]
pub struct LinksConfig {
    /// This node's key pair.
    pub identity: Identity,
    /// Closes the underlay: only nodes with the same key get any answer.
    pub swarm_key: Option<[u8; 32]>,
    /// Nodes to keep links to, always.
    pub bootstrap: Vec<Multiaddr>,
    /// This node relays: other relays are told what its links talk about.
    pub relays: bool,
    /// What [`Links::snapshot`] gave in an earlier life.
    pub snapshot: Snapshot,
}

/// What links would like to find again after a restart.
#[derive(Clone, Debug, Default, PartialEq, Hash, Serialize, Deserialize)]
pub struct Snapshot {
    /// Nodes that we had links to and their address, latest first.
    pub links: Vec<(NodeId, SocketAddr)>,
    /// Envelopes of the topics subscribed to.
    #[serde(with = "packed")]
    pub envelopes: Vec<Arc<Envelope>>,
}

/// What happens on links and on the control socket.
#[derive(Clone, Debug)]
pub enum LinkEvent {
    /// A link to `node` is there, or took the place of another one to it.
    Up {
        /// The far end.
        node: NodeId,
        /// Its address.
        remote: SocketAddr,
        /// Round-trip time so far.
        rtt: Duration,
    },
    /// The far end of the link to `node` is at another address now.
    Moved {
        /// The far end.
        node: NodeId,
        /// Its address.
        remote: SocketAddr,
    },
    /// The far end of a link says something about relayed paths.
    Relay {
        /// Who.
        from: NodeId,
        /// What.
        message: relay::Message,
    },
    /// The link to `node` is gone.
    Down {
        /// The far end.
        node: NodeId,
    },
    /// News of a topic subscribed to. A member signed it, which one is for the membership to check.
    Envelope(Envelope),
    /// The node `from` sees our datagrams come from `addr`. It may lie.
    Reflexive {
        /// Who says so.
        from: NodeId,
        /// Our address as seen there.
        addr: SocketAddr,
    },
    /// A datagram that is not QUIC's. Some are lost when they are not taken fast enough.
    Circuit {
        /// Where it came from, and the address that it came to.
        from: Path,
        /// The whole datagram.
        datagram: Vec<u8>,
    },
}

/// One link as it is now.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// The far end.
    pub node: NodeId,
    /// Its address.
    pub remote: SocketAddr,
    /// The own address that it was dialed at, where the far end did that.
    pub local: Option<IpAddr>,
    /// We dialed it.
    pub outgoing: bool,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// When it came up.
    pub since: Instant,
}

/// All links of this node. Dropping it closes them.
#[derive(Debug)]
pub struct Links {
    socket: Arc<LinkSocket>,
    endpoint: quinn::Endpoint,
    shared: Shared,
    commands: mpsc::UnboundedSender<Command>,
}

impl Links {
    /// Takes over the control socket and starts to dial. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the socket or QUIC can't be set up.
    pub fn start(
        control_socket: std::net::UdpSocket,
        config: LinksConfig,
    ) -> anyhow::Result<(Self, mpsc::Receiver<LinkEvent>)> {
        let LinksConfig { identity, swarm_key, bootstrap, relays, snapshot } = config;
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let swarm = swarm_key.as_ref().map(SwarmKey::new);
        let socket = LinkSocket::new(control_socket, swarm, events.clone())
            .context("cannot use the UDP socket for links")?;
        let socket = Arc::new(socket);
        let own = identity.node_id();
        let reset = ResetKey::new(&identity.seed().0);
        let tls = Tls::new(Arc::new(identity));
        let endpoint = endpoint::open(socket.clone(), &tls, reset)?;
        let (inputs, from_links) = mpsc::channel(INPUT_QUEUE);
        let (commands, from_daemon) = mpsc::unbounded_channel();
        let targets = Targets::new(own, &bootstrap, &snapshot.links, Instant::now());
        let shared = Shared::new(Gossip::new(Limits::default()), snapshot);
        let with_mac = socket.has_mac();
        let instance = OsRng.next_u64();
        let dialer = Dialer { own, endpoint: endpoint.clone(), tls, with_mac, instance, inputs };
        tokio::spawn(accept(dialer.clone()));
        // Nothing has ended in the first minute: this host's clock may be ahead until it hears of the time.
        let endings = Endings::new(Instant::now(), 0);
        let hub = Hub { dialer, targets, shared: shared.clone(), events, next_link: 0, relays, endings };
        tokio::spawn(hub.run(from_links, from_daemon));
        Ok((Self { socket, endpoint, shared, commands }, receiver))
    }

    /// Sends a datagram of a circuit from the shared port, as it is; lost when the socket is full.
    pub fn send_datagram(&self, path: Path, datagram: &[u8]) {
        self.socket.send(path, datagram);
    }

    /// Treats a datagram that reached a worker's socket as if it had come to this one.
    pub fn inject(&self, from: SocketAddr, datagram: Vec<u8>) {
        self.socket.inject(from, datagram);
    }

    /// Spreads an envelope of a topic subscribed to.
    pub fn publish(&self, envelope: Envelope) {
        self.command(Command::Publish(Box::new(envelope)));
    }

    /// Says something about relayed paths on the link to `node`, if there is one.
    pub fn say(&self, node: NodeId, message: relay::Message) {
        self.command(Command::Say(node, message));
    }

    /// This host's addresses changed: links that don't survive it are dialed anew.
    pub fn shaken(&self) {
        self.command(Command::Shaken);
    }

    /// This host's clock was set: what is known of all topics comes as events once more, and what the far ends know besides.
    pub fn judge_again(&self) {
        self.command(Command::JudgeAgain);
    }

    /// Takes part in a topic. What is known of it comes as events.
    pub fn subscribe(&self, topic: Topic) {
        self.command(Command::Subscribe(topic));
    }

    /// Leaves a topic; what is held of it is kept for others until it expires.
    pub fn unsubscribe(&self, topic: Topic) {
        self.command(Command::Unsubscribe(topic));
    }

    /// Replaces the members to keep links to: see [`choose_members`] for a good choice of a few.
    pub fn want_peers(&self, wanted: Vec<(NodeId, Vec<SocketAddr>)>) {
        self.command(Command::Want(wanted));
    }

    /// Dials a node that was met at `addr`, if there is no link to it and there aren't plenty of others.
    pub fn found(&self, node: NodeId, addr: SocketAddr) {
        self.command(Command::Found(node, addr));
    }

    /// The links as they are now.
    pub fn status(&self) -> Vec<LinkStatus> {
        self.shared.lock().status()
    }

    /// What gossip did so far.
    pub fn gossip(&self) -> GossipCounts {
        self.shared.lock().gossip()
    }

    /// What to keep on disk for the next start.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.lock().snapshot()
    }

    /// Closes all links and waits until the far ends were told, a moment at most: a restart is waiting.
    pub async fn close(self) {
        self.endpoint.close(0u32.into(), b"stopping");
        // The rest is for the far ends' idle timeout.
        let _ = tokio::time::timeout(GOODBYE, self.endpoint.wait_idle()).await;
    }

    fn command(&self, command: Command) {
        // The hub ends only after the sender is dropped.
        let _ = self.commands.send(command);
    }
}

/// Of a network's members, the `count` to keep links to: the next in the order of node ids after `own`, and
/// then at equal distances round the circle, so that the links of all members hang together.
pub fn choose_members(own: NodeId, members: &[NodeId], count: usize) -> Vec<NodeId> {
    let mut circle: Vec<NodeId> = members.iter().copied().filter(|node| *node != own).collect();
    circle.sort_unstable();
    circle.dedup();
    let after = circle.partition_point(|node| *node < own);
    circle.rotate_left(after);
    let count = count.min(circle.len());
    (0..count).filter_map(|step| circle.get(step * circle.len() / count).copied()).collect()
}

/// Lets other nodes in, within the bounds of [`admit`].
async fn accept(dialer: Dialer) {
    let admission = Admission::default();
    while let Some(incoming) = dialer.endpoint.accept().await {
        let remote = incoming.remote_address();
        match admission.judge(remote.ip(), incoming.remote_address_validated(), Instant::now()) {
            Verdict::Accept(permit) => {
                tokio::spawn(greet_incoming(incoming, permit, dialer.instance, dialer.inputs.clone()));
            }
            Verdict::Prove => drop(incoming.retry().map_err(|error| error.into_incoming().ignore())),
            Verdict::Refuse => incoming.refuse(),
        }
    }
}

async fn greet_incoming(
    incoming: quinn::Incoming,
    permit: admit::Permit,
    instance: u64,
    inputs: mpsc::Sender<Input>,
) {
    let remote = incoming.remote_address();
    let greeted = async { peer::greet(incoming.await?, Some(permit), instance).await };
    match greeted.await {
        // The hub is gone only when everything ends.
        Ok(greeted) => drop(inputs.send(Input::Greeted(Box::new(greeted))).await),
        Err(error) => tracing::debug!(%remote, error = format!("{error:#}"), "no link"),
    }
}
