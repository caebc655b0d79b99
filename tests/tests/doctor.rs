//! What the doctor says of a host: each thing that keeps the mesh out is brought about, found, and mended by the very command
//! that the doctor gives.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::lab::labtool;
use meshhold_tests::process::finish;
use meshhold_tests::web::{ORIGIN, curl};
use meshhold_tests::{Host, Lab, Node, Settings, run, service, wait};
use serde_json::Value;

const SETTLE: Duration = Duration::from_secs(5);
/// A clock that is ten minutes fast, for one daemon only.
const FAST: [&str; 4] = [
    "env",
    "LD_PRELOAD=/usr/$LIB/faketime/libfaketime.so.1",
    "FAKETIME=+600s",
    "FAKETIME_DONT_FAKE_MONOTONIC=1",
];

/// What the doctor finds of one check, with its remedies.
fn findings(node: &Node, check: &str) -> Result<Vec<(String, String)>> {
    let finished = node.try_meshhold(&["doctor", "--json"], "")?;
    let all: Vec<Value> = serde_json::from_str(&finished.stdout)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let bad = all.iter().filter(|one| one["severity"] != "ok" && one["check"] == check);
    Ok(bad.map(|one| (text(&one["summary"]), text(&one["remedy"]))).collect())
}

/// A node with a web server, and a member whose clock is fast.
fn pair(lab: &Lab) -> Result<(Node, Node)> {
    let api = Some("listen_addr: 127.0.0.1:8080, open_metrics: true");
    let mut a = Node::new(lab.host("a")?, Settings { api, ..Settings::default() })?;
    let key = a.mint(&["tcp:80", "tcp:8085"])?;
    let settings = Settings { wrapper: FAST.to_vec(), ..Settings::knowing(&[&a])? };
    let mut b = Node::new(lab.host("b")?, settings)?;
    b.join(&key, &[])?;
    a.start_and_wait()?;
    b.start_and_wait()?;
    b.wait_peer_up(&a)?;
    Ok((a, b))
}

fn script(host: &Host, text: &str) -> Result<()> {
    host.run("sh", &["-ec", text]).map(drop)
}

/// Rules that keep members out, the place that the finding names, and the beginning of each remedy.
const WALLS: [(&str, &str, &[&str]); 4] = [
    (
        "nft add table inet lab; nft add chain inet lab input '{ type filter hook input priority 0 ; }'
         nft add rule inet lab input tcp dport 80-90 reject",
        "inet lab input",
        &["nft delete rule inet lab input handle"],
    ),
    (
        "nft add table inet wall; nft add chain inet wall in '{ type filter hook input priority 0 ; policy drop ; }'
         nft add rule inet wall in ct state vmap '{ established : accept, related : accept, invalid : drop }'
         nft add rule inet wall in iifname lo accept",
        "the policy of inet wall in",
        &["nft insert rule inet wall in udp dport 7777 accept", "nft insert rule inet wall in iifname \"mesh0\" accept"],
    ),
    (
        "iptables-legacy -A INPUT -p tcp -m multiport --dports 22,80:85 -m comment --comment 'no web' -j DROP",
        "iptables-legacy filter INPUT",
        &["iptables-legacy -t filter -D INPUT -p tcp"],
    ),
    (
        "iptables-legacy -A INPUT -i lo -j ACCEPT; iptables-legacy -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
         iptables-legacy -P INPUT DROP",
        "the policy of iptables-legacy filter INPUT",
        &["iptables-legacy -t filter -I INPUT -p udp --dport 7777", "iptables-legacy -t filter -I INPUT -i mesh0"],
    ),
];

/// As Docker publishes a container's port; here there is no container behind it.
const DOCKER: &str = "iptables-nft -t nat -N DOCKER
    iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
    iptables-nft -t nat -A DOCKER ! -i docker0 -p tcp --dport 8085 -j DNAT --to-destination 172.17.0.2:80";

#[test]
fn what_is_in_the_way_is_named_and_the_remedy_mends_it() -> Result<()> {
    run("doctor", |lab| {
        let (a, b) = pair(lab)?;
        let _web = service::nginx(&a.host, "127.0.0.1:80")?;
        let _other = service::echo(&a.host, "tcp", "0.0.0.0".parse()?, 8085)?;
        let address = IpAddr::V4(a.addresses()?.0);
        let reaches = |port: u16| {
            let words = ["1", &labtool()?, "ask", "tcp", &address.to_string(), &port.to_string()];
            b.host.succeeds("timeout", &words)
        };
        let page = || Ok(curl(&b.host, &["--max-time", "1", &format!("http://{address}/")])?.is_some());
        wait::until_true(SETTLE, "the page is there", page)?;
        ensure!(findings(&a, "firewall")?.is_empty(), "{:?}", findings(&a, "firewall")?);
        for (wall, place, remedies) in WALLS {
            script(&a.host, wall)?;
            ensure!(!page()?, "{wall} keeps nobody out");
            let found = findings(&a, "firewall")?;
            ensure!(found.iter().any(|(summary, _)| summary.contains(place)), "{place}: {found:?}");
            for remedy in remedies {
                ensure!(found.iter().any(|(_, given)| given.starts_with(remedy)), "{remedy}: {found:?}");
            }
            found.iter().try_for_each(|(_, remedy)| script(&a.host, remedy))?;
            ensure!(findings(&a, "firewall")?.is_empty(), "not mended: {:?}", findings(&a, "firewall")?);
            wait::until_true(SETTLE, "the page is there again", page)?;
        }
        script(&a.host, DOCKER)?;
        ensure!(!reaches(8085)?, "the port is published and still reached");
        let found = findings(&a, "firewall")?;
        let (summary, remedy) = found.first().context("nothing is said of a published port")?;
        ensure!(summary.contains("172.17.0.2:80") && summary.contains("tcp:8085"), "{found:?}");
        script(&a.host, remedy)?;
        ensure!(findings(&a, "firewall")?.is_empty(), "not mended: {:?}", findings(&a, "firewall")?);
        wait::until_true(SETTLE, "the service is reached past the translation", || reaches(8085))?;
        others(&a, &b)
    })
}

/// What isn't a firewall's.
fn others(a: &Node, b: &Node) -> Result<()> {
    let clocks = findings(a, "clock")?;
    ensure!(clocks.len() == 1 && clocks[0].0.contains("10 min ahead of this host's"), "{clocks:?}");
    let told = findings(b, "clock")?;
    println!("figure: the one that is fast says {told:?}");
    script(&a.host, "sysctl -qw net.ipv4.conf.all.rp_filter=1")?;
    let (_, remedy) =
        findings(a, "reverse path filter")?.first().context("strict rp_filter isn't named")?.clone();
    script(&a.host, &remedy)?;
    ensure!(findings(a, "reverse path filter")?.is_empty());
    let beside = service::echo(&b.host, "tcp", b.host.ipv4.into(), 8085)?;
    b.set_scope(&["tcp:8080-8090"])?;
    let found = findings(b, "services")?;
    ensure!(found.len() == 1 && found[0].1.contains("listen on 127.0.0.1:8085"), "{found:?}");
    drop(beside);
    let text = a.try_meshhold(&["doctor"], "")?.stdout;
    for check in ["firewall", "services", "address ranges", "clock", "offload", "reverse path filter"] {
        ensure!(text.contains(check), "{check} isn't looked at: {text}");
    }
    metrics(a)
}

/// Figures of every kind, and what promtool says of them.
fn metrics(a: &Node) -> Result<()> {
    let page = curl(&a.host, &[&format!("{ORIGIN}/metrics")])?.context("no answer")?;
    ensure!(page.status == 200, "{page:?}");
    for family in [
        "packets_total{reason=",
        "peers{state=",
        "paths{kind=",
        "peer_rtt_seconds{",
        "peer_receive_bytes_total{",
        "handshakes_total{outcome=\"completed\"",
        "links 1",
        "records ",
        "gossip_sent_total{kind=\"push\"",
        "dns_answers_total{code=\"noerror\"",
        "program_runs_total{program=\"mesh_ingress\"",
        "translations 0",
        "relay_packets_total{by=\"kernel\"",
    ] {
        ensure!(page.body.contains(&format!("meshhold_{family}")), "{family}: {}", page.body);
    }
    let tool = std::env::current_exe()?;
    let target = tool.ancestors().nth(3).context("the test has no target folder")?;
    let tool = target.join("debian/prometheus/usr/bin/promtool");
    ensure!(tool.exists(), "promtool is missing: run `cargo xtask setup`");
    let mut command = std::process::Command::new(tool);
    let judged = finish(command.args(["check", "metrics"]), &page.body)?;
    ensure!(
        judged.status.success() && judged.stderr.is_empty(),
        "promtool: {} {}",
        judged.stdout,
        judged.stderr
    );
    println!(
        "figure: promtool finds nothing in {} samples",
        page.body.lines().filter(|line| !line.starts_with('#')).count()
    );
    Ok(())
}
