//! What the host does with a packet that the rules of the mesh let pass: `explain` and `ping` say so, and don't say pass for
//! what goes nowhere.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use meshhold_tests::ask::explain;
use meshhold_tests::{Node, firewall, run, scenario, service};
use serde_json::Value;

const CIS: &str = "nft add table inet cis; nft add chain inet cis input '{ type filter hook input priority 0 ; }'
    nft add rule inet cis input ip saddr 127.0.0.0/8 counter drop; nft add rule inet cis input iifname mesh0 accept";

fn to(address: IpAddr, port: u16) -> String {
    if address.is_ipv6() { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// The verdict, and the first finding about the host.
fn asked(node: &Node, words: &[&str]) -> Result<(Value, Value)> {
    let (answer, code) = explain(node, words)?;
    ensure!(code == Some(i32::from(answer["verdict"] == "drop")), "{words:?}: {answer} and code {code:?}");
    let host = answer["host"].get(0).cloned().unwrap_or_default();
    Ok((answer, host))
}

fn stopped(node: &Node, words: &[&str], reason: &str, text: &str) -> Result<String> {
    let (answer, host) = asked(node, words)?;
    ensure!(answer["verdict"] == "drop" && answer["reason"] == reason, "{words:?}: {answer}");
    ensure!(host["summary"].as_str().is_some_and(|summary| summary.contains(text)), "{words:?}: {answer}");
    Ok(host["remedy"].as_str().unwrap_or_default().to_owned())
}

fn passes(node: &Node, words: &[&str]) -> Result<Value> {
    let (answer, host) = asked(node, words)?;
    ensure!(answer["verdict"] == "pass", "{words:?}: {answer}");
    Ok(host)
}

#[test]
fn explain_reaches_past_the_rules_of_the_mesh() -> Result<()> {
    run("host", |lab| {
        let (a, b) = scenario::pair(lab, &["tcp:80-82"])?;
        let _services = [
            service::echo(&a.host, "tcp", "127.0.0.1".parse()?, 80)?,
            service::echo(&a.host, "tcp", a.host.ipv4.into(), 81)?,
            service::echo(&a.host, "tcp", "::1".parse()?, 82)?,
        ];
        let [four, six] = a.both_addresses()?;
        for node in [&a, &b] {
            for target in [to(four, 80), to(six, 80), to(six, 82)] {
                ensure!(passes(node, &["tcp", &target])?.is_null(), "{target}");
            }
        }
        elsewhere(&a, four)?;
        firewall::command(&a.host, CIS)?;
        let remedy = stopped(&a, &["tcp", &to(four, 80)], "host-firewall", "a rule in inet cis input drops")?;
        stopped(&a, &["tcp", &to(six, 80)], "host-firewall", "inet cis input")?;
        passes(&a, &["tcp", &to(six, 82)])?;
        passes(&a, &["icmp", &four.to_string()])?;
        firewall::command(&a.host, &remedy)?;
        passes(&a, &["tcp", &to(four, 80)])?;
        led_away(&a, &b)
    })
}

/// A service that listens on the LAN's address alone.
fn elsewhere(a: &Node, four: IpAddr) -> Result<()> {
    let host = passes(a, &["tcp", &to(four, 81)])?;
    let summary = host["summary"].as_str().context("nothing is said of who waits elsewhere")?;
    ensure!(summary.contains(&format!("waits on {} only", a.host.ipv4)), "{summary}");
    let text = a.try_meshhold(&["meshlan", "explain", "tcp", &to(four, 81)], "")?.stdout;
    ensure!(text.contains("host services: ") && text.contains("-> let "), "{text}");
    Ok(())
}

/// Rules that another program put before ours, as a VPN does.
fn led_away(a: &Node, b: &Node) -> Result<()> {
    let ([own4, own6], [peer4, peer6]) = (b.both_addresses()?, a.both_addresses()?);
    let rules = |host: &meshhold_tests::Host, four: IpAddr, six: IpAddr, what: &str| {
        host.run("ip", &["rule", what, "pref", "90", "to", &four.to_string(), "lookup", "999"])?;
        host.run("ip", &["-6", "rule", what, "pref", "90", "to", &six.to_string(), "unreachable"])
    };
    b.host.run("ip", &["route", "add", "default", "dev", "eth0", "table", "999"])?;
    rules(&b.host, peer4, peer6, "add")?;
    stopped(b, &["tcp", &to(peer4, 80)], "host-route", "its route leads to eth0")?;
    stopped(b, &["tcp", &to(peer6, 80)], "host-route", "doesn't send what is for")?;
    let ping = b.try_meshhold(&["meshlan", "ping", "-c1", &peer4.to_string()], "")?;
    let said = format!("{}{}", ping.stdout, ping.stderr);
    ensure!(said.contains("host-route") && said.contains("eth0") && !said.contains("raw sockets"), "{said}");
    rules(&b.host, peer4, peer6, "del")?;
    passes(b, &["tcp", &to(peer4, 80)])?;
    let range = b.network()?.range;
    let whole = |what: &str| b.host.run("ip", &["rule", what, "pref", "90", "to", &range, "lookup", "999"]);
    whole("add")?;
    let said = b.try_meshhold(&["doctor"], "")?.stdout;
    ensure!(
        said.contains(&format!("what is for {range} doesn't leave by mesh0: its route leads to eth0")),
        "{said}"
    );
    whole("del")?;
    let said = b.try_meshhold(&["doctor"], "")?.stdout;
    ensure!(said.contains("ok       routes: nothing in the way"), "{said}");
    // What the service would answer goes astray.
    rules(&a.host, own4, own6, "add")?;
    stopped(a, &["icmp", &peer6.to_string()], "host-route", "doesn't send what is for")?;
    stopped(a, &["tcp", &to(peer6, 82)], "host-route", "doesn't send what is for")?;
    passes(a, &["tcp", &to(peer4, 80)]).map(drop)
}
