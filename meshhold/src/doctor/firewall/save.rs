//! Rules in the words of iptables-save(8): those of iptables-legacy, which nftables doesn't show, and those of
//! iptables-nft, which nftables shows in part.
//!
//! Must not know what the rules mean for anybody.

use super::rules::{Chain, Field, Hook, Opening, Rule, Test, Value, Verdict};
use std::net::IpAddr;

/// Reads what `program`-save printed; `program` is what changes these rules, for packets of `family`.
pub(super) fn read(text: &str, program: &str, family: &'static str) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    let mut table = "filter".to_owned();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.trim().clone_into(&mut table);
        } else if let Some(chain) = line.strip_prefix(':') {
            chains.extend(read_chain(chain, &table, program, family));
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let Some((name, words)) = rule.split_once(' ') else { continue };
            let key = key(program, &table);
            let chain = chains.iter_mut().find(|chain| chain.table == key && chain.name == name);
            if let Some(chain) = chain {
                let removal = format!("{program} -t {table} -D {rule}");
                let (tests, verdict) = read_rule(&split(words));
                chain.rules.push(Rule { tests, verdict, removal });
            }
        }
    }
    chains
}

fn key(program: &str, table: &str) -> String {
    format!("{program} {table}")
}

/// `INPUT DROP [0:0]`
fn read_chain(text: &str, table: &str, program: &str, family: &'static str) -> Option<Chain> {
    let mut words = text.split(' ');
    let (name, policy) = (words.next()?, words.next()?);
    let hook = match name {
        "INPUT" => Some(Hook::Input),
        "OUTPUT" => Some(Hook::Output),
        "PREROUTING" => Some(Hook::Prerouting),
        "FORWARD" | "POSTROUTING" => Some(Hook::Elsewhere),
        _ => None,
    };
    Some(Chain {
        table: key(program, table),
        name: name.to_owned(),
        place: format!("{program} {table} {name}"),
        family: Some(family),
        hook,
        is_nat: table == "nat",
        is_owned: false,
        drops: policy == "DROP",
        opening: Opening::Iptables(format!("{program} -t {table}")),
        rules: Vec::new(),
    })
}

/// Words; those in quotes are one.
fn split(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for letter in text.chars() {
        match letter {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            letter => word.push(letter),
        }
    }
    words.push(word);
    words
}

fn read_rule(words: &[String]) -> (Vec<Test>, Verdict) {
    let (mut tests, mut negated) = (Vec::new(), false);
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let mut test = |field, values: Vec<Value>| {
            tests.push(Test { field, values, negated: std::mem::take(&mut negated) });
        };
        let mut text = || words.next().unwrap_or_default();
        match word {
            "!" => negated = true,
            "-j" => return (tests, target(text(), words.collect())),
            "-g" => return (tests, Verdict::Goto(text().to_owned())),
            "-p" => test(Field::Protocol, vec![Value::Text(text().to_owned())]),
            "-s" => test(Field::Source, nets(text())),
            "-d" => test(Field::Destination, nets(text())),
            "-i" => test(Field::Input, vec![Value::Text(text().to_owned())]),
            "-o" => test(Field::Output, vec![Value::Text(text().to_owned())]),
            "--dport" | "--dports" => test(Field::DestinationPort, ports(text())),
            "--sport" | "--sports" => test(Field::SourcePort, ports(text())),
            "--ctstate" | "--state" => test(Field::State, list(text())),
            "--dst-type" => test(Field::DestinationType, list(text())),
            "--comment" => drop(text()),
            // What it brings follows as options of its own.
            "-m" => drop(text()),
            option if option.starts_with('-') => test(Field::Other, Vec::new()),
            _ => {}
        }
    }
    (tests, Verdict::Nothing)
}

fn target(name: &str, options: Vec<&str>) -> Verdict {
    match name {
        "ACCEPT" => Verdict::Accept,
        "DROP" | "REJECT" => Verdict::Drop,
        "RETURN" => Verdict::Return,
        "DNAT" | "REDIRECT" => Verdict::Translate(options.last().copied().unwrap_or_default().to_owned()),
        // Extensions are in capitals; chains of one's own may be too, and then are not found.
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "MASQUERADE" | "SNAT" | "NOTRACK" | "CT" => {
            Verdict::Nothing
        }
        chain => Verdict::Jump(chain.to_owned()),
    }
}

fn list(text: &str) -> Vec<Value> {
    text.split(',').map(|word| Value::Text(word.to_owned())).collect()
}

/// `22,80,5000:5010`
fn ports(text: &str) -> Vec<Value> {
    let range = |text: &str| {
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        Some(Value::Range(first.parse().ok()?, last.parse().ok()?))
    };
    text.split(',').filter_map(range).collect()
}

/// `127.0.0.0/8,192.0.2.1`
fn nets(text: &str) -> Vec<Value> {
    let net = |text: &str| {
        let (base, bits) = text.split_once('/').unwrap_or((text, ""));
        let base: IpAddr = base.parse().ok()?;
        Some(Value::Net(base, bits.parse().unwrap_or(if base.is_ipv4() { 32 } else { 128 })))
    };
    text.split(',').map(|word| net(word).unwrap_or_else(|| Value::Text(word.to_owned()))).collect()
}
