//! Finding other nodes without a server, and being found: what is announced to whom, who was met, what a gateway maps.
//!
//! Owns nothing but the result's shape; [`lan`] owns sockets and times, [`seal`] what an announcement holds, `heard` who was
//! met when, [`mapping`] the port that a gateway lets everybody in to. Must not know links, records or the daemon: it says
//! where a node may be, and the link proves it.

mod heard;
pub mod lan;
pub mod mapping;
pub mod seal;

use std::net::SocketAddr;

use meshhold_core::identity::NodeId;

/// A node that says it is at an address. Whoever shares a key with us can say so of any node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whom to expect there.
    pub node: NodeId,
    /// Its UDP address for links.
    pub addr: SocketAddr,
}
