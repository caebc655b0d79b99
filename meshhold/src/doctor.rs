//! What keeps this node from doing its work, found on the host itself, with the command that mends it.
//!
//! Owns the checks. Changes nothing. Must not know who asks.

mod clock;
pub(crate) mod delivery;
mod firewall;
pub(crate) mod onward;
mod routing;
mod services;

use crate::control::api::{DatapathMode, NetworkStatus, Status};
use crate::platform::linux::caps;
use serde::{Deserialize, Serialize};
use std::fs;
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
    let open = services::open(status);
    let wanted =
        firewall::Wanted { port, interface: &status.interface, open: services::packets(&open, status) };
    let checks: [(&str, Vec<Finding>); 11] = [
        ("capabilities", capabilities()),
        ("firewall", firewall::blocking(&wanted)),
        ("reverse path filter", reverse_path(&status.interface)),
        ("services", services::unreached(&open)),
        ("routes", routing::astray(status)),
        ("names", names(status)),
        ("address ranges", ranges(status)),
        ("clock", clock::skewed(status)),
        ("offload", offload(status)),
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

/// Strict filters drop what comes in by another interface than answers go out by (ip-sysctl, `rp_filter`): where there are
/// several. The larger of `all` and the interface's own counts. The mesh interface has routes to all that comes by it.
fn reverse_path(mesh: &str) -> Vec<Finding> {
    const CHECK: &str = "reverse path filter";
    let strict = |name: &str| setting(&format!("net/ipv4/conf/{name}/rp_filter")) == Some(1);
    let remedy = |name: &str| format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2");
    let why =
        "strict: datagrams of members that come in by another interface than answers go out by are dropped";
    if strict("all") {
        return vec![Finding::warning(CHECK, format!("net.ipv4.conf.all.rp_filter is {why}"), remedy("all"))];
    }
    // Always of this network namespace, unlike /sys, and with nothing but interfaces and the two defaults.
    let names = fs::read_dir("/proc/sys/net/ipv4/conf").into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let no_underlay = ["all", "default", "lo", mesh];
    let underlay: Vec<String> = names.filter(|name| !no_underlay.contains(&name.as_str())).collect();
    let several = underlay.len() > 1;
    let found = underlay.iter().filter(|name| several && strict(name));
    found
        .map(|name| Finding::warning(CHECK, format!("net.ipv4.conf.{name}.rp_filter is {why}"), remedy(name)))
        .collect()
}

fn names(status: &Status) -> Vec<Finding> {
    let dns = &status.dns;
    let Some(hindrance) = &dns.hindrance else { return Vec::new() };
    let summary = format!("programs on this host don't see names in .{}: {hindrance}", dns.suffix);
    vec![Finding::warning("names", summary, dns.remedy.clone().unwrap_or_default())]
}

/// Ranges that something else on this host uses.
fn ranges(status: &Status) -> Vec<Finding> {
    const CHECK: &str = "address ranges";
    let elsewhere = "meshhold mgmt-keys add --name NAME --ipv4-range 10.77.0.0/16 makes a network in a range that you choose; members then join that one";
    let finding = |network: &NetworkStatus| {
        let name = &network.name;
        match (&network.local_view, network.ipv4) {
            (_, None) => {
                let why =
                    network.warnings.iter().find(|text| text.contains("IPv4")).cloned().unwrap_or_default();
                Some(Finding::error(CHECK, format!("'{name}' has no IPv4 here: {why}"), elsewhere))
            }
            (Some(view), Some(_)) => {
                let summary = format!(
                    "'{name}' is shown at {} here, as its range {} is in use by {}; addresses that other members tell you don't fit here",
                    view.range, view.real_range, view.reason
                );
                Some(Finding::warning(
                    CHECK,
                    summary,
                    format!("use names, or addresses that this node shows; or: {elsewhere}"),
                ))
            }
            (None, Some(_)) => None,
        }
    };
    status.networks.iter().filter_map(finding).collect()
}

/// Segmentation by the kernel: without, every packet takes a system call.
fn offload(status: &Status) -> Vec<Finding> {
    let finding = |lacking: &String| {
        let (what, remedy) = match lacking.as_str() {
            "configuration" => (
                "all offloads are off by the configuration",
                "set node.offload to true and restart, unless they were turned off for a reason",
            ),
            "interface" => (
                "the kernel takes no TCP and UDP super-packets on the mesh interface",
                "Linux 6.2 or newer does (TUN_F_USO4)",
            ),
            "send" => (
                "the kernel refused UDP segmentation (UDP_SEGMENT) on the way out",
                "look at `ethtool -k` of the interface: tx-checksum-ip-generic must be on, `ethtool -K IFACE tx on` turns it on; then restart the daemon",
            ),
            _ => ("the kernel joins no received datagrams (UDP_GRO)", "Linux 5.0 or newer does"),
        };
        Finding::warning("offload", format!("{what}: transfers are slower"), remedy)
    };
    status.datapath.without_offloads.iter().map(finding).collect()
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
        findings.push(Finding::warning(
            "node",
            summary,
            "the daemon's warning says why: it stands with those of `meshhold meshlan status`",
        ));
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
