//! Mesh addresses leave by the mesh interface or not at all: with rules and routes gone, at every moment of a daemon's life.

use std::time::Duration;

use anyhow::{Result, ensure};
use meshhold_tests::process::Process;
use meshhold_tests::{Node, run, scenario, wait};

const LIMIT: Duration = Duration::from_secs(15);
/// Datagrams that the sender must have tried in each state.
const SOME: usize = 200;

/// The rule that leads mesh packets to the mesh, and those that refuse them elsewhere, as an upset networkd leaves them: gone.
const UNDO: &str = "for family in -4 -6; do \
    while ip $family rule del priority 5100 2>/dev/null; do :; done; \
    while ip $family rule del priority 5101 2>/dev/null; do :; done; \
    ip $family route show table main type unreachable | while read -r route; do ip $family route del $route; done; \
    done; ip route flush cache";

/// What becomes of the node, by name.
type State = (&'static str, fn(&mut Node) -> Result<()>);

#[test]
fn mesh_addresses_leave_by_no_other_interface() -> Result<()> {
    run("barrier", |lab| {
        let (mut a, b) = scenario::pair(lab, &["udp:9000"])?;
        let (v4, v6) = b.addresses()?;
        for command in [
            format!("route add default via {}", b.host.ipv4),
            format!("-6 route add default via {}", b.host.ipv6),
        ] {
            a.host.namespace().ip(&command)?;
        }
        let seen = watch(&b)?;
        let sender = send(&a, &[v4.to_string(), v6.to_string()])?;
        let states: [State; 5] = [
            ("running", |_| Ok(())),
            ("stopped", Node::stop),
            ("starting", |node| node.start_and_wait().map(drop)),
            ("killed", Node::kill),
            ("started again", |node| node.start_and_wait().map(drop)),
        ];
        for (what, reach) in states {
            reach(&mut a)?;
            a.host.run("sh", &["-c", UNDO])?;
            let so_far = tries(&sender)?;
            wait::until_true(LIMIT, what, || Ok(tries(&sender)? >= so_far + SOME))?;
            ensure!(
                leaked(&seen)? == 0,
                "{what}: {} datagrams in the clear: {}",
                leaked(&seen)?,
                seen.log()?
            );
        }
        // The watcher sees what does leave.
        a.host.succeeds("ping", &["-n", "-c1", "-W1", "203.0.113.9"])?;
        wait::until_true(LIMIT, "the watcher sees a datagram", || Ok(seen.log()?.contains("203.0.113.9")))?;
        let stopped = a.status()?.counters.get("barrier").copied().unwrap_or_default();
        println!(
            "figure: {} rounds of datagrams without rules and routes, {stopped} stopped by the barrier",
            tries(&sender)?
        );
        ensure!(stopped > 0, "the barrier was never asked");
        Ok(())
    })
}

/// Datagrams with a mesh address on the cable, and a control.
fn watch(b: &Node) -> Result<Process> {
    let filter = "net 198.18.0.0/15 or net fd12::/16 or net 127.64.0.0/10 or host 203.0.113.9";
    let watcher =
        b.host.spawn("watch", "tcpdump", &["-l", "-n", "-p", "-i", "eth0", "--immediate-mode", filter])?;
    wait::until_true(LIMIT, "tcpdump listens", || Ok(watcher.log()?.contains("listening on")))?;
    Ok(watcher)
}

fn leaked(watcher: &Process) -> Result<usize> {
    let is_leak =
        |line: &&str| ["198.18.", "198.19.", "fd12:", "127."].iter().any(|mark| line.contains(mark));
    Ok(watcher.log()?.lines().filter(is_leak).count())
}

/// A datagram to each address every few milliseconds, whatever becomes of it, and a line for each round.
const SENDER: &str = "
import socket, sys, time
while True:
    for address in sys.argv[1:]:
        family = socket.AF_INET6 if ':' in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            try:
                sender.sendto(b'x', (address, 9000))
            except OSError:
                pass
    print('try', flush=True)
    time.sleep(0.002)
";

fn send(a: &Node, to: &[String]) -> Result<Process> {
    let arguments: Vec<&str> = ["-c", SENDER].into_iter().chain(to.iter().map(String::as_str)).collect();
    a.host.spawn("sender", "python3", &arguments)
}

fn tries(sender: &Process) -> Result<usize> {
    Ok(sender.log()?.lines().count())
}
