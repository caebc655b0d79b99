//! `meshlan explain`: it says what the real packet meets, and leaves no trace.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use meshhold_tests::ask::explain;
use meshhold_tests::lab::labtool;
use meshhold_tests::scenario::Site;
use meshhold_tests::{Node, run, service};
use serde_json::Value;

fn with_port(address: IpAddr, port: u16) -> String {
    if address.is_ipv6() { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// How often `reason` was counted on `node` while `action` ran.
fn counted(node: &Node, reason: &str, action: impl FnOnce() -> Result<()>) -> Result<u64> {
    let count = || Ok::<_, anyhow::Error>(node.status()?.counters.get(reason).copied().unwrap_or_default());
    let before = count()?;
    action()?;
    Ok(count()? - before)
}

#[test]
fn explain_agrees_with_the_live_packet() -> Result<()> {
    run("explain", |lab| {
        let site = Site::new(lab, &["tcp:80-90", "udp:5353"])?;
        let _web = service::nginx(&site.gateway.host, "127.0.0.1:80")?;
        let own = site.gateway.both_addresses()?;
        let device = site.addresses("Lobby camera")?;
        // Address, port, verdict, reason, scope entry, whether something listens.
        let cases = own.into_iter().flat_map(|own| {
            [
                (own, 80, "pass", "pass-scope", Some("tcp:80-90"), true),
                (own, 81, "pass", "pass-scope", Some("tcp:80-90"), false),
                (own, 22, "drop", "port-denied", None, false),
            ]
        });
        let cases = cases.chain(device.into_iter().flat_map(|device| {
            [
                (device, 80, "pass", "pass-forward", Some("tcp:80-90"), false),
                (device, 9100, "drop", "port-denied", None, false),
            ]
        }));
        for (address, port, verdict, reason, entry, listens) in cases {
            let to = with_port(address, port);
            for from in [&[][..], &["--from", "laptop"]] {
                let (answer, code) = explain(&site.gateway, &[&["tcp", &to], from].concat())?;
                ensure!(answer["verdict"] == verdict && answer["reason"] == reason, "{to}: {answer}");
                ensure!(
                    answer["scope_entry"].as_str() == entry && answer["listener"].is_string() == listens,
                    "{to}: {answer}"
                );
                ensure!(
                    answer["peer"]["name"] == "laptop" && answer["path"]["kind"] == "direct",
                    "{to}: {answer}"
                );
                ensure!(code == Some(i32::from(verdict == "drop")), "{to}: {code:?}");
            }
            let live = counted(&site.gateway, reason, || {
                let words = ["await", &address.to_string(), &port.to_string(), "300"];
                site.laptop.host.succeeds(&labtool()?, &words).map(drop)
            })?;
            ensure!(live > 0, "{to}: the live packet was not counted as {reason}");
        }
        Ok(())
    })
}

/// A captured packet is asked about as it is.
#[test]
fn a_packet_is_explained_as_it_is() -> Result<()> {
    run("explain-packet", |lab| {
        let site = Site::new(lab, &["tcp:80"])?;
        let (from, to) = (site.laptop.addresses()?.0, site.gateway.addresses()?.0);
        let device = site.device("Lobby camera")?.ipv4.context("no IPv4 address")?;
        let nobody = Ipv4Addr::from_bits(to.to_bits() ^ 0x0000_0a00);
        let known = Some("laptop");
        for (packet, at, reason, peer) in [
            (segment(64, from, to, 80), None, "pass-scope", known),
            (segment(64, from, to, 81), None, "port-denied", known),
            (segment(64, from, device, 80), None, "pass-forward", known),
            (segment(1, from, device, 80), None, "hop-limit", known),
            (segment(64, nobody, to, 80), None, "unknown-source", None),
            (segment(64, from, nobody, 80), None, "not-for-us", None),
            (segment(64, to, from, 80), None, "pass-egress", known),
            (segment(64, to, nobody, 80), None, "no-owner", None),
            (segment(64, from, to, 80), Some("lan"), "lan-guard", known),
            (segment(64, from, to, 80).chars().take(53).collect(), None, "truncated", known),
            ("0x0000:  4500 0014".to_owned(), None, "truncated", None),
        ] {
            let at = at.map(|at| vec!["--at", at]).unwrap_or_default();
            let (answer, _) = explain(&site.gateway, &[&["packet", &packet], at.as_slice()].concat())?;
            ensure!(answer["reason"] == reason, "{packet}: {answer}");
            ensure!(answer["peer"]["name"].as_str() == peer, "{packet}: {answer}");
        }
        let live = counted(&site.gateway, "hop-limit", || {
            let ping = ["-n", "-c1", "-W1", "-t1", &device.to_string()];
            site.laptop.host.succeeds("ping", &ping).map(drop)
        })?;
        ensure!(live == 1, "the live packet had its last hop: {live}");
        for (words, code, text) in [
            (&["packet", "nonsense"][..], 2, "no packet"),
            (&["packet", "4500", "--from", "laptop"], 2, "itself"),
            (&["tcp", "gateway.mesh:80", "--at", "in"], 2, "--at"),
            (&["packet", "45000014", "--at", "lan"], 1, "no say"),
        ] {
            let finished = site.gateway.try_meshhold(&[&["meshlan", "explain"], words].concat(), "")?;
            ensure!(
                finished.status.code() == Some(code) && finished.stderr.contains(text),
                "{words:?}: {finished:?}"
            );
        }
        Ok(())
    })
}

/// The first segment of a TCP connection in hexadecimal, without checksums: nobody judges by them.
fn segment(hops: u8, from: Ipv4Addr, to: Ipv4Addr, port: u16) -> String {
    let [from, to] = [from, to].map(Ipv4Addr::to_bits);
    format!(
        "45000028 00000000 {hops:02x}060000 {from:08x} {to:08x} c350{port:04x} 00000001 00000000 5002ffff 00000000"
    )
}

#[test]
fn explain_says_who_owns_what_and_leaves_no_trace() -> Result<()> {
    run("explain-egress", |lab| {
        let site = Site::new(lab, &["tcp:80"])?;
        let [ipv4, ipv6] = site.gateway.both_addresses()?;
        let nobody = site.laptop.network()?.range.replace(".0/18", ".255").replace(".0/16", ".255");
        let before = site.laptop.status()?.counters;
        for (words, verdict, reason, peer) in [
            (["tcp", &with_port(ipv4, 80)], "pass", "pass-egress", Some("gateway")),
            (["udp", &with_port(ipv6, 53)], "pass", "pass-egress", Some("gateway")),
            (["tcp", "gateway.mesh:443"], "pass", "pass-egress", Some("gateway")),
            (["icmp", "lobby-camera.mesh"], "pass", "pass-egress", Some("gateway")),
            (["icmp", &nobody], "drop", "no-owner", None),
            (["tcp", "192.0.2.1:80"], "drop", "not-mesh", None),
        ] {
            let (answer, code) = explain(&site.laptop, &words)?;
            ensure!(answer["verdict"] == verdict && answer["reason"] == reason, "{words:?}: {answer}");
            ensure!(answer["peer"]["name"].as_str() == peer, "{words:?}: {answer}");
            ensure!(code == Some(i32::from(verdict == "drop")), "{words:?}: {code:?}");
        }
        let (answer, _) = explain(&site.gateway, &["icmp", &ipv4.to_string()])?;
        ensure!(answer["reason"] == "pass-icmp-echo", "{answer}");
        ensure!(site.laptop.status()?.counters == before, "explaining must count nothing");
        for (words, code, text) in [
            (["tcp", "gateway.mesh"], 2, "no destination"),
            (["tcp", "nowhere.mesh:80"], 1, "neither an IP address nor a name"),
            (["sctp", "gateway.mesh:80"], 2, "invalid value"),
        ] {
            let finished = site.laptop.try_meshhold(&[&["meshlan", "explain"], &words[..]].concat(), "")?;
            ensure!(
                finished.status.code() == Some(code) && finished.stderr.contains(text),
                "{words:?}: {finished:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn drops_are_followed_as_they_happen() -> Result<()> {
    run("drops", |lab| {
        let (a, b) = meshhold_tests::scenario::pair(lab, &["tcp:80"])?;
        let own = a.addresses()?.0.to_string();
        let mut feed = a.host.spawn(
            "drops",
            &a.host.meshhold.to_string_lossy(),
            &["meshlan", "drops", "--json", "--for", "4s", "--config", &a.config_path().to_string_lossy()],
        )?;
        for port in ["22", "23"] {
            ensure!(!b.host.succeeds(&labtool()?, &["await", &own, port, "1500"])?, "{port} is closed");
        }
        ensure!(feed.wait(std::time::Duration::from_secs(20))?.success(), "{}", feed.log()?);
        let lines: Vec<Value> = feed.log()?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let told = |port: &str| -> u64 {
            let of = lines.iter().filter(|drop| drop["to"] == format!("{own}:{port}") && drop["peer"] == "b");
            of.filter(|drop| drop["reason"] == "port-denied").filter_map(|drop| drop["count"].as_u64()).sum()
        };
        ensure!(told("22") > 0 && told("23") > 0, "{lines:?}");
        Ok(())
    })
}
