//! `cleanup`: takes away what a node leaves on its host when it ends, so that the next start goes on with it.
//!
//! Needs no daemon, and refuses while one runs. Must not touch keys, identity or state: those are the user's.

use anyhow::{Context, bail};
use serde_json::json;

use super::output::Outcome;
use crate::config::Config;
use crate::control::api::Request;
use crate::control::client;
use crate::datapath::ebpf::EbpfDatapath;
use crate::platform::linux::{Net, bpffs, reserved, sys, tun_holder};

/// Removes interface, routes, rules, barrier, programs and settings of this node, and prints what there was.
pub(super) fn run(config: &Config, json: bool) -> anyhow::Result<Outcome> {
    let interface = &config.meshlan.interface;
    if client::call(&config.socket(), &Request::Status).is_ok() {
        bail!("the daemon is running: stop it first (`systemctl stop meshhold`)");
    }
    if let Some(holder) = tun_holder(interface) {
        bail!("{interface} is in use by {holder}: stop it first");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let removed = runtime.block_on(clean(interface)).context("cannot clean up (CAP_NET_ADMIN is needed)")?;
    if json {
        return Ok(Outcome::json(&json!({ "removed": removed })));
    }
    if removed.is_empty() {
        return Ok(Outcome::text("nothing was left".to_owned()));
    }
    Ok(Outcome::text(removed.iter().map(|one| format!("removed {one}\n")).collect::<String>())
        .advise("packets to mesh addresses now go where the host's other routes lead"))
}

async fn clean(interface: &str) -> anyhow::Result<Vec<String>> {
    let net = Net::new()?;
    // Whatever still comes in meets the programs to the end.
    let mut removed = net.clean_up(interface).await?;
    removed.extend(net.clean_up_dead().await?);
    for name in bpffs::interfaces() {
        if name == interface || sys::index_of(&name).is_none() {
            EbpfDatapath::take_off(&name, &bpffs::directory(&name))?;
            bpffs::discard(&name);
            removed.push(format!("programs and maps of {name}"));
        }
    }
    if bpffs::interfaces().is_empty() && reserved::set(false).context("cannot give back reserved ports")? {
        removed.push("the reservation of ports for LAN devices".to_owned());
    }
    Ok(removed)
}
