//! Real nodes on loopback sockets: links, gossip over them, and what strangers can do to the port.

mod attack;
mod gossip;

use std::net::UdpSocket;

use meshhold_core::multiaddr::Host;

use super::*;

/// More than any condition here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A started node and its events.
struct Node {
    links: Links,
    events: mpsc::Receiver<LinkEvent>,
    id: NodeId,
    addr: SocketAddr,
}

fn identity(seed: u8) -> Identity {
    Identity::from_seed([seed; 32])
}

fn socket(bind: &str) -> UdpSocket {
    UdpSocket::bind(bind).unwrap()
}

/// Where `socket` is reached on loopback.
fn loopback(socket: &UdpSocket) -> SocketAddr {
    SocketAddr::new([127, 0, 0, 1].into(), socket.local_addr().unwrap().port())
}

fn config(seed: u8, bootstrap: &[&Node]) -> LinksConfig {
    let bootstrap = bootstrap.iter().map(|node| node.multiaddr()).collect();
    LinksConfig {
        identity: identity(seed),
        swarm_key: None,
        bootstrap,
        relays: false,
        snapshot: Snapshot::default(),
    }
}

impl Node {
    fn new(seed: u8, bootstrap: &[&Node]) -> Self {
        Self::start(socket("127.0.0.1:0"), config(seed, bootstrap))
    }

    fn start(socket: UdpSocket, config: LinksConfig) -> Self {
        let (addr, id) = (loopback(&socket), config.identity.node_id());
        let (links, events) = Links::start(socket, config).unwrap();
        Self { links, events, id, addr }
    }

    fn multiaddr(&self) -> Multiaddr {
        Multiaddr { host: Host::Address(self.addr.ip()), port: self.addr.port(), node: self.id }
    }

    /// Takes events until one is what the test waits for.
    async fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(LinkEvent) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = wanted(self.events.recv().await.unwrap()) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("never saw {what}"))
    }

    async fn until_up(&mut self, with: NodeId) -> SocketAddr {
        let up = |event| match event {
            LinkEvent::Up { node, remote, .. } if node == with => Some(remote),
            _ => None,
        };
        self.until("the link", up).await
    }

    async fn until_down(&mut self, with: NodeId) {
        self.until("its end", |event| {
            matches!(event, LinkEvent::Down { node } if node == with).then_some(())
        })
        .await;
    }

    async fn until_circuit(&mut self) -> (SocketAddr, Vec<u8>) {
        let circuit = |event| match event {
            LinkEvent::Circuit { from, datagram } => Some((from.remote, datagram)),
            _ => None,
        };
        self.until("the datagram", circuit).await
    }

    /// Dials `node` at `at` once, as this node.
    async fn dial(&self, seed: u8, node: NodeId, at: SocketAddr) -> anyhow::Result<quinn::Connection> {
        let tls = Tls::new(Arc::new(identity(seed)));
        let config = endpoint::client_config(&tls, node, self.links.socket.has_mac())?;
        let places = vec![(Host::Address(at.ip()), at.port())];
        let round = dial::Round { node, places, patience: PATIENCE };
        dial::dial(self.links.endpoint.clone(), config, &round).await
    }
}

#[tokio::test]
async fn two_nodes_link_and_see_each_other_as_plain_ipv4() {
    for bind in ["127.0.0.1:0", "[::]:0"] {
        let mut answerer = Node::start(socket(bind), config(1, &[]));
        let mut dialer = Node::start(socket(bind), config(2, &[&answerer]));
        assert_eq!(dialer.until_up(answerer.id).await, answerer.addr, "{bind}");
        assert_eq!(answerer.until_up(dialer.id).await, dialer.addr, "{bind}");
        let ids = [answerer.id, dialer.id];
        for (node, other) in [&mut dialer, &mut answerer].into_iter().zip(ids) {
            let reflexive = |event| match event {
                LinkEvent::Reflexive { from, addr } if from == other => Some(addr),
                _ => None,
            };
            assert_eq!(node.until("its own address", reflexive).await, node.addr, "{bind}");
        }
        let status = dialer.links.status();
        let [link] = &status[..] else { panic!("{status:?}") };
        assert_eq!((link.node, link.remote, link.outgoing), (answerer.id, answerer.addr, true));
        assert!(link.rtt > Duration::ZERO && link.rtt < PATIENCE);
        dialer.links.close().await;
        answerer.until_down(dialer.id).await;
    }
}

#[tokio::test]
async fn a_bootstrap_peer_is_found_by_name() {
    let answerer = Node::new(1, &[]);
    let text = format!("/dns4/localhost/udp/{}/quic-v1/p2p/{}", answerer.addr.port(), answerer.id);
    let bootstrap = vec![text.parse().unwrap()];
    let mut dialer = Node::start(socket("127.0.0.1:0"), LinksConfig { bootstrap, ..config(2, &[]) });
    dialer.until_up(answerer.id).await;
}

#[tokio::test]
async fn another_node_id_is_refused_and_both_are_named() {
    let answerer = Node::new(1, &[]);
    let dialer = Node::new(2, &[]);
    let expected = identity(3).node_id();
    let error = format!("{:#}", dialer.dial(2, expected, answerer.addr).await.unwrap_err());
    assert!(error.contains(&expected.to_string()) && error.contains(&answerer.id.to_string()), "{error}");
    assert!(dialer.dial(2, answerer.id, answerer.addr).await.is_ok(), "its own id passes");
}

#[tokio::test]
async fn of_two_links_between_a_pair_the_same_one_stays_at_both_ends() {
    let sockets = [socket("127.0.0.1:0"), socket("127.0.0.1:0")];
    let addr = |n: usize| loopback(&sockets[n]);
    let at = |seed, addr: SocketAddr| Multiaddr {
        host: Host::Address(addr.ip()),
        port: addr.port(),
        node: identity(seed).node_id(),
    };
    let bootstraps = [vec![at(2, addr(1))], vec![at(1, addr(0))]];
    let mut nodes = Vec::new();
    for ((seed, socket), bootstrap) in (1..).zip(sockets).zip(bootstraps) {
        nodes.push(Node::start(socket, LinksConfig { bootstrap, ..config(seed, &[]) }));
    }
    let settled = async {
        loop {
            let status = |n: usize| nodes[n].links.status();
            if let ([one], [other]) = (&status(0)[..], &status(1)[..])
                && one.outgoing != other.outgoing
                && nodes.iter().all(|node| node.links.endpoint.open_connections() == 1)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.unwrap();
}

#[tokio::test]
async fn a_restarted_node_is_linked_again_long_before_the_idle_timeout() {
    let first = Node::new(1, &[]);
    let mut dialer = Node::new(2, &[&first]);
    dialer.until_up(first.id).await;
    let (id, port) = (first.id, first.addr.port());
    let start = Instant::now();
    first.links.endpoint.close(0u32.into(), b"");
    drop(first);
    dialer.until_down(id).await;
    let again = Node::start(rebind(port).await, config(1, &[]));
    dialer.until_up(again.id).await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_killed_and_restarted_node_resets_the_links_of_its_former_life() {
    let victim = socket("127.0.0.1:0");
    let (addr, id) = (loopback(&victim), identity(1).node_id());
    let (kill, killed) = tokio::sync::oneshot::channel::<()>();
    let life = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let node = runtime.block_on(async {
            let node = Node::start(victim, config(1, &[]));
            killed.await.unwrap();
            node
        });
        // Without its tasks the node can tell nobody that it goes.
        drop(runtime);
        drop(node);
    });
    let bootstrap = vec![Multiaddr { host: Host::Address(addr.ip()), port: addr.port(), node: id }];
    let mut dialer = Node::start(socket("127.0.0.1:0"), LinksConfig { bootstrap, ..config(2, &[]) });
    dialer.until_up(id).await;
    kill.send(()).unwrap();
    life.join().unwrap();
    let again = Node::start(rebind(addr.port()).await, config(1, &[]));
    let start = Instant::now();
    dialer.links.subscribe([1; 32]);
    dialer.until_down(id).await;
    dialer.until_up(again.id).await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

/// Binds a port again; its old socket goes with the last task that holds it.
async fn rebind(port: u16) -> UdpSocket {
    loop {
        match UdpSocket::bind(("127.0.0.1", port)) {
            Ok(socket) => return socket,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

#[tokio::test]
async fn a_remembered_node_is_found_without_bootstrap_peer() {
    let mut answerer = Node::new(1, &[]);
    let mut dialer = Node::new(2, &[&answerer]);
    dialer.until_up(answerer.id).await;
    let snapshot = dialer.links.snapshot();
    assert_eq!(snapshot.links, [(answerer.id, answerer.addr)]);
    dialer.links.close().await;
    answerer.until_down(dialer.id).await;
    let mut again = Node::start(socket("127.0.0.1:0"), LinksConfig { snapshot, ..config(2, &[]) });
    again.until_up(answerer.id).await;
}

#[tokio::test]
async fn circuit_datagrams_pass_beside_quic_in_both_directions() {
    for bind in ["127.0.0.1:0", "[::]:0"] {
        let mut one = Node::start(socket(bind), config(1, &[]));
        let mut two = Node::start(socket(bind), config(2, &[&one]));
        two.until_up(one.id).await;
        for length in [1, 148, 1400, 9000] {
            let datagram = vec![0x3f; length];
            two.links.send_datagram(one.addr.into(), &datagram);
            assert_eq!(one.until_circuit().await, (two.addr, datagram.clone()), "{bind}");
            one.links.send_datagram(two.addr.into(), &datagram);
            assert_eq!(two.until_circuit().await, (one.addr, datagram), "{bind}");
        }
        one.links.inject(two.addr, vec![1; 5]);
        assert_eq!(one.until_circuit().await, (two.addr, vec![1; 5]), "{bind}");
        assert_eq!(one.links.status().len(), 1);
    }
}

#[tokio::test]
async fn quic_that_reached_a_worker_is_taken_when_injected() {
    let worker = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = worker.local_addr().unwrap();
    let one = Node::new(1, &[]);
    let mut two = Node::new(2, &[]);
    two.links.want_peers(vec![(one.id, vec![at])]);
    let dialer = two.addr;
    // Towards `one` only by injection; its answers go back by the port that was dialed, which a worker shares.
    let passing = async {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = worker.recv_from(&mut buffer).await.unwrap();
            if from == dialer {
                one.links.inject(at, buffer[..length].to_vec());
            } else {
                worker.send_to(&buffer[..length], dialer).await.unwrap();
            }
        }
    };
    tokio::select! {
        remote = two.until_up(one.id) => assert_eq!(remote, at),
        () = passing => {}
    }
}

#[test]
fn chosen_members_hang_together() {
    let members: Vec<NodeId> = (0..50).map(|n| identity(n).node_id()).collect();
    let mut reached = std::collections::BTreeSet::from([members[0]]);
    let mut queue = vec![members[0]];
    while let Some(node) = queue.pop() {
        let chosen = choose_members(node, &members, 3);
        assert!(chosen.len() == 3 && !chosen.contains(&node));
        queue.extend(chosen.into_iter().filter(|node| reached.insert(*node)));
    }
    assert_eq!(reached.len(), 50);
    assert_eq!(choose_members(members[0], &members[..2], 3), [members[1]]);
    assert!(choose_members(members[0], &[], 3).is_empty());
}
