//! Circuits through relays that hold no key, have no mesh interface and no capability.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meshhold_tests::capture::{self, Capture};
use meshhold_tests::status::Path;
use meshhold_tests::{Lab, Node, Settings, fault, run, service, wait};

const PATIENCE: Duration = Duration::from_secs(20);
/// Takes all capabilities from a daemon.
const BARE: [&str; 4] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"];

/// A relay: no key, no interface, no capability.
fn relay(lab: &Lab, name: &str, known: &[&Node]) -> Result<Node> {
    relay_with(lab, name, known, &BARE)
}

fn relay_with(lab: &Lab, name: &str, known: &[&Node], wrapper: &[&'static str]) -> Result<Node> {
    let bootstrap = Settings::knowing(known)?.bootstrap;
    let settings = Settings { bootstrap, wrapper: wrapper.to_vec(), ..Settings::relay() };
    let mut relay = Node::new(lab.host(name)?, settings)?;
    relay.start_and_wait()?;
    Ok(relay)
}

/// Two members that each know one relay, and can't reach each other nor the other's relay.
fn members(lab: &Lab, relays: [&Node; 2]) -> Result<(Node, Node)> {
    let [first, last] = relays;
    let mut a = Node::new(lab.host("a")?, Settings::knowing(&[first])?)?;
    let mut b = Node::new(lab.host("b")?, Settings::knowing(&[last])?)?;
    let key = a.mint(&["tcp:80"])?;
    b.join(&key, &["tcp:80"])?;
    part(&a, &b)?;
    if first.host.name != last.host.name {
        part(&a, last)?;
        part(&b, first)?;
    }
    a.start_and_wait()?;
    b.start_and_wait()?;
    Ok((a, b))
}

/// Two members that know `relays`, and each other through these only.
fn apart(lab: &Lab, relays: &[&Node]) -> Result<(Node, Node)> {
    let mut a = Node::new(lab.host("a")?, Settings::knowing(relays)?)?;
    let mut b = Node::new(lab.host("b")?, Settings::knowing(relays)?)?;
    b.join(&a.mint(&["tcp:80"])?, &[])?;
    part(&a, &b)?;
    a.start_and_wait()?;
    b.start_and_wait()?;
    a.wait_peer_up(&b)?;
    Ok((a, b))
}

/// Pings 20 times a second until told to stop; yields the longest time without an answer.
fn longest_silence(
    from: &Node,
    to: &Node,
    seconds: u32,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Duration> {
    let address = to.addresses()?.0.to_string();
    let count = (seconds * 20).to_string();
    let mut command = from.host.namespace().command("ping");
    command.args(["-n", "-D", "-i", "0.05", "-c", &count, "-W", "1", &address]);
    let log = from.host.log_path("pings");
    let mut pings = from.host.namespace().spawn(command, "pings", &log)?;
    meanwhile()?;
    wait::until_true(Duration::from_secs(u64::from(seconds) + 10), "all pings are sent", || {
        Ok(!pings.is_running()?)
    })?;
    let text = std::fs::read_to_string(&log)?;
    let at = |line: &str| line.strip_prefix('[')?.split(']').next()?.parse::<f64>().ok();
    let times: Vec<f64> = text.lines().filter(|line| line.contains("bytes from")).filter_map(at).collect();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    let longest = gaps.fold(0.0, f64::max);
    ensure!(times.len() > 20, "hardly any answer: {text}");
    Ok(Duration::from_secs_f64(longest))
}

/// Nothing gets from one host to the other any more.
fn part(a: &Node, b: &Node) -> Result<()> {
    for (here, there) in [(a, b), (b, a)] {
        for address in [there.host.ipv4.to_string(), there.host.ipv6.to_string()] {
            let family = if address.contains(':') { "-6" } else { "-4" };
            here.host.run("ip", &[family, "route", "add", "blackhole", &address])?;
        }
    }
    Ok(())
}

fn path(node: &Node, to: &Node) -> Result<Path> {
    let status = node.status()?;
    let peer = status.peer(&to.id()?).context("no such peer")?;
    peer.path.clone().context("no path")
}

#[test]
fn a_circuit_through_a_relay_without_key_or_capability() -> Result<()> {
    run("relay", |lab| {
        let r = relay(lab, "r", &[])?;
        let (a, b) = members(lab, [&r, &r])?;
        a.wait_known(&b)?;
        let asked = Instant::now();
        a.wait_peer_up(&b)?;
        println!("first answer through the relay after {} ms", asked.elapsed().as_millis());
        b.wait_peer_up(&a)?;
        for (node, other) in [(&a, &b), (&b, &a)] {
            let path = path(node, other)?;
            ensure!(path.kind == "relay" && path.via == [r.id()?], "{path:?}");
        }
        ensure!(r.status()?.networks.is_empty(), "the relay is no member");
        Ok(())
    })
}

#[test]
fn two_relays_in_a_row() -> Result<()> {
    run("relays", |lab| {
        let r1 = relay(lab, "r1", &[])?;
        let r2 = relay(lab, "r2", &[&r1])?;
        let (a, b) = members(lab, [&r1, &r2])?;
        a.wait_peer_up(&b)?;
        let path = wait::until(PATIENCE, "a path", || Ok(path(&a, &b).ok()))?;
        ensure!(path.kind == "relay" && path.via == [r1.id()?, r2.id()?], "{path:?}");
        Ok(())
    })
}

/// Silently, at the relay.
fn cut(relay: &Node, end: &Node) -> Result<()> {
    fault::cut(&relay.host, end.host.ipv4.into())?;
    fault::cut(&relay.host, end.host.ipv6.into())
}

#[test]
fn each_leg_that_dies_is_left_within_two_seconds() -> Result<()> {
    run("legs", |lab| {
        let r1 = relay(lab, "r1", &[])?;
        let r2 = relay(lab, "r2", &[&r1])?;
        let (a, b) = apart(lab, &[&r1, &r2])?;
        for end in [&a, &b] {
            let used = path(&a, &b)?.via;
            // Over both relays each end has its own.
            let next = if end.host.name == a.host.name { used.first() } else { used.last() };
            let relay = [&r1, &r2].into_iter().find(|r| r.id().ok().as_ref() == next).context("via whom?")?;
            let silence = longest_silence(&a, &b, 5, || cut(relay, end))?;
            let now = path(&a, &b)?.via;
            println!(
                "figure: {} cut from {}: {} ms without an answer",
                end.host.name,
                relay.host.name,
                silence.as_millis()
            );
            ensure!(now != used, "another relay is used: {now:?}");
            ensure!(silence <= Duration::from_secs(2), "{silence:?}");
            fault::mend(&relay.host)?;
            // The link that was cut comes back.
            let id = relay.id()?;
            wait::until_true(Duration::from_secs(60), "the relay is seen again", || {
                Ok(end.meshhold(&["netcheck", "--json"])?.contains(&id))
            })?;
        }
        Ok(())
    })
}

#[test]
fn a_dead_leg_between_relays_is_gone_round_over_a_third() -> Result<()> {
    run("middle", |lab| {
        let r1 = relay(lab, "r1", &[])?;
        let r2 = relay(lab, "r2", &[&r1])?;
        let r3 = relay(lab, "r3", &[&r1, &r2])?;
        let (a, b) = members(lab, [&r1, &r2])?;
        a.wait_peer_up(&b)?;
        wait::until_true(PATIENCE, "the short way", || Ok(path(&a, &b)?.via == [r1.id()?, r2.id()?]))?;
        let silence = longest_silence(&a, &b, 5, || cut(&r1, &r2))?;
        println!("figure: the middle leg cut: {} ms without an answer", silence.as_millis());
        ensure!(path(&a, &b)?.via == [r1.id()?, r3.id()?, r2.id()?], "{:?}", path(&a, &b)?);
        ensure!(silence <= Duration::from_secs(2), "{silence:?}");
        Ok(())
    })
}

#[test]
fn the_kernel_forwards_where_it_can_and_the_workers_where_not() -> Result<()> {
    for (wrapper, by) in [(&[][..], "kernel"), (&BARE[..], "workers")] {
        run(by, |lab| {
            let r = relay_with(lab, "r", &[], wrapper)?;
            let (mut a, b) = members(lab, [&r, &r])?;
            a.set_scope(&["tcp:5201"])?;
            a.wait_known(&b)?;
            b.wait_peer_up(&a)?;
            let _server = service::iperf(&a.host, "127.0.0.1", 5201)?;
            let used = r.processor_time()?;
            for address in a.both_addresses()? {
                let moved = service::transfer(&b.host, address, 5201, 2, &[])?;
                println!("figure: through the relay's {by}: {:.0} Mbit/s to {address}", moved.mbits);
                ensure!(moved.mbits > 1.0, "hardly anything: {moved:?}");
            }
            let used = r.processor_time()? - used;
            println!("figure: the relay's daemon used {} ms of a processor", used.as_millis());
            let relay = r.status()?.relay;
            ensure!(relay.enabled && relay.kernel == (by == "kernel"), "{relay:?}");
            ensure!(
                relay.legs.iter().all(|leg| leg.by == by) && relay.legs.iter().any(|leg| leg.packets > 1000),
                "{relay:?}"
            );
            ensure!(by == "workers" || used < Duration::from_millis(300), "the daemon worked: {used:?}");
            a.stop()?;
            wait::until_true(PATIENCE, "the legs go with the circuit", || {
                Ok(r.status()?.relay.legs.is_empty())
            })
        })?;
    }
    Ok(())
}

/// A cable beyond the relay carries less than those before it: `carries` bytes with IP and UDP, label, header and tag.
const NARROW: u16 = 1_405;
const INSIDE: u16 = NARROW - 28 - 8 - 32;

#[test]
fn a_relay_says_what_the_next_hop_takes() -> Result<()> {
    for (wrapper, by) in [(&[][..], "kernel"), (&BARE[..], "workers")] {
        run(&format!("narrow-{by}"), |lab| {
            let hosts = lab.chain(1)?;
            let [a, r, b] = <[_; 3]>::try_from(hosts).map_err(|hosts| anyhow::anyhow!("{}", hosts.len()))?;
            r.namespace().ip(&format!("link set right mtu {NARROW}"))?;
            let mut r = Node::new(r, Settings { wrapper: wrapper.to_vec(), ..Settings::relay() })?;
            r.start_and_wait()?;
            let id = r.id()?;
            let knowing = |address: &str| {
                let bootstrap = vec![format!("/ip4/{address}/udp/7777/quic-v1/p2p/{id}")];
                Settings { bootstrap, ..Settings::default() }
            };
            let mut a = Node::new(a, knowing("10.91.1.2"))?;
            let mut b = Node::new(b, knowing("10.91.2.1"))?;
            b.join(&a.mint(&["tcp:5201"])?, &["tcp:5201"])?;
            a.start_and_wait()?;
            b.start_and_wait()?;
            a.wait_peer_up(&b)?;
            let _server = service::iperf(&b.host, "127.0.0.1", 5201)?;
            let address = b.addresses()?.0.into();
            let moved = service::transfer(&a.host, address, 5201, 1, &[])?;
            println!("figure: {:.0} Mbit/s over the {by} and a narrow cable", moved.mbits);
            // A search alone would end at 1336, which is exact enough for it.
            wait::until_true(PATIENCE, "the path MTU is what the relay said", || {
                a.host.succeeds("ping", &["-n", "-c1", "-W1", &b.addresses()?.0.to_string()])?;
                let seen: serde_json::Value = serde_json::from_str(&a.meshhold(&["netcheck", "--json"])?)?;
                Ok(seen["path_mtu"].as_u64() == Some(INSIDE.into()))
            })?;
            ensure!(moved.mbits > 1.0, "hardly anything gets through: {moved:?}");
            let relay = r.status()?.relay;
            ensure!(relay.legs.iter().all(|leg| leg.by == by), "{relay:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn workers_go_on_where_an_operator_takes_the_kernel_relay_off() -> Result<()> {
    run("taken-off", |lab| {
        let r = relay_with(lab, "r", &[], &[])?;
        let (a, b) = members(lab, [&r, &r])?;
        a.wait_peer_up(&b)?;
        b.wait_peer_up(&a)?;
        let all_by = |host: &str| -> Result<bool> {
            let legs = r.status()?.relay.legs;
            Ok(!legs.is_empty() && legs.iter().all(|leg| leg.by == host))
        };
        let forwarded = || -> Result<u64> { Ok(r.status()?.relay.legs.iter().map(|leg| leg.packets).sum()) };
        ensure!(all_by("kernel")? && r.status()?.relay.kernel, "{:?}", r.status()?.relay);
        let (before, counted) = (path(&a, &b)?, forwarded()?);
        let capture = Capture::on(&r.host, "taken-off")?;
        let silence = longest_silence(&a, &b, 4, || {
            take_off(&r)?;
            wait::until_true(PATIENCE, "the workers forward", || all_by("workers"))
        })?;
        println!("figure: the kernel relay taken off: {} ms without an answer", silence.as_millis());
        ensure!(silence < Duration::from_secs(1), "{silence:?}");
        let after = path(&a, &b)?;
        ensure!(after.kind == "relay" && after.via == before.via, "{before:?}, then {after:?}");
        let packets = capture.finish()?;
        let labelled =
            packets.iter().filter_map(|packet| packet.get(28..).filter(|p| p.starts_with(&[5, 0, 0, 0])));
        let (data, others): (Vec<_>, Vec<_>) = labelled.partition(|payload| payload.get(8) == Some(&4));
        ensure!(data.len() > 100 && others.is_empty(), "{} of data, handshakes: {others:?}", data.len());
        // What the kernel had done stays in the sum.
        ensure!(forwarded()? >= counted + 100, "{counted}, then {}", forwarded()?);
        let relay = r.status()?.relay;
        ensure!(relay.enabled && !relay.kernel, "{relay:?}");
        let log = r.log()?;
        ensure!(log.contains("its program was taken off eth0"), "{log}");
        // Now that they come to the workers, the kernel joins them.
        let _server = service::iperf(&a.host, "127.0.0.1", 80)?;
        let (counted, taken) = (forwarded()?, received(&r)?);
        let moved = service::transfer(&b.host, a.addresses()?.0.into(), 80, 2, &[])?;
        let (counted, taken) = (forwarded()? - counted, received(&r)? - taken);
        println!(
            "figure: {:.0} Mbit/s, {counted} datagrams relayed by workers, joined to {taken}",
            moved.mbits
        );
        ensure!(counted > 1000 && taken > 0 && counted > 3 * taken, "{counted} datagrams came as {taken}");
        Ok(())
    })
}

/// What the node's sockets have got, joined datagrams counted once.
fn received(node: &Node) -> Result<u64> {
    let counts = node.host.run("nstat", &["-azs", "UdpInDatagrams", "Udp6InDatagrams"])?;
    let counts = counts
        .lines()
        .filter_map(|line| line.strip_prefix("Udp")?.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(counts.sum())
}

/// As an operator does it. Not every bpftool lists what hangs on interfaces this way, so the daemon's descriptors are asked.
fn take_off(relay: &Node) -> Result<()> {
    let facts = std::fs::read_dir(format!("/proc/{}/fdinfo", relay.pid()?))?;
    let facts = facts.flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    let links = facts.filter(|facts| facts.contains("link_type:\ttcx")).filter_map(|facts| {
        let id = facts.lines().find_map(|line| line.strip_prefix("link_id:"))?;
        Some(id.trim().to_owned())
    });
    let [id] = <[String; 1]>::try_from(links.collect::<Vec<_>>())
        .map_err(|links| anyhow::anyhow!("the relay has not one link but {links:?}"))?;
    relay.host.run("bpftool", &["link", "detach", "id", &id]).map(drop)
}

/// Names of the members, as nobody else may see them.
const NAMES: [&str; 2] = ["canary-alpha", "canary-beta"];

#[test]
fn relays_see_sealed_datagrams_only_and_forward_nobody_elses() -> Result<()> {
    run("blind", |lab| {
        let r1 = relay_with(lab, "r1", &[], &[])?;
        let r2 = relay(lab, "r2", &[&r1])?;
        let captures = [Capture::on(&r1.host, "seen")?, Capture::on(&r2.host, "seen")?];
        let (mut a, mut b) = members(lab, [&r1, &r2])?;
        for (node, relay, name) in [(&mut a, &r1, NAMES[0]), (&mut b, &r2, NAMES[1])] {
            node.stop()?;
            node.configure(Settings { name: Some(name.to_owned()), ..Settings::knowing(&[relay])? })?;
            node.start_and_wait()?;
        }
        a.wait_peer_up(&b)?;
        let _server = service::nginx(&b.host, "127.0.0.1:80")?;
        ensure!(service::fetch(&a.host, b.addresses()?.0.into())? == service::page());
        let key = a.meshhold(&["mgmt-keys", "share", &a.key_id(0)?])?;
        let mut canaries: Vec<Vec<u8>> = NAMES.map(|name| name.as_bytes().to_vec()).into();
        canaries.extend([service::page().trim().as_bytes().to_vec(), key.trim().as_bytes().to_vec()]);
        for node in [&a, &b] {
            let (ipv4, ipv6) = node.addresses()?;
            canaries.extend([ipv4.octets().to_vec(), ipv6.octets().to_vec()]);
        }
        let mut labelled = Vec::new();
        for capture in captures {
            let packets = capture.finish()?;
            let found = canaries.iter().find(|canary| capture::contains(&packets, canary));
            ensure!(found.is_none(), "a relay saw {found:?}");
            let payloads = packets.into_iter().filter_map(|packet| Some(packet.get(28..)?.to_vec()));
            labelled = payloads
                .filter(|payload| payload.starts_with(&[5, 0, 0, 0]) && payload.get(8) == Some(&4))
                .collect();
            ensure!(labelled.len() > 20, "{} labelled datagrams were captured", labelled.len());
        }
        intrude(lab, [&a, &b], &r1, &labelled)
    })
}

/// What a relay forwards from a wrong address, by a wrong label, again, or changed.
fn intrude(lab: &Lab, [a, b]: [&Node; 2], r1: &Node, captured: &[Vec<u8>]) -> Result<()> {
    let counted = |node: &Node, reason: &str| -> Result<u64> {
        Ok(node.status()?.counters.get(reason).copied().unwrap_or_default())
    };
    let stranger = lab.host("stranger")?;
    let send = |name: &str, datagrams: Vec<Vec<u8>>| -> Result<()> {
        let folder = stranger.directory().join(name);
        std::fs::create_dir_all(&folder)?;
        let mut arguments = vec!["hurl".to_owned(), r1.host.ipv4.to_string(), "7777".to_owned()];
        for (number, datagram) in datagrams.iter().enumerate() {
            let file = folder.join(number.to_string());
            std::fs::write(&file, datagram)?;
            arguments.push(file.to_string_lossy().into_owned());
        }
        // Another socket of the stranger gets the same forged port only when the one before is forgotten.
        stranger.tool(&["forget-flows"])?;
        stranger.tool(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
    };
    let rises = |node: &Node, reason: &str, name: &str, datagrams: Vec<Vec<u8>>| -> Result<()> {
        let before = counted(node, reason)?;
        send(name, datagrams)?;
        wait::until_true(PATIENCE, &format!("{name}: {} counts {reason}", node.host.name), || {
            Ok(counted(node, reason)? > before)
        })
    };
    let genuine: Vec<Vec<u8>> = captured.iter().rev().take(200).cloned().collect();
    rises(r1, "unknown-label", "wrong-source", genuine.clone())?;
    // From now on the stranger sends as if it were the member.
    let snat = format!(
        "table ip liar {{ chain out {{ type nat hook postrouting priority srcnat; ip daddr {} udp dport 7777 snat to {}:7777;\n }}\n }}",
        r1.host.ipv4, a.host.ipv4
    );
    stranger.run("nft", &[&snat])?;
    let changed = |at: std::ops::Range<usize>| {
        let mut datagrams = genuine.clone();
        for datagram in &mut datagrams {
            datagram.get_mut(at.clone()).into_iter().flatten().for_each(|byte| *byte ^= 0x55);
        }
        datagrams
    };
    rises(r1, "unknown-label", "wrong-label", changed(4..8))?;
    rises(b, "replay", "replayed", genuine.clone())?;
    // A counter far ahead, so that it is the tag that doesn't fit.
    rises(b, "bad-tag", "forged", changed(19..21))?;
    a.wait_peer_up(b).map(drop)
}

#[test]
fn a_peer_s_relay_that_nobody_knows_a_way_to_is_dialed() -> Result<()> {
    run("dialed", |lab| {
        let meeting = {
            let mut node =
                Node::new(lab.host("meeting")?, Settings { meshlan: Some(false), ..Settings::default() })?;
            node.start_and_wait()?;
            node
        };
        let r = relay(lab, "r", &[])?;
        let mut a = Node::new(lab.host("a")?, Settings::knowing(&[&meeting])?)?;
        let mut b = Node::new(lab.host("b")?, Settings::knowing(&[&meeting, &r])?)?;
        b.join(&a.mint(&[])?, &[])?;
        part(&a, &b)?;
        a.start_and_wait()?;
        b.start_and_wait()?;
        a.wait_peer_up(&b)?;
        let path = path(&a, &b)?;
        ensure!(path.kind == "relay" && path.via == [r.id()?], "{path:?}");
        Ok(())
    })
}
