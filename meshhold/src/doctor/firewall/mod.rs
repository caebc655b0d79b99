//! The firewall rule that keeps the mesh out: nftables, and in its tables what ufw, firewalld and Docker wrote, and the
//! tables of iptables-legacy, of which nftables knows nothing.
//!
//! Owns the questions that are asked of the rules, and the command that mends what is found. LAN devices are no question:
//! their packets pass no netfilter hook. Must not know how rules are written.

mod nft;
mod rules;
mod save;
#[cfg(test)]
mod tests;

use super::Finding;
use rules::{Chain, End, Hook, Opening, Packet, Rule, walk};
use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};

const CHECK: &str = "firewall";
const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];
/// Programs of iptables by family: `-save` behind the name prints the rules.
const LEGACY: [(&str, &str, &str); 2] = [
    ("iptables-legacy", "ipv4", "/proc/net/ip_tables_names"),
    ("ip6tables-legacy", "ipv6", "/proc/net/ip6_tables_names"),
];
const NFT: [(&str, &str, &str); 2] = [("iptables-nft", "ipv4", "ip "), ("ip6tables-nft", "ipv6", "ip6 ")];

/// What must get through.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// The node's own UDP port.
    pub(super) port: u16,
    /// The mesh interface.
    pub(super) interface: &'a str,
    /// Ports that a scope opens: protocol, port, and as the scope has it.
    pub(super) open: Vec<(&'static str, u16, String)>,
}

/// Rules and policies that drop what must get through.
pub(super) fn blocking(wanted: &Wanted<'_>) -> Vec<Finding> {
    let mut chains = from_nft();
    for (program, family, names) in LEGACY {
        // The file is there once somebody used them; asking would load the tables.
        if fs::read_to_string(names).is_ok_and(|names| !names.trim().is_empty()) {
            chains.extend(saved(program, family).unwrap_or_default());
        }
    }
    found(&chains, wanted)
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

/// One packet that must get through, in words and by family.
struct Question<'a> {
    what: String,
    packet: Packet<'a>,
    /// What lets it in, as nft, iptables, and ufw say it.
    opening: [String; 3],
}

fn found(chains: &[Chain], wanted: &Wanted<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for question in questions(wanted) {
        for family in FAMILIES {
            let packet = Packet { family, ..question.packet };
            let hooks = [Some(Hook::Prerouting), Some(packet.hook)];
            let bases = chains.iter().filter(|chain| hooks.contains(&chain.hook));
            for base in bases.filter(|chain| packet.hook == Hook::Input || chain.hook == Some(Hook::Output)) {
                findings.extend(finding(walk(chains, base, packet), &question, base));
            }
        }
    }
    // A policy stops all ports alike: said once.
    let mut remedies = std::collections::BTreeSet::new();
    findings.retain(|finding| remedies.insert(finding.remedy.clone()));
    findings
}

fn questions<'a>(wanted: &Wanted<'a>) -> Vec<Question<'a>> {
    let (port, mesh) = (wanted.port, wanted.interface);
    let node = Packet {
        family: "ipv4",
        protocol: "udp",
        ports: (None, Some(port)),
        interface: None,
        mesh,
        hook: Hook::Input,
    };
    let incoming = Question {
        what: format!("udp port {port}"),
        packet: node,
        opening: [
            format!("udp dport {port} accept"),
            format!("-p udp --dport {port} -j ACCEPT"),
            format!("ufw allow {port}/udp"),
        ],
    };
    let outgoing = Question {
        what: format!("what this node sends from udp port {port}"),
        packet: Packet { ports: (Some(port), Some(port)), hook: Hook::Output, ..node },
        opening: [
            format!("udp sport {port} accept"),
            format!("-p udp --sport {port} -j ACCEPT"),
            format!("ufw allow out proto udp from any port {port}"),
        ],
    };
    let open = wanted.open.iter().map(|(protocol, port, rule)| Question {
        what: format!("{rule}, which a port scope opens, where it comes in by {mesh}"),
        packet: Packet { protocol, ports: (None, Some(*port)), interface: Some(mesh), ..node },
        opening: [
            format!("iifname \"{mesh}\" accept"),
            format!("-i {mesh} -j ACCEPT"),
            format!("ufw allow in on {mesh}"),
        ],
    });
    [incoming, outgoing].into_iter().chain(open).collect()
}

/// `base` is the chain that the kernel asked first.
fn finding(end: End<'_>, question: &Question<'_>, base: &Chain) -> Option<Finding> {
    match end {
        End::Through | End::Accepted => None,
        End::Translated { chain, to, .. } if question.packet.interface.is_some() => {
            let summary = format!(
                "{} is sent on to {to} by a rule of {}, before it reaches the service here (Docker does so for published ports)",
                question.what, chain.place
            );
            Some(Finding::error(CHECK, summary, opening(base, question)))
        }
        End::Translated { .. } => None,
        End::Dropped { chain, rule, surely } => {
            let by = match rule {
                Some(_) => format!("a rule in {} drops", chain.place),
                None => format!("the policy of {} drops what no rule accepts, and none accepts", chain.place),
            };
            let summary = format!("{by} {}", question.what);
            let remedy = remedy(chain, rule, question, base);
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

/// A rule about this very port goes; where a rule or policy is about more, an exception comes before it.
fn remedy(chain: &Chain, rule: Option<&Rule>, question: &Question<'_>, base: &Chain) -> String {
    match rule {
        Some(rule) if rule.is_about_port() && !chain.name.starts_with("ufw") => rule.removal.clone(),
        _ => opening(base, question),
    }
}

fn opening(base: &Chain, question: &Question<'_>) -> String {
    let [nft, iptables, ufw] = &question.opening;
    let by_ufw =
        base.rules.iter().any(|rule| rule.removal.contains(" ufw-") || rule.removal.contains(" ufw6-"));
    match &base.opening {
        _ if by_ufw && !base.is_nat => ufw.clone(),
        Opening::Nft => format!("nft insert rule {} {nft}", base.place),
        Opening::Iptables(program) => format!("{program} -I {} {iptables}", base.name),
    }
}
