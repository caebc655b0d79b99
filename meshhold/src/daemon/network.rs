//! One network on this node: its key, its scope and who is in it.
//!
//! Owns the translation of a management key into a running membership. Must not know circuits or packets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use meshhold_core::address::{BLOCK_PREFIX, Block};
use meshhold_core::identity::{Identity, NodeId};
use meshhold_core::key::{Ipv4Range, NetworkId, NetworkKeys};
use meshhold_core::membership::{Membership, MembershipState, Said};
use meshhold_core::record::{Envelope, RecordBody};
use meshhold_core::scope::Scope;
use rand_core::OsRng;

use super::newcomer::{Linked, Newcomer};
use super::place::View;
use super::skew::Clocks;
use crate::config::keys::ManagementKey;
use crate::datapath::renumber::LocalView;
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
    /// Where this host sees the range, if not where members do.
    pub(super) view: Option<View>,
    /// The network has its place on this host: a newer one gives way.
    pub(super) placed: bool,
    /// Position of the key in the store: older ones come first.
    pub(super) rank: usize,
    /// What keeps IPv4 from being used here.
    pub(super) conflict: Option<String>,
    /// Unix second at which the key expires.
    pub(super) expires: Option<u64>,
    /// Unix second at which the log last told of that.
    pub(super) reminded: u64,
    /// Members whose clock is ahead of this host's.
    pub(super) clocks: Clocks,
    /// As long as this node hasn't claimed an address.
    pub(super) newcomer: Option<Newcomer>,
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
        // Who made the network was there before everybody else.
        let known = members.has_claim() || key.owner_secret.is_some();
        Self {
            index,
            name: key.name.clone(),
            id: keys.id,
            range,
            scope: key.allow.clone(),
            view: None,
            placed: false,
            rank: 0,
            conflict: None,
            expires: key.expires,
            reminded: 0,
            clocks: Clocks::default(),
            newcomer: (!known).then(Newcomer::default),
            keys,
            members,
        }
    }

    /// Our own IPv4 address as this host sees it, unless there is no range for it.
    pub(super) fn own4(&self) -> Option<Ipv4Addr> {
        self.conflict.is_none().then(|| self.shown(self.members.own4()))
    }

    /// The range as this host sees it.
    pub(super) fn shown_range(&self) -> Ipv4Range {
        let base = self.view.as_ref().map_or(self.range.base, |view| view.base);
        Ipv4Range { base, prefix: self.range.prefix }
    }

    /// An address of the network as this host sees it.
    pub(super) fn shown(&self, real: Ipv4Addr) -> Ipv4Addr {
        let host = real.to_bits() & (self.range.size() - 1);
        Ipv4Addr::from_bits(self.shown_range().base.to_bits() | host)
    }

    /// Addresses of a node as this host sees them.
    pub(super) fn shown_block(&self, real: Block) -> Block {
        Block { base4: self.shown(real.base4), ..real }
    }

    /// Our own.
    pub(super) fn own_block(&self) -> Block {
        self.shown_block(self.members.block())
    }

    /// What workers have to rewrite.
    pub(super) fn local_view(&self) -> Option<LocalView> {
        self.view.as_ref().map(|view| LocalView::new(self.range.base, view.base, self.range.prefix))
    }

    /// Whether `address` is one of this network's.
    pub(super) fn holds(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(ip) => self.shown_range().contains(ip),
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

    /// Takes note of an authentic record of somebody else that came at `unix`, whether it counts or not.
    pub(super) fn hear(&mut self, unix: u64, body: &RecordBody) {
        self.clocks.note(unix, body);
        self.newcomer.iter_mut().for_each(|newcomer| newcomer.hear(Instant::now()));
    }

    /// This host's clock was set: what was said by it is said anew, and a newcomer hears once more before it claims anything.
    pub(super) fn clock_set(&mut self) {
        self.members.say_again();
        self.newcomer = self.newcomer.take().map(|_| Newcomer::default());
    }

    /// When a newcomer may claim an address; `None` for others, and as long as that can't be said.
    pub(super) fn speaks_at(&self, linked: Linked) -> Option<Instant> {
        self.newcomer.as_ref().filter(|_| !self.is_behind())?.ready_at(linked)
    }

    /// Whether our record may be told. A newcomer claims an address from then on.
    pub(super) fn speaks(&mut self, linked: Linked) -> bool {
        if self.newcomer.is_some() && self.speaks_at(linked).is_some_and(|at| at <= Instant::now()) {
            self.newcomer = None;
        }
        self.newcomer.is_none()
    }

    /// Whether most members' clocks are so far ahead that this host's must be behind.
    fn is_behind(&self) -> bool {
        self.clocks.refused() > self.members.peers().count()
    }

    /// What a newcomer's user should know.
    pub(super) fn unclaimed(&self) -> Option<String> {
        (self.newcomer.is_some() && self.is_behind()).then(|| {
            "this host's clock is behind that of most members: no address is claimed here until it is right; `timedatectl \
             set-ntp true` sets it by the network, `date --set` by hand"
                .to_owned()
        })
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
            .map(|peer| (peer.node, peer.endpoints.to_vec()))
            .collect()
    }
}
