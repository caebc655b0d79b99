//! LAN devices without MeshHold behind a node that fronts them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::lab::labtool;
use meshhold_tests::scenario::Site;
use meshhold_tests::{Host, run, service, wait};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn devices_are_reached_by_both_families_and_see_the_gateway() -> Result<()> {
    run("gateway", |lab| {
        let site = Site::new(lab, &["tcp:80", "tcp:9100", "udp:9100"])?;
        let any = Ipv6Addr::UNSPECIFIED.into();
        let _web = service::nginx(&site.camera, "0.0.0.0:80")?;
        let _closed = service::echo(&site.camera, "tcp", Ipv4Addr::UNSPECIFIED.into(), 81)?;
        let _sinks = [
            service::echo(&site.printer, "tcp", any, 9100)?,
            service::echo(&site.printer, "udp", any, 9100)?,
        ];
        for address in site.addresses("Lobby camera")? {
            ensure!(service::fetch(&site.laptop.host, address)? == service::page(), "curl {address}");
            ensure!(!reaches(&site.laptop.host, address, "81")?, "port 81 of {address} is not in the scope");
        }
        for address in site.addresses("Office printer")? {
            for (protocol, size) in [("tcp", "300000"), ("udp", "1000"), ("udp", "8000")] {
                let seen = site.laptop.host.tool(&["ask", protocol, &address.to_string(), "9100", size])?;
                ensure!(seen.contains("fd00:168:"), "the printer saw {seen} over {protocol} {address}");
            }
        }
        // Its answer fits its LAN and not the mesh; across the families nobody can tell it so.
        let [across, _] = site.addresses("Office printer")?;
        site.laptop.host.tool(&["ask", "udp", &across.to_string(), "9100", "1440"])?;
        Ok(())
    })
}

fn reaches(from: &Host, address: IpAddr, port: &str) -> Result<bool> {
    from.succeeds(&labtool()?, &["await", &address.to_string(), port, "1500"])
}

#[test]
fn devices_come_and_go_while_the_daemon_runs() -> Result<()> {
    run("gateway-live", |lab| {
        let mut site = Site::new(lab, &["tcp:9100"])?;
        let _sink = service::echo(&site.printer, "tcp", Ipv6Addr::UNSPECIFIED.into(), 9100)?;
        let [ipv4, _] = site.addresses("Office printer")?;
        let answers = |site: &Site| reaches(&site.laptop.host, ipv4, "9100");
        ensure!(answers(&site)?, "before");
        let refused = site.gateway.try_meshhold(&["meshlan", "forwards", "rm", "Lobby camera"], "")?;
        ensure!(refused.status.code() == Some(1) && refused.stderr.contains("configuration"), "{refused:?}");
        for own in [site.gateway.host.ipv4, Ipv4Addr::new(192, 168, 2, 1), site.gateway.addresses()?.0] {
            let add = ["meshlan", "forwards", "add", "Self", &own.to_string()];
            let refused = site.gateway.try_meshhold(&add, "")?;
            ensure!(refused.status.code() == Some(1), "{own}: {refused:?}");
        }
        site.gateway.meshhold(&["meshlan", "forwards", "rm", "office PRINTER"])?;
        wait::until_true(PATIENCE, "a removed device is gone", || Ok(!answers(&site)?))?;
        let target = site.printer.ipv6.to_string();
        site.gateway.meshhold(&["meshlan", "forwards", "add", "Office printer", &target])?;
        ensure!(site.addresses("Office printer")?.contains(&ipv4), "the place it had");
        wait::until_true(PATIENCE, "an added device is there", || answers(&site))?;
        site.gateway.stop()?;
        site.gateway.start_and_wait()?;
        site.laptop.wait_peer_up(&site.gateway)?;
        let device = site.device("Office printer")?;
        ensure!(device.origin == "runtime" && device.ipv4.map(IpAddr::V4) == Some(ipv4), "{device:?}");
        wait::until_true(PATIENCE, "a device survives a restart", || answers(&site))
    })
}

#[test]
fn errors_come_back_as_from_the_device() -> Result<()> {
    run("gateway-errors", |lab| {
        let site = Site::new(lab, &["udp:9001"])?;
        let same_family = [site.addresses("Lobby camera")?[0], site.addresses("Office printer")?[1]];
        for address in same_family {
            // Nobody listens: the device says so, and the caller's socket hears it.
            let scan = service::scan(&site.laptop.host, "udp", address, 9000)?;
            ensure!(scan.refused == [9001], "{address}: {scan:?}");
        }
        Ok(())
    })
}

/// Of a smaller LAN nobody needs to know: TCP is told by its segment size, and others by "packet too big".
#[test]
fn a_smaller_lan_takes_whole_transfers() -> Result<()> {
    run("gateway-mtu", |lab| {
        let site = Site::new(lab, &["tcp:9100"])?;
        // The device still sends 1,500 bytes, of which the link takes 1,300 and says nothing.
        site.gateway.host.run("ip", &["link", "set", "lan3", "mtu", "1300"])?;
        let _sink = service::echo(&site.printer, "tcp", Ipv6Addr::UNSPECIFIED.into(), 9100)?;
        for address in site.addresses("Office printer")? {
            wait::until_true(PATIENCE, "the gateway has seen the smaller MTU", || {
                let ask = ["ask", "tcp", &address.to_string(), "9100", "300000"];
                site.laptop.host.succeeds(&labtool()?, &ask)
            })?;
            let ping = |size: &str| {
                let words = ["-n", "-c2", "-W1", "-M", "do", "-s", size, &address.to_string()];
                site.laptop.host.run("sh", &["-c", &format!("ping {} 2>&1 || true", words.join(" "))])
            };
            ensure!(ping("1200")?.contains(" 0% packet loss"), "1,200 bytes fit");
            let printed = ping("1340")?;
            ensure!(printed.contains("mtu") || printed.contains("too long"), "{address}: {printed}");
        }
        Ok(())
    })
}

/// The host's own forwarding and firewall have no say, and stay as they are.
#[test]
fn firewall_rules_of_the_host_are_neither_needed_nor_touched() -> Result<()> {
    run("gateway-firewall", |lab| {
        let site = Site::new(lab, &["tcp:80"])?;
        let rules = "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; \
             chain DOCKER-USER { drop; }; }; table inet strict { chain in { type filter hook input priority 0; \
             iifname lan2 drop; }; }";
        site.gateway.host.run("nft", &[rules])?;
        site.gateway.host.run("tc", &["qdisc", "add", "dev", "lan2", "clsact"])?;
        let before = foreign(&site.gateway.host)?;
        let _web = service::nginx(&site.camera, "0.0.0.0:80")?;
        for address in site.addresses("Lobby camera")? {
            ensure!(service::fetch(&site.laptop.host, address)? == service::page(), "curl {address}");
        }
        let forwarding = site.gateway.host.run("sysctl", &["-n", "net.ipv4.ip_forward"])?;
        ensure!(forwarding.trim() == "0", "ip_forward is {forwarding}");
        let after = foreign(&site.gateway.host)?;
        ensure!(before == after, "before:\n{before}\nafter:\n{after}");
        Ok(())
    })
}

fn foreign(host: &Host) -> Result<String> {
    let rules = host.run("nft", &["list", "ruleset"])?;
    let disciplines = host.run("tc", &["qdisc", "show", "dev", "lan2"])?;
    Ok(rules + &disciplines)
}

#[test]
fn crowds_come_through_and_leave_nothing() -> Result<()> {
    run("gateway-crowd", |lab| {
        let site = Site::new(lab, &["tcp:9100"])?;
        let _sink = site.printer.spawn(
            "crowd",
            "prlimit",
            &["--nofile=16384", &labtool()?, "serve", "tcp", "::", "9100"],
        )?;
        let visits = std::env::var("MESHHOLD_VISITS").unwrap_or_else(|_| "5000".to_owned());
        // The client's own ports must suffice too: those of closed connections may be used again at once.
        site.laptop.host.run("sysctl", &["-qw", "net.ipv4.tcp_tw_reuse=1"])?;
        for address in site.addresses("Office printer")? {
            wait::until_true(PATIENCE, "the sink listens", || reaches(&site.laptop.host, address, "9100"))?;
            let crowd = |kind, count: &str| {
                let words = ["--nofile=16384", &labtool()?, kind, &address.to_string(), "9100", count];
                let line = format!("prlimit {} 2>&1", words.join(" "));
                site.laptop.host.run("sh", &["-c", &line])
            };
            ensure!(crowd("crowd", "2000")?.trim() == "held 2000", "2,000 connections through {address}");
            let answered = crowd("visits", &visits)?;
            ensure!(
                answered.trim() == format!("answered {visits}"),
                "short ones through {address}: {answered}, {:?}",
                site.gateway.status()?.counters
            );
        }
        let most = site.gateway.status()?.datapath.translations;
        println!("figure: translations after {visits} visits by each family: {most}");
        wait::until_true(Duration::from_secs(40), "closed connections are forgotten", || {
            Ok(site.gateway.status()?.datapath.translations < 10)
        })
    })
}

/// Every byte as it was sent, in both directions; `MESHHOLD_BYTES` of them by each family.
#[test]
fn transfers_are_intact() -> Result<()> {
    run("gateway-bytes", |lab| {
        let site = Site::new(lab, &["tcp:9100", "udp:9100"])?;
        let bytes = std::env::var("MESHHOLD_BYTES").unwrap_or_else(|_| "33554432".to_owned());
        for address in site.addresses("Office printer")? {
            // It serves one caller.
            let _server = service::bytes(&site.printer, Ipv6Addr::UNSPECIFIED.into(), 9100)?;
            let words = ["exchange", &address.to_string(), "9100", "5", &bytes, "1048576", "65507", "1364"];
            let found = site.laptop.host.tool(&words)?;
            println!("figure: {bytes} bytes each way through {address}: {found}");
            ensure!(found.matches(" altered 0 ").count() == 2, "{address}: {found}");
        }
        Ok(())
    })
}

#[test]
fn throughput_through_a_gateway() -> Result<()> {
    run("gateway-throughput", |lab| {
        let site = Site::new(lab, &["tcp:5201"])?;
        let own = site.gateway.addresses()?.0;
        let _servers = [
            service::iperf(&site.gateway.host, "127.0.0.1", 5201)?,
            service::iperf(&site.camera, "0.0.0.0", 5201)?,
        ];
        let [device, _] = site.addresses("Lobby camera")?;
        for (name, options) in [("to", &[][..]), ("from", &["-R"][..])] {
            let measure = |address: IpAddr| -> Result<f64> {
                Ok(service::transfer(&site.laptop.host, address, 5201, 2, options)?.mbits)
            };
            let through = measure(device).context("through the gateway")?;
            let node = measure(own.into()).context("to the gateway")?;
            println!(
                "figure: {name} a device {through:.0} Mbit/s, {name} its gateway {node:.0}: {:.2}",
                through / node
            );
            ensure!(through > node / 4.0, "far too slow: a fault, not a slow machine");
        }
        Ok(())
    })
}
