//! A daemon that ends, by its own will or by SIGKILL, closes the network; what it leaves waits for the next one.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::process::Process;
use meshhold_tests::snapshot::Snapshot;
use meshhold_tests::{Node, run, scenario, service, wait};

const PROBES_LIMIT: Duration = Duration::from_secs(10);
const KILLS: usize = 5;

#[test]
fn killing_the_daemon_opens_nothing() -> Result<()> {
    run("kill", |lab| {
        let (mut a, b) = scenario::pair(lab, &["tcp:80"])?;
        let neighbour = lab.host("neighbour")?;
        let any: IpAddr = "::".parse()?;
        let _servers = [service::echo(&a.host, "tcp", any, 80)?, service::echo(&a.host, "tcp", any, 81)?];
        let mut probers = Vec::new();
        for (number, address) in a.both_addresses()?.into_iter().enumerate() {
            let via: IpAddr = if address.is_ipv4() { a.host.ipv4.into() } else { a.host.ipv6.into() };
            neighbour.namespace().ip(&format!("route add {address} via {via} dev eth0"))?;
            let target = address.to_string();
            b.host.tool(&["await", &target, "80", "5000"])?;
            probers.push(b.host.spawn_tool(&format!("member-{number}"), &["probe", &target, "81"])?);
            probers.push(neighbour.spawn_tool(&format!("neighbour-{number}"), &["probe", &target, "81"])?);
        }
        wait_attempts(&probers, 100)?;
        for _ in 0..KILLS {
            let so_far = attempts(&probers)?;
            a.kill()?;
            wait_attempts(&probers, so_far + 300)?;
            a.start_and_wait()?;
            b.wait_peer_up(&a)?;
            wait_attempts(&probers, so_far + 600)?;
        }
        println!("figure: {} attempts of each prober over {KILLS} kills", attempts(&probers)?);
        for prober in &probers {
            ensure!(last_line(prober)?.ends_with("open 0"), "a closed port opened: {}", last_line(prober)?);
        }
        b.host.tool(&["await", &a.addresses()?.0.to_string(), "80", "5000"]).map(drop)
    })
}

/// What the slowest prober has tried; each prints its count.
fn attempts(probers: &[Process]) -> Result<u64> {
    let counts = probers.iter().map(|prober| {
        let line = last_line(prober)?;
        Ok(line.split_whitespace().nth(1).context("a prober printed no count")?.parse::<u64>()?)
    });
    counts.collect::<Result<Vec<_>>>()?.into_iter().min().context("there are probers")
}

fn wait_attempts(probers: &[Process], count: u64) -> Result<()> {
    wait::until_true(PROBES_LIMIT, &format!("{count} probes"), || Ok(attempts(probers)? >= count))
}

fn last_line(prober: &Process) -> Result<String> {
    let log = prober.log()?;
    let whole = log.rfind('\n').and_then(|end| log.get(..end)).unwrap_or_default();
    Ok(whole.lines().last().unwrap_or_default().to_owned())
}

/// What a node leaves on purpose when it ends: its interface and programs, for the next start to go on with, and what keeps
/// mesh packets off the other interfaces.
fn is_left_on_purpose(left: &str) -> bool {
    let closes = left.starts_with("rule") && (left.contains("5100:") || left.contains("5101:"));
    closes
        || left.starts_with("pin")
        || left.contains("mesh0")
        || left.contains("unreachable") && left.contains("proto 77")
}

fn cleaned_up(node: &Node, before: &Snapshot) -> Result<()> {
    node.meshhold(&["cleanup"])?;
    let after = Snapshot::settled(&node.host)?;
    let (left, lost) = (after.added_since(before), after.lost_since(before));
    ensure!(left.is_empty() && lost.is_empty(), "left: {left:#?}, lost: {lost:#?}");
    ensure!(node.meshhold(&["cleanup"])? == "nothing was left", "a second time");
    Ok(())
}

#[test]
fn stop_leaves_what_closes_and_cleanup_leaves_nothing() -> Result<()> {
    run("sigterm", |lab| {
        let (mut a, mut b) = scenario::strangers(lab)?;
        let key = a.mint(&["tcp:80"])?;
        b.join(&key, &["tcp:80"])?;
        let before = [Snapshot::settled(&a.host)?, Snapshot::settled(&b.host)?];
        a.start_and_wait()?;
        b.start_and_wait()?;
        b.wait_peer_up(&a)?;
        let running = Snapshot::take(&a.host)?.added_since(&before[0]);
        ensure!(running.iter().any(|line| line.starts_with("link")), "the snapshot misses the interface");
        ensure!(running.iter().any(|line| line.starts_with("pin")), "the snapshot misses the pinned maps");
        for (node, before) in [&mut a, &mut b].into_iter().zip(before) {
            let refused = node.try_meshhold(&["cleanup"], "")?;
            ensure!(!refused.status.success() && refused.stderr.contains("running"), "{}", refused.stderr);
            node.stop()?;
            let after = Snapshot::settled(&node.host)?;
            let (left, lost) = (after.added_since(&before), after.lost_since(&before));
            ensure!(
                left.iter().all(|line| is_left_on_purpose(line)) && lost.is_empty(),
                "{left:#?}, lost: {lost:#?}"
            );
            for (family, ranges) in [("rule ", 1), ("rule6 ", 1)] {
                let rules = left.iter().filter(|line| line.starts_with(family)).count();
                ensure!(rules == 2 * ranges, "a rule and its barrier for each range: {left:#?}");
            }
            cleaned_up(node, &before)?;
        }
        Ok(())
    })
}

#[test]
fn what_a_daemon_leaves_is_the_mesh_alone_and_the_next_one_adds_nothing() -> Result<()> {
    run("leftovers", |lab| {
        let (mut a, mut b) = scenario::strangers(lab)?;
        b.join(&a.mint(&["tcp:80"])?, &[])?;
        let before = Snapshot::settled(&a.host)?;
        a.start_and_wait()?;
        b.start_and_wait()?;
        b.wait_peer_up(&a)?;
        let running = Snapshot::settled(&a.host)?;
        for end in [Node::stop, Node::kill] {
            end(&mut a)?;
            let left = Snapshot::settled(&a.host)?;
            let others: Vec<_> =
                left.added_since(&before).into_iter().filter(|line| !is_left_on_purpose(line)).collect();
            let lost = left.lost_since(&before);
            ensure!(others.is_empty() && lost.is_empty(), "left: {others:#?}, lost: {lost:#?}");
            ensure!(
                left.added_since(&before).iter().any(|line| line.contains("mesh0")),
                "the interface is gone"
            );
            a.start_and_wait()?;
            b.wait_peer_up(&a)?;
            let again = Snapshot::settled(&a.host)?;
            let (more, less) = (again.added_since(&running), again.lost_since(&running));
            ensure!(more.is_empty() && less.is_empty(), "new: {more:#?}, gone: {less:#?}");
        }
        a.stop()?;
        cleaned_up(&a, &before)
    })
}

/// A kept interface without an owner could be attached to by anybody, who would then speak as any member.
#[test]
fn nobody_but_root_can_take_the_interface_that_waits() -> Result<()> {
    run("attach", |lab| {
        let (mut a, _b) = scenario::pair(lab, &["tcp:80"])?;
        // Systems let everybody open this device.
        a.host.run("mount", &["-t", "tmpfs", "tmpfs", "/dev/net"])?;
        a.host.run("mknod", &["-m", "666", "/dev/net/tun", "c", "10", "200"])?;
        let nobody = "setpriv --reuid=65534 --clear-groups --inh-caps=-all --bounding-set=-all --";
        let attach = |node: &Node, who: &str| {
            let command = format!("{who} ip tuntap del dev mesh0 mode tun multi_queue");
            node.host.succeeds("sh", &["-c", &command])
        };
        ensure!(!attach(&a, nobody)?, "a user without rights attached to the interface of a running daemon");
        a.stop()?;
        ensure!(!attach(&a, nobody)?, "a user without rights attached to the interface that waits");
        ensure!(attach(&a, "")?, "root can: the test would notice");
        Ok(())
    })
}
