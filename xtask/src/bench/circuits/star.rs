//! One hub and many other nodes on a bridge, each in namespaces of its own, all members of one network.
//!
//! Owns how so many come up within bounds. Must not know what is measured on them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, anyhow};
use meshhold_tests::lab::Lifetime;
use meshhold_tests::{Lab, Node, Settings, wait};

use crate::cargo;

/// Wide enough that no two members want the same block.
const RANGE: &str = "100.64.0.0/12";
const OPEN: [&str; 1] = ["tcp:1-65535"];
/// Nodes that come up at the same time.
const GROUP: usize = 16;
const THREADS: usize = 4;
const UP_LIMIT: Duration = Duration::from_secs(60);

/// The nodes; the hub is the others' bootstrap peer.
pub(super) struct Star {
    pub(super) hub: Member,
    pub(super) others: Vec<Member>,
    /// Goes last: the others live in it.
    _lab: Lab,
}

/// A node that runs, and its address in the mesh.
pub(super) struct Member {
    pub(super) node: Node,
    pub(super) address: Ipv4Addr,
}

impl Star {
    /// A hub with `count` others, to each of which it has a circuit.
    pub(super) fn new(count: usize) -> Result<Self> {
        let lab = Lab::new("circuits", &cargo::target_dir().join("release/meshhold"), Lifetime::Scoped)?;
        let mut hub = Node::new(lab.host("hub")?, Settings::default())?;
        let key = hub.mint_in(RANGE, &OPEN)?;
        hub.start_and_wait()?;
        let hub = Member { address: hub.addresses()?.0, node: hub };
        let settings = Settings::knowing(&[&hub.node])?;
        let hosts = (1..=count).map(|number| Node::new(lab.host(&format!("n{number}"))?, settings.clone()));
        let mut nodes: Vec<Node> = hosts.collect::<Result<_>>()?;
        each(&mut nodes, |node| node.join(&key, &OPEN))?;
        for group in nodes.chunks_mut(GROUP) {
            // Here and not on other threads: what a thread started dies with it.
            group.iter_mut().try_for_each(Node::start)?;
            each(group, |node| wait_up(node, hub.address.into()))?;
        }
        let addresses = each(&mut nodes, |node| Ok(node.addresses()?.0))?;
        let others = nodes.into_iter().zip(addresses).map(|(node, address)| Member { node, address });
        Ok(Self { hub, others: others.collect(), _lab: lab })
    }
}

fn wait_up(node: &Node, hub: IpAddr) -> Result<()> {
    wait::until_true(UP_LIMIT, &format!("{} pings the hub", node.host.name), || {
        node.host.succeeds("ping", &["-n", "-c1", "-W1", &hub.to_string()])
    })
}

/// Does `work` with all items on a few threads; what it starts in the background would not outlive it.
fn each<T: Send, R: Send>(items: &mut [T], work: impl Fn(&mut T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let size = items.len().div_ceil(THREADS).max(1);
    let on_one = |part: &mut [T]| part.iter_mut().map(&work).collect::<Result<Vec<R>>>();
    let on_one = &on_one;
    std::thread::scope(|scope| {
        let parts = items.chunks_mut(size).map(|part| scope.spawn(move || on_one(part)));
        let parts: Vec<_> = parts.collect();
        let done = parts.into_iter().map(|part| part.join().map_err(|_| anyhow!("a thread panicked"))?);
        Ok(done.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    })
}
