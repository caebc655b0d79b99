//! A ping tells the truth: an answer is the other end's, and its absence too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use meshhold_tests::scenario::{self, Site};
use meshhold_tests::{Host, run};

/// Longest wait for "nobody has this address".
const AT_ONCE: Duration = Duration::from_millis(50);

/// Pings of each case.
const COUNT: u32 = 1000;

/// How many of [`COUNT`] pings to each address, all at once, were answered.
fn replies(from: &Host, addresses: &[IpAddr]) -> Result<Vec<u32>> {
    std::thread::scope(|scope| {
        let ping = |address: &IpAddr| {
            let address = *address;
            scope.spawn(move || Ok(from.ping(address, COUNT)?.0))
        };
        let pings: Vec<_> = addresses.iter().map(ping).collect();
        pings.into_iter().map(|ping| ping.join().unwrap_or_else(|_| bail!("a ping panicked"))).collect()
    })
}

#[test]
fn every_echo_is_the_far_end_s() -> Result<()> {
    run("ping", |lab| {
        let (mut a, b) = scenario::pair(lab, &[])?;
        let addresses = a.both_addresses()?;
        ensure!(replies(&b.host, &addresses)? == [COUNT; 2], "the node is up");
        a.kill()?;
        ensure!(replies(&b.host, &addresses)? == [0; 2], "the node is down");
        Ok(())
    })
}

/// A device's echo is the device's: its gateway never answers for it.
#[test]
fn every_echo_of_a_device_is_its_own() -> Result<()> {
    run("ping-device", |lab| {
        let site = Site::new(lab, &[])?;
        let mut devices = Vec::new();
        for name in ["Lobby camera", "Office printer"] {
            devices.extend(site.addresses(name)?);
        }
        ensure!(replies(&site.laptop.host, &devices)? == [COUNT; 4], "the devices are up");
        site.camera.run("ip", &["link", "set", "eth0", "down"])?;
        site.printer.run("sysctl", &["-qw", "net.ipv6.icmp.echo_ignore_all=1"])?;
        ensure!(replies(&site.laptop.host, &devices)? == [0; 4], "one is off, one drops ICMP");
        Ok(())
    })
}

#[test]
fn nobody_s_address_is_unreachable_at_once() -> Result<()> {
    run("ping-nobody", |lab| {
        let (_a, b) = scenario::pair(lab, &[])?;
        let network = b.network()?;
        let own = network.ipv4.context("no IPv4 address")?;
        // Another block of the range and of the prefix; two members can't have both of these.
        let four = Ipv4Addr::from_bits(own.to_bits() ^ 0x0000_0a00);
        let mut six = network.ipv6.segments();
        six[3] ^= 0x5555;
        let six = Ipv6Addr::from(six);
        for address in [IpAddr::from(four), six.into()] {
            let (received, errors) = b.host.ping(address, 50)?;
            ensure!((received, errors) == (0, 50), "{address}: {received} replies, {errors} errors");
            let printed =
                b.host.run("sh", &["-c", &format!("ping -n -D -W 1 -c 1 {address} 2>&1; date +%s.%N")])?;
            ensure!(printed.contains("Unreachable") || printed.contains("unreachable"), "{printed}");
            let begun = std::time::Instant::now();
            ensure!(
                b.try_meshhold(&["meshlan", "ping", "-c", "1", &address.to_string()], "")?.status.code()
                    == Some(1)
            );
            println!("figure: `meshlan ping` of nobody took {:.0?}", begun.elapsed());
            let spent = b.host.run("sh", &["-c", &format!("TIMEFORMAT=%R; LC_ALL=C bash -c 'TIMEFORMAT=%R; time ping -n -q -c 1 -W 1 {address} >/dev/null 2>&1' 2>&1 || true")])?;
            let spent: f64 = spent.trim().parse().with_context(|| format!("no time: {spent}"))?;
            println!(
                "figure: {address} unreachable after at most {:.0} ms, the program's start included",
                spent * 1e3
            );
            // The bound with room for a busy machine; without the error it would take a second.
            ensure!(spent < 10.0 * AT_ONCE.as_secs_f64(), "{address}: {spent} s");
        }
        Ok(())
    })
}

#[test]
fn the_command_says_at_which_step_it_fails() -> Result<()> {
    run("ping-command", |lab| {
        let mut site = Site::new(lab, &[])?;
        let command =
            |site: &Site, to: &str| site.laptop.try_meshhold(&["meshlan", "ping", "-c", "2", to], "");
        for to in [
            "gateway.mesh",
            "gateway",
            "lobby-camera.mesh",
            &site.gateway.id()?,
            &site.gateway.addresses()?.1.to_string(),
        ] {
            let finished = command(&site, to)?;
            ensure!(
                finished.status.success() && finished.stdout.contains("2 of 2 echoes"),
                "{to}: {finished:?}"
            );
            let paths = ["10.90.0.1:7777", "[fd00:90::1]:7777"];
            let named =
                paths.iter().any(|path| finished.stdout.contains(&format!("of gateway, path {path}")));
            ensure!(named, "{to}: {finished:?}");
        }
        site.camera.run("ip", &["link", "set", "eth0", "down"])?;
        let finished = command(&site, "lobby-camera.mesh")?;
        ensure!(
            finished.status.code() == Some(1) && finished.stdout.contains("is off or drops ICMP"),
            "{finished:?}"
        );
        let finished = command(&site, "nowhere.mesh")?;
        ensure!(
            finished.status.code() == Some(1) && finished.stderr.contains("nowhere.mesh"),
            "{finished:?}"
        );
        site.laptop.stop()?;
        let finished = command(&site, "gateway.mesh")?;
        ensure!(finished.status.code() == Some(3), "{finished:?}");
        Ok(())
    })
}
