//! `meshlan ping`: echoes through the mesh, and at which step they fail.

use super::ask;
use super::explain::explained;
use super::output::{Outcome, note, printable};
use crate::config::Config;
use crate::control::api::{ExplainRequest, Explanation, Request, Response, Traffic, Verdict};
use crate::control::echo::{self, Answer, PATIENCE, failure, milliseconds};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Pings `to` and prints what came back.
pub(super) fn run(config: &Config, to: &str, count: u16, json: bool) -> anyhow::Result<Outcome> {
    let Response::Address(address) = ask(config, &Request::Resolve(to.to_owned()))? else {
        anyhow::bail!("the daemon's answer isn't an address; restart it with this version");
    };
    let before = explain(config, address)?;
    let answers = match (before.own_device, before.verdict) {
        (Some(target), _) => echoes(target, count, json)?,
        (None, Verdict::Pass) => echoes(address, count, json)?,
        (None, Verdict::Drop) => Vec::new(),
    };
    let replies: Vec<f64> = answers.iter().filter_map(milliseconds).collect();
    let after = explain(config, address)?;
    let failure = replies.is_empty().then(|| failure(&answers, &after));
    let code = u8::from(replies.is_empty());
    if json {
        return Ok(Outcome::json(&report(address, &answers, &after, failure.as_deref())).code(code));
    }
    Ok(Outcome::text(summary(address, count, &replies, &after, failure)).code(code))
}

fn explain(config: &Config, address: IpAddr) -> anyhow::Result<Explanation> {
    let request = ExplainRequest { traffic: Traffic::Icmp, to: address.to_string(), port: None, from: None };
    explained(config, &Request::Explain(request))
}

fn echoes(address: IpAddr, count: u16, quiet: bool) -> anyhow::Result<Vec<Answer>> {
    echo::ask(address, count, |number, answer| {
        if !quiet {
            note(&line(number, answer));
        }
    })
}

fn line(number: u16, answer: Answer) -> String {
    match answer {
        Answer::Reply(after) => format!("{number}: {:.2} ms", after.as_secs_f64() * 1e3),
        Answer::Unreachable => format!("{number}: unreachable"),
        Answer::Silence => format!("{number}: no reply within {} s", PATIENCE.as_secs()),
    }
}

fn summary(
    address: IpAddr,
    count: u16,
    replies: &[f64],
    now: &Explanation,
    failure: Option<String>,
) -> String {
    let peer = now.peer.as_ref().map(|peer| format!(" of {}", printable(&peer.name))).unwrap_or_default();
    let path = now.path.as_ref().map(|path| format!(", path {path}")).unwrap_or_default();
    let (peer, path) = match now.own_device {
        Some(target) => (" of this node's own device".to_owned(), format!(", at {target} in its LAN")),
        None => (peer, path),
    };
    let mut text = format!("{address}{peer}{path}: {} of {count} echoes", replies.len());
    if let (Some(least), Some(most)) = (least(replies), least_by(replies, |value| -value)) {
        let mean = replies.iter().sum::<f64>() / replies.len() as f64;
        text += &format!(", {least:.2} to {most:.2} ms, mean {mean:.2}");
    }
    failure.map_or(text.clone(), |failure| format!("{text}\n{failure}"))
}

fn least(values: &[f64]) -> Option<f64> {
    least_by(values, |value| value)
}

fn least_by(values: &[f64], key: impl Fn(f64) -> f64) -> Option<f64> {
    values.iter().copied().min_by(|one, other| key(*one).total_cmp(&key(*other)))
}

fn report(address: IpAddr, answers: &[Answer], now: &Explanation, failure: Option<&str>) -> Value {
    let rtts: Vec<Option<f64>> = answers.iter().map(milliseconds).collect();
    json!({ "address": address, "peer": now.peer, "path": now.path, "rtt_ms": rtts, "failure": failure })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::PeerName;
    use std::time::Duration;

    #[test]
    fn each_failure_names_its_step() {
        let mut now = Explanation::dropped("no-owner");
        assert_eq!(failure(&[], &now), "no member has this address");
        now.verdict = Verdict::Pass;
        now.reason = "pass-egress".to_owned();
        now.peer = Some(PeerName { node_id: "12D3KooW".into(), name: "nas".into() });
        assert!(failure(&[Answer::Silence], &now).contains("its node doesn't answer handshakes"));
        now.nowhere = true;
        assert!(failure(&[Answer::Silence], &now).contains("no handshake was sent"));
        assert_eq!(line(3, Answer::Reply(Duration::from_micros(1234))), "3: 1.23 ms");
    }
}
