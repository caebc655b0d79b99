//! Firewalls as people have them: firewalld, ufw, the rules of the CIS benchmarks, and a table with an owner. What keeps the
//! mesh out is named, `explain` doesn't say pass, and the very command that is given lets it in.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use meshhold_tests::lab::labtool;
use meshhold_tests::{Lab, Node, firewall, run, scenario, service, wait};
use serde_json::Value;

const SETTLE: Duration = Duration::from_secs(5);

/// Services on loopback alone, by each way in: TCP on 127.0.0.1, TCP and UDP on ::1.
struct Stage {
    a: Node,
    b: Node,
    _services: [meshhold_tests::process::Process; 3],
}

impl Stage {
    fn new(lab: &Lab) -> Result<Self> {
        let (a, b) = scenario::pair(lab, &["tcp:80", "tcp:81", "udp:82"])?;
        let [four, six]: [IpAddr; 2] = ["127.0.0.1".parse()?, "::1".parse()?];
        let services = [
            service::echo(&a.host, "tcp", four, 80)?,
            service::echo(&a.host, "tcp", six, 81)?,
            service::echo(&a.host, "udp", six, 82)?,
        ];
        Ok(Self { a, b, _services: services })
    }

    fn reaches(&self, protocol: &str, address: IpAddr, port: u16) -> Result<bool> {
        let words = ["1", &labtool()?, "ask", protocol, &address.to_string(), &port.to_string()];
        self.b.host.succeeds("timeout", &words)
    }

    fn reaches_all(&self) -> Result<bool> {
        let [four, six] = self.a.both_addresses()?;
        let ways = [("tcp", four, 80), ("tcp", six, 80), ("tcp", six, 81), ("udp", six, 82)];
        for (protocol, address, port) in ways {
            if !self.reaches(protocol, address, port)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn findings(&self) -> Result<Vec<(String, String)>> {
        let finished = self.a.try_meshhold(&["doctor", "--json"], "")?;
        let all: Vec<Value> = serde_json::from_str(&finished.stdout)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let bad = all.iter().filter(|one| one["severity"] != "ok" && one["check"] == "firewall");
        Ok(bad.map(|one| (text(&one["summary"]), text(&one["remedy"]))).collect())
    }

    /// Shut by `wall`, found, and mended by the commands that are given.
    fn mend(&self, wall: &str, expected: &[&str]) -> Result<()> {
        let four = self.a.both_addresses()?[0];
        firewall::command(&self.a.host, wall)?;
        ensure!(!self.reaches("tcp", four, 80)?, "{wall} keeps nobody out");
        let found = self.findings()?;
        for remedy in expected {
            ensure!(found.iter().any(|(_, given)| given.starts_with(remedy)), "{remedy}: {found:?}");
        }
        for (_, remedy) in &found {
            firewall::command(&self.a.host, remedy)?;
        }
        let left = self.findings()?;
        ensure!(left.is_empty(), "not mended by {found:?}: {left:?}");
        wait::until_true(SETTLE, &format!("services are reached past {wall}"), || self.reaches_all())
    }
}

/// Rules of the CIS benchmarks (nftables, iptables), of which people have the loopback part before everything else; and what
/// may be done to answers. With the beginning of the remedy.
const WALLS: [(&str, &str); 4] = [
    (
        "nft add table inet cis; nft add chain inet cis input '{ type filter hook input priority 0 ; }'
         nft add rule inet cis input iif lo accept; nft add rule inet cis input ip saddr 127.0.0.0/8 counter drop
         nft add rule inet cis input ip6 saddr ::1 counter drop; nft add rule inet cis input iifname mesh0 accept",
        "nft insert rule inet cis input iifname \"mesh0\" accept",
    ),
    (
        "iptables-legacy -A INPUT -i lo -j ACCEPT; iptables-legacy -A INPUT -s 127.0.0.0/8 -j DROP
         iptables-legacy -A INPUT -i mesh0 -j ACCEPT",
        "iptables-legacy -t filter -I INPUT -i mesh0",
    ),
    (
        "iptables-nft -A INPUT -i lo -j ACCEPT; iptables-nft -A INPUT ! -i lo -s 127.0.0.0/8 -j DROP",
        "iptables-nft -t filter -I INPUT -i mesh0",
    ),
    (
        "nft add table ip out; nft add chain ip out output '{ type filter hook output priority 0 ; }'
         nft add rule ip out output ip daddr 127.0.0.0/8 oifname != lo drop",
        "nft insert rule ip out output oifname \"mesh0\" accept",
    ),
];

#[test]
fn rules_about_loopback_addresses_are_named_and_overtaken() -> Result<()> {
    run("cis", |lab| {
        let stage = Stage::new(lab)?;
        wait::until_true(SETTLE, "all is reached", || stage.reaches_all())?;
        ensure!(stage.findings()?.is_empty(), "{:?}", stage.findings()?);
        for (wall, remedy) in WALLS {
            stage.mend(wall, &[remedy])?;
        }
        owned(&stage)?;
        firewall::command(&stage.a.host, "nft flush ruleset")?;
        firewall::ufw(&stage.a.host)?;
        stage.mend("ufw status", &["ufw allow 7777/udp", "ufw allow in on mesh0"])?;
        // As CIS has it for ufw, after the mesh was let in.
        let cis = "ufw allow in on lo; ufw prepend deny in from 127.0.0.0/8; ufw deny in from ::1";
        stage.mend(cis, &["ufw delete allow in on mesh0; ufw prepend allow in on mesh0"])
    })
}

/// A table that its program lets nobody change, as firewalld's from 2.1 on.
fn owned(stage: &Stage) -> Result<()> {
    let rules = "table inet theirs { flags owner; chain input { type filter hook input priority 0; tcp dport 80 drop; }; }";
    let lines = stage.a.host.directory().join("lines").to_string_lossy().into_owned();
    stage.a.host.run("mkfifo", &[&lines])?;
    // The table goes with its owner, which reads its lines from a pipe that is never closed.
    let mut owner = stage.a.host.spawn("owner", "sh", &["-c", "exec nft -i <> $0", &lines])?;
    stage.a.host.run("sh", &["-c", "echo \"$0\" > $1", rules, &lines])?;
    let four = stage.a.both_addresses()?[0];
    wait::until_true(SETTLE, "the owner's rule drops", || Ok(!stage.reaches("tcp", four, 80)?))?;
    let found = stage.findings()?;
    ensure!(found.len() == 1, "{found:?}");
    ensure!(found[0].1.starts_with("only the program that owns table inet theirs"), "{found:?}");
    owner.kill()?;
    wait::until_true(SETTLE, "the table has gone with its owner", || stage.reaches("tcp", four, 80))
}

#[test]
fn firewalld_is_mended_by_firewall_cmd_and_stays_so() -> Result<()> {
    run("firewalld", |lab| {
        let stage = Stage::new(lab)?;
        let _firewalld = firewall::Firewalld::start(&stage.a.host)?;
        let remedies = [
            "firewall-cmd --permanent --zone=public --add-port=7777/udp && firewall-cmd --reload",
            "firewall-cmd --permanent --zone=trusted --change-interface=mesh0 && firewall-cmd --reload",
        ];
        stage.mend("firewall-cmd --state", &remedies)?;
        firewall::command(&stage.a.host, "firewall-cmd --reload")?;
        ensure!(stage.findings()?.is_empty(), "lost by a reload: {:?}", stage.findings()?);
        wait::until_true(SETTLE, "services are reached after a reload", || stage.reaches_all())
    })
}
