//! The tunnel keeps the order of a flow: while it is sparse, when it becomes bulk, beside others, in both directions, on a
//! machine whose processors are busy with something else.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use meshhold_tests::lab::Host;
use meshhold_tests::process::Process;
use meshhold_tests::{Lab, Node, run, scenario, service};

/// What a sender counts when a segment was overtaken and not lost (RFC 8985).
const REORDERED: [&str; 2] = ["TCPSACKReorder", "TCPTSReorder"];
/// What a receiver counts when one is missing: overtaken or lost.
const PUT_ASIDE: &str = "TCPOFOQueue";
/// Flows one after another: each becomes bulk once.
const FLOWS: usize = 30;
const FLOW_BYTES: &str = "300000";
/// Ends by itself, after a minute of processor time.
const BUSY: &str = "ulimit -t 60; while :; do :; done";

#[test]
fn no_segment_is_overtaken() -> Result<()> {
    run("order", |lab: &Lab| {
        let (a, b) = scenario::pair(lab, &["tcp:7", "tcp:5201"])?;
        let _server = service::iperf(&a.host, "127.0.0.1", 5201)?;
        let _echo = service::echo(&a.host, "tcp", Ipv4Addr::LOCALHOST.into(), 7)?;
        let _busy = occupy(&a.host)?;
        for address in a.both_addresses()? {
            for options in [&["-P", "4"][..], &["-P", "4", "-R"][..]] {
                let result = service::transfer(&b.host, address, 5201, 2, options)?;
                println!("figure: 4 streams {options:?} to {address}: {:.0} Mbit/s", result.mbits);
            }
            short_flows(&b, address)?;
        }
        for node in [&a, &b] {
            let counted = counters(&node.host)?;
            println!("figure: {}", counted.join(", "));
            for name in REORDERED {
                let zero = format!("{name} 0");
                ensure!(counted.contains(&zero), "segments were overtaken: {counted:?}");
            }
        }
        Ok(())
    })
}

/// Takes every processor's time, so that a worker must wait for one while it holds packets.
fn occupy(host: &Host) -> Result<Vec<Process>> {
    let processors = std::thread::available_parallelism()?.get();
    (0..processors).map(|number| host.spawn(&format!("busy-{number}"), "sh", &["-c", BUSY])).collect()
}

fn short_flows(from: &Node, address: IpAddr) -> Result<()> {
    let address = address.to_string();
    for _ in 0..FLOWS {
        from.host.tool(&["ask", "tcp", &address, "7", FLOW_BYTES])?;
    }
    Ok(())
}

/// `name value` of each counter of the namespace.
fn counters(host: &Host) -> Result<Vec<String>> {
    let text = host.run("cat", &["/proc/net/netstat"])?;
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("TcpExt:")).collect();
    let [names, values] = lines[..] else { anyhow::bail!("unexpected /proc/net/netstat: {text}") };
    let find = |wanted: &str| {
        let at = names.split(' ').position(|name| name == wanted);
        let value = at.and_then(|at| values.split(' ').nth(at));
        value.map(|value| format!("{wanted} {value}")).with_context(|| format!("no counter {wanted}"))
    };
    REORDERED.into_iter().chain([PUT_ASIDE]).map(find).collect()
}
