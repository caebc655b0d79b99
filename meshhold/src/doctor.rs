//! What keeps this node from doing its work, found on the host itself, with the command that mends it.
//!
//! Owns the checks. Changes nothing. Must not know who asks.

mod firewall;

use crate::control::api::{DatapathMode, Status};
use crate::platform::linux::{caps, listeners};
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::IpAddr;
use utoipa::ToSchema;

/// Smaller socket buffers lose bursts (bytes).
const BUFFER: u64 = 4 << 20;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Something works less well.
    Warning,
    /// Something doesn't work.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub summary: String,
    /// The command or step that mends it.
    pub remedy: Option<String>,
}

impl Finding {
    fn new(check: &str, severity: Severity, summary: String, remedy: Option<String>) -> Self {
        Self { check: check.to_owned(), severity, summary, remedy }
    }

    fn warning(check: &str, summary: String, remedy: impl Into<String>) -> Self {
        Self::new(check, Severity::Warning, summary, Some(remedy.into()))
    }

    fn error(check: &str, summary: String, remedy: impl Into<String>) -> Self {
        Self::new(check, Severity::Error, summary, Some(remedy.into()))
    }
}

/// Looks at everything; `port` is the node's own UDP port. Runs programs: not for the daemon's loop.
pub fn examine(status: &Status, port: u16) -> Vec<Finding> {
    let checks: [(&str, Vec<Finding>); 7] = [
        ("capabilities", capabilities()),
        ("firewall", firewall::blocking(port, &status.interface)),
        ("reverse path filter", reverse_path(&status.interface)),
        ("services", services(status)),
        ("names", names(status)),
        ("buffers", buffers()),
        ("node", node(status)),
    ];
    let fine = |check| Finding::new(check, Severity::Ok, "nothing in the way".to_owned(), None);
    checks
        .into_iter()
        .flat_map(|(check, found)| if found.is_empty() { vec![fine(check)] } else { found })
        .collect()
}

fn capabilities() -> Vec<Finding> {
    let missing = caps::probe().into_iter();
    missing
        .map(|one| Finding::error("capabilities", format!("{} is missing: {}", one.what, one.why), one.fix))
        .collect()
}

/// Strict filters drop what comes in by another interface than answers go out by (ip-sysctl, `rp_filter`). The larger of
/// `all` and the interface's own counts.
fn reverse_path(interface: &str) -> Vec<Finding> {
    let strict = |name: &&str| setting(&format!("net/ipv4/conf/{name}/rp_filter")) == Some(1);
    let found = ["all", interface].into_iter().find(strict);
    let finding = |name: &str| {
        let summary =
            format!("net.ipv4.conf.{name}.rp_filter is strict: answers over the mesh may be dropped");
        Finding::warning(
            "reverse path filter",
            summary,
            format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2"),
        )
    };
    found.map(finding).into_iter().collect()
}

/// Ports that a scope opens and where nothing answers, or nothing that the mesh reaches.
fn services(status: &Status) -> Vec<Finding> {
    let waiting = listeners::all();
    let mut findings = Vec::new();
    for network in &status.networks {
        let own = [network.ipv4.map(IpAddr::V4), Some(IpAddr::V6(network.ipv6))];
        let reached =
            |ip: IpAddr| ip.is_unspecified() || ip.is_loopback() || own.contains(&Some(ip.to_canonical()));
        for rule in &network.scope {
            let Some((protocol, Ok(port))) = rule.split_once(':').map(|(p, port)| (p, port.parse::<u16>()))
            else {
                continue;
            };
            let here: Vec<_> =
                waiting.iter().filter(|one| one.protocol == protocol && one.port == port).collect();
            let bound = here.first().map(|one| (one.address, one.program.clone().unwrap_or_default()));
            match bound {
                None => findings.push(Finding::warning(
                    "services",
                    format!("{rule} is open in '{}' and nothing waits there", network.name),
                    "start the service, or close the port with `meshhold mgmt-keys edit`",
                )),
                Some((address, program)) if !here.iter().any(|one| reached(one.address)) => {
                    findings.push(Finding::error(
                        "services",
                        format!(
                            "{rule} is open in '{}', but {program} waits on {address} only",
                            network.name
                        ),
                        format!("let {program} listen on 127.0.0.1:{port}, or on all addresses"),
                    ));
                }
                Some(_) => {}
            }
        }
    }
    findings
}

fn names(status: &Status) -> Vec<Finding> {
    match status.dns.server {
        Some(server) if !status.dns.handed_over => vec![Finding::warning(
            "names",
            format!("the host's resolver doesn't ask {server} for *.{}", status.dns.suffix),
            format!(
                "with dnsmasq: server=/{}/{}#{}; or install systemd-resolved",
                status.dns.suffix,
                server.ip(),
                server.port()
            ),
        )],
        _ => Vec::new(),
    }
}

fn buffers() -> Vec<Finding> {
    let small = |name: &&str| setting(&format!("net/core/{name}")).is_some_and(|bytes| bytes < BUFFER);
    let finding = |name: &str| {
        let summary = format!("net.core.{name} is below 4 MiB: bursts may be lost without CAP_NET_ADMIN");
        Finding::warning("buffers", summary, format!("sysctl -w net.core.{name}={BUFFER}"))
    };
    let limited = caps::probe().iter().any(|one| one.what == "CAP_NET_ADMIN");
    ["rmem_max", "wmem_max"].into_iter().filter(|name| limited && small(name)).map(finding).collect()
}

/// What the daemon itself knows.
fn node(status: &Status) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !status.running {
        findings.push(Finding::error("node", "no daemon is running".to_owned(), "meshhold daemon"));
    } else if status.datapath.mode == DatapathMode::Userspace {
        let summary = "user space enforces the port scope: services on loopback are not reached".to_owned();
        findings.push(Finding::warning("node", summary, "see the capabilities above, and the daemon's log"));
    }
    let networks =
        status.networks.iter().flat_map(|network| network.warnings.iter().chain(&network.conflicts));
    let told = status.warnings.iter().chain(networks);
    findings.extend(told.map(|text| Finding::new("node", Severity::Warning, text.clone(), None)));
    findings
}

fn setting(path: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/{path}")).ok()?.trim().parse().ok()
}
