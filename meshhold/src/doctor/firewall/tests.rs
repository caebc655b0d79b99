//! Rules as nft and iptables-save print them, and what is said of them.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use super::*;
use serde_json::json;

fn said(chains: &[Chain]) -> Vec<(String, String)> {
    let ip = |text: &str| text.parse().unwrap();
    let arrival = |source, destination| Arrival { source: ip(source), destination: ip(destination) };
    let arrivals = vec![arrival("127.64.0.9", "127.0.0.1"), arrival("fd12::2", "fd12::1")];
    let open = vec![Service { protocol: "tcp", port: 22, rule: "tcp:22".to_owned(), arrivals }];
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

/// As the CIS benchmarks want it, and what they leave out: 127.0.0.0/8 is no address of the loopback interface alone.
#[test]
fn a_rule_about_loopback_addresses_meets_the_packet_as_the_host_sees_it() {
    let source = json!({"payload": {"protocol": "ip", "field": "saddr"}});
    let prefix = |addr: &str, len: u8| json!({"prefix": {"addr": addr, "len": len}});
    let drop = |left: &Value, right: Value| json!({"expr": [{"match": {"op": "==", "left": left, "right": right}}, {"drop": null}]});
    let lo = meta("iifname", "lo", &json!({"accept": null}));
    let mesh = meta("iifname", "mesh0", &json!({"accept": null}));
    let cis = drop(&source, prefix("127.0.0.0", 8));
    let chains = table("accept", &[lo.clone(), cis.clone(), mesh.clone()]);
    assert_eq!(remedies(&chains), ["nft insert rule inet filter input iifname \"mesh0\" accept"]);
    assert!(said(&table("accept", &[mesh, cis])).is_empty(), "let in before");
    for harmless in [prefix("127.0.0.0", 24), prefix("10.0.0.0", 8), json!("127.0.0.1")] {
        assert!(
            said(&table("accept", &[lo.clone(), drop(&source, harmless.clone())])).is_empty(),
            "{harmless}"
        );
    }
    let set = drop(&source, json!("@bad"));
    assert!(said(&table("accept", &[set])).is_empty(), "a set whose content isn't known");
    let text = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -s 127.0.0.0/8 -j DROP\n-A INPUT -i mesh0 -j ACCEPT\nCOMMIT\n";
    let chains = save::read(text, "iptables-legacy", "ipv4");
    assert_eq!(remedies(&chains), ["iptables-legacy -t filter -I INPUT -i mesh0 -j ACCEPT"]);
}

#[test]
fn answers_have_to_get_out() {
    let text = "*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT ! -o lo -d 127.0.0.0/8 -j DROP\nCOMMIT\n";
    let chains = save::read(text, "iptables-nft", "ipv4");
    assert_eq!(remedies(&chains), ["iptables-nft -t filter -I OUTPUT -o mesh0 -j ACCEPT"]);
}

#[test]
fn a_rule_of_the_cis_benchmark_that_ufw_wrote_is_overtaken_by_ufw() {
    let cis = "-A ufw-user-input -s 127.0.0.0/8 -j DROP\n-A ufw-user-input -i mesh0 -j ACCEPT\n-A ufw-user-input -p udp -m udp --dport 7777 -j ACCEPT\n";
    let chains = save::read(&format!("{UFW}{cis}COMMIT\n"), "iptables-nft", "ipv4");
    assert_eq!(remedies(&chains), ["ufw delete allow in on mesh0; ufw prepend allow in on mesh0"]);
}

/// The frame of firewalld's rules, with eth1 in a zone of its own.
#[test]
fn firewalld_is_told_in_its_own_words_for_each_zone() {
    let chain = |name: &str, hook: Option<&str>| json!({"chain": {"family": "inet", "table": "firewalld", "name": name, "type": "filter", "hook": hook}});
    let rule = |chain: &str, expr: Value| json!({"rule": {"family": "inet", "table": "firewalld", "chain": chain, "handle": 1, "expr": expr}});
    let by = |name: &str, to: &str| json!([{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": name}}, {"goto": {"target": to}}]);
    let ruleset = |more: Vec<Value>| {
        let frame = vec![
            chain("filter_INPUT", Some("input")),
            chain("filter_INPUT_ZONES", None),
            chain("filter_IN_public", None),
            chain("filter_IN_work", None),
            chain("filter_IN_trusted", None),
            rule("filter_INPUT", json!([{"jump": {"target": "filter_INPUT_ZONES"}}])),
            rule("filter_INPUT", json!([{"reject": {"type": "icmpx", "expr": "admin-prohibited"}}])),
            rule("filter_INPUT_ZONES", by("eth1", "filter_IN_work")),
            rule("filter_IN_trusted", json!([{"accept": null}])),
        ];
        let last = rule("filter_INPUT_ZONES", json!([{"goto": {"target": "filter_IN_public"}}]));
        nft::read(&json!({"nftables": frame.into_iter().chain(more).chain([last]).collect::<Vec<_>>()}))
    };
    assert_eq!(
        remedies(&ruleset(vec![])),
        [
            "firewall-cmd --permanent --zone=work --add-port=7777/udp && firewall-cmd --permanent --zone=public --add-port=7777/udp && firewall-cmd --reload",
            "firewall-cmd --permanent --zone=trusted --change-interface=mesh0 && firewall-cmd --reload",
        ]
    );
    let mesh = rule("filter_INPUT_ZONES", by("mesh0", "filter_IN_trusted"));
    assert_eq!(remedies(&ruleset(vec![mesh])).len(), 1);
}

#[test]
fn nobody_but_its_owner_is_sent_to_a_table() {
    let owned = json!({"table": {"family": "inet", "name": "filter", "handle": 1, "flags": "owner"}});
    let chain = json!({"chain": {"family": "inet", "table": "filter", "name": "input", "type": "filter", "hook": "input", "policy": "drop"}});
    let chains = nft::read(&json!({ "nftables": [owned, chain] }));
    assert!(
        remedies(&chains)
            .iter()
            .all(|remedy| remedy.starts_with("only the program that owns table inet filter"))
    );
}
