//! The firewall rule that keeps the mesh out.
//!
//! Owns the reading of `nft --json list ruleset` (libnftables-json(5)); ufw, Docker and iptables-nft write their rules there
//! too. Must not know what the answer is for.

use super::Finding;
use serde_json::Value;
use std::process::{Command, Stdio};

const CHECK: &str = "firewall";

/// Rules and policies of nftables that drop the node's UDP port, or what comes in by the mesh interface.
pub(super) fn blocking(port: u16, interface: &str) -> Vec<Finding> {
    let output = Command::new("nft").args(["--json", "list", "ruleset"]).stdin(Stdio::null()).output();
    let Ok(output) = output else { return Vec::new() };
    let Ok(ruleset) = serde_json::from_slice::<Value>(&output.stdout) else { return Vec::new() };
    found(&ruleset, port, interface)
}

fn found(ruleset: &Value, port: u16, interface: &str) -> Vec<Finding> {
    let items = || ruleset["nftables"].as_array().into_iter().flatten();
    let rules: Vec<&Value> = items().filter_map(|item| item.get("rule")).collect();
    let drops = rules.iter().filter(|rule| ends_in(rule, &["drop", "reject"])).filter_map(|rule| {
        let what = concerns(rule, port, interface)?;
        let summary = format!("a rule in {} drops {what}", place(rule));
        Some(Finding::error(
            CHECK,
            summary,
            format!("nft delete rule {} handle {}", place(rule), rule["handle"]),
        ))
    });
    let closed = items().filter_map(|item| item.get("chain")).filter(|chain| {
        let lets = |rule: &&&Value| place(rule) == place_of_chain(chain) && ends_in(rule, &["accept"]);
        chain["hook"] == "input"
            && chain["policy"] == "drop"
            && !rules.iter().filter(lets).any(|rule| is_of_port(rule, port))
    });
    let policies = closed.map(|chain| {
        let place = place_of_chain(chain);
        let summary =
            format!("the policy of {place} drops what no rule accepts, and none accepts udp port {port}");
        Finding::error(CHECK, summary, format!("nft insert rule {place} udp dport {port} accept"))
    });
    drops.chain(policies).collect()
}

fn place(rule: &Value) -> String {
    [&rule["family"], &rule["table"], &rule["chain"]].map(|part| part.as_str().unwrap_or_default()).join(" ")
}

fn place_of_chain(chain: &Value) -> String {
    [&chain["family"], &chain["table"], &chain["name"]]
        .map(|part| part.as_str().unwrap_or_default())
        .join(" ")
}

fn ends_in(rule: &Value, verdicts: &[&str]) -> bool {
    let last = rule["expr"].as_array().and_then(|expressions| expressions.last());
    last.and_then(Value::as_object)
        .is_some_and(|verdict| verdicts.iter().any(|name| verdict.contains_key(*name)))
}

fn concerns(rule: &Value, port: u16, interface: &str) -> Option<String> {
    if is_of_port(rule, port) {
        return Some(format!("udp port {port}"));
    }
    let named = matches(rule).any(|one| one["left"]["meta"]["key"] == "iifname" && one["right"] == interface);
    named.then(|| format!("what comes in by {interface}"))
}

fn is_of_port(rule: &Value, port: u16) -> bool {
    matches(rule).any(|one| {
        let payload = &one["left"]["payload"];
        payload["field"] == "dport" && payload["protocol"] != "tcp" && holds(&one["right"], port)
    })
}

fn matches(rule: &Value) -> impl Iterator<Item = &Value> {
    rule["expr"].as_array().into_iter().flatten().filter_map(|expression| expression.get("match"))
}

/// A port, a range, or a set of both.
fn holds(value: &Value, port: u16) -> bool {
    let port = u64::from(port);
    if let Some([first, last]) = value["range"].as_array().map(Vec::as_slice) {
        return (first.as_u64() <= Some(port)) && (last.as_u64() >= Some(port));
    }
    let inside = |set: &Vec<Value>| set.iter().any(|one| holds(one, u16::try_from(port).unwrap_or(0)));
    value.as_u64() == Some(port) || value["set"].as_array().is_some_and(inside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(handle: u32, right: &Value, verdict: &str) -> Value {
        let payload = json!({"payload": {"protocol": "udp", "field": "dport"}});
        let matched = json!({"match": {"op": "==", "left": payload, "right": right}});
        json!({"rule": {"family": "inet", "table": "filter", "chain": "input", "handle": handle,
            "expr": [matched, {verdict: null}]}})
    }

    #[test]
    fn the_rule_that_drops_the_port_is_named_with_its_handle() {
        let ports =
            [json!(7777), json!({"range": [7000, 8000]}), json!({"set": [53, {"range": [7777, 7778]}]})];
        for right in ports {
            let ruleset = json!({"nftables": [rule(3, &json!(53), "drop"), rule(4, &right, "drop")]});
            let findings = found(&ruleset, 7777, "mesh0");
            assert_eq!(findings.len(), 1, "{right}");
            assert_eq!(
                findings[0].remedy.as_deref(),
                Some("nft delete rule inet filter input handle 4"),
                "{right}"
            );
        }
    }

    #[test]
    fn a_policy_that_drops_is_named_unless_a_rule_lets_the_port_in() {
        let chain = json!({"chain": {"family": "inet", "table": "filter", "name": "input", "hook": "input", "policy": "drop"}});
        let closed = json!({"nftables": [chain]});
        assert!(
            found(&closed, 7777, "mesh0")[0].remedy.as_deref().unwrap().contains("udp dport 7777 accept")
        );
        let open = json!({"nftables": [chain, rule(4, &json!(7777), "accept")]});
        assert!(found(&open, 7777, "mesh0").is_empty());
    }
}
