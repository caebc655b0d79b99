//! `barrier`: keeps mesh addresses off all interfaces before the daemon runs, and before the host has a network.
//!
//! Needs no daemon, only the keys. Must not know how ranges are closed.

use anyhow::Context as _;
use serde_json::json;

use super::output::Outcome;
use crate::config::Config;
use crate::platform::linux::Net;

/// Closes the ranges, and prints what wasn't closed before.
pub(super) fn run(config: &Config, json: bool) -> anyhow::Result<Outcome> {
    let ranges = crate::daemon::ranges(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let closing = async { Net::new()?.close(&config.meshlan.interface, &ranges).await };
    let closed =
        runtime.block_on(closing).context("cannot close the mesh ranges (CAP_NET_ADMIN is needed)")?;
    if json {
        return Ok(Outcome::json(&json!({ "closed": closed })));
    }
    Ok(Outcome::text(closed.iter().map(|one| format!("put up {one}\n")).collect::<String>()))
}
