//! A demo that was left running: how to look around in it, and how to end exactly its processes.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use meshhold_tests::{Lab, Node};

use crate::cargo;

/// Fails while an earlier demo runs.
pub(super) fn check_none() -> Result<()> {
    ensure!(!folder().join("state").exists(), "a demo is still running: end it by `cargo xtask demo --stop`");
    Ok(())
}

/// Writes down what runs, and the script that enters a host.
pub(super) fn record(lab: &Lab, nodes: &[&Node]) -> Result<()> {
    let folder = folder();
    fs::create_dir_all(&folder)?;
    let mut state = format!("{}\n", lab.directory().display());
    let mut script = String::from(
        "#!/bin/sh\n# on HOST COMMAND...: runs a command on a host of the demo\nhost=$1\nshift\ncase $host in\n",
    );
    for namespace in std::iter::once(lab.lan()).chain(nodes.iter().map(|node| node.host.namespace())) {
        writeln!(state, "{} {}", namespace.pid(), network_of(namespace.pid())?)?;
    }
    for node in nodes {
        let (name, config) = (&node.host.name, node.config_path());
        writeln!(script, "{name}) pid={} config={} ;;", node.host.namespace().pid(), config.display())?;
    }
    let programs = cargo::target_dir().join("release");
    writeln!(script, "*) echo \"no such host: $host\" >&2; exit 2 ;;\nesac")?;
    writeln!(script, "export MESHHOLD_CONFIG=$config PATH={}:$PATH", programs.display())?;
    script.push_str("exec nsenter -t $pid -n -m -- \"$@\"\n");
    let path = folder.join("on");
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(fs::write(folder.join("state"), state)?)
}

/// Tells how to look around.
pub(super) fn explain() -> Result<()> {
    let on = folder().join("on");
    let on = on.strip_prefix(std::env::current_dir()?).unwrap_or(&on).display();
    cargo::say("The demo goes on. Look around:");
    println!("    {on} bob meshhold meshlan status");
    println!("    {on} alice meshhold mgmt-keys list");
    println!("    {on} alice bpftool net");
    println!("    {on} carol bash");
    println!("End it:\n    cargo xtask demo --stop");
    Ok(())
}

/// Ends every process in the demo's network namespaces, and removes its files.
pub(super) fn stop() -> Result<()> {
    let path = folder().join("state");
    let state = fs::read_to_string(&path).context("no demo was left running")?;
    let mut lines = state.lines();
    let files = lines.next().map(PathBuf::from).context("the demo's state file is empty")?;
    let networks: Vec<&str> = lines.filter_map(alive).collect();
    for pid in processes_in(&networks)? {
        // One may end by another's end.
        let _ = Command::new("kill").args(["-s", "KILL", &pid.to_string()]).status();
    }
    if files.starts_with(std::env::temp_dir()) && files.exists() {
        fs::remove_dir_all(&files).with_context(|| format!("cannot remove {}", files.display()))?;
    }
    fs::remove_file(path)?;
    println!("the demo has ended");
    Ok(())
}

/// The namespace of a line of the state file, if its holder still lives in it (process ids are used again).
fn alive(line: &str) -> Option<&str> {
    let (pid, network) = line.split_once(' ')?;
    (network_of(pid.parse().ok()?).ok()? == network).then_some(network)
}

fn processes_in(networks: &[&str]) -> Result<Vec<u32>> {
    let ids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(ids.filter(|pid| network_of(*pid).is_ok_and(|network| networks.contains(&network.as_str()))).collect())
}

/// `net:[4026532000]`.
fn network_of(pid: u32) -> Result<String> {
    let link = fs::read_link(Path::new("/proc").join(pid.to_string()).join("ns/net"))?;
    Ok(link.to_string_lossy().into_owned())
}

fn folder() -> PathBuf {
    cargo::target_dir().join("demo")
}
