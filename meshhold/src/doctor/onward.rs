//! What this host does with a packet that the rules of the mesh let pass: its routes, its firewall, its services.
//!
//! Owns the questions, in the order in which a packet meets them. Must not know the mesh's own rules.

use super::delivery::Arrival;
use super::{Finding, firewall};
use crate::platform::linux::Net;
use crate::platform::linux::listeners;
use crate::platform::linux::route_word::Onward;
use std::fs;
use std::net::IpAddr;

/// A packet that passes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Passing {
    /// From the mesh to this host, and not the other way.
    pub(crate) incoming: bool,
    /// `tcp`, `udp`, `icmp`, `icmpv6`.
    pub(crate) protocol: &'static str,
    /// Destination port.
    pub(crate) port: Option<u16>,
    /// Its addresses before the host's rules; of one that leaves, as its program sees them.
    pub(crate) ends: Arrival,
    /// Nothing that waits on the port is reached from the mesh.
    pub(crate) unserved: bool,
    /// Name of the mesh interface.
    pub(crate) mesh: String,
}

/// What stands in its way here. Runs programs.
pub(crate) async fn obstacles(passing: Passing) -> Vec<Finding> {
    let mut found = Vec::from_iter(route(&passing).await);
    let rest = tokio::task::spawn_blocking(move || {
        let Passing { incoming, protocol, port, ends, mesh, .. } = &passing;
        let mut rest = firewall::stopping(*incoming, protocol, *port, *ends, mesh);
        rest.extend(elsewhere(&passing));
        rest
    });
    found.extend(rest.await.unwrap_or_default());
    found
}

/// The first look-up that goes wrong: that of the packet, then that of the answer.
async fn route(passing: &Passing) -> Option<Finding> {
    let net = Net::new().ok()?;
    let Passing { ends, mesh, .. } = passing;
    if passing.incoming {
        let interface = if ends.is_by_loopback() { "lo" } else { mesh };
        let onward = net.coming_in(ends.source, ends.destination, interface).await.ok()?;
        if onward != Onward::Here {
            let summary = format!(
                "this host doesn't take in what comes by {interface} from {} to {}: {}",
                ends.source,
                ends.destination,
                words(&onward)
            );
            return Some(wrong(summary, ends.destination, mesh));
        }
        let answer = net.leaving(Some(ends.destination), ends.source).await.ok()?;
        return misled(answer, ends.source, mesh);
    }
    let chosen = net.leaving(None, ends.destination).await.ok()?;
    let bound = net.leaving(Some(ends.source), ends.destination).await.ok()?;
    misled(chosen, ends.destination, mesh).or_else(|| misled(bound, ends.destination, mesh))
}

fn misled(onward: Onward, to: IpAddr, mesh: &str) -> Option<Finding> {
    if matches!(&onward, Onward::By(name) if name == mesh) {
        return None;
    }
    let summary = format!("this host doesn't send what is for {to} by {mesh}: {}", words(&onward));
    Some(wrong(summary, to, mesh))
}

pub(super) fn words(onward: &Onward) -> String {
    match onward {
        Onward::Here => "it takes it for its own".to_owned(),
        Onward::By(name) => format!("its route leads to {name}"),
        Onward::Nowhere(why) => why.clone(),
    }
}

fn wrong(summary: String, address: IpAddr, mesh: &str) -> Finding {
    const CHECK: &str = "route";
    let off = format!("/proc/sys/net/ipv6/conf/{mesh}/disable_ipv6");
    let is_off = fs::read_to_string(off).is_ok_and(|text| text.trim() == "1");
    if address.is_ipv6() && is_off {
        let remedy = format!("sysctl -w net.ipv6.conf.{mesh}.disable_ipv6=0");
        return Finding::error(CHECK, format!("{summary} (IPv6 is off on {mesh})"), remedy);
    }
    let remedy = "the daemon puts back addresses, routes and rules that others take away; `meshhold meshlan status` says what keeps it from that";
    Finding::error(CHECK, summary, remedy)
}

/// Who waits on the port where the mesh doesn't reach.
fn elsewhere(passing: &Passing) -> Option<Finding> {
    let port = passing.port.filter(|_| passing.unserved)?;
    let other =
        listeners::all().into_iter().find(|one| one.protocol == passing.protocol && one.port == port)?;
    let program = other.program.as_deref().unwrap_or("the service");
    let summary = format!("{program} waits on {} only, which the mesh doesn't reach", other.address);
    let remedy = format!("let {program} listen on 127.0.0.1:{port}, or on all addresses");
    Some(Finding::warning("services", summary, remedy))
}
