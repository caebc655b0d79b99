//! What on this host already uses a range that a network wants.
//!
//! Owns which routes count as a conflict. Must not know what is done about one.

use std::net::IpAddr;

use rtnetlink::packet_route::{AddressFamily, route::RouteType};

use super::{
    error::NetError,
    list::{Interface, Route, overlap},
    net::Net,
    routes::{LOCAL_TABLE, MAIN_TABLE, is_our_table, is_ours, table_of},
};

/// Shorter prefixes are default routes in disguise (`0.0.0.0/1` of VPNs, `2000::/3`): ours is more specific.
const SHORTEST_PREFIX: u8 = 8;

impl Net {
    /// Routes and addresses of other interfaces that overlap `range`, a phrase each that names route and
    /// interface. What belongs to the mesh interface `own` itself is no conflict. Empty: the range is free.
    pub async fn conflicts(
        &self,
        own: &str,
        range: (impl Into<IpAddr>, u8),
    ) -> Result<Vec<String>, NetError> {
        let range = (range.0.into(), range.1);
        let family = if range.0.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let interfaces = self.interfaces().await?;
        let own_index =
            interfaces.iter().find(|interface| interface.name == own).map(|interface| interface.index);

        let mut found = Vec::new();
        for (address, _) in self.addresses().await? {
            if Some(address.interface) != own_index && overlap(range, (address.ip, address.ip_width())) {
                let name = name_of(&interfaces, Some(&address.interface));
                found.push(format!("address {}/{} of interface {name}", address.ip, address.prefix));
            }
        }
        let alive = self.tables_alive().await?;
        // Another daemon's range counts by its table, while it has an interface; its barrier in main says nothing more.
        let is_barrier = |route: &Route| {
            let refuses = route.message.header.kind == RouteType::Unreachable;
            is_ours(route) && refuses && route.table == MAIN_TABLE
                || is_our_table(route.table) && !alive.contains(&route.table)
        };
        for route in self.routes(family).await?.into_iter().filter(|route| !is_barrier(route)) {
            if counts(&route, own_index, table_of(own)) && overlap(range, route.destination) {
                found.push(describe(&route, &interfaces));
            }
        }
        found.dedup();
        Ok(found)
    }
}

fn counts(route: &Route, own: Option<u32>, own_table: u32) -> bool {
    // Entries of `local` stand for addresses, which are looked at themselves.
    route.table != LOCAL_TABLE
        && !(is_ours(route) && route.table == own_table)
        && !own.is_some_and(|own| route.devices.contains(&own))
        && route.message.header.kind != RouteType::Multicast
        && route.destination.1 >= SHORTEST_PREFIX
}

fn describe(route: &Route, interfaces: &[Interface]) -> String {
    let (ip, prefix) = route.destination;
    match route.message.header.kind {
        RouteType::Unicast => {
            format!("route {ip}/{prefix} through interface {}", name_of(interfaces, route.devices.first()))
        }
        kind => format!("route {ip}/{prefix} of type {}", format!("{kind:?}").to_lowercase()),
    }
}

fn name_of<'a>(interfaces: &'a [Interface], index: Option<&u32>) -> &'a str {
    let found = interfaces.iter().find(|interface| Some(&interface.index) == index);
    found.map_or("(unknown)", |interface| interface.name.as_str())
}
