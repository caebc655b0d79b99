//! Three sites as users have them: a laptop, a NAS, and a gateway with two machines that know nothing of MeshHold; all of
//! it in two networks at once, each service by every name and address that it has.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::process::Process;
use meshhold_tests::resolver::Resolver;
use meshhold_tests::service::{self, Sshd};
use meshhold_tests::{Host, Lab, Node, Settings, run, wait};

const PATIENCE: Duration = Duration::from_secs(20);
const NETWORKS: [&str; 2] = ["Home", "Work"];
const OPEN_ON_NAS: [&str; 3] = ["tcp:22", "tcp:80", "tcp:445"];
const OPEN_ON_GATEWAY: [&str; 2] = ["tcp:80", "tcp:9100"];

struct Sites {
    laptop: Node,
    resolver: Resolver,
    shell: Sshd,
    _nodes: [Node; 2],
    _services: Vec<Process>,
}

impl Sites {
    fn new(lab: &Lab) -> Result<Self> {
        let host = lab.host("gateway")?;
        let (camera, printer) = (lab.device(&host, "camera")?, lab.device(&host, "printer")?);
        let forwards = vec![
            ("Lobby camera".to_owned(), camera.ipv4.into()),
            ("Office printer".to_owned(), printer.ipv6.into()),
        ];
        let mut gateway = Node::new(host, Settings { forwards, ..Settings::default() })?;
        let mut nas = Node::new(lab.host("nas")?, Settings::knowing(&[&gateway])?)?;
        let host = lab.host("laptop")?;
        let resolver = Resolver::start(&host)?;
        let settings = Settings { wrapper: resolver.wrapper(), ..Settings::knowing(&[&gateway])? };
        let mut laptop = Node::new(host, settings)?;
        for network in NETWORKS {
            let key = gateway.mint_as(network, &OPEN_ON_GATEWAY)?;
            nas.join_as(network, &key, &OPEN_ON_NAS)?;
            laptop.join_as(network, &key, &[])?;
        }
        let shell = Sshd::start(&nas.host, &["::", "0.0.0.0"], 22)?;
        let services = vec![
            service::smbd(&nas.host)?,
            service::nginx(&nas.host, "[::]:80 ipv6only=off")?,
            service::nginx(&camera, "80")?,
            service::echo(&printer, "tcp", IpAddr::from([0_u16; 8]), 9100)?,
        ];
        for node in [&mut gateway, &mut nas, &mut laptop] {
            node.start_and_wait()?;
        }
        wait::until_true(PATIENCE, "the resolver is told", || Ok(laptop.status()?.dns.handed_over))?;
        Ok(Self { laptop, resolver, shell, _nodes: [gateway, nas], _services: services })
    }

    fn host(&self) -> &Host {
        &self.laptop.host
    }

    /// What a line of shell on the laptop prints, where names are resolved.
    fn sh(&self, line: &str) -> Result<String> {
        self.resolver.run("sh", &["-c", line]).with_context(|| line.to_owned())
    }

    /// Every way to say who is meant: names, and the addresses behind them, IPv4 and IPv6.
    fn ways(&self, host: &str) -> Result<Vec<(String, Option<IpAddr>)>> {
        let mut ways = Vec::new();
        for name in [format!("{host}.mesh"), format!("{host}.home.mesh"), format!("{host}.work.mesh")] {
            for kind in ["ahostsv4", "ahostsv6"] {
                let what = format!("{name} has an address ({kind})");
                let line = wait::until(PATIENCE, &what, || {
                    let found = self.sh(&format!("getent {kind} {name}"))?;
                    Ok(found.lines().next().map(str::to_owned))
                })?;
                let address: IpAddr = line.split_whitespace().next().unwrap_or_default().parse()?;
                ways.push((address.to_string(), Some(address)));
            }
            ways.push((name, None));
        }
        let distinct: std::collections::BTreeSet<_> = ways.iter().filter_map(|way| way.1).collect();
        // The bare name is that of the older network.
        ensure!(distinct.len() == 4, "{host}: two networks of two families: {ways:?}");
        Ok(ways)
    }
}

/// As part of a URL.
fn in_url(way: &str) -> String {
    if way.contains(':') { format!("[{way}]") } else { way.to_owned() }
}

/// Names are tried by both families, an address has one.
fn families(address: Option<IpAddr>) -> &'static [&'static str] {
    match address {
        Some(IpAddr::V4(_)) => &["-4"],
        Some(IpAddr::V6(_)) => &["-6"],
        None => &["-4", "-6"],
    }
}

#[test]
fn every_service_by_every_name_and_address_in_both_networks() -> Result<()> {
    run("sites", |lab| {
        let sites = Sites::new(lab)?;
        let mut count = 0;
        for host in ["nas", "gateway", "lobby-camera", "office-printer"] {
            for (way, address) in sites.ways(host)? {
                for family in families(address) {
                    wait::until_true(PATIENCE, &format!("{way} answers pings"), || {
                        let line = format!("ping {family} -n -c 1 -W 1 {way} >/dev/null");
                        Ok(sites.sh(&line).is_ok())
                    })?;
                    service(&sites, host, &way, family)?;
                    count += 1;
                }
            }
        }
        println!("figure: {count} ways to four hosts, each with its services");
        ensure!(count == 48, "{count}");
        Ok(())
    })
}

fn service(sites: &Sites, host: &str, way: &str, family: &str) -> Result<()> {
    let page = || -> Result<()> {
        let fetched = sites.sh(&format!("curl {family} -sS -g --max-time 5 http://{}/", in_url(way)))?;
        ensure!(fetched == service::page(), "curl {family} {way}: {fetched}");
        Ok(())
    };
    match host {
        "nas" => {
            page()?;
            shell(sites, way, family)?;
            share(sites, way)
        }
        "lobby-camera" => page(),
        "office-printer" => {
            let seen = sites.sh(&format!("echo job | nc {family} -N -w 5 {way} 9100"))?;
            ensure!(seen.contains("job"), "nc {family} {way}: {seen}");
            Ok(())
        }
        _ => Ok(()),
    }
}

fn shell(sites: &Sites, way: &str, family: &str) -> Result<()> {
    let said = sites.sh(&format!("ssh {family} {} root@{way} 'echo here'", sites.shell.options()))?;
    ensure!(said.trim() == "here", "ssh {family} {way}: {said}");
    Ok(())
}

/// A file goes there and comes back.
fn share(sites: &Sites, way: &str) -> Result<()> {
    let folder = sites.host().directory();
    let (sent, got) = (folder.join("sent"), folder.join("got"));
    std::fs::write(&sent, format!("by {way}\n").repeat(20_000))?;
    let commands = format!("put {} f; get f {}", sent.display(), got.display());
    sites.sh(&format!("smbclient -N -s /dev/null //{way}/share -c '{commands}' 2>&1"))?;
    ensure!(std::fs::read(&sent)? == std::fs::read(&got)?, "smbclient //{way}/share");
    Ok(())
}
