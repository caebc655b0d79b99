//! Two members reach each other's real services, whatever these are bound to.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use meshhold_tests::service::{self, Sshd};
use meshhold_tests::{Lab, Node, Settings, run, scenario, wait};

/// From the start of the daemons to the first connection.
const FIRST_CONNECT: Duration = Duration::from_secs(3);
const LARGE_DATAGRAM: &str = "8000";

#[test]
fn first_connection_within_three_seconds() -> Result<()> {
    run("first-connect", |lab| {
        let (mut a, mut b) = scenario::strangers(lab)?;
        let key = a.mint(&["tcp:80"])?;
        b.join(&key, &[])?;
        let _web = service::nginx(&a.host, "127.0.0.1:80")?;
        let begin = Instant::now();
        a.start()?;
        b.start()?;
        let address = b.wait_known(&a)?.ipv4.unwrap_or(Ipv4Addr::UNSPECIFIED).to_string();
        b.host.tool(&["await", &address, "80", "10000"])?;
        let took = begin.elapsed();
        println!("figure: daemon start to first TCP connection: {took:.2?}");
        ensure!(took <= FIRST_CONNECT, "the first connection took {took:?}");
        Ok(())
    })
}

#[test]
fn ssh_and_http_reach_loopback_services() -> Result<()> {
    run("ssh-http", |lab| {
        let (a, b) = scenario::pair(lab, &["tcp:22", "tcp:80"])?;
        let _web = service::nginx(&a.host, "127.0.0.1:80")?;
        let shell = Sshd::start(&a.host, &["127.0.0.1"], 22)?;
        for address in a.both_addresses()? {
            ensure!(service::fetch(&b.host, address)? == service::page(), "curl to {address}");
            let printed = shell.execute(&b.host, address, "echo $SSH_CONNECTION")?;
            ensure!(printed.starts_with("127."), "sshd saw {printed}");
        }
        Ok(())
    })
}

/// In an open port nobody listens: the caller's socket hears it at once.
#[test]
fn an_open_port_without_a_service_refuses() -> Result<()> {
    run("refused", |lab| {
        let (a, b) = scenario::pair(lab, &["tcp:81", "udp:81"])?;
        for address in a.both_addresses()? {
            b.host.tool(&["refused", &address.to_string(), "81"])?;
            let curl = format!("http://{}/", SocketAddr::new(address, 81));
            let refused =
                b.host.run("sh", &["-c", &format!("curl -gsS --max-time 5 {curl} 2>&1 || true")])?;
            ensure!(refused.contains("Couldn't connect") || refused.contains("refused"), "{refused}");
        }
        ensure!(!a.status()?.counters.contains_key("icmp-type"), "{:?}", a.status()?.counters);
        Ok(())
    })
}

#[test]
fn iperf_runs_both_ways_and_fragments() -> Result<()> {
    run("iperf", |lab| {
        let (a, b) = scenario::pair(lab, &["tcp:5201", "udp:5201"])?;
        let _server = service::iperf(&a.host, "127.0.0.1", 5201)?;
        for address in a.both_addresses()? {
            for (name, options, tolerated_loss) in [
                ("TCP", &[][..], 0.0),
                ("TCP reverse", &["-R"][..], 0.0),
                ("UDP", &["-u", "-b", "20M", "-l", "1200"][..], 2.0),
                ("UDP reverse", &["-R", "-u", "-b", "20M", "-l", "1200"][..], 2.0),
                ("UDP of 8000 bytes", &["-u", "-b", "20M", "-l", LARGE_DATAGRAM][..], 5.0),
                ("UDP of 8000 bytes reverse", &["-R", "-u", "-b", "20M", "-l", LARGE_DATAGRAM][..], 5.0),
            ] {
                let result = service::transfer(&b.host, address, 5201, 2, options)?;
                println!("figure: iperf3 {name} to {address}: {:.0} Mbit/s", result.mbits);
                ensure!(result.mbits > 10.0, "{name} to {address}: {result:?}");
                ensure!(result.lost_percent <= tolerated_loss, "{name} to {address}: {result:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn every_bind_is_reached_by_ipv4_and_ipv6() -> Result<()> {
    run("binds", |lab| {
        let (a, b) = scenario::pair(lab, &["tcp:1000-1100", "udp:1000-1100"])?;
        let (own4, own6) = a.addresses()?;
        let any6 = Ipv6Addr::UNSPECIFIED.into();
        let cases: [(IpAddr, &str, &[IpAddr]); 12] = [
            (Ipv4Addr::LOCALHOST.into(), "tcp", &[own4.into(), own6.into()]),
            (Ipv4Addr::UNSPECIFIED.into(), "tcp", &[own4.into(), own6.into()]),
            (any6, "tcp", &[own4.into(), own6.into()]),
            (own4.into(), "tcp", &[own4.into()]),
            (own6.into(), "tcp", &[own6.into()]),
            (Ipv6Addr::LOCALHOST.into(), "tcp", &[own6.into()]),
            (Ipv4Addr::LOCALHOST.into(), "udp", &[own4.into(), own6.into()]),
            (Ipv4Addr::UNSPECIFIED.into(), "udp", &[own4.into(), own6.into()]),
            (any6, "udp", &[own4.into(), own6.into()]),
            (own4.into(), "udp", &[own4.into()]),
            (own6.into(), "udp", &[own6.into()]),
            (Ipv6Addr::LOCALHOST.into(), "udp", &[own6.into()]),
        ];
        let mut failures = Vec::new();
        for (port, (bind, protocol, targets)) in (1000..).zip(cases) {
            let _server = service::echo(&a.host, protocol, bind, port)?;
            for target in targets {
                if let Err(error) = exchange(&b, protocol, *target, port) {
                    failures.push(format!("{protocol} to {target} for a service on {bind}: {error:#}"));
                }
            }
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    })
}

/// A small and a large exchange; large UDP datagrams travel in fragments.
fn exchange(from: &Node, protocol: &str, target: IpAddr, port: u16) -> Result<()> {
    for size in ["64", LARGE_DATAGRAM] {
        let seen = from.host.tool(&["ask", protocol, &target.to_string(), &port.to_string(), size])?;
        if target.is_ipv4() {
            ensure!(seen.starts_with("127.") || seen.starts_with("::ffff:127."), "the service saw {seen}");
        }
    }
    Ok(())
}

#[test]
fn two_callers_have_two_loopback_sources() -> Result<()> {
    run("callers", |lab| {
        let (mut a, mut b) = scenario::strangers(lab)?;
        let key = a.mint(&["tcp:7"])?;
        b.join(&key, &[])?;
        a.start_and_wait()?;
        b.start_and_wait()?;
        b.wait_peer_up(&a)?;
        let c = scenario::third(lab, &a, &key)?;
        let _server = service::echo(&a.host, "tcp", Ipv4Addr::LOCALHOST.into(), 7)?;
        let first = sources(&a, &[&b, &c])?;
        ensure!(first.len() == 2, "the callers came from {first:?}");
        let second = sources(&a, &[&b, &c])?;
        ensure!(first == second, "a caller's address changed: {first:?}, {second:?}");
        Ok(())
    })
}

fn sources(server: &Node, callers: &[&Node]) -> Result<BTreeSet<Ipv4Addr>> {
    let (address, _) = server.addresses()?;
    callers
        .iter()
        .map(|caller| {
            let seen: Ipv4Addr =
                caller.host.tool(&["ask", "tcp", &address.to_string(), "7"])?.trim().parse()?;
            ensure!(seen.is_loopback() && seen != Ipv4Addr::LOCALHOST, "the service saw {seen}");
            Ok(seen)
        })
        .collect()
}

#[test]
fn members_that_expose_nothing_still_call_out() -> Result<()> {
    run("one-side", |lab: &Lab| {
        let (a, b) = scenario::pair(lab, &[])?;
        let _server = service::echo(&a.host, "tcp", Ipv4Addr::LOCALHOST.into(), 7)?;
        let target = a.addresses()?.0.to_string();
        ensure!(!b.host.succeeds(&meshhold_tests::lab::labtool()?, &["ask", "tcp", &target, "7"])?);
        a.set_scope(&["tcp:7"])?;
        wait::until_true(Duration::from_secs(1), "the port is open", || {
            Ok(b.host.tool(&["ask", "tcp", &target, "7"]).is_ok())
        })
    })
}

#[test]
fn a_node_bound_to_a_cipher_uses_it() -> Result<()> {
    run("cipher", |lab| {
        let mut a =
            Node::new(lab.host("a")?, Settings { cipher: Some("chacha20-poly1305"), ..Settings::default() })?;
        let mut b = Node::new(lab.host("b")?, Settings::knowing(&[&a])?)?;
        scenario::connect(&mut a, &mut b, &[])?;
        let cipher = b.wait_known(&a)?.cipher;
        ensure!(cipher.as_deref() == Some("ChaCha20-Poly1305"), "{cipher:?}");
        Ok(())
    })
}
