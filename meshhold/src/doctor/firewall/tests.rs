//! Rules as nft and iptables-save print them, and what is said of them.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use super::*;
use serde_json::json;

fn said(chains: &[Chain]) -> Vec<(String, String)> {
    let open = vec![("tcp", 22, "tcp:22".to_owned())];
    let findings = found(chains, &Wanted { port: 7777, interface: "mesh0", open });
    findings.into_iter().map(|one| (one.summary, one.remedy.unwrap_or_default())).collect()
}

fn remedies(chains: &[Chain]) -> Vec<String> {
    said(chains).into_iter().map(|(_, remedy)| remedy).collect()
}

/// A table of nftables with one chain at the input hook.
fn table(policy: &str, rules: &[Value]) -> Vec<Chain> {
    let chain = json!({"chain": {"family": "inet", "table": "filter", "name": "input", "type": "filter", "hook": "input", "policy": policy}});
    let side = json!({"chain": {"family": "inet", "table": "filter", "name": "side"}});
    let rules = rules.iter().enumerate().map(|(at, rule)| {
        let (chain, expr) = (rule["in"].as_str().unwrap_or("input"), &rule["expr"]);
        json!({"rule": {"family": "inet", "table": "filter", "chain": chain, "handle": at + 3, "expr": expr}})
    });
    let all: Vec<Value> = [chain, side].into_iter().chain(rules).collect();
    nft::read(&json!({ "nftables": all }))
}

fn port(protocol: &str, right: &Value, verdict: &str) -> Value {
    let payload = json!({"payload": {"protocol": protocol, "field": "dport"}});
    json!({"expr": [{"match": {"op": "==", "left": payload, "right": right}}, {verdict: null}]})
}

fn meta(key: &str, right: &str, verdict: &Value) -> Value {
    json!({"expr": [{"match": {"op": "==", "left": {"meta": {"key": key}}, "right": right}}, verdict]})
}

#[test]
fn the_rule_that_drops_the_port_is_named_with_its_handle() {
    for right in [json!(7777), json!({"range": [7000, 8000]}), json!({"set": [53, {"range": [7777, 7778]}]})]
    {
        let chains = table("accept", &[port("udp", &json!(53), "drop"), port("udp", &right, "drop")]);
        assert_eq!(remedies(&chains), ["nft delete rule inet filter input handle 4"], "{right}");
    }
    let harmless = [
        port("tcp", &json!(7777), "drop"),
        port("udp", &json!(7778), "reject"),
        meta("iifname", "lo", &json!({"drop": null})),
    ];
    assert!(said(&table("accept", &harmless)).is_empty());
    let before = [port("udp", &json!(7777), "accept"), port("udp", &json!(7777), "drop")];
    assert!(said(&table("accept", &before)).is_empty(), "what comes after an accept");
}

#[test]
fn a_policy_that_drops_is_named_unless_rules_let_in_what_must() {
    let closed = [
        "nft insert rule inet filter input udp dport 7777 accept",
        "nft insert rule inet filter input iifname \"mesh0\" accept",
    ];
    assert_eq!(remedies(&table("drop", &[])), closed);
    let state = json!({"expr": [{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["established", {"accept": null}], ["invalid", {"drop": null}]]}}}]});
    assert_eq!(
        remedies(&table("drop", &[state.clone(), meta("iifname", "lo", &json!({"accept": null}))])),
        closed
    );
    let mesh = meta("iifname", "mesh*", &json!({"accept": null}));
    assert!(said(&table("drop", &[state, mesh.clone(), port("udp", &json!(7777), "accept")])).is_empty());
    let mut beside = port("udp", &json!(7777), "accept");
    beside["in"] = json!("side");
    let jump = json!({"expr": [{"jump": {"target": "side"}}]});
    assert!(
        said(&table("drop", &[jump, mesh.clone(), beside.clone()])).is_empty(),
        "in a chain that it jumps to"
    );
    assert_eq!(remedies(&table("drop", &[mesh, beside])), closed[..1], "in a chain that nobody jumps to");
    let eth = meta("iifname", "eth0", &json!({"accept": null}));
    let (summary, _) = said(&table("drop", &[eth])).remove(0);
    assert!(summary.contains("unless it comes from where"), "{summary}");
}

/// The frame of ufw's rules, as iptables-save prints it.
const UFW: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-input - [0:0]
:ufw-not-local - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p udp -m udp --sport 67 --dport 68 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -d 224.0.0.251/32 -p udp -m udp --dport 5353 -j ACCEPT
-A ufw-before-input -j ufw-user-input
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix \"[UFW BLOCK] \"
-A ufw-not-local -j DROP
";

#[test]
fn ufw_is_told_in_its_own_words() {
    let read = |more: &str| save::read(&format!("{UFW}{more}COMMIT\n"), "iptables-nft", "ipv4");
    assert_eq!(remedies(&read("")), ["ufw allow 7777/udp", "ufw allow in on mesh0"]);
    let open =
        "-A ufw-user-input -p udp -m udp --dport 7777 -j ACCEPT\n-A ufw-user-input -i mesh0 -j ACCEPT\n";
    assert!(said(&read(open)).is_empty(), "{:?}", said(&read(open)));
}

#[test]
fn rules_of_iptables_are_taken_out_as_they_were_put_in() {
    let rule = "INPUT ! -i lo -p udp -m multiport --dports 53,7000:8000 -m comment --comment \"no games\" -j REJECT --reject-with icmp-port-unreachable";
    let text = format!("*filter\n:INPUT ACCEPT [0:0]\n-A {rule}\nCOMMIT\n");
    let chains = save::read(&text, "iptables-legacy", "ipv4");
    let (summary, remedy) = said(&chains).remove(0);
    assert_eq!(remedy, format!("iptables-legacy -t filter -D {rule}"));
    assert!(summary.contains("iptables-legacy filter INPUT"), "{summary}");
}

#[test]
fn what_docker_publishes_is_told_where_a_scope_opens_it() {
    let docker = |port: u16| {
        format!(
            "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n-A DOCKER ! -i docker0 -p tcp -m tcp --dport {port} -j DNAT --to-destination 172.17.0.2:80\nCOMMIT\n"
        )
    };
    let (summary, remedy) = said(&save::read(&docker(22), "iptables-nft", "ipv4")).remove(0);
    assert!(summary.contains("172.17.0.2:80") && summary.contains("tcp:22"), "{summary}");
    assert_eq!(remedy, "iptables-nft -t nat -I PREROUTING -i mesh0 -j ACCEPT");
    assert!(said(&save::read(&docker(8080), "iptables-nft", "ipv4")).is_empty());
}
