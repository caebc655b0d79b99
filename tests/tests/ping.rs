//! A ping tells the truth: an answer is the other end's, and its absence too.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::scenario::{self, Site};
use meshhold_tests::{Node, run};

/// Longest wait for "nobody has this address".
const AT_ONCE: Duration = Duration::from_millis(50);

/// Replies and errors of so many pings.
fn ping(node: &Node, address: &str, count: u32) -> Result<(u32, u32)> {
    let command = format!("ping -n -q -i 0.005 -W 1 -c {count} {address} 2>&1 || true");
    let printed = node.host.run("sh", &["-c", &command])?;
    let number = |suffix: &str| {
        let words = printed.split(", ").find_map(|part| part.strip_suffix(suffix));
        words.and_then(|words| words.split_whitespace().last()?.trim_start_matches('+').parse().ok())
    };
    let received = number(" received").with_context(|| format!("no count: {printed}"))?;
    Ok((received, number(" errors").unwrap_or_default()))
}

#[test]
fn every_echo_is_the_far_end_s() -> Result<()> {
    run("ping", |lab| {
        let (mut a, b) = scenario::pair(lab, &[])?;
        let addresses = a.both_addresses()?.map(|address| address.to_string());
        for address in &addresses {
            ensure!(ping(&b, address, 1000)? == (1000, 0), "{address}: the node is up");
        }
        a.kill()?;
        for address in &addresses {
            ensure!(ping(&b, address, 1000)?.0 == 0, "{address}: the node is down");
        }
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
        let four = std::net::Ipv4Addr::from_bits(own.to_bits() ^ 0x0000_0a00).to_string();
        let mut six = network.ipv6.segments();
        six[3] ^= 0x5555;
        let six = std::net::Ipv6Addr::from(six).to_string();
        for address in [four, six] {
            let (received, errors) = ping(&b, &address, 50)?;
            ensure!((received, errors) == (0, 50), "{address}: {received} replies, {errors} errors");
            let printed =
                b.host.run("sh", &["-c", &format!("ping -n -D -W 1 -c 1 {address} 2>&1; date +%s.%N")])?;
            ensure!(printed.contains("Unreachable") || printed.contains("unreachable"), "{printed}");
            let begun = std::time::Instant::now();
            ensure!(b.try_meshhold(&["meshlan", "ping", "-c", "1", &address], "")?.status.code() == Some(1));
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
            ensure!(finished.stdout.contains("of gateway, path 10.90.0.1:7777"), "{to}: {finished:?}");
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
