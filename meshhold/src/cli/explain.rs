//! `meshlan explain`: the daemon's answer for people and for programs.

use super::args::{ExplainArgs, Kind};
use super::ask;
use super::output::{Outcome, printable};
use crate::config::Config;
use crate::control::api::{ExplainRequest, Explanation, Request, Response, Traffic, Verdict};
use crate::datapath::probe::{Packet, Way};
use crate::datapath::workers::offload::header::UDP;
use std::fmt::Write;
use std::net::SocketAddr;

/// Exit code of what is no question.
const USAGE: u8 = 2;
/// Longest packet, in bytes (RFC 791).
const LARGEST: usize = 65_535;

/// A question, and what its packet is about: protocol and port.
type Question = (Request, Traffic, Option<u16>);

/// Asks the daemon and prints its answer.
pub(super) fn run(config: &Config, question: ExplainArgs, json: bool) -> anyhow::Result<Outcome> {
    let (request, traffic, port) = match understand(question) {
        Ok(question) => question,
        Err(error) => return Ok(Outcome::default().advise(format!("error: {error}")).code(USAGE)),
    };
    let explanation = explained(config, &request)?;
    let code = u8::from(explanation.verdict == Verdict::Drop);
    let outcome =
        if json { Outcome::json(&explanation) } else { Outcome::text(render(&explanation, traffic, port)) };
    Ok(outcome.code(code))
}

/// The daemon's answer to one of the two questions.
pub(super) fn explained(config: &Config, request: &Request) -> anyhow::Result<Explanation> {
    match ask(config, request)? {
        Response::Explanation(explanation) => Ok(*explanation),
        _ => anyhow::bail!("the daemon's answer isn't an explanation; restart it with this version"),
    }
}

fn understand(question: ExplainArgs) -> Result<Question, String> {
    let ExplainArgs { kind, to, from, at } = question;
    let traffic = match kind {
        Kind::Tcp => Traffic::Tcp,
        Kind::Udp => Traffic::Udp,
        Kind::Icmp => Traffic::Icmp,
        Kind::Packet if from.is_some() => return Err("a packet says itself whom it is from".to_owned()),
        Kind::Packet => return packet(&to, at),
    };
    if at.is_some() {
        return Err("--at is for `explain packet`; an address says itself where it is".to_owned());
    }
    let example = if traffic == Traffic::Icmp { "198.18.3.17" } else { "198.18.3.17:22" };
    let (host, port) =
        split(&to, traffic).ok_or_else(|| format!("'{to}' is no destination; write {example}"))?;
    Ok((Request::Explain(ExplainRequest { traffic, to: host, port, from }), traffic, port))
}

fn packet(text: &str, at: Option<Way>) -> Result<Question, String> {
    let packet = bytes(text).ok_or(
        "that is no packet; write its bytes in hexadecimal from the IP header on, as `tcpdump -x` does",
    )?;
    let service = Packet { way: Way::In, bytes: packet.clone() }.service();
    let traffic = match service {
        Some((UDP, _)) => Traffic::Udp,
        Some(_) => Traffic::Tcp,
        None => Traffic::Icmp,
    };
    Ok((Request::ExplainPacket { packet, at }, traffic, service.map(|(_, port)| port)))
}

/// Hexadecimal digits in groups of any size; words that end in a colon are offsets.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits: String = text.split_whitespace().filter(|word| !word.ends_with(':')).collect();
    let digits: Vec<u32> = digits.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    let whole = pairs.remainder().is_empty() && !digits.is_empty() && digits.len() <= 2 * LARGEST;
    whole.then(|| pairs.map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | *digit as u8)).collect())
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
        let _ = writeln!(text, "path: {path}");
    }
    if let Some(entry) = &explanation.scope_entry {
        let _ = writeln!(text, "opened by: {entry}");
    }
    if let Some(listener) = &explanation.listener {
        let _ = writeln!(text, "listener: {listener}");
    }
    for found in &explanation.host {
        let _ = writeln!(text, "host {}: {}", found.check, printable(&found.summary));
        let _ = found.remedy.iter().try_for_each(|remedy| writeln!(text, "  -> {}", printable(remedy)));
    }
    if let Some(target) = explanation.own_device {
        let _ = writeln!(
            text,
            "that is for packets of members: programs of this node reach the device at {target}, not at a mesh address"
        );
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
        "pass-scope" if explanation.listener.is_none() && explanation.host.is_empty() => {
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
    fn packets_are_read_as_they_are_printed() {
        assert_eq!(bytes("45000001"), Some(vec![0x45, 0, 0, 1]));
        assert_eq!(bytes("0x0000:  4500 0Ab1\n\t0x0010:  ff"), Some(vec![0x45, 0, 0x0a, 0xb1, 0xff]));
        for bad in ["", "4", "450", "45zz", "0x4500", "0x0000:"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
        assert_eq!(bytes(&"00".repeat(LARGEST + 1)), None);
    }

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
