//! LAN devices without MeshHold behind a node that fronts them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::lab::labtool;
use meshhold_tests::status::Device;
use meshhold_tests::{Host, Lab, Node, Settings, run, service, wait};

const PATIENCE: Duration = Duration::from_secs(10);

/// A gateway with two devices on LANs of their own, and a member that reaches it.
struct Site {
    gateway: Node,
    laptop: Node,
    /// Knows IPv4 targets only.
    camera: Host,
    /// Has an IPv6 target.
    printer: Host,
}

fn site(lab: &Lab, allow: &[&str]) -> Result<Site> {
    let host = lab.host("gateway")?;
    let (camera, printer) = (lab.device(&host, "camera")?, lab.device(&host, "printer")?);
    let forwards = vec![("Lobby camera".to_owned(), camera.ipv4.into())];
    let mut gateway = Node::new(host, Settings { forwards, ..Settings::default() })?;
    let mut laptop = Node::new(lab.host("laptop")?, Settings::knowing(&[&gateway])?)?;
    laptop.join(&gateway.mint(allow)?, &[])?;
    gateway.start_and_wait()?;
    laptop.start_and_wait()?;
    laptop.wait_peer_up(&gateway)?;
    gateway.meshhold(&["meshlan", "forwards", "add", "Office printer", &printer.ipv6.to_string()])?;
    Ok(Site { gateway, laptop, camera, printer })
}

impl Site {
    fn device(&self, name: &str) -> Result<Device> {
        wait::until(PATIENCE, &format!("device {name} is ready"), || {
            let devices = self.gateway.network()?.devices;
            Ok(devices.into_iter().find(|device| device.name == name && device.state == "ready"))
        })
    }

    fn addresses(&self, name: &str) -> Result<[IpAddr; 2]> {
        let device = self.device(name)?;
        Ok([device.ipv4.context("no IPv4 address")?.into(), device.ipv6.into()])
    }

    /// Whether `port` of `address` answers the laptop with this device's banner.
    fn reaches(&self, address: IpAddr, port: &str) -> Result<bool> {
        self.laptop.host.succeeds(&labtool()?, &["await", &address.to_string(), port, "1500"])
    }
}

#[test]
fn devices_are_reached_by_both_families_and_see_the_gateway() -> Result<()> {
    run("gateway", |lab| {
        let site = site(lab, &["tcp:80", "tcp:9100", "udp:9100"])?;
        let _web = service::nginx(&site.camera, "0.0.0.0:80")?;
        let any = Ipv6Addr::UNSPECIFIED.into();
        let _closed = service::echo(&site.camera, "tcp", Ipv4Addr::UNSPECIFIED.into(), 81)?;
        let _sinks = [service::echo(&site.printer, "tcp", any, 9100)?, service::echo(&site.printer, "udp", any, 9100)?];
        for address in site.addresses("Lobby camera")? {
            ensure!(service::fetch(&site.laptop.host, address)? == service::page(), "curl {address}");
            ensure!(!site.reaches(address, "81")?, "port 81 of {address} is not in the scope");
            ping(&site.laptop.host, address)?;
        }
        for address in site.addresses("Office printer")? {
            for protocol in ["tcp", "udp"] {
                let seen = site.laptop.host.tool(&["ask", protocol, &address.to_string(), "9100"])?;
                ensure!(seen.contains("fd00:168:"), "the printer saw {seen} over {protocol} {address}");
            }
            ping(&site.laptop.host, address)?;
        }
        Ok(())
    })
}

fn ping(from: &Host, address: IpAddr) -> Result<()> {
    let printed = from.run("ping", &["-n", "-c3", "-i0.2", "-W2", &address.to_string()])?;
    ensure!(printed.contains(" 0% packet loss"), "{printed}");
    Ok(())
}

#[test]
fn devices_come_and_go_while_the_daemon_runs() -> Result<()> {
    run("gateway-live", |lab| {
        let mut site = site(lab, &["tcp:9100"])?;
        let _sink = service::echo(&site.printer, "tcp", Ipv6Addr::UNSPECIFIED.into(), 9100)?;
        let [ipv4, _] = site.addresses("Office printer")?;
        ensure!(site.reaches(ipv4, "9100")?, "before");
        let refused = site.gateway.try_meshhold(&["meshlan", "forwards", "rm", "Lobby camera"], "")?;
        ensure!(refused.status.code() == Some(1) && refused.stderr.contains("configuration"), "{refused:?}");
        for own in [site.gateway.host.ipv4, Ipv4Addr::new(192, 168, 2, 1), site.gateway.addresses()?.0] {
            let refused = site.gateway.try_meshhold(&["meshlan", "forwards", "add", "Self", &own.to_string()], "")?;
            ensure!(refused.status.code() == Some(1), "{own}: {refused:?}");
        }
        site.gateway.meshhold(&["meshlan", "forwards", "rm", "office PRINTER"])?;
        wait::until_true(PATIENCE, "a removed device is gone", || Ok(!site.reaches(ipv4, "9100")?))?;
        site.gateway.meshhold(&["meshlan", "forwards", "add", "Office printer", &site.printer.ipv6.to_string()])?;
        ensure!(site.addresses("Office printer")?[0] == ipv4, "the place it had");
        wait::until_true(PATIENCE, "an added device is there", || site.reaches(ipv4, "9100"))?;
        site.gateway.stop()?;
        site.gateway.start_and_wait()?;
        site.laptop.wait_peer_up(&site.gateway)?;
        let device = site.device("Office printer")?;
        ensure!(device.origin == "runtime" && device.ipv4 == Some(v4(ipv4)?), "{device:?}");
        wait::until_true(PATIENCE, "a device survives a restart", || site.reaches(ipv4, "9100"))
    })
}

fn v4(address: IpAddr) -> Result<Ipv4Addr> {
    match address {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(ip) => anyhow::bail!("{ip} is not IPv4"),
    }
}
