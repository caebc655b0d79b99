//! What can be broken on a host or router by purpose, and mended: addresses that are cut off, UDP that is blocked.

use std::net::IpAddr;

use anyhow::Result;

use crate::lab::Host;

/// Where the rules stand, before those of anybody else.
const TABLE: &str = "table inet faults {
    chain dropped { }
    chain input { type filter hook input priority -300\n jump dropped\n }
    chain forward { type filter hook forward priority -300\n jump dropped\n }
    chain output { type filter hook output priority -300\n jump dropped\n }
}";

/// Nothing from or to `address` passes any more, until [`mend`].
pub fn cut(host: &Host, address: IpAddr) -> Result<()> {
    let family = family(address);
    add(host, &format!("{family} saddr {address} drop"))?;
    add(host, &format!("{family} daddr {address} drop"))
}

/// No UDP passes any more but from and to `address`, until [`mend`].
pub fn block_udp_except(host: &Host, address: IpAddr) -> Result<()> {
    let family = family(address);
    add(host, &format!("{family} saddr {address} accept"))?;
    add(host, &format!("{family} daddr {address} accept"))?;
    add(host, "meta l4proto udp drop")
}

/// Everything passes again.
pub fn mend(host: &Host) -> Result<()> {
    host.run("nft", &["table inet faults\ndelete table inet faults"]).map(drop)
}

fn add(host: &Host, rule: &str) -> Result<()> {
    let table = if host.succeeds("nft", &["list", "table", "inet", "faults"])? { "" } else { TABLE };
    host.run("nft", &[&format!("{table}\nadd rule inet faults dropped {rule}")]).map(drop)
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}
