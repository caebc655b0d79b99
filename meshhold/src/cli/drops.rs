//! `meshlan drops`: what the kernel tells of, line by line, and how much it didn't tell of.

use super::ask;
use super::output::{Outcome, printable};
use crate::config::Config;
use crate::control::api::{Drop, DropsReply, Request, Response};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(250);

/// Follows the drops for `limit`, or for ever.
pub(super) fn run(config: &Config, limit: Option<Duration>, json: bool) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
    let mut last: Option<DropsReply> = None;
    loop {
        let seen = last.as_ref().map_or(0, |last| last.seen);
        let Response::Drops(reply) = ask(config, &Request::Drops { seen })? else {
            anyhow::bail!("the daemon's answer isn't a list of drops; restart it with this version");
        };
        // What was before is not followed.
        if let Some(last) = &last
            && let Err(error) = print(&reply, &last.counters, json)
        {
            // A reader that went away is no failure.
            return if error.kind() == io::ErrorKind::BrokenPipe {
                Ok(Outcome::default())
            } else {
                Err(error.into())
            };
        }
        last = Some(reply);
        if limit.is_some_and(|limit| begun.elapsed() >= limit) {
            return Ok(Outcome::default());
        }
        std::thread::sleep(PAUSE);
    }
}

fn print(reply: &DropsReply, before: &BTreeMap<String, u64>, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for drop in &reply.drops {
        if json {
            serde_json::to_writer(&mut out, drop)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{}", line(drop))?;
        }
    }
    for (reason, count) in untold(reply, before) {
        if json {
            writeln!(out, "{}", json!({ "reason": reason, "untold": count }))?;
        } else {
            writeln!(out, "{reason}: {count} more")?;
        }
    }
    out.flush()
}

fn line(drop: &Drop) -> String {
    let protocol = match drop.protocol {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        1 | 58 => "icmp".to_owned(),
        other => format!("protocol {other}"),
    };
    let peer = drop.peer.as_ref().map(|peer| format!(" ({})", printable(peer))).unwrap_or_default();
    format!(
        "{} {}: {protocol} {} -> {}{peer} x{}",
        drop.direction, drop.reason, drop.from, drop.to, drop.count
    )
}

/// Drops that were counted since and not told of, by reason: beyond the kernel's limit, or in a worker.
fn untold(reply: &DropsReply, before: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let told = |reason: &str| -> u64 {
        reply.drops.iter().filter(|drop| drop.reason == reason).map(|drop| drop.count).sum()
    };
    let drops = reply.counters.iter().filter(|(reason, _)| !reason.starts_with("pass-"));
    drops
        .filter_map(|(reason, now)| {
            let grown = now.saturating_sub(before.get(reason).copied().unwrap_or_default());
            let untold = grown.saturating_sub(told(reason));
            (untold > 0).then(|| (reason.clone(), untold))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_told_is_counted() {
        let drop = Drop {
            reason: "port-denied".into(),
            direction: "ingress".into(),
            protocol: 6,
            from: "198.18.0.17:40000".parse().unwrap(),
            to: "198.18.0.1:22".parse().unwrap(),
            peer: Some("lap\x1btop".into()),
            count: 10,
        };
        let text = line(&drop);
        assert_eq!(text, "ingress port-denied: tcp 198.18.0.17:40000 -> 198.18.0.1:22 (lap\u{fffd}top) x10");
        let counters = |list: &[(&str, u64)]| list.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        let now = counters(&[("port-denied", 115), ("no-owner", 3), ("pass-scope", 9)]);
        let reply = DropsReply { drops: vec![drop], seen: 10, counters: now };
        let before = counters(&[("port-denied", 100), ("no-owner", 3)]);
        assert_eq!(untold(&reply, &before), [("port-denied".to_owned(), 5)]);
    }
}
