//! `cargo xtask demo`: three nodes and an outsider on this machine, shown with the commands that a user types.
//!
//! Every step checks what it shows, so that a demo that ends well is a test too.

mod kept;
mod stage;

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use meshhold_tests::lab::{Lab, Lifetime};
use meshhold_tests::service::{self, Sshd};
use meshhold_tests::{Node, Settings};

use crate::{cargo, setup};
use stage::{Stage, note};

const ADD: [&str; 7] =
    ["mgmt-keys", "add", "--name", "Home network", "--caps", "mesh-route", "--never-expires"];
/// Maps that a reader understands at once, and how many lines of each are shown.
const MAPS: [&str; 4] = ["OWN", "PEERS", "CALLERS", "COUNTERS"];
const DUMP_LINES: usize = 12;

pub(crate) fn run(keep: bool) -> Result<()> {
    cargo::need_root("demo")?;
    kept::check_none()?;
    setup::run()?;
    cargo::run(&["build", "--release", "--package", "meshhold"])?;
    let lifetime = if keep { Lifetime::Kept } else { Lifetime::Scoped };
    let mut lab = Lab::new("demo", &cargo::target_dir().join("release/meshhold"), lifetime)?;
    if keep {
        lab.keep_files();
    }
    let cast = Cast::assemble(&lab)?;
    if keep {
        // From now on a failure leaves something that `--stop` ends.
        kept::record(&lab, &cast.nodes())?;
    }
    let played = play(cast);
    if keep {
        return played.and_then(|()| kept::explain());
    }
    cargo::say("Tearing down: the daemons, the services and the namespaces end");
    played
}

pub(crate) fn stop() -> Result<()> {
    cargo::need_root("demo --stop")?;
    kept::stop()
}

/// Who takes part.
struct Cast {
    alice: Node,
    bob: Node,
    carol: Node,
    outsider: Node,
}

impl Cast {
    /// Four machines on one LAN; each knows alice's address and nothing else.
    fn assemble(lab: &Lab) -> Result<Self> {
        cargo::say("Three nodes and an outsider, each in a network namespace of its own on one LAN");
        let alice = Node::new(lab.host("alice")?, Settings::default())?;
        let knowing = Settings::knowing(&[&alice])?;
        let bob = Node::new(lab.host("bob")?, knowing.clone())?;
        let carol = Node::new(lab.host("carol")?, knowing.clone())?;
        let outsider = Node::new(lab.host("outsider")?, knowing)?;
        Ok(Self { alice, bob, carol, outsider })
    }

    fn nodes(&self) -> [&Node; 4] {
        [&self.alice, &self.bob, &self.carol, &self.outsider]
    }
}

fn play(mut cast: Cast) -> Result<()> {
    mint_and_join(&cast)?;
    cargo::say("Start the daemons");
    for node in [&mut cast.alice, &mut cast.bob, &mut cast.carol, &mut cast.outsider] {
        println!("{}# meshhold daemon --config {} &", node.host.name, node.config_path().display());
        node.start_and_wait()?;
    }
    cast.bob.wait_peer_up(&cast.alice)?;
    cast.carol.wait_peer_up(&cast.alice)?;
    cargo::say("What bob sees");
    Stage(&cast.bob).meshhold(&["meshlan", "status"])?;
    let _services = reach_services(&cast)?;
    show_drop(&cast)?;
    show_maps(&cast.alice)?;
    show_outsider(&cast)?;
    Ok(())
}

fn mint_and_join(cast: &Cast) -> Result<()> {
    cargo::say("alice makes a network: its key is all that a member needs. She opens two of her ports");
    let allow = ["--allow", "tcp:22", "--allow", "tcp:80"];
    let key = Stage(&cast.alice).meshhold(&[&ADD[..], &allow].concat())?;
    cargo::say("bob and carol join with the key, and open nothing");
    for member in [&cast.bob, &cast.carol] {
        Stage(member).meshhold_reading(&[&ADD[..], &["--key", "-"]].concat(), key.trim(), "home.key")?;
    }
    Stage(&cast.bob).meshhold(&["mgmt-keys", "list"]).map(drop)
}

/// A web server and an sshd that listen on loopback only.
fn reach_services(cast: &Cast) -> Result<impl Sized + use<>> {
    cargo::say("alice runs a web server and an sshd on 127.0.0.1 only");
    let alice = &cast.alice.host;
    let web = service::nginx(alice, "127.0.0.1:80")?;
    let shell = Sshd::start(alice, &["127.0.0.1"], 22)?;
    // Something listens on the closed port as well: it is the policy that closes it.
    let closed = alice.spawn("closed", "iperf3", &["-s", "-B", "127.0.0.1", "-p", "8081"])?;
    Stage(&cast.alice).shell("ss -Hltn")?;
    cargo::say("bob and carol reach both by mesh address, IPv4 and IPv6");
    let [ipv4, ipv6] = cast.alice.both_addresses()?;
    for (caller, address) in [(&cast.bob, ipv4), (&cast.carol, ipv4), (&cast.bob, ipv6)] {
        let page = Stage(caller).shell(&format!("curl --silent --max-time 5 {}", url(address, 80)))?;
        ensure!(page == service::page(), "not alice's page: {page}");
    }
    for (caller, address) in [(&cast.bob, ipv4), (&cast.carol, ipv6)] {
        let command = format!("ssh {} root@{address} 'echo I came from $SSH_CLIENT'", shell.options());
        let shown = format!("ssh root@{address} 'echo I came from $SSH_CLIENT'");
        let printed = Stage(caller).shell_shown(&shown, &command)?;
        ensure!(printed.contains("127."), "sshd saw another source: {printed}");
    }
    note("sshd sees a loopback source, a different one for each caller");
    Ok((web, shell, closed))
}

fn show_drop(cast: &Cast) -> Result<()> {
    cargo::say("Port 8081 has a listener too, but alice did not open it");
    let address = cast.alice.addresses()?.0.into();
    let before = cast.alice.status()?.counters;
    let command = format!("curl --silent --show-error --max-time 2 {}", url(address, 8081));
    ensure!(!Stage(&cast.bob).tries(&command)?, "the closed port answered");
    note("alice says why (`meshhold meshlan status --json`, counters that moved):");
    let moved = moved(&before, &cast.alice.status()?.counters);
    for (reason, count) in &moved {
        println!("    {reason}: +{count}");
    }
    ensure!(
        moved.keys().any(|reason| !reason.starts_with("pass")),
        "no reason for the drop was counted: {moved:?}"
    );
    Ok(())
}

fn moved(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let difference = |(reason, count): (&String, &u64)| {
        let more = count.saturating_sub(before.get(reason).copied().unwrap_or_default());
        (more > 0).then(|| (reason.clone(), more))
    };
    after.iter().filter_map(difference).collect()
}

fn show_maps(node: &Node) -> Result<()> {
    cargo::say("The policy is in the kernel, and readable");
    let pins = node.host.run("find", &["/sys/fs/bpf", "-type", "f", "!", "-name", "*.debug"])?;
    for map in MAPS {
        let pin = pins.lines().find(|pin| pin.ends_with(&format!("/{map}")));
        let pin = pin.with_context(|| format!("no map {map} is pinned: {pins}"))?;
        let dump = node.host.run("bpftool", &["map", "dump", "pinned", pin])?;
        ensure!(dump.contains("\"value\": {"), "the map was dumped without field names: {dump}");
        println!("{}# bpftool map dump pinned {pin} | head -{DUMP_LINES}", node.host.name);
        dump.lines().take(DUMP_LINES).for_each(|line| println!("    {line}"));
    }
    Ok(())
}

fn show_outsider(cast: &Cast) -> Result<()> {
    cargo::say("The outsider runs MeshHold on the same LAN, but holds no key");
    let outsider = Stage(&cast.outsider);
    outsider.meshhold(&["meshlan", "status"])?;
    for address in cast.alice.both_addresses()? {
        ensure!(!outsider.tries(&format!("curl --silent --show-error --max-time 2 {}", url(address, 80)))?);
    }
    note("not even through alice's address on the LAN:");
    let address = cast.alice.addresses()?.0;
    outsider.shell(&format!("ip route add {address} via {}", cast.alice.host.ipv4))?;
    let page = url(address.into(), 80);
    ensure!(
        !outsider.tries(&format!("curl --silent --show-error --max-time 2 {page}"))?,
        "the outsider got in"
    );
    Ok(())
}

fn url(address: IpAddr, port: u16) -> String {
    if address.is_ipv6() {
        format!("'http://[{address}]:{port}/'")
    } else {
        format!("http://{address}:{port}/")
    }
}
