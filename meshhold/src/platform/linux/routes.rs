//! Routes and rules of the mesh ranges, brought to a wanted state by difference.
//!
//! Owns their numbers and how ours are told from others'. Must not know addresses' meaning or sysctls.
//!
//! Every mesh range has a route in a table of the interface's own, reached by a rule that comes before the
//! main table: a more specific route that DHCP or a VPN puts into main can't pull mesh packets beside the
//! tunnel (CVE-2024-3661). An `unreachable` route with the worst metric lies below it for the case that
//! the interface is gone. A kernel without policy routing gets the same routes in main.

use std::net::{IpAddr, Ipv4Addr};

use rtnetlink::{
    IpVersion, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};

use super::{
    error::NetError,
    list::{Route, collect, route, settled},
    net::Net,
};

/// rtnetlink protocol number of every route and rule that MeshHold makes (`ip route show proto 77`).
pub(super) const PROTOCOL: u8 = 0x4d;
/// The rules' priority: after `local` (0), before the usual VPNs (Tailscale 5210…) and main (32766).
pub(super) const RULE_PRIORITY: u32 = 5100;
/// Where caller addresses live; routed back to the mesh instead of to `lo`.
pub(super) const CALLERS: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 64, 0, 0), 10);

/// Numbers of the kernel's own tables (linux/rtnetlink.h).
pub(super) const MAIN_TABLE: u32 = 254;
pub(super) const LOCAL_TABLE: u32 = 255;

const TABLE_BASE: u32 = 0x4d48_0000;
const TABLE_MASK: u32 = 0xffff_0000;
const WORST_METRIC: u32 = u32::MAX;

/// One wanted route of the mesh interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A network's range, with the source address of packets into it.
    Range { range: (IpAddr, u8), source: IpAddr },
    /// The caller addresses, in the `local` table. Packets of this size at most, in bytes: what goes back to an
    /// IPv6 caller grows on its way.
    Callers { mtu: u32 },
}

impl Wanted {
    fn family(self) -> AddressFamily {
        match self {
            Self::Range { range: (IpAddr::V6(_), _), .. } => AddressFamily::Inet6,
            _ => AddressFamily::Inet,
        }
    }
}

/// The routing table of one interface name, the same at each start.
pub(super) fn table_of(interface: &str) -> u32 {
    // FNV-1a: the same on each machine and in each version, unlike the standard library's hasher.
    let hash = interface
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    TABLE_BASE | ((hash ^ (hash >> 16)) & !TABLE_MASK)
}

impl Net {
    /// Makes the interface's routes and rules exactly those wanted; returns how many were removed.
    pub(super) async fn reconcile_routes(
        &self,
        interface: &str,
        index: Option<u32>,
        wanted: &[Wanted],
    ) -> Result<usize, NetError> {
        let mut removed = 0;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let of_family: Vec<Wanted> =
                wanted.iter().copied().filter(|want| want.family() == family).collect();
            removed += self.reconcile_family(interface, index, family, &of_family).await?;
        }
        Ok(removed)
    }

    async fn reconcile_family(
        &self,
        interface: &str,
        index: Option<u32>,
        family: AddressFamily,
        wanted: &[Wanted],
    ) -> Result<usize, NetError> {
        let rules = self.our_rules(family).await?;
        let own_table = table_of(interface);
        let table = if rules.is_some() { own_table } else { MAIN_TABLE };
        let messages: Vec<RouteMessage> = index
            .map(|index| wanted.iter().flat_map(|want| messages(*want, index, table)).collect())
            .unwrap_or_default();

        // Routes before the rule that leads to them, and the rule away before they go: no moment in which
        // a mesh packet finds the rule and no route.
        for message in &messages {
            self.add_route(message.clone()).await?;
        }
        let mut removed = 0;
        if let Some(rules) = rules {
            removed += self.reconcile_rules(family, table, &rules, wanted).await?;
        }
        let ours = |route: &&Route| {
            is_ours(route)
                && (route.table == table || index.is_some_and(|index| route.devices.contains(&index)))
        };
        for route in self.routes(family).await?.iter().filter(ours) {
            if messages.iter().any(|message| same_place(message, &route.message)) {
                continue;
            }
            self.remove_route(route).await?;
            removed += 1;
        }
        Ok(removed)
    }

    async fn add_route(&self, message: RouteMessage) -> Result<(), NetError> {
        let what = format!("add route {}", describe(&message));
        settled(what, &[libc::EEXIST], self.handle.route().add(message).replace().execute().await)
    }

    pub(super) async fn remove_route(&self, route: &Route) -> Result<(), NetError> {
        let what = format!("remove route {}", describe(&route.message));
        settled(what, &[libc::ESRCH], self.handle.route().del(route.message.clone()).execute().await)
    }

    async fn reconcile_rules(
        &self,
        family: AddressFamily,
        table: u32,
        existing: &[RuleMessage],
        wanted: &[Wanted],
    ) -> Result<usize, NetError> {
        let ranges: Vec<(IpAddr, u8)> = wanted
            .iter()
            .filter_map(|want| match want {
                Wanted::Range { range, .. } => Some(*range),
                Wanted::Callers { .. } => None,
            })
            .collect();
        let ours: Vec<&RuleMessage> = existing.iter().filter(|rule| rule_table(rule) == table).collect();
        for range in &ranges {
            if !ours.iter().any(|rule| rule_destination(rule) == Some(*range)) {
                self.add_rule(family, table, *range).await?;
            }
        }
        let mut removed = 0;
        for rule in ours {
            if !rule_destination(rule).is_some_and(|destination| ranges.contains(&destination)) {
                self.remove_rule(rule).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    async fn add_rule(&self, family: AddressFamily, table: u32, range: (IpAddr, u8)) -> Result<(), NetError> {
        let mut request =
            self.handle.rule().add().action(RuleAction::ToTable).priority(RULE_PRIORITY).table_id(table);
        let message = request.message_mut();
        message.header.family = family;
        message.header.dst_len = range.1;
        message.attributes.push(RuleAttribute::Destination(range.0));
        message.attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
        settled(format!("add rule to {}/{}", range.0, range.1), &[libc::EEXIST], request.execute().await)
    }

    pub(super) async fn remove_rule(&self, rule: &RuleMessage) -> Result<(), NetError> {
        let what = format!("remove rule to table {:#x}", rule_table(rule));
        settled(what, &[libc::ENOENT, libc::ESRCH], self.handle.rule().del(rule.clone()).execute().await)
    }

    /// Rules made by MeshHold; `None` where the kernel has no policy routing for the family.
    pub(super) async fn our_rules(
        &self,
        family: AddressFamily,
    ) -> Result<Option<Vec<RuleMessage>>, NetError> {
        let version = if family == AddressFamily::Inet6 { IpVersion::V6 } else { IpVersion::V4 };
        // `local` has a rule wherever there are rules at all.
        let all = collect("list rules", self.handle.rule().get(version).execute()).await?;
        if all.is_empty() {
            return Ok(None);
        }
        let ours = RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL));
        Ok(Some(all.into_iter().filter(|rule| rule.attributes.contains(&ours)).collect()))
    }
}

/// Whether a table number is one that MeshHold gives to an interface.
pub(super) fn is_our_table(table: u32) -> bool {
    table & TABLE_MASK == TABLE_BASE
}

pub(super) fn is_ours(route: &Route) -> bool {
    route.message.header.protocol == RouteProtocol::Other(PROTOCOL)
}

pub(super) fn rule_table(rule: &RuleMessage) -> u32 {
    let table = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or_else(|| rule.header.table.into())
}

fn rule_destination(rule: &RuleMessage) -> Option<(IpAddr, u8)> {
    rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Destination(ip) => Some((*ip, rule.header.dst_len)),
        _ => None,
    })
}

/// The routes that one wish needs.
fn messages(want: Wanted, index: u32, table: u32) -> Vec<RouteMessage> {
    match want {
        Wanted::Range { range, source } => {
            let through = device_route(range, index, table, source);
            let refuse =
                builder(range).table_id(table).kind(RouteType::Unreachable).priority(WORST_METRIC).build();
            vec![through, refuse]
        }
        Wanted::Callers { mtu } => {
            let range = (CALLERS.0.into(), CALLERS.1);
            let mut message = device_route(range, index, LOCAL_TABLE, Ipv4Addr::LOCALHOST.into());
            message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
            vec![message]
        }
    }
}

fn device_route(range: (IpAddr, u8), index: u32, table: u32, source: IpAddr) -> RouteMessage {
    let mut builder = builder(range).table_id(table).output_interface(index);
    if range.0.is_ipv4() {
        builder = builder.scope(RouteScope::Link);
    }
    let mut message = builder.build();
    message.attributes.push(RouteAttribute::PrefSource(source.into()));
    message
}

fn builder(range: (IpAddr, u8)) -> RouteMessageBuilder<IpAddr> {
    let mut builder = RouteMessageBuilder::<IpAddr>::new().protocol(RouteProtocol::Other(PROTOCOL));
    let message = builder.get_mut();
    message.header.address_family =
        if range.0.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = range.1;
    message.attributes.push(RouteAttribute::Destination(range.0.into()));
    builder
}

/// Whether two messages mean the same slot of a table: a replacement, not a neighbour.
fn same_place(left: &RouteMessage, right: &RouteMessage) -> bool {
    let place = |message: &RouteMessage| {
        let route = route(message.clone())?;
        Some((route.destination, route.table, message.header.kind))
    };
    place(left) == place(right)
}

fn describe(message: &RouteMessage) -> String {
    let Some(route) = route(message.clone()) else { return String::from("of another family") };
    format!("{}/{} in table {:#x}", route.destination.0, route.destination.1, route.table)
}
