//! What a daemon may leave behind on its host: interfaces, addresses, routes, rules, sysctls, packet filter, BPF pins.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;

use crate::lab::Host;
use crate::wait;

const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// Each line is one object of the host's network configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

/// Lifetimes, cache ages and counters change by themselves.
const COLLECT: &str = r"
ip -o link show | sed 's/ qlen.*//; s/state [A-Z]*//' | sed 's/^/link /'
ip -o addr show | sed 's/valid_lft.*//; s/tentative//' | sed 's/^/addr /'
ip route show table all | sed 's/expires.*//' | sed 's/^/route /'
ip -6 route show table all | sed 's/expires.*//; s/ metric .*//' | sed 's/^/route6 /'
ip rule show | sed 's/^/rule /'
ip -6 rule show | sed 's/^/rule6 /'
grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/ipv4/ip_forward 2>/dev/null \
    | grep -v -e stable_secret -e mc_forwarding | sed 's/^/sysctl /'
find /sys/fs/bpf -mindepth 1 ! -name '*.debug' | sed 's/^/pin /'
command -v nft >/dev/null && nft list ruleset | sed 's/^/nft /'
true
";

impl Snapshot {
    /// The host as it is now.
    pub fn take(host: &Host) -> Result<Self> {
        let text = host.run("sh", &["-c", COLLECT])?;
        Ok(Self(text.lines().map(|line| line.trim().to_owned()).collect()))
    }

    /// The host once it stands still: the kernel adds addresses and routes for a while after a link came up.
    pub fn settled(host: &Host) -> Result<Self> {
        let mut last = Self::take(host)?;
        wait::until(SETTLE_LIMIT, "the host's network stands still", || {
            let before = std::mem::replace(&mut last, Self::take(host)?);
            Ok((last == before).then(|| last.clone()))
        })
    }

    /// What is here and was not in `before`.
    pub fn added_since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }

    /// What was in `before` and is not here.
    pub fn lost_since(&self, before: &Self) -> Vec<String> {
        before.0.difference(&self.0).cloned().collect()
    }
}
