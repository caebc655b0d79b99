//! Questions to a node: why, and which name.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::Node;

/// Answer and exit code of `meshlan explain --json` with further words.
pub fn explain(node: &Node, words: &[&str]) -> Result<(Value, Option<i32>)> {
    let words = [&["meshlan", "explain", "--json"], words].concat();
    let finished = node.try_meshhold(&words, "")?;
    let value = serde_json::from_str(&finished.stdout).with_context(|| format!("{words:?}: {finished:?}"))?;
    Ok((value, finished.status.code()))
}

/// What `dig` prints when it asks the node's name server; `words` as `dig` takes them.
pub fn dig(node: &Node, words: &[&str]) -> Result<String> {
    let server = node.status()?.dns.server.context("no name server")?;
    let (address, port) = (format!("@{}", server.ip()), server.port().to_string());
    let words = [&[address.as_str(), "-p", &port, "+time=2", "+tries=1"], words].concat();
    Ok(node.host.run("dig", &words)?.trim().to_owned())
}
