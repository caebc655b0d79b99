//! A real miniupnpd on a router of the lab: port mappings by PCP, NAT-PMP and UPnP.
//!
//! Owns its configuration and the rules around it. The package's files lie in the target folder (`cargo xtask setup` unpacks
//! them there): its install scripts would start a gateway on the machine.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::{Host, labtool};
use crate::nat::Router;
use crate::process::Process;
use crate::wait;

const PATIENCE: Duration = Duration::from_secs(10);
/// What miniupnpd fills with its rules.
const TABLE: &str = "table inet miniupnpd {
    chain forward { type filter hook forward priority 10\n jump mapped\n }
    chain mapped { }
    chain prerouting { type nat hook prerouting priority dstnat\n iifname eth0 jump mapped_in\n }
    chain mapped_in { }
    chain postrouting { type nat hook postrouting priority srcnat - 10\n jump mapped_out\n }
    chain mapped_out { }
}";

/// What a router speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// PCP and NAT-PMP.
    Pcp,
    /// UPnP alone.
    Upnp,
}

/// A running gateway; it ends when dropped, and its mappings stay.
#[derive(Debug)]
pub struct Igd {
    router: Host,
    _process: Process,
}

/// Gives `host` an address on the bridge that looks like one of the Internet, unlike the lab's own, and yields it. The lab's
/// namespaces lead nowhere.
pub fn give_public_address(host: &Host) -> Result<Ipv4Addr> {
    let [_, _, _, number] = host.ipv4.octets();
    let address = Ipv4Addr::new(11, 90, 0, number);
    host.namespace().ip(&format!("address add {address}/24 dev eth0"))?;
    Ok(address)
}

impl Igd {
    /// Starts it on `router`, whose address outside is `external`.
    pub fn start(router: &Router, external: Ipv4Addr, speaks: Speaks) -> Result<Self> {
        let (host, lan) = (&router.host, router.lan());
        host.run("nft", &[TABLE])?;
        host.run(
            "nft",
            &[&format!("insert rule inet nat input iifname {lan} udp dport {{ 1900, 5351 }} accept")],
        )?;
        let file = host.directory().join("miniupnpd.conf");
        std::fs::write(&file, configuration(lan, external, speaks))?;
        let pid = host.directory().join("miniupnpd.pid");
        let arguments = ["-d", "-f", &file.to_string_lossy(), "-P", &pid.to_string_lossy()];
        let mut process = host.spawn("miniupnpd", &unpacked()?.to_string_lossy(), &arguments)?;
        wait::until_true(PATIENCE, "miniupnpd listens", || {
            ensure!(process.is_running()?, "miniupnpd ended: {}", process.log()?);
            let listening = host.run("ss", &["-Hlnu"])?;
            Ok(listening.contains(if speaks == Speaks::Pcp { ":5351" } else { ":1900" }))
        })?;
        Ok(Self { router: host.clone(), _process: process })
    }

    /// The rules that stand for mappings now.
    pub fn mappings(&self) -> Result<Vec<String>> {
        let rules = self.router.run("nft", &["list", "chain", "inet", "miniupnpd", "mapped_in"])?;
        Ok(rules.lines().filter(|line| line.contains("dnat")).map(|line| line.trim().to_owned()).collect())
    }
}

fn configuration(lan: &str, external: Ipv4Addr, speaks: Speaks) -> String {
    let (pcp, upnp) = if speaks == Speaks::Pcp { ("yes", "no") } else { ("no", "yes") };
    format!(
        "ext_ifname=eth0\next_ip={external}\nlistening_ip={lan}\nhttp_port=0\nenable_natpmp={pcp}\nenable_upnp={upnp}\n\
         secure_mode=yes\nmin_lifetime=120\nmax_lifetime=86400\nipv6_disable=yes\n\
         uuid=5c9b6f2e-0000-4000-8000-6d6573686464\n\
         upnp_table_name=miniupnpd\nupnp_nat_table_name=miniupnpd\nupnp_forward_chain=mapped\nupnp_nat_chain=mapped_in\n\
         upnp_nat_postrouting_chain=mapped_out\n\
         allow 1024-65535 192.168.0.0/16 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n"
    )
}

fn unpacked() -> Result<PathBuf> {
    let tool = labtool()?;
    let target = Path::new(&tool).ancestors().nth(2).context("no target folder")?;
    let program = target.join("debian/miniupnpd/usr/sbin/miniupnpd");
    ensure!(program.exists(), "run `cargo xtask setup`: {} is missing", program.display());
    Ok(program)
}
