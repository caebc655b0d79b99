//! A worker whose processor is taken by something else changes places with the one on a processor that idles, and both come
//! back after a rest.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::process::Process;
use meshhold_tests::{Lab, Node, Settings, run, scenario, service};

/// Ends by itself, after half a minute of processor time.
const BUSY: &str = "ulimit -t 30; while :; do :; done";
/// So many leave a worker a third of the processor.
const PROGRAMS: usize = 2;
/// Each way, so that each worker has data.
const STREAMS: &str = "4";
/// Of a stream. How much makes a worker wait and leaves the other processor idle depends on the machine, so one after another
/// is tried.
const RATES: [&str; 5] = ["250M", "125M", "500M", "62M", "1000M"];
const SECONDS: &str = "5";
const LOOK: Duration = Duration::from_millis(20);
/// More than workers need to forget where they went.
const REST: Duration = Duration::from_secs(1);

#[test]
fn a_worker_leaves_a_busy_processor_and_comes_home() -> Result<()> {
    run("placement", |lab: &Lab| {
        if std::thread::available_parallelism()?.get() < 2 {
            println!("figure: one processor, nowhere to go");
            return Ok(());
        }
        let (a, b) = pair(lab)?;
        let _server = service::iperf(&a.host, "127.0.0.1", 5201)?;
        let (address, home) = (IpAddr::V4(a.addresses()?.0), processors(&a)?);
        ensure!(processors(&b)? == home, "two nodes of one machine begin alike");
        let busy = occupy(&a, home.first().context("no worker")?)?;
        let there = moved([&a, &b], address, &home)?;
        println!("figure: from {home:?} to {there:?}");
        drop(busy);
        std::thread::sleep(REST);
        service::transfer(&b.host, address, 5201, 1, &["-b", "20M"])?;
        for node in [&a, &b] {
            ensure!(processors(node)? == home, "not at home after a rest: {:?}", processors(node)?);
        }
        Ok(())
    })
}

/// With AES two nodes of one machine may differ: where it sealed a little faster at the start TCP goes by direction, at the other
/// by flow, and one worker has nearly all. ChaCha20 goes by flow at both.
fn pair(lab: &Lab) -> Result<(Node, Node)> {
    let cipher = Some("chacha20-poly1305");
    let mut a = Node::new(lab.host("a")?, Settings { cipher, ..Settings::default() })?;
    let mut b = Node::new(lab.host("b")?, Settings { cipher, ..Settings::knowing(&[&a])? })?;
    scenario::connect(&mut a, &mut b, &["tcp:5201"])?;
    Ok((a, b))
}

/// Sends until two workers of one of the nodes have changed places; yields where its workers are.
fn moved(nodes: [&Node; 2], address: IpAddr, home: &[String]) -> Result<Vec<String>> {
    let address = address.to_string();
    let shares = |workers: &[String]| BTreeSet::from_iter(workers.to_owned());
    for rate in RATES {
        let arguments = ["-c", &address, "-p", "5201", "-t", SECONDS, "-P", STREAMS, "--bidir", "-b", rate];
        let mut transfer = nodes[1].host.spawn(&format!("transfer-{rate}"), "iperf3", &arguments)?;
        while transfer.is_running()? {
            for node in nodes {
                let now = processors(node)?;
                if now != home && shares(&now) == shares(home) {
                    transfer.kill()?;
                    println!("figure: moved at {rate} a stream");
                    return Ok(now);
                }
            }
            std::thread::sleep(LOOK);
        }
    }
    anyhow::bail!("nobody moved")
}

/// Takes those processors' time.
fn occupy(node: &Node, processors: &str) -> Result<Vec<Process>> {
    let busy =
        |number| node.host.spawn(&format!("busy-{number}"), "taskset", &["-c", processors, "sh", "-c", BUSY]);
    (0..PROGRAMS).map(busy).collect()
}

/// Where each worker for bulk stays, by number; these are the half with the lower ones.
fn processors(node: &Node) -> Result<Vec<String>> {
    let mut workers = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", node.pid()?))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let number = field("Name:").and_then(|name| name.strip_prefix("worker-")?.parse::<usize>().ok());
        workers.extend(number.zip(field("Cpus_allowed_list:").map(str::to_owned)));
    }
    workers.sort();
    let bulk = workers.len() / 2;
    Ok(workers.into_iter().take(bulk).map(|(_, processors)| processors).collect())
}
