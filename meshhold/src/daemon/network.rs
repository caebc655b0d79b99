//! One network on this node: its key, its scope and who is in it.
//!
//! Owns the translation of a management key into a running membership. Must not know circuits or packets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use meshhold_core::address::{BLOCK_PREFIX, Block};
use meshhold_core::identity::{Identity, NodeId};
use meshhold_core::key::{Ipv4Range, NetworkId, NetworkKeys};
use meshhold_core::membership::{Membership, MembershipState, Said};
use meshhold_core::record::Envelope;
use meshhold_core::scope::Scope;
use rand_core::OsRng;

use crate::config::keys::ManagementKey;
use crate::link::choose_members;

const BLOCK_MASK: u32 = !0 << (32 - BLOCK_PREFIX);
/// Members of each network that we keep links to.
const LINKS: usize = 3;

/// A network that this node is a member of.
#[derive(Debug)]
pub(super) struct Network {
    /// Small number of the network on this node.
    pub(super) index: u16,
    /// Name of that key.
    pub(super) name: String,
    /// The public id.
    pub(super) id: NetworkId,
    /// IPv4 range of the network.
    pub(super) range: Ipv4Range,
    /// Ports that this node opens to members.
    pub(super) scope: Scope,
    /// What keeps the IPv4 range from being used here.
    pub(super) conflict: Option<String>,
    /// Unix second at which the key expires.
    pub(super) expires: Option<u64>,
    /// Keys derived from the network secret.
    pub(super) keys: NetworkKeys,
    /// Who is here.
    pub(super) members: Membership,
}

impl Network {
    /// Opens the network of `key`.
    pub(super) fn open(
        index: u16,
        key: &ManagementKey,
        node: NodeId,
        name: &str,
        state: MembershipState,
    ) -> Self {
        let keys = NetworkKeys::derive(&key.key);
        let range = key.key.range;
        let members = Membership::new(keys.clone(), range, node, name.to_owned(), state);
        Self {
            index,
            name: key.name.clone(),
            id: keys.id,
            range,
            scope: key.allow.clone(),
            conflict: None,
            expires: key.expires,
            keys,
            members,
        }
    }

    /// Our own IPv4 address, unless the range can't be used on this host.
    pub(super) fn own4(&self) -> Option<Ipv4Addr> {
        self.conflict.is_none().then(|| self.members.own4())
    }

    /// Whether `address` is one of this network's.
    pub(super) fn holds(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(ip) => self.range.contains(ip),
            IpAddr::V6(ip) => {
                ip.segments().first_chunk::<2>() == self.keys.prefix6.segments().first_chunk::<2>()
            }
        }
    }

    /// Whether `address` is one of `block`, the node's own or a device's.
    pub(super) fn is_of(&self, block: &Block, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(ip) => ip.to_bits() & BLOCK_MASK == block.base4.to_bits(),
            IpAddr::V6(ip) => ip.segments().first_chunk::<4>() == block.base6.segments().first_chunk::<4>(),
        }
    }

    /// Our own record if there is something new to say.
    pub(super) fn news(&mut self, now: u64, identity: &Identity, said: Said<'_>) -> Option<Envelope> {
        match self.members.own_envelope(now, identity, said, &mut OsRng) {
            Ok(envelope) => envelope,
            Err(error) => {
                tracing::error!(network = %self.name, %error, "our own record can't be sealed");
                None
            }
        }
    }

    /// The few members to keep links to.
    pub(super) fn link_candidates(&self, own: NodeId) -> Vec<(NodeId, Vec<SocketAddr>)> {
        let members: Vec<NodeId> = self.members.peers().map(|peer| peer.node).collect();
        let chosen = choose_members(own, &members, LINKS);
        self.members
            .peers()
            .filter(|peer| chosen.contains(&peer.node))
            .map(|peer| (peer.node, peer.endpoints.clone()))
            .collect()
    }
}
