//! Echoes through the mesh, and at which step they fail.
//!
//! Owns their pace and the words for failures. Must not know who asks.

use super::api::{Explanation, Verdict};
pub(crate) use crate::platform::linux::echo::Answer;
use crate::platform::linux::echo::Echoes;
use crate::text::printable;
use anyhow::Context;
use std::net::IpAddr;
use std::time::Duration;

/// An echo that takes longer is none.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(200);

/// Asks `count` times; tells `heard` the number and the answer of each. Blocks.
///
/// # Errors
/// Raw sockets are not permitted, there is no way to the address, or the system refuses otherwise.
pub(crate) fn ask(address: IpAddr, count: u16, heard: impl Fn(u16, Answer)) -> anyhow::Result<Vec<Answer>> {
    let mut socket = Echoes::new(address).with_context(|| format!("can't ping {address}"))?;
    let mut answers = Vec::new();
    for number in 1..=count {
        if number > 1 {
            std::thread::sleep(PAUSE);
        }
        let answer = socket.ask(PATIENCE).with_context(|| format!("can't ping {address}"))?;
        heard(number, answer);
        answers.push(answer);
    }
    Ok(answers)
}

/// Round-trip time of an answer.
pub(crate) fn milliseconds(answer: &Answer) -> Option<f64> {
    match answer {
        Answer::Reply(after) => Some(after.as_secs_f64() * 1e3),
        _ => None,
    }
}

/// The step at which it failed.
pub(crate) fn failure(answers: &[Answer], now: &Explanation) -> String {
    if let Some(target) = now.own_device {
        return format!("the device doesn't answer at {target}: it is off, in another LAN, or drops ICMP");
    }
    match (now.reason.as_str(), &now.peer, &now.path) {
        ("no-owner", ..) => "no member has this address".to_owned(),
        ("not-mesh", ..) => "no network of this node holds this address".to_owned(),
        (reason, ..) if now.verdict == Verdict::Drop => match now.host.first() {
            Some(found) => format!("dropped on this node ({reason}): {}", printable(&found.summary)),
            None => format!("dropped on this node: {reason}"),
        },
        (_, Some(peer), None) if now.nowhere => {
            format!(
                "no circuit to {}: its node tells no address, and there is neither a link to it nor a relay, so no handshake was sent",
                printable(&peer.name)
            )
        }
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
