//! The command that lets a packet through, in the words of the program that owns the rules.
//!
//! firewalld and ufw write their rules anew at every reload, and a table with an owner is changed by nobody else: what nft
//! puts there is lost or refused. Each command is run by `tests/tests/firewalls.rs` or `tests/tests/doctor.rs`.

use super::question::{Purpose, Question};
use super::rules::{Chain, End, Field, Opening, Rule, Value, Verdict, walk};

/// What mends it: `base` is the chain that the kernel asked first, `chain` the one that drops, by `rule` or its policy.
pub(super) fn remedy(
    chains: &[Chain],
    base: &Chain,
    (chain, rule): (&Chain, Option<&Rule>),
    question: &Question<'_>,
) -> String {
    match owner(base, chain, rule) {
        Owner::Firewalld => by_firewalld(chains, base, question),
        Owner::Ufw => by_ufw(chain, rule, question),
        Owner::Another => format!(
            "only the program that owns table {} can change it (`nft list table {0}` names it): let it accept `{}`",
            base.table,
            for_nft(question)
        ),
        // A rule about this very port goes; where a rule or policy is about more, an exception comes before it.
        Owner::Nobody => match rule {
            Some(rule) if rule.is_about_port() && !rule.removal.is_empty() => rule.removal.clone(),
            _ => inserted(base, question),
        },
    }
}

/// What lets it by a rule that translates its destination.
pub(super) fn past_translation(chains: &[Chain], base: &Chain, question: &Question<'_>) -> String {
    match owner(base, base, None) {
        Owner::Firewalld => by_firewalld(chains, base, question),
        _ => inserted(base, question),
    }
}

/// Who writes the rules.
enum Owner {
    Firewalld,
    Ufw,
    /// Some program that lets nobody else.
    Another,
    Nobody,
}

fn owner(base: &Chain, chain: &Chain, rule: Option<&Rule>) -> Owner {
    let leads_to = |name: &str| {
        let to = |rule: &Rule| matches!(&rule.verdict, Verdict::Jump(to) | Verdict::Goto(to) if to.starts_with(name));
        base.rules.iter().any(to)
    };
    if base.table.ends_with(" firewalld") || leads_to("INPUT_ZONES") || leads_to("OUTPUT_direct") {
        return Owner::Firewalld;
    }
    // A rule before ufw's own chains was put in by somebody else.
    let by_ufw = rule.is_none() || (chain.name.starts_with("ufw") && !chain.name.contains("-before-"));
    if !base.is_nat && by_ufw && (leads_to("ufw-") || leads_to("ufw6-")) {
        return Owner::Ufw;
    }
    if base.is_owned { Owner::Another } else { Owner::Nobody }
}

fn by_firewalld(chains: &[Chain], base: &Chain, question: &Question<'_>) -> String {
    let mesh = question.packet.mesh;
    let change = match question.purpose {
        Purpose::Node(port) => {
            let open = |zone: String| format!("firewall-cmd --permanent --zone={zone} --add-port={port}/udp");
            zones(chains, base, question).into_iter().map(open).collect::<Vec<_>>().join(" && ")
        }
        Purpose::In => format!("firewall-cmd --permanent --zone=trusted --change-interface={mesh}"),
        Purpose::ByLoopback => "firewall-cmd --permanent --zone=trusted --change-interface=lo".to_owned(),
        Purpose::NodeOut(_) | Purpose::Out => String::new(),
    };
    if change.is_empty() || (question.purpose == Purpose::In && is_trusted(base, chains, mesh)) {
        return format!(
            "let firewalld accept `{}` (`firewall-cmd --list-all-policies` and `--zone=trusted --list-all` show what it drops)",
            for_nft(question)
        );
    }
    format!("{change} && firewall-cmd --reload")
}

/// The zones that datagrams from elsewhere come to, without those that let them in.
fn zones(chains: &[Chain], base: &Chain, question: &Question<'_>) -> Vec<String> {
    let mut zones: Vec<String> = Vec::new();
    for (rule, target, zone) in targets(chains, base) {
        let here = [question.packet.mesh, "lo"].map(|name| Value::Text(name.to_owned()));
        if rule
            .tests
            .iter()
            .any(|test| test.field == Field::Input && here.iter().any(|one| test.values.contains(one)))
        {
            continue;
        }
        let lets_in = matches!(walk(chains, target, question.packet), End::Accepted);
        if !lets_in && !zones.contains(&zone) {
            zones.push(zone);
        }
    }
    zones
}

fn is_trusted(base: &Chain, chains: &[Chain], mesh: &str) -> bool {
    let name = Value::Text(mesh.to_owned());
    targets(chains, base).iter().any(|(rule, _, zone)| {
        zone == "trusted"
            && rule.tests.iter().any(|test| test.field == Field::Input && test.values.contains(&name))
    })
}

/// firewalld's rules that choose a zone, each with the zone's chain and name: `goto filter_IN_public`, `-g IN_public`.
fn targets<'a>(chains: &'a [Chain], base: &Chain) -> Vec<(&'a Rule, &'a Chain, String)> {
    let dispatch =
        chains.iter().filter(|chain| chain.table == base.table && chain.name.ends_with("INPUT_ZONES"));
    let target = |rule: &'a Rule| {
        let (Verdict::Goto(name) | Verdict::Jump(name)) = &rule.verdict else { return None };
        let (_, zone) = name.rsplit_once("IN_")?;
        let chain = chains.iter().find(|chain| chain.table == base.table && chain.name == *name)?;
        Some((rule, chain, zone.to_owned()))
    };
    dispatch.flat_map(|chain| &chain.rules).filter_map(target).collect()
}

/// Before a rule that somebody put in with ufw, if one drops; else in any place. ufw leaves a rule that it has where it is.
fn by_ufw(chain: &Chain, rule: Option<&Rule>, question: &Question<'_>) -> String {
    let mesh = question.packet.mesh;
    let words = match question.purpose {
        Purpose::Node(port) => format!("allow {port}/udp"),
        Purpose::NodeOut(port) => format!("allow out proto udp from any port {port}"),
        Purpose::In => format!("allow in on {mesh}"),
        Purpose::ByLoopback => "allow in on lo".to_owned(),
        Purpose::Out => format!("allow out on {mesh}"),
    };
    if rule.is_some() && chain.name.contains("-user-") {
        return format!("ufw delete {words}; ufw prepend {words}");
    }
    format!("ufw {words}")
}

fn inserted(base: &Chain, question: &Question<'_>) -> String {
    let mesh = question.packet.mesh;
    match &base.opening {
        Opening::Nft => format!("nft insert rule {} {}", base.place, for_nft(question)),
        Opening::Iptables(program) => {
            let what = match question.purpose {
                Purpose::Node(port) => format!("-p udp --dport {port}"),
                Purpose::NodeOut(port) => format!("-p udp --sport {port}"),
                Purpose::In => format!("-i {mesh}"),
                Purpose::ByLoopback => "-i lo".to_owned(),
                Purpose::Out => format!("-o {mesh}"),
            };
            format!("{program} -I {} {what} -j ACCEPT", base.name)
        }
    }
}

fn for_nft(question: &Question<'_>) -> String {
    let mesh = question.packet.mesh;
    match question.purpose {
        Purpose::Node(port) => format!("udp dport {port} accept"),
        Purpose::NodeOut(port) => format!("udp sport {port} accept"),
        Purpose::In => format!("iifname \"{mesh}\" accept"),
        Purpose::ByLoopback => "iifname \"lo\" accept".to_owned(),
        Purpose::Out => format!("oifname \"{mesh}\" accept"),
    }
}
