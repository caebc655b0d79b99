//! `meshlan ping`: echoes through the mesh, and at which step they fail.

use super::ask;
use super::explain::explained;
use super::output::{Outcome, note, printable};
use crate::config::Config;
use crate::control::api::{ExplainRequest, Explanation, Request, Response, Traffic, Verdict};
use crate::platform::linux::echo::{Answer, Echoes};
use anyhow::Context;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(200);

/// Pings `to` and prints what came back.
pub(super) fn run(config: &Config, to: &str, count: u16, json: bool) -> anyhow::Result<Outcome> {
    let Response::Address(address) = ask(config, &Request::Resolve(to.to_owned()))? else {
        anyhow::bail!("the daemon's answer isn't an address; restart it with this version");
    };
    let before = explain(config, address)?;
    let answers = if before.verdict == Verdict::Drop { Vec::new() } else { echoes(address, count, json)? };
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
    let mut socket = Echoes::new(address)
        .with_context(|| format!("can't ping {address}: raw sockets need root or CAP_NET_RAW"))?;
    let mut answers = Vec::new();
    for number in 1..=count {
        if number > 1 {
            std::thread::sleep(PAUSE);
        }
        let answer = socket.ask(PATIENCE).with_context(|| format!("can't ping {address}"))?;
        if !quiet {
            note(&line(number, answer));
        }
        answers.push(answer);
    }
    Ok(answers)
}

fn line(number: u16, answer: Answer) -> String {
    match answer {
        Answer::Reply(after) => format!("{number}: {:.2} ms", after.as_secs_f64() * 1e3),
        Answer::Unreachable => format!("{number}: unreachable"),
        Answer::Silence => format!("{number}: no reply within {} s", PATIENCE.as_secs()),
    }
}

fn milliseconds(answer: &Answer) -> Option<f64> {
    match answer {
        Answer::Reply(after) => Some(after.as_secs_f64() * 1e3),
        _ => None,
    }
}

/// The step at which it failed.
fn failure(answers: &[Answer], now: &Explanation) -> String {
    match (now.reason.as_str(), &now.peer, &now.path) {
        ("no-owner", ..) => "no member has this address".to_owned(),
        ("not-mesh", ..) => "no network of this node holds this address".to_owned(),
        (reason, ..) if now.verdict == Verdict::Drop => format!("dropped on this node: {reason}"),
        (_, Some(peer), None) => {
            format!(
                "no circuit to {}: its node doesn't answer handshakes, or none of its addresses is reached",
                printable(&peer.name)
            )
        }
        (_, Some(peer), Some(path)) if answers.contains(&Answer::Unreachable) => {
            format!("{} says it is unreachable (path {path})", printable(&peer.name))
        }
        (_, Some(peer), Some(path)) => format!(
            "the circuit to {} is up (path {path}), and no echo came back: the host or device behind it is off or drops ICMP",
            printable(&peer.name),
        ),
        (_, None, _) => "nobody answers".to_owned(),
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

    #[test]
    fn each_failure_names_its_step() {
        let mut now = Explanation::dropped("no-owner");
        assert_eq!(failure(&[], &now), "no member has this address");
        now.verdict = Verdict::Pass;
        now.reason = "pass-egress".to_owned();
        now.peer = Some(PeerName { node_id: "12D3KooW".into(), name: "nas".into() });
        assert!(failure(&[Answer::Silence], &now).starts_with("no circuit to nas"));
        assert_eq!(line(3, Answer::Reply(Duration::from_micros(1234))), "3: 1.23 ms");
    }
}
