//! The Web UI in a real browser, against real daemons: every dialog, what others see of it, looks and accessibility.
//!
//! Owns the nodes and services; what is clicked is in `tests/web/`, run by node.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meshhold_tests::process::Process;
use meshhold_tests::{Host, Node, Settings, run, service};
use serde_json::{Value, json};

/// What `cargo xtask setup` installs, and where.
const MODULES: &str = "npm/node_modules/playwright-core";
const LIMIT: Duration = Duration::from_secs(100);
/// A name that runs as a script where it isn't taken as a text.
const PROBE: &str = "<img src=x onerror=alert(1)>\"'";
const CONFIGURED: &str = "Lobby <b>camera</b>";

#[test]
fn everything_is_done_by_clicks() -> Result<()> {
    let target = target_dir()?;
    ensure!(target.join(MODULES).is_dir(), "playwright-core is missing: run `cargo xtask setup`");
    run("web", |lab| {
        let host = lab.host("a")?;
        let printer = lab.device(&host, "printer")?;
        let forwards = vec![(CONFIGURED.to_owned(), printer.ipv6.into())];
        let mut a = Node::new(host, Settings { forwards, ..Settings::default() })?;
        let named =
            Settings { name: Some(format!("'{}'", PROBE.replace('\'', "''"))), ..Settings::knowing(&[&a])? };
        let mut b = Node::new(lab.host("b")?, named)?;
        a.start_and_wait()?;
        b.start_and_wait()?;
        let _services = [service::nginx(&a.host, "127.0.0.1:80")?, service::nginx(&printer, "0.0.0.0:80")?];
        let _other = service::echo(&a.host, "udp", Ipv6Addr::UNSPECIFIED.into(), 5000)?;
        let plan = json!({
            "npm": target.join("npm"),
            "shots": target.join("web-shots"),
            "hosts": { "a": stage(&a), "b": stage(&b) },
            "device": printer.ipv4,
            "probe": PROBE,
            "configured": CONFIGURED,
        });
        browse(&a.host, &plan)
    })
}

/// What a script needs to know of a node.
fn stage(node: &Node) -> Value {
    let pid = node.host.namespace().pid().to_string();
    json!({
        "enter": ["nsenter", "-t", pid, "-n", "-m", "--"],
        "folder": node.host.directory(),
        "meshhold": node.host.meshhold,
        "config": node.config_path(),
    })
}

fn browse(host: &Host, plan: &Value) -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("web/main.mjs");
    let mut command = std::process::Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "node"]).arg(script).arg(plan.to_string());
    let begun = Instant::now();
    let mut browser = Process::spawn(command, "browser", &host.log_path("browser"))?;
    let status = browser.wait(LIMIT)?;
    println!("{}", browser.log()?);
    ensure!(status.success(), "the browser's part failed: {status}; its messages are above");
    println!("figure: all of the Web UI in {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// The folder that cargo builds into.
fn target_dir() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    test.ancestors().nth(3).map(Path::to_owned).context("the test has no target folder")
}
