//! The firewall rule that keeps the mesh out: nftables, and in its tables what ufw, firewalld and Docker wrote, and the
//! tables of iptables-legacy, of which nftables knows nothing.
//!
//! Owns the questions that are asked of the rules, and the command that mends what is found. LAN devices are no question:
//! their packets pass no netfilter hook. Must not know how rules are written.

mod nft;
mod question;
mod remedy;
mod rules;
mod save;
#[cfg(test)]
mod tests;

use super::Finding;
use super::delivery::Arrival;
use question::{Purpose, Question, arriving, opening, questions};
pub(super) use question::{Service, Wanted};
use remedy::{past_translation, remedy};
use rules::{Chain, End, Hook, walk};
use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};

const CHECK: &str = "firewall";
/// Programs of iptables by family: `-save` behind the name prints the rules.
const LEGACY: [(&str, &str, &str); 2] = [
    ("iptables-legacy", "ipv4", "/proc/net/ip_tables_names"),
    ("ip6tables-legacy", "ipv6", "/proc/net/ip6_tables_names"),
];
const NFT: [(&str, &str, &str); 2] = [("iptables-nft", "ipv4", "ip "), ("ip6tables-nft", "ipv6", "ip6 ")];

/// Rules and policies that drop what must get through.
pub(super) fn blocking(wanted: &Wanted<'_>) -> Vec<Finding> {
    found(&all(), wanted)
}

/// Rules that drop one packet, or send it elsewhere: what comes in from the mesh, or what a program here sends into it.
pub(super) fn stopping(
    is_incoming: bool,
    protocol: &'static str,
    port: Option<u16>,
    ends: Arrival,
    mesh: &str,
) -> Vec<Finding> {
    let what = "this packet".to_owned();
    let question = match is_incoming {
        true => arriving(what, protocol, port, ends, mesh),
        false => opening(what, protocol, port, ends, mesh),
    };
    answers(&all(), &question)
}

fn all() -> Vec<Chain> {
    let mut chains = from_nft();
    for (program, family, names) in LEGACY {
        // The file is there once somebody used them; asking would load the tables.
        if fs::read_to_string(names).is_ok_and(|names| !names.trim().is_empty()) {
            chains.extend(saved(program, family).unwrap_or_default());
        }
    }
    chains
}

fn from_nft() -> Vec<Chain> {
    let Some(text) = output("nft", &["--json", "list", "ruleset"]) else { return Vec::new() };
    let Ok(ruleset) = serde_json::from_slice::<Value>(&text) else { return Vec::new() };
    let mut chains = nft::read(&ruleset);
    let foreign = nft::foreign(&ruleset);
    for (program, family, prefix) in NFT {
        if foreign.iter().any(|table| table.starts_with(prefix))
            && let Some(read) = saved(program, family)
        {
            chains.retain(|chain| !foreign.contains(&chain.table) || !chain.table.starts_with(prefix));
            chains.extend(read.into_iter().filter(|chain| {
                let table = chain.table.rsplit(' ').next().unwrap_or_default();
                foreign.contains(&format!("{prefix}{table}"))
            }));
        }
    }
    chains
}

fn saved(program: &str, family: &'static str) -> Option<Vec<Chain>> {
    let text = output(&format!("{program}-save"), &[])?;
    Some(save::read(&String::from_utf8_lossy(&text), program, family))
}

fn output(program: &str, words: &[&str]) -> Option<Vec<u8>> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().ok()?;
    output.status.success().then_some(output.stdout)
}

fn found(chains: &[Chain], wanted: &Wanted<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        questions(wanted).iter().flat_map(|question| answers(chains, question)).collect();
    // A policy stops all ports alike: said once.
    let mut remedies = std::collections::BTreeSet::new();
    findings.retain(|finding| remedies.insert(finding.remedy.clone()));
    findings
}

/// What stops this packet.
fn answers(chains: &[Chain], question: &Question<'_>) -> Vec<Finding> {
    let packet = question.packet;
    let asked = |chain: &&Chain| match packet.hook {
        Hook::Input => matches!(chain.hook, Some(Hook::Prerouting | Hook::Input)),
        hook => chain.hook == Some(hook),
    };
    chains.iter().filter(asked).filter_map(|base| finding(chains, base, question)).collect()
}

/// `base` is a chain that the kernel asks first.
fn finding(chains: &[Chain], base: &Chain, question: &Question<'_>) -> Option<Finding> {
    match walk(chains, base, question.packet) {
        End::Through | End::Accepted => None,
        End::Translated { chain, to, .. } if question.purpose == Purpose::In => {
            let summary = format!(
                "{} is sent on to {to} by a rule of {}, before it reaches the service here (Docker does so for published ports)",
                question.what, chain.place
            );
            Some(Finding::error(CHECK, summary, past_translation(chains, base, question)))
        }
        End::Translated { .. } => None,
        End::Dropped { chain, rule, surely } => {
            let by = match rule {
                Some(_) => format!("a rule in {} drops", chain.place),
                None => format!("the policy of {} drops what no rule accepts, and none accepts", chain.place),
            };
            let summary = format!("{by} {}", question.what);
            let remedy = remedy(chains, base, (chain, rule), question);
            Some(match surely {
                true => Finding::error(CHECK, summary, remedy),
                false => Finding::warning(
                    CHECK,
                    summary + ", unless it comes from where a rule before lets it in",
                    remedy,
                ),
            })
        }
    }
}
