//! `meshlan explain`: the daemon's answer for people and for programs.

use super::args::ExplainArgs;
use super::output::{Outcome, printable};
use super::status::NOT_RUNNING;
use crate::config::Config;
use crate::control::api::{ExplainRequest, Explanation, Request, Response, Traffic, Verdict};
use crate::control::client::{self, ClientError};
use std::fmt::Write;
use std::net::SocketAddr;

/// Exit code of what is no question.
const USAGE: u8 = 2;

/// Asks the daemon and prints its answer.
pub(super) fn run(config: &Config, question: ExplainArgs, json: bool) -> anyhow::Result<Outcome> {
    let ExplainArgs { traffic, to, from } = question;
    let Some((host, port)) = split(&to, traffic) else {
        let example = if traffic == Traffic::Icmp { "198.18.3.17" } else { "198.18.3.17:22" };
        return Ok(Outcome::default()
            .advise(format!("error: '{to}' is no destination; write {example}"))
            .code(USAGE));
    };
    let request = ExplainRequest { traffic, to: host, port, from };
    let explanation = match client::call(&config.socket(), &Request::Explain(request)) {
        Ok(Response::Explanation(explanation)) => *explanation,
        Ok(Response::Error(error)) => anyhow::bail!(error),
        Ok(_) => anyhow::bail!("the daemon's answer isn't an explanation; restart it with this version"),
        Err(error @ ClientError::NotRunning(_)) => {
            return Ok(Outcome::default().advise(format!("error: {error}")).code(NOT_RUNNING));
        }
        Err(error) => return Err(error.into()),
    };
    let code = u8::from(explanation.verdict == Verdict::Drop);
    let outcome =
        if json { Outcome::json(&explanation) } else { Outcome::text(render(&explanation, traffic, port)) };
    Ok(outcome.code(code))
}

/// Host and port of `host:port`, `[v6]:port`; for ICMP the host alone.
fn split(to: &str, traffic: Traffic) -> Option<(String, Option<u16>)> {
    if traffic == Traffic::Icmp {
        return (!to.is_empty()).then(|| (to.to_owned(), None));
    }
    if let Ok(address) = to.parse::<SocketAddr>() {
        return Some((address.ip().to_string(), Some(address.port())));
    }
    let (host, port) = to.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    (!host.is_empty() && !host.contains([':', '[', ']'])).then(|| (host.to_owned(), Some(port)))
}

fn render(explanation: &Explanation, traffic: Traffic, port: Option<u16>) -> String {
    let verdict = match explanation.verdict {
        Verdict::Pass => "pass",
        Verdict::Drop => "drop",
    };
    let mut text = format!("verdict: {verdict} ({})\n", explanation.reason);
    if let Some(peer) = &explanation.peer {
        let _ = writeln!(text, "peer: {} {}", printable(&peer.name), peer.node_id);
    }
    if let Some(path) = &explanation.path {
        let _ = writeln!(text, "path: {}", path.remote);
    }
    if let Some(entry) = &explanation.scope_entry {
        let _ = writeln!(text, "opened by: {entry}");
    }
    if let Some(listener) = &explanation.listener {
        let _ = writeln!(text, "listener: {listener}");
    }
    if let Some(advice) = advice(explanation, traffic, port) {
        let _ = writeln!(text, "{advice}");
    }
    text
}

/// What to do about it, where something is to be done.
fn advice(explanation: &Explanation, traffic: Traffic, port: Option<u16>) -> Option<String> {
    let protocol = if traffic == Traffic::Udp { "udp" } else { "tcp" };
    let port = port.unwrap_or_default();
    Some(match explanation.reason.as_str() {
        "port-denied" => format!(
            "no entry of the port scope has it: open it with `meshhold mgmt-keys edit ID --allow {protocol}:{port}` and the entries that are to stay"
        ),
        "pass-scope" if explanation.listener.is_none() => {
            format!("but nothing waits on {protocol} port {port} of this node")
        }
        "no-owner" => "no member has this address".to_owned(),
        "not-mesh" => "no network of this node holds this address".to_owned(),
        "device-unreachable" => {
            "this node has no way to the device now: `meshhold meshlan forwards list`".to_owned()
        }
        "pass-egress" if explanation.path.is_none() => "a circuit is made with the first packet".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_taken_apart() {
        let split = |to: &str| split(to, Traffic::Tcp);
        assert_eq!(split("198.18.3.17:22"), Some(("198.18.3.17".into(), Some(22))));
        assert_eq!(split("[fd12::1]:53"), Some(("fd12::1".into(), Some(53))));
        assert_eq!(split("nas.mesh:80"), Some(("nas.mesh".into(), Some(80))));
        for bad in ["", "nas.mesh", "nas:", "nas:0", "nas:65536", ":22", "fd12::1", "[nas]:22"] {
            assert_eq!(split(bad), None, "{bad}");
        }
        assert_eq!(super::split("fd12::1", Traffic::Icmp), Some(("fd12::1".into(), None)));
    }
}
