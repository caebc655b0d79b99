//! Sites behind a router that translates addresses, by nftables; the lab's bridge is the Internet to them.
//!
//! The kinds are those of RFC 4787: how a mapping is chosen, and which datagrams from outside it lets in. UDP only is
//! treated by kind; hairpinning is off. Owns the rules of a router; what one can break by purpose is in `fault`.

use std::net::Ipv6Addr;

use anyhow::{Context, Result};

use crate::lab::{Host, Lab};

/// External ports of the mappings that keep theirs for all destinations; never the internal one.
const PORTS: &str = "40000-49999";
/// As Linux has it for a flow without an answer.
const UDP_TIMEOUT: u32 = 30;

/// How a site is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Directly on the bridge.
    None,
    /// One mapping for all destinations; anyone may answer.
    FullCone,
    /// One mapping for all destinations; only addresses that were sent to may answer.
    AddressRestricted,
    /// One mapping for all destinations; only addresses and ports that were sent to may answer.
    PortRestricted,
    /// A new random port for each destination.
    Symmetric,
}

impl Kind {
    /// All, from the open to the closed.
    pub const ALL: [Self; 5] =
        [Self::None, Self::FullCone, Self::AddressRestricted, Self::PortRestricted, Self::Symmetric];

    /// A short name, as part of host names.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "open",
            Self::FullCone => "cone",
            Self::AddressRestricted => "address",
            Self::PortRestricted => "port",
            Self::Symmetric => "symmetric",
        }
    }
}

/// What a site has of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inner6 {
    /// Nothing.
    Off,
    /// An address of its own behind a firewall that admits answers only.
    Firewalled,
}

/// A router between a site and the bridge.
#[derive(Debug, Clone)]
pub struct Router {
    /// The machine: `eth0` on the bridge, `lanN` to the site.
    pub host: Host,
    kind: Kind,
    lan: String,
    /// The host behind it.
    inner: Host,
}

impl Lab {
    /// A host at a site of its own; a router only where the kind has one. Without IPv6 the host's `ipv6` is nobody's.
    pub fn behind_nat(&self, kind: Kind, inner6: Inner6, name: &str) -> Result<(Host, Option<Router>)> {
        if kind == Kind::None {
            let host = self.host(name)?;
            if inner6 == Inner6::Off {
                host.namespace().ip("-6 address flush dev eth0 scope global")?;
            }
            return Ok((host, None));
        }
        let router = self.host(&format!("{name}-router"))?;
        let mut inner = self.device(&router, name)?;
        let [_, _, number, _] = inner.ipv4.octets();
        inner.namespace().ip(&format!("route add default via 192.168.{number}.1"))?;
        inner.namespace().ip("-6 address flush dev eth0 scope global")?;
        inner.ipv6 = Ipv6Addr::new(0xfd00, 0x90, 0, 0, 0, 0, number.into(), 2);
        let router = Router { host: router, kind, lan: format!("lan{number}"), inner };
        router.forward()?;
        if inner6 == Inner6::Firewalled {
            router.announce()?;
        }
        router.set_udp_timeout(UDP_TIMEOUT)?;
        Ok((router.inner.clone(), Some(router)))
    }
}

impl Router {
    /// How long a mapping lives without traffic, in seconds; present ones are forgotten.
    pub fn set_udp_timeout(&self, seconds: u32) -> Result<()> {
        self.sysctl("net/netfilter/nf_conntrack_udp_timeout", seconds)?;
        self.sysctl("net/netfilter/nf_conntrack_udp_timeout_stream", seconds)?;
        let rules = self.rules(seconds);
        self.host.run("nft", &[&rules])?;
        self.forget()
    }

    /// As after a reboot: no mapping is left, and the next ones get other ports.
    pub fn forget(&self) -> Result<()> {
        self.host.run("nft", &["flush map inet nat mapped; flush set inet nat talked"])?;
        self.host.tool(&["forget-flows"]).map(drop)
    }

    /// The interface to the site.
    pub fn lan(&self) -> &str {
        &self.lan
    }

    /// Limits what passes in each direction.
    pub fn limit_rate(&self, mbits: u32) -> Result<()> {
        for device in ["eth0", &self.lan] {
            let shaper =
                format!("qdisc replace dev {device} root tbf rate {mbits}mbit burst 256kb latency 50ms");
            self.host.run("tc", &shaper.split_whitespace().collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Packets from one side to the other.
    fn forward(&self) -> Result<()> {
        self.sysctl("net/ipv4/ip_forward", 1)?;
        self.sysctl("net/ipv6/conf/all/forwarding", 1)
    }

    /// The inner host's IPv6 address is one of the bridge's prefix, which the router answers for.
    fn announce(&self) -> Result<()> {
        let (address, lan) = (self.inner.ipv6, &self.lan);
        self.sysctl("net/ipv6/conf/eth0/proxy_ndp", 1)?;
        self.sysctl("net/ipv6/neigh/eth0/proxy_delay", 0)?;
        self.host.namespace().ip(&format!("-6 neigh add proxy {address} dev eth0"))?;
        self.host.namespace().ip(&format!("-6 route add {address}/128 dev {lan}"))?;
        self.inner.namespace().ip(&format!("address add {address}/128 dev eth0 nodad"))?;
        let [_, _, number, _] = self.inner.ipv4.octets();
        let gateway = format!("fd00:168:{number}::1");
        self.inner.namespace().ip(&format!("-6 route add {gateway}/128 dev eth0"))?;
        self.inner.namespace().ip(&format!("-6 route add default via {gateway} dev eth0")).map(drop)
    }

    fn sysctl(&self, name: &str, value: u32) -> Result<()> {
        let command = format!("echo {value} > /proc/sys/{name}");
        self.host.run("sh", &["-c", &command]).map(drop).with_context(|| format!("cannot set {name}"))
    }

    /// What is dropped on its way in must be dropped before it is a flow: a flow would take the port of a later mapping.
    fn rules(&self, timeout: u32) -> String {
        let (inner, lan, translation) = (self.inner.ipv4, &self.lan, self.translation());
        let inbound = self.admitted().map_or(String::new(), |who| {
            format!("iifname eth0 {who} dnat ip to {inner} : udp dport map @mapped")
        });
        let noted = "oifname eth0 meta nfproto ipv4 meta l4proto udp update";
        format!(
            "table inet nat\ndelete table inet nat\ntable inet nat {{
                map mapped {{ type inet_service : inet_service\n flags dynamic,timeout\n }}
                set talked {{ type ipv4_addr . inet_service\n flags dynamic,timeout\n }}
                chain input {{ type filter hook input priority 0\n meta l4proto udp drop\n }}
                chain forward {{
                    type filter hook forward priority 0; policy drop;
                    iifname {lan} accept
                    ct state established,related accept
                    ct status dnat accept
                }}
                chain inbound {{ type nat hook prerouting priority dstnat\n {inbound}\n }}
                chain outbound {{
                    type nat hook postrouting priority srcnat
                    oifname eth0 ip saddr {inner} {translation}
                    oifname eth0 ip saddr {inner} masquerade
                }}
                chain note {{
                    type filter hook postrouting priority srcnat + 50
                    {noted} @mapped {{ udp sport timeout {timeout}s : ct original proto-src }}
                    {noted} @talked {{ ip daddr . udp sport timeout {timeout}s }}
                }}
            }}"
        )
    }

    /// Who may open a flow from outside to a port that is mapped.
    fn admitted(&self) -> Option<&'static str> {
        match self.kind {
            Kind::FullCone => Some("meta nfproto ipv4 meta l4proto udp"),
            Kind::AddressRestricted => Some("ip saddr . udp dport @talked"),
            Kind::None | Kind::PortRestricted | Kind::Symmetric => None,
        }
    }

    fn translation(&self) -> String {
        let address = self.host.ipv4;
        match self.kind {
            Kind::Symmetric => "masquerade fully-random".to_owned(),
            _ => format!("meta l4proto {{ tcp, udp }} snat ip to {address}:{PORTS}"),
        }
    }
}
