//! Rules in the JSON of nftables (libnftables-json(5)).
//!
//! Must not know what the rules mean for anybody.

use super::rules::{Chain, Field, Hook, Opening, Rule, Test, Value, Verdict};
use serde_json::Value as Json;
use std::net::IpAddr;

/// Reads `nft --json list ruleset`.
pub(super) fn read(ruleset: &Json) -> Vec<Chain> {
    let items = || ruleset["nftables"].as_array().into_iter().flatten();
    let mut chains: Vec<Chain> = items().filter_map(|item| item.get("chain")).map(read_chain).collect();
    for owned in items().filter_map(|item| item.get("table")).filter(|table| is_owned(table)) {
        let key = format!("{} {}", text(&owned["family"]), text(&owned["name"]));
        chains.iter_mut().filter(|chain| chain.table == key).for_each(|chain| chain.is_owned = true);
    }
    for rule in items().filter_map(|item| item.get("rule")) {
        let (table, name) = (table(rule), text(&rule["chain"]));
        if let Some(chain) = chains.iter_mut().find(|chain| chain.table == table && chain.name == name) {
            let removal = format!("nft delete rule {} handle {}", chain.place, rule["handle"]);
            chain.rules.extend(read_rule(rule, &removal));
        }
    }
    chains
}

/// Tables with rules that another program wrote in its own words, as `family name`.
pub(super) fn foreign(ruleset: &Json) -> Vec<String> {
    let items = ruleset["nftables"].as_array().into_iter().flatten();
    let rules = items.filter_map(|item| item.get("rule"));
    let is_foreign = |rule: &&Json| expressions(rule).any(|one| one.get("xt").is_some());
    let mut tables: Vec<String> = rules.filter(is_foreign).map(table).collect();
    tables.sort();
    tables.dedup();
    tables
}

/// With `flags owner` (NFT_TABLE_F_OWNER). nft 1.0.6 writes the table's name in the flag's place, newer ones a list where
/// there are several.
fn is_owned(table: &Json) -> bool {
    let is = |flag: &Json| flag == "owner" || (flag.is_string() && flag == &table["name"]);
    is(&table["flags"]) || table["flags"].as_array().is_some_and(|flags| flags.iter().any(is))
}

fn text(json: &Json) -> &str {
    json.as_str().unwrap_or_default()
}

fn table(item: &Json) -> String {
    format!("{} {}", text(&item["family"]), text(&item["table"]))
}

fn expressions(rule: &Json) -> impl Iterator<Item = &Json> {
    rule["expr"].as_array().into_iter().flatten()
}

fn read_chain(chain: &Json) -> Chain {
    let family = match text(&chain["family"]) {
        "ip" => Some("ipv4"),
        "ip6" => Some("ipv6"),
        _ => None,
    };
    let hook = chain["hook"].as_str().map(|hook| match (text(&chain["family"]), hook) {
        ("ip" | "ip6" | "inet", "input") => Hook::Input,
        ("ip" | "ip6" | "inet", "output") => Hook::Output,
        ("ip" | "ip6" | "inet", "prerouting") => Hook::Prerouting,
        _ => Hook::Elsewhere,
    });
    let (table, name) = (table(chain), text(&chain["name"]).to_owned());
    let opening = by_iptables(&table, &name).map_or(Opening::Nft, Opening::Iptables);
    Chain {
        place: format!("{table} {name}"),
        table,
        name,
        family,
        hook,
        is_nat: chain["type"] == "nat",
        is_owned: false,
        drops: chain["policy"] == "drop",
        opening,
        rules: Vec::new(),
    }
}

/// Tables that iptables-nft keeps, though it may have written no rule that nft doesn't understand.
fn by_iptables(table: &str, chain: &str) -> Option<String> {
    let (family, table) = table.split_once(' ')?;
    let program = match family {
        "ip" => "iptables-nft",
        "ip6" => "ip6tables-nft",
        _ => return None,
    };
    let is_theirs = ["filter", "nat", "mangle", "raw"].contains(&table)
        && ["INPUT", "OUTPUT", "PREROUTING", "POSTROUTING"].contains(&chain);
    is_theirs.then(|| format!("{program} -t {table}"))
}

/// A rule, and one for each verdict of its verdict map.
fn read_rule(rule: &Json, removal: &str) -> Vec<Rule> {
    let (mut tests, mut rules) = (Vec::new(), Vec::new());
    let mut add = |tests: &[Test], verdict| {
        rules.push(Rule { tests: tests.to_vec(), verdict, removal: removal.to_owned() });
    };
    for expression in expressions(rule) {
        if let Some(matched) = expression.get("match") {
            tests.extend(read_match(matched));
        } else if let Some(map) = expression.get("vmap") {
            for pair in map["data"]["set"].as_array().into_iter().flatten() {
                let mut all = tests.clone();
                all.extend(read_test(&map["key"], &pair[0], false));
                add(&all, verdict(&pair[1]).unwrap_or(Verdict::Nothing));
            }
        } else if let Some(verdict) = verdict(expression) {
            add(&tests, verdict);
        } else if ["limit", "xt", "quota"].iter().any(|key| expression.get(key).is_some()) {
            tests.push(Test { field: Field::Other, values: Vec::new(), negated: false });
        }
    }
    rules
}

fn verdict(expression: &Json) -> Option<Verdict> {
    let (name, of) = expression.as_object()?.iter().next()?;
    let target = || text(&of["target"]).to_owned();
    Some(match name.as_str() {
        "accept" => Verdict::Accept,
        "drop" | "reject" => Verdict::Drop,
        "return" => Verdict::Return,
        "jump" => Verdict::Jump(target()),
        "goto" => Verdict::Goto(target()),
        "dnat" => Verdict::Translate([&of["addr"], &of["port"]].map(shown).join(" ").trim().to_owned()),
        "redirect" => Verdict::Translate(shown(&of["port"])),
        "xt" if of["type"] == "target" => match text(&of["name"]) {
            "REJECT" => Verdict::Drop,
            "DNAT" | "REDIRECT" => Verdict::Translate(String::new()),
            _ => Verdict::Nothing,
        },
        _ => return None,
    })
}

fn shown(json: &Json) -> String {
    match json {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn read_match(matched: &Json) -> Vec<Test> {
    let negated = match text(&matched["op"]) {
        "==" | "in" => false,
        "!=" => true,
        _ => return vec![Test { field: Field::Other, values: Vec::new(), negated: false }],
    };
    read_test(&matched["left"], &matched["right"], negated)
}

/// The condition, and what it presumes.
fn read_test(left: &Json, right: &Json, negated: bool) -> Vec<Test> {
    let (payload, meta) = (&left["payload"], &left["meta"]["key"]);
    let (protocol, field) = (text(&payload["protocol"]), text(&payload["field"]));
    let word = |text: &str| vec![Value::Text(text.to_owned())];
    let presumed = match protocol {
        "udp" | "tcp" => Some((Field::Protocol, word(protocol))),
        "icmp" | "icmpv6" | "sctp" | "dccp" => Some((Field::Protocol, word(protocol))),
        "ip" => Some((Field::Family, word("ipv4"))),
        "ip6" => Some((Field::Family, word("ipv6"))),
        _ => None,
    };
    let field = match (field, text(meta)) {
        ("dport", _) => Field::DestinationPort,
        ("sport", _) => Field::SourcePort,
        ("saddr", _) => Field::Source,
        ("daddr", _) => Field::Destination,
        ("protocol" | "nexthdr", _) | (_, "l4proto") => Field::Protocol,
        (_, "iifname" | "iif") => Field::Input,
        (_, "oifname" | "oif") => Field::Output,
        (_, "nfproto") => Field::Family,
        _ if left["ct"]["key"] == "state" => Field::State,
        _ if left["fib"]["result"] == "type" => Field::DestinationType,
        _ => Field::Other,
    };
    let presumed = presumed.map(|(field, values)| Test { field, values, negated: false });
    let mut found = Vec::new();
    values(right, &mut found);
    presumed.into_iter().chain([Test { field, values: found, negated }]).collect()
}

/// A word, a number, a range, a prefix, or a set of them.
fn values(json: &Json, into: &mut Vec<Value>) {
    let port = |json: &Json| json.as_u64().and_then(|number| u16::try_from(number).ok());
    if let Some(all) = json.as_array().or_else(|| json["set"].as_array()) {
        all.iter().for_each(|one| values(one, into));
    } else if let Some([first, last]) = json["range"].as_array().map(Vec::as_slice) {
        let range = port(first).zip(port(last)).map(|(first, last)| Value::Range(first, last));
        into.push(range.unwrap_or_else(|| Value::Text("a range".to_owned())));
    } else if let (Some(base), Some(bits)) = (net(&json["prefix"]["addr"]), json["prefix"]["len"].as_u64()) {
        into.push(Value::Net(base, bits as u8));
    } else if let Some(address) = net(json) {
        into.push(Value::Net(address, if address.is_ipv4() { 32 } else { 128 }));
    } else if let Some(number) = json.as_u64() {
        into.push(Value::Text(number.to_string()));
        into.extend(port(json).map(|port| Value::Range(port, port)));
    } else if let Some(word) = json.as_str() {
        into.push(Value::Text(word.to_owned()));
    }
}

fn net(json: &Json) -> Option<IpAddr> {
    json.as_str()?.parse().ok()
}
