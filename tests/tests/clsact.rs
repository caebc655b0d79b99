//! Nodes whose kernel has no tcx (before Linux 6.6): the same programs as filters of clsact, and the same promises.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use meshhold_tests::lab::labtool;
use meshhold_tests::scenario::Site;
use meshhold_tests::{Host, Node, Settings, run, scenario, service, wait};

/// Settings of a node that does as on such a kernel.
fn settings() -> Settings {
    Settings { wrapper: vec!["env", "MESHHOLD_HOOK=clsact"], ..Settings::default() }
}

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn ports_loopback_services_and_the_lan_guard_are_as_ever() -> Result<()> {
    run("clsact", |lab| {
        let (mut a, mut b) = scenario::strangers(lab)?;
        a.configure(settings())?;
        b.configure(Settings { wrapper: settings().wrapper, ..Settings::knowing(&[&a])? })?;
        a.host.run("tc", &["qdisc", "add", "dev", "eth0", "clsact"])?;
        let add =
            "filter add dev eth0 ingress protocol all prio 1 u32 match u32 0x7f7f7f7f 0xffffffff flowid 1:1";
        a.host.run("tc", &add.split(' ').collect::<Vec<_>>())?;
        let theirs = filters(&a.host, "eth0")?;
        scenario::connect(&mut a, &mut b, &["tcp:80", "tcp:81"])?;
        ensure!(a.status()?.datapath.hook.as_deref() == Some("clsact"), "{:?}", a.status()?.datapath);
        ensure!(a.status()?.warnings.is_empty(), "{:?}", a.status()?.warnings);
        let _services = [
            service::echo(&a.host, "tcp", Ipv4Addr::LOCALHOST.into(), 80)?,
            service::echo(&a.host, "tcp", Ipv6Addr::LOCALHOST.into(), 81)?,
            service::echo(&a.host, "tcp", Ipv6Addr::UNSPECIFIED.into(), 82)?,
        ];
        let [four, six] = a.both_addresses()?;
        let reaches = |address: IpAddr, port: &str| {
            b.host.succeeds(&labtool()?, &["await", &address.to_string(), port, "1500"])
        };
        for (address, port, open) in [
            (four, "80", true),
            (six, "80", true),
            (six, "81", true),
            (four, "82", false),
            (six, "82", false),
        ] {
            ensure!(reaches(address, port)? == open, "{address} port {port}: {open} was expected");
        }
        guarded(lab.host("neighbour")?, &a, &b)?;
        let again = restarted(&mut a)?;
        b.wait_peer_up(&a)?;
        ensure!(again, "a filter was not replaced in its place");
        ensure!(reaches(four, "80")? && !reaches(four, "82")?, "after the restart");
        ensure!(filters(&a.host, "eth0")?.contains(theirs.trim()), "{}", filters(&a.host, "eth0")?);
        Ok(())
    })
}

/// A neighbour sends to a mesh address through the underlay interface: nothing answers.
fn guarded(neighbour: Host, node: &Node, peer: &Node) -> Result<()> {
    for address in node.both_addresses()? {
        let (via, any): (IpAddr, _) = match address {
            IpAddr::V4(_) => (node.host.ipv4.into(), "0.0.0.0"),
            IpAddr::V6(_) => (node.host.ipv6.into(), "::"),
        };
        peer.host.tool(&["await", &address.to_string(), "80", "5000"])?;
        neighbour.namespace().ip(&format!("route replace {address} via {via} dev eth0"))?;
        let answer = neighbour.tool(&["spoof", any, "0", &address.to_string(), "80"])?;
        ensure!(answer.trim() == "Silent", "{address} answered: {answer}");
    }
    Ok(())
}

/// Kills the daemon and starts it again. True where every filter kept its handle and got another program.
fn restarted(node: &mut Node) -> Result<bool> {
    let before = ours(&node.host)?;
    node.kill()?;
    ensure!(ours(&node.host)? == before, "a killed daemon's filters stay");
    node.start_and_wait()?;
    let after = ours(&node.host)?;
    let handle = |line: &String| {
        line.split_whitespace().skip_while(|word| *word != "handle").nth(1).map(str::to_owned)
    };
    let handles = |lines: &[String]| lines.iter().map(handle).collect::<Vec<_>>();
    Ok(!before.is_empty()
        && handles(&before) == handles(&after)
        && before.iter().all(|line| !after.contains(line)))
}

/// Our filters on the underlay.
fn ours(host: &Host) -> Result<Vec<String>> {
    let all = filters(host, "eth0")?;
    Ok(all.lines().filter(|line| line.contains("meshhold:")).map(|line| line.trim().to_owned()).collect())
}

fn filters(host: &Host, interface: &str) -> Result<String> {
    let of = |side| host.run("tc", &["filter", "show", "dev", interface, side]);
    Ok(of("ingress")? + &of("egress")?)
}

#[test]
fn lan_devices_are_reached_through_filters() -> Result<()> {
    run("clsact-gateway", |lab| {
        let site = Site::with(lab, &["tcp:80", "udp:9100"], settings())?;
        let _web = service::nginx(&site.camera, "0.0.0.0:80")?;
        let _sink = service::echo(&site.printer, "udp", Ipv6Addr::UNSPECIFIED.into(), 9100)?;
        for address in site.addresses("Lobby camera")? {
            ensure!(service::fetch(&site.laptop.host, address)? == service::page(), "curl {address}");
        }
        for address in site.addresses("Office printer")? {
            site.laptop.host.tool(&["ask", "udp", &address.to_string(), "9100", "1000"])?;
        }
        let hangs = |interface: &str, program: &str| {
            Ok::<_, anyhow::Error>(filters(&site.gateway.host, interface)?.contains(program))
        };
        ensure!(
            hangs("mesh0", "device_ingress")? && hangs("lan2", "lan_answer")?,
            "{}",
            filters(&site.gateway.host, "mesh0")?
        );
        site.gateway.meshhold(&["meshlan", "forwards", "rm", "Office printer"])?;
        wait::until_true(PATIENCE, "the filter goes with the device", || Ok(!hangs("lan3", "lan_answer")?))
    })
}
