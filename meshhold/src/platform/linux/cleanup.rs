//! Takes away what daemons leave on purpose: interface, addresses, routes, rules and the barrier.
//!
//! Owns finding it by its marks. Must not know pins in bpffs, nor who wants it gone.

use std::collections::BTreeSet;

use rtnetlink::packet_route::AddressFamily;

use super::{
    error::NetError,
    list::settled,
    net::Net,
    routes::{Owner, is_our_table, is_ours, rule_table, table_of},
};

impl Net {
    /// Removes the interface, if it is a TUN, with everything that MeshHold has put up for it; returns a phrase for each
    /// thing that was there. Right where there is nothing, too.
    ///
    /// # Errors
    /// Netlink failed.
    pub async fn clean_up(&self, interface: &str) -> Result<Vec<String>, NetError> {
        let mut removed = self.delete_tun(interface).await?;
        removed.extend(self.forget_routes(interface).await?);
        Ok(removed)
    }

    /// Removes routes, rules and barrier of interfaces that are there no more.
    ///
    /// # Errors
    /// Netlink failed.
    pub async fn clean_up_dead(&self) -> Result<Vec<String>, NetError> {
        let alive = self.tables_alive().await?;
        let is_dead = |table: u32| is_our_table(table) && !alive.contains(&table);
        let mut removed = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for rule in self.our_rules(family).await?.unwrap_or_default() {
                if is_dead(rule_table(&rule)) {
                    self.remove_rule(&rule).await?;
                    removed.push(format!("rule of table {:#x}", rule_table(&rule)));
                }
            }
            let routes = self.routes(family).await?;
            for route in routes.iter().filter(|route| is_ours(route) && is_dead(route.table)) {
                self.remove_route(route).await?;
                removed.push(format!("route of table {:#x}", route.table));
            }
        }
        Ok(removed)
    }

    /// Removes the interface's routes, rules and barrier, but what another of MeshHold's needs too.
    ///
    /// # Errors
    /// Netlink failed.
    pub async fn forget_routes(&self, interface: &str) -> Result<Vec<String>, NetError> {
        let owner = Owner { interface, index: self.index_of(interface).await? };
        let mut removed = self.reconcile_routes(owner, &[]).await?.removed;
        if self.our_rules(AddressFamily::Inet).await?.is_none_or(|rules| rules.is_empty()) {
            removed.extend(self.open_callers().await?);
        }
        Ok(removed)
    }

    /// Table numbers of all interfaces that there are.
    pub(super) async fn tables_alive(&self) -> Result<BTreeSet<u32>, NetError> {
        let interfaces = self.interfaces().await?;
        Ok(interfaces.iter().map(|interface| table_of(&interface.name)).collect())
    }

    async fn delete_tun(&self, interface: &str) -> Result<Vec<String>, NetError> {
        let found = self.interfaces().await?.into_iter().find(|found| found.name == interface);
        let Some(tun) = found.filter(|found| found.kind.as_deref() == Some("tun")) else {
            return Ok(Vec::new());
        };
        self.delete_index(tun.index).await?;
        Ok(vec![format!("interface {interface}")])
    }

    /// Deletes the interface of that index; not an error where there is none.
    ///
    /// # Errors
    /// Netlink failed.
    pub async fn delete_index(&self, index: u32) -> Result<(), NetError> {
        let answer = self.handle.link().del(index).execute().await;
        settled(format!("delete interface {index}"), &[libc::ENODEV], answer)
    }
}
