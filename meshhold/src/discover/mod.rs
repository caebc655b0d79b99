//! Finding other nodes without a server, and being found: what is announced to whom, who was met, what a gateway maps.
//!
//! Owns nothing but the result's shape; [`lan`] owns sockets and times, [`seal`] what an announcement holds, `heard` who was
//! met when, [`mapping`] the port that a gateway lets everybody in to; [`dht`] owns the rounds in the DHT, `slots` what its
//! values hold. Must not know links, records or the daemon: it says where a node may be, and the link proves it.

pub mod dht;
mod heard;
pub mod lan;
pub mod mapping;
pub mod seal;
mod slots;

use std::net::SocketAddr;
use std::time::Duration;

use meshhold_core::identity::NodeId;
use rand_core::{OsRng, RngCore as _};

/// A node that says it is at an address. Whoever shares a key with us can say so of any node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whom to expect there.
    pub node: NodeId,
    /// Its UDP address for links.
    pub addr: SocketAddr,
}

/// Between three and five quarters of `time`, so that nodes don't stay in step.
fn spread(time: Duration) -> Duration {
    time.mul_f64(0.75 + 0.5 * f64::from(OsRng.next_u32()) / f64::from(u32::MAX))
}
