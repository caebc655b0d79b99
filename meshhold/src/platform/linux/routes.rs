//! Routes and rules of the mesh ranges, brought to a wanted state by difference.
//!
//! Owns their numbers and how ours are told from others'. Must not know addresses' meaning or sysctls.
//!
//! Every mesh range has a route in a table of the interface's own, reached by a rule that comes before the
//! main table: a more specific route that DHCP or a VPN puts into main can't pull mesh packets beside the
//! tunnel (CVE-2024-3661). What of that others take away must not open a way out, so there is a barrier in
//! layers, each enough alone: an `unreachable` route with the worst metric below the interface's, an
//! `unreachable` rule behind the one to the table, and the same route in main. That rule has the rtnetlink protocol
//! of the kernel's own: systemd-networkd takes away all others when it starts. The barrier outlives interface and daemon;
//! `meshhold cleanup` takes it down. A kernel without policy routing gets the routes in main alone.

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

/// rtnetlink protocol number of the routes and rules that MeshHold makes (`ip route show proto 77`).
pub(super) const PROTOCOL: u8 = 0x4d;
/// The rules' priority: after `local` (0), before the usual VPNs (Tailscale 5210…) and main (32766).
pub(super) const RULE_PRIORITY: u32 = 5100;
/// Priority of the rules that refuse what the table of the rule before didn't take.
const BARRIER_PRIORITY: u32 = RULE_PRIORITY + 1;
/// Where all caller addresses of a host live; each interface has a piece of it, routed back to the mesh instead of to `lo`.
pub(super) const CALLERS: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 64, 0, 0), 10);

/// Numbers of the kernel's own tables (linux/rtnetlink.h).
pub(super) const MAIN_TABLE: u32 = 254;
pub(super) const LOCAL_TABLE: u32 = 255;

const TABLE_BASE: u32 = 0x4d48_0000;
const TABLE_MASK: u32 = 0xffff_0000;
const WORST_METRIC: u32 = u32::MAX;

/// What is wanted of the routes of the mesh interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A network's range. `source`: of packets into it; `None` leaves it closed.
    Range { range: (IpAddr, u8), source: Option<IpAddr> },
    /// The caller addresses of this interface, in the `local` table. Packets of this size at most, in bytes: what goes back
    /// to an IPv6 caller grows on its way.
    Callers { range: (Ipv4Addr, u8), mtu: u32 },
}

impl Wanted {
    fn family(self) -> AddressFamily {
        match self {
            Self::Range { range: (IpAddr::V6(_), _), .. } => AddressFamily::Inet6,
            _ => AddressFamily::Inet,
        }
    }
}

/// Whose routes and rules are meant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner<'a> {
    /// Name of the interface.
    pub(super) interface: &'a str,
    /// Its index while it exists.
    pub(super) index: Option<u32>,
}

/// What a comparison found and did, a phrase for each route and rule.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Put there.
    pub(super) added: Vec<String>,
    /// Taken away.
    pub(super) removed: Vec<String>,
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
    /// Makes the interface's routes and rules exactly those wanted.
    pub(super) async fn reconcile_routes(
        &self,
        owner: Owner<'_>,
        wanted: &[Wanted],
    ) -> Result<Changes, NetError> {
        self.bring_routes(owner, wanted, true).await
    }

    /// Puts there what is missing of those wanted, and takes nothing away.
    pub(super) async fn add_routes(&self, owner: Owner<'_>, wanted: &[Wanted]) -> Result<Changes, NetError> {
        self.bring_routes(owner, wanted, false).await
    }

    async fn bring_routes(
        &self,
        owner: Owner<'_>,
        wanted: &[Wanted],
        prune: bool,
    ) -> Result<Changes, NetError> {
        let mut changes = Changes::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let of_family: Vec<Wanted> =
                wanted.iter().copied().filter(|want| want.family() == family).collect();
            self.bring_family(owner, family, (&of_family, prune), &mut changes).await?;
        }
        Ok(changes)
    }

    async fn bring_family(
        &self,
        owner: Owner<'_>,
        family: AddressFamily,
        (wanted, prune): (&[Wanted], bool),
        changes: &mut Changes,
    ) -> Result<(), NetError> {
        let rules = self.our_rules(family).await?;
        let table = if rules.is_some() { table_of(owner.interface) } else { MAIN_TABLE };
        let messages: Vec<RouteMessage> =
            wanted.iter().flat_map(|want| messages(*want, owner.index, table)).collect();
        let existing = self.routes_about(owner, family).await?;

        // Routes before the rule that leads to them, and the rule away before they go: no moment in which
        // a mesh packet finds the rule and no route.
        for message in messages.iter().filter(|message| !existing.iter().any(|route| is_as(route, message))) {
            self.add_route(message.clone()).await?;
            changes.added.push(describe(message));
        }
        let others = rules.iter().flatten().filter(|rule| rule_table(rule) != table);
        let others: Vec<(IpAddr, u8)> = others.filter_map(rule_destination).collect();
        if let Some(rules) = rules {
            self.bring_rules((family, table), &rules, (wanted, prune), changes).await?;
        }
        for route in existing.iter().filter(|_| prune) {
            let shared =
                route.table != table && !route.devices.iter().any(|index| Some(*index) == owner.index);
            let of_another = shared && (others.contains(&route.destination) || route.table == LOCAL_TABLE);
            // One with our destination through another device is somebody's way out of the mesh.
            let is_wanted = |message| same_place(message, &route.message) && same_devices(message, route);
            if of_another || messages.iter().any(is_wanted) {
                continue;
            }
            self.remove_route(route).await?;
            changes.removed.push(describe(&route.message));
        }
        Ok(())
    }

    /// Takes away what keeps caller addresses from `lo`: for when no daemon's interface is left.
    pub(super) async fn open_callers(&self) -> Result<Vec<String>, NetError> {
        let routes = self.routes_in(AddressFamily::Inet, LOCAL_TABLE, Some(PROTOCOL)).await?;
        let mut removed = Vec::new();
        for route in routes.iter().filter(|route| is_ours(route)) {
            self.remove_route(route).await?;
            removed.push(describe(&route.message));
        }
        Ok(removed)
    }

    /// The pieces of the caller addresses that other interfaces than the one of this name have.
    ///
    /// # Errors
    /// Netlink failed.
    pub async fn other_callers(&self, interface: &str) -> Result<Vec<(Ipv4Addr, u8)>, NetError> {
        let own = self.index_of(interface).await?;
        let routes = self.routes_in(AddressFamily::Inet, LOCAL_TABLE, Some(PROTOCOL)).await?;
        let others = routes.into_iter().filter(is_ours).filter(|route| {
            route.message.header.kind == RouteType::Unicast
                && !own.is_some_and(|own| route.devices.contains(&own))
        });
        let piece = |route: Route| match route.destination {
            (IpAddr::V4(base), prefix) => Some((base, prefix)),
            _ => None,
        };
        Ok(others.filter_map(piece).collect())
    }

    /// Everything in the interface's own table, and what MeshHold has made in those of the kernel.
    async fn routes_about(&self, owner: Owner<'_>, family: AddressFamily) -> Result<Vec<Route>, NetError> {
        let mut found = self.routes_in(family, table_of(owner.interface), None).await?;
        let kernels: &[u32] =
            if family == AddressFamily::Inet { &[MAIN_TABLE, LOCAL_TABLE] } else { &[MAIN_TABLE] };
        for table in kernels {
            found.extend(self.routes_in(family, *table, Some(PROTOCOL)).await?.into_iter().filter(is_ours));
        }
        Ok(found)
    }

    async fn add_route(&self, message: RouteMessage) -> Result<(), NetError> {
        let what = format!("add {}", describe(&message));
        // A family that is switched off has no packets either.
        let ignored = [libc::EEXIST, libc::EAFNOSUPPORT, libc::EOPNOTSUPP];
        settled(what, &ignored, self.handle.route().add(message).replace().execute().await)
    }

    pub(super) async fn remove_route(&self, route: &Route) -> Result<(), NetError> {
        let what = format!("remove {}", describe(&route.message));
        settled(what, &[libc::ESRCH], self.handle.route().del(route.message.clone()).execute().await)
    }

    async fn bring_rules(
        &self,
        (family, table): (AddressFamily, u32),
        existing: &[RuleMessage],
        (wanted, prune): (&[Wanted], bool),
        changes: &mut Changes,
    ) -> Result<(), NetError> {
        let ranges = wanted.iter().filter_map(|want| match want {
            Wanted::Range { range, .. } => Some(*range),
            Wanted::Callers { .. } => None,
        });
        let wanted: Vec<RuleMessage> =
            ranges.flat_map(|range| Layer::ALL.map(|layer| layer.rule(family, table, range))).collect();
        let ours: Vec<&RuleMessage> = existing.iter().filter(|rule| rule_table(rule) == table).collect();
        for rule in wanted.iter().filter(|rule| !ours.iter().any(|found| same_rule(found, rule))) {
            self.add_rule(rule).await?;
            changes.added.push(describe_rule(rule));
        }
        let surplus = |rule: &&RuleMessage| prune && !wanted.iter().any(|wanted| same_rule(wanted, rule));
        for rule in ours.into_iter().filter(surplus) {
            self.remove_rule(rule).await?;
            changes.removed.push(describe_rule(rule));
        }
        Ok(())
    }

    async fn add_rule(&self, rule: &RuleMessage) -> Result<(), NetError> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = rule.clone();
        settled(format!("add {}", describe_rule(rule)), &[libc::EEXIST], request.execute().await)
    }

    pub(super) async fn remove_rule(&self, rule: &RuleMessage) -> Result<(), NetError> {
        let what = format!("remove {}", describe_rule(rule));
        settled(what, &[libc::ENOENT, libc::ESRCH], self.handle.rule().del(rule.clone()).execute().await)
    }

    /// Rules of a range that should be there and aren't, a phrase each; none where the kernel has no policy routing.
    ///
    /// # Errors
    /// Netlink failed.
    pub async fn missing_rules(&self, interface: &str, range: (IpAddr, u8)) -> Result<Vec<String>, NetError> {
        let family = if range.0.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let Some(existing) = self.our_rules(family).await? else { return Ok(Vec::new()) };
        let table = table_of(interface);
        let is_there = |wanted: &RuleMessage| {
            existing.iter().any(|found| rule_table(found) == table && same_rule(found, wanted))
        };
        let wanted = Layer::ALL.map(|layer| layer.rule(family, table, range));
        Ok(wanted.iter().filter(|rule| !is_there(rule)).map(describe_rule).collect())
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
        Ok(Some(all.into_iter().filter(is_our_rule).collect()))
    }
}

/// The rules that each range has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    /// Leads to the interface's table.
    Table,
    /// Refuses. Its table number says whose it is and is not looked at.
    Barrier,
}

impl Layer {
    const ALL: [Self; 2] = [Self::Barrier, Self::Table];

    const fn parts(self) -> (RuleAction, u32, RouteProtocol) {
        match self {
            Self::Table => (RuleAction::ToTable, RULE_PRIORITY, RouteProtocol::Other(PROTOCOL)),
            Self::Barrier => (RuleAction::Unreachable, BARRIER_PRIORITY, RouteProtocol::Kernel),
        }
    }

    fn rule(self, family: AddressFamily, table: u32, range: (IpAddr, u8)) -> RuleMessage {
        let (action, priority, protocol) = self.parts();
        let mut rule = RuleMessage::default();
        (rule.header.family, rule.header.action, rule.header.dst_len) = (family, action, range.1);
        rule.attributes = vec![
            RuleAttribute::Priority(priority),
            RuleAttribute::Table(table),
            RuleAttribute::Destination(range.0),
            RuleAttribute::Protocol(protocol),
        ];
        rule
    }
}

/// Made by MeshHold, for whichever interface.
fn is_our_rule(rule: &RuleMessage) -> bool {
    let has = |layer: Layer| {
        let (action, priority, protocol) = layer.parts();
        let has = |wanted| rule.attributes.contains(&wanted);
        rule.header.action == action
            && has(RuleAttribute::Priority(priority))
            && has(RuleAttribute::Protocol(protocol))
    };
    is_our_table(rule_table(rule)) && Layer::ALL.into_iter().any(has)
}

fn same_rule(left: &RuleMessage, right: &RuleMessage) -> bool {
    left.header.action == right.header.action && rule_destination(left) == rule_destination(right)
}

fn describe_rule(rule: &RuleMessage) -> String {
    let to = rule_destination(rule).map_or_else(String::new, |(ip, prefix)| format!(" to {ip}/{prefix}"));
    match rule.header.action {
        RuleAction::Unreachable => format!("barrier rule{to}"),
        _ => format!("rule{to}"),
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

/// The routes that one wish needs, those that close first. Without an interface these alone.
fn messages(want: Wanted, index: Option<u32>, table: u32) -> Vec<RouteMessage> {
    match want {
        Wanted::Range { range, source } => {
            let mut tables = vec![MAIN_TABLE, table];
            tables.dedup();
            let mut messages: Vec<RouteMessage> =
                tables.into_iter().map(|table| refusal(range, table)).collect();
            let ends = index.zip(source);
            messages.extend(ends.map(|(index, source)| device_route(range, index, table, source)));
            messages
        }
        Wanted::Callers { range, mtu } => {
            let mut messages = vec![refusal((CALLERS.0.into(), CALLERS.1), LOCAL_TABLE)];
            messages.extend(index.map(|index| {
                let range = (range.0.into(), range.1);
                let mut message = device_route(range, index, LOCAL_TABLE, Ipv4Addr::LOCALHOST.into());
                message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
                message
            }));
            messages
        }
    }
}

fn refusal(range: (IpAddr, u8), table: u32) -> RouteMessage {
    builder(range).table_id(table).kind(RouteType::Unreachable).priority(WORST_METRIC).build()
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

fn same_devices(message: &RouteMessage, found: &Route) -> bool {
    message.header.kind == RouteType::Unreachable
        || route(message.clone()).is_some_and(|wanted| wanted.devices == found.devices)
}

/// Whether the route is there already, as the message wants it.
fn is_as(found: &Route, wanted: &RouteMessage) -> bool {
    // What the kernel shows of a refusal differs between families (`dev lo`, an error code).
    let parts = |message: &RouteMessage| -> Vec<RouteAttribute> {
        let matters = |part: &&RouteAttribute| {
            matches!(
                part,
                RouteAttribute::PrefSource(_) | RouteAttribute::Oif(_) | RouteAttribute::Metrics(_)
            )
        };
        message.attributes.iter().filter(matters).cloned().collect()
    };
    let existing = parts(&found.message);
    same_place(&found.message, wanted)
        && (wanted.header.kind == RouteType::Unreachable
            || parts(wanted).iter().all(|part| existing.contains(part)))
}

fn describe(message: &RouteMessage) -> String {
    let Some(route) = route(message.clone()) else { return String::from("of another family") };
    let kind = if message.header.kind == RouteType::Unreachable { "barrier route" } else { "route" };
    format!("{kind} {}/{} in table {:#x}", route.destination.0, route.destination.1, route.table)
}
