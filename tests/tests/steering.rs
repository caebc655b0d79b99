//! A daemon hands what it measured at its start to the program that chooses a queue.

use anyhow::{Context, Result, ensure};
use meshhold_tests::{Node, Settings, run};
use serde_json::Value;

/// From here two workers share TCP out by direction, as docs/performance.md says.
const FAST_MBYTES: u32 = 6000;
const DUMP: &str = "bpftool --json map dump pinned \"$(find /sys/fs/bpf -name WORKERS)\"";

#[test]
fn the_steering_program_has_what_the_daemon_measured() -> Result<()> {
    run("steering", |lab| {
        let mut node = Node::new(lab.host("node")?, Settings::default())?;
        for cipher in ["auto", "aes-256-gcm", "chacha20-poly1305"] {
            for offload in [true, false] {
                node.configure(Settings {
                    cipher: Some(cipher),
                    offload: Some(offload),
                    ..Settings::default()
                })?;
                node.start_and_wait()?;
                let (fastest, [workers, spread]) = (fastest(&node, cipher)?, steering(&node)?);
                println!("figure: {cipher}, {fastest} MB/s: {workers} workers, spread {spread}");
                let processors = std::thread::available_parallelism()?.get().min(8) as u64;
                ensure!(workers == processors, "{workers} workers of {processors}");
                let by_direction = offload && workers == 2 && fastest >= FAST_MBYTES;
                ensure!(spread == u64::from(!by_direction), "{cipher}, offload {offload}: {fastest} MB/s");
                node.stop()?;
            }
        }
        Ok(())
    })
}

/// MB/s of the fastest cipher that the last start could use, as its log has it.
fn fastest(node: &Node, cipher: &str) -> Result<u32> {
    let name = match cipher {
        "aes-256-gcm" => "Aes256Gcm",
        "chacha20-poly1305" => "ChaCha20Poly1305",
        _ => "",
    };
    let log = node.log()?;
    let speeds = log.lines().filter(|line| line.contains(name)).filter_map(|line| {
        let (_, rest) = line.split_once(" seals ")?;
        rest.split(' ').next()?.parse().ok()
    });
    speeds.max().with_context(|| format!("{cipher} has no speed in the log: {log}"))
}

/// Fields of map `WORKERS`, as an operator reads them.
fn steering(node: &Node) -> Result<[u64; 2]> {
    let dump = node.host.run("sh", &["-c", DUMP])?;
    let value: Value = serde_json::from_str(&dump)?;
    let field = |name| {
        value
            .pointer(&format!("/0/formatted/value/{name}"))
            .and_then(Value::as_u64)
            .with_context(|| format!("no {name}: {dump}"))
    };
    Ok([field("workers")?, field("spread")?])
}
