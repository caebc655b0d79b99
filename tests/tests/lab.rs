//! The lab itself: hosts are apart, services answer, the tools see what is there and what isn't.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use meshhold_tests::capture::{self, Capture};
use meshhold_tests::snapshot::Snapshot;
use meshhold_tests::{Host, run, service, wait};

#[test]
fn services_answer_and_tools_see_them() -> Result<()> {
    run("lab", |lab| {
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        let wire = Capture::start(lab.lan(), lab.directory(), "wire")?;
        let _services = [
            service::echo(&a, "tcp", a.ipv4.into(), 7)?,
            service::echo(&a, "udp", a.ipv6.into(), 7)?,
            service::nginx(&a, "0.0.0.0:80")?,
            service::iperf(&a, "0.0.0.0", 5201)?,
        ];
        let shell = service::Sshd::start(&a, &["0.0.0.0"], 22)?;
        let seen = b.tool(&["ask", "tcp", &a.ipv4.to_string(), "7", "100000"])?;
        ensure!(seen.trim() == b.ipv4.to_string(), "the echo server saw {seen}");
        let seen = b.tool(&["ask", "udp", &a.ipv6.to_string(), "7", "8000"])?;
        ensure!(seen.trim() == b.ipv6.to_string(), "the echo server saw {seen}");
        ensure!(service::fetch(&b, a.ipv4.into())? == service::page());
        ensure!(shell.execute(&b, a.ipv4.into(), "echo in")? == "in\n");
        ensure!(service::transfer(&b, a.ipv4.into(), 5201, 1, &[])?.mbits > 1.0);
        let packets = wire.finish()?;
        ensure!(capture::contains(&packets, service::page().as_bytes()), "the page went over the wire");
        ensure!(packets.iter().any(|packet| capture::source(packet) == Some(a.ipv6.into())));
        scan_finds_open_and_refused(&a, &b)
    })
}

fn scan_finds_open_and_refused(a: &Host, b: &Host) -> Result<()> {
    let found = service::scan(b, "tcp", a.ipv4.into(), 1)?;
    ensure!(found.open == [7, 22, 80, 5201], "{found:?}");
    ensure!(found.refused.len() == 65_536 - 4, "{} refused", found.refused.len());
    let nobody: IpAddr = Ipv4Addr::new(10, 90, 0, 99).into();
    b.namespace().ip("neigh add 10.90.0.99 lladdr 02:00:00:00:00:99 dev eth0")?;
    let found = service::scan(b, "tcp", nobody, 64)?;
    ensure!(found.silent == 1024, "{found:?}");
    Ok(())
}

#[test]
fn snapshot_shows_what_was_left() -> Result<()> {
    run("snapshot", |lab| {
        let host = lab.host("a")?;
        let before = Snapshot::settled(&host)?;
        host.namespace().ip("tuntap add mesh9 mode tun")?;
        let after = Snapshot::take(&host)?;
        ensure!(after.added_since(&before).iter().any(|line| line.contains("mesh9")));
        host.namespace().ip("link delete mesh9")?;
        let after = Snapshot::settled(&host)?;
        ensure!(after == before, "{:?} {:?}", after.added_since(&before), after.lost_since(&before));
        Ok(())
    })
}

#[test]
fn processes_end_with_their_guard() -> Result<()> {
    run("guard", |lab| {
        let host = lab.host("a")?;
        let server = service::echo(&host, "tcp", host.ipv4.into(), 7)?;
        let process = format!("/proc/{}", server.pid());
        ensure!(std::path::Path::new(&process).exists());
        drop(server);
        wait::until_true(Duration::from_secs(2), "the server is gone", || {
            Ok(!std::path::Path::new(&process).exists())
        })
    })
}
