//! What a killed daemon left behind in the network configuration.
//!
//! Owns finding and removing it at the next start. Must not know pins in bpffs: the loader replaces those.

use std::collections::BTreeSet;

use rtnetlink::packet_route::{AddressFamily, route::RouteType};

use super::{
    error::NetError,
    net::Net,
    routes::{is_our_table, is_ours, rule_table},
};

/// Removes rules and routes of previous runs, and returns how many there were.
///
/// Call it before the mesh interface is created. Besides those of `interface` it removes those of MeshHold
/// interfaces that are gone (the name was changed after a `kill -9`): a live one has a route through its
/// device, and keeps everything.
pub async fn stale(net: &Net, interface: &str) -> Result<usize, NetError> {
    let index = net.index_of(interface).await?;
    let mut removed = net.reconcile_routes(interface, index, &[]).await?;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        removed += remove_dead_tables(net, family).await?;
    }
    Ok(removed)
}

async fn remove_dead_tables(net: &Net, family: AddressFamily) -> Result<usize, NetError> {
    let routes = net.routes(family).await?;
    let alive: BTreeSet<u32> = routes
        .iter()
        .filter(|route| route.message.header.kind == RouteType::Unicast)
        .map(|route| route.table)
        .collect();
    let is_dead = |table: u32| is_our_table(table) && !alive.contains(&table);

    let mut removed = 0;
    for rule in net.our_rules(family).await?.unwrap_or_default() {
        if is_dead(rule_table(&rule)) {
            net.remove_rule(&rule).await?;
            removed += 1;
        }
    }
    for route in routes.iter().filter(|route| is_ours(route) && is_dead(route.table)) {
        net.remove_route(route).await?;
        removed += 1;
    }
    Ok(removed)
}
