//! Not one datagram for a mesh address leaves by another interface, whatever is done to daemon, rules, routes and interface.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::capture::{self, Capture};
use meshhold_tests::networkd::Networkd;
use meshhold_tests::process::Process;
use meshhold_tests::scenario::Site;
use meshhold_tests::{Host, Lab, Node, Settings, run, scenario, wait};

const PATIENCE: Duration = Duration::from_secs(15);
const MARK: &str = "this must not be seen on the wire";
/// Rounds of everything; more by the variable `MESHHOLD_LEAK_ROUNDS`.
const ROUNDS: usize = 1;
const NO_BPF: &[&str] = &["setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin", "--"];

/// 200 datagrams a second to the addresses in turn; whether one can be sent is told by a count.
const SENDER: &str = r"
import socket, sys, time
mark, targets = sys.argv[1].encode(), sys.argv[2:]
sockets = {True: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), False: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)}
sent = refused = 0
while True:
    for target in targets:
        try:
            sockets[':' in target].sendto(mark, (target, 9))
            sent += 1
        except OSError:
            refused += 1
        if (sent + refused) % 50 == 0:
            print('sent', sent, 'refused', refused, flush=True)
        time.sleep(0.005)
";

#[test]
fn with_kernel_programs_nothing_leaks() -> Result<()> {
    run("leak-ebpf", |lab| {
        let site = Site::new(lab, &[])?;
        let [camera4, camera6] = site.addresses("Lobby camera")?;
        let [own4, own6] = site.gateway.both_addresses()?;
        let targets = [own4, own6, camera4, camera6].map(|address| address.to_string());
        let Site { gateway, mut laptop, .. } = site;
        nothing_leaks(lab, &mut laptop, &gateway, &targets)
    })
}

#[test]
fn in_user_space_nothing_leaks() -> Result<()> {
    run("leak-userspace", |lab| {
        let (a, mut b) = scenario::strangers(lab)?;
        let mut a = Node::new(a.host, Settings { wrapper: NO_BPF.to_vec(), ..Settings::default() })?;
        b.join(&a.mint(&[])?, &[])?;
        a.start_and_wait()?;
        b.start_and_wait()?;
        b.wait_peer_up(&a)?;
        let targets = b.both_addresses()?.map(|address| address.to_string());
        nothing_leaks(lab, &mut a, &b, &targets)
    })
}

fn nothing_leaks(lab: &Lab, node: &mut Node, other: &Node, targets: &[String]) -> Result<()> {
    for (family, via) in [("-4", other.host.ipv4.to_string()), ("-6", other.host.ipv6.to_string())] {
        node.host.run("ip", &[family, "route", "add", "default", "via", &via])?;
    }
    let words: Vec<&str> =
        ["-c", SENDER, MARK].into_iter().chain(targets.iter().map(String::as_str)).collect();
    proves_the_capture(lab, node, &words)?;
    let wire = Capture::start(lab.lan(), lab.directory(), "wire")?;
    let sender = node.host.spawn("sender", "python3", &words)?;
    let rounds =
        std::env::var("MESHHOLD_LEAK_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    for _ in 0..rounds {
        one_round(node, &sender)?;
    }
    let (sent, refused) = counts(&sender)?;
    let packets = wire.finish()?;
    let leaked = packets.iter().filter(|packet| capture::has(packet, MARK.as_bytes())).count();
    println!("figure: {leaked} leaked of {sent} sent and {refused} refused in {rounds} rounds");
    ensure!(leaked == 0, "{leaked} datagrams were on the wire in clear text");
    ensure!(sent > 100, "hardly anything was sent");
    Ok(())
}

/// To an address that nothing guards the same datagrams are seen.
fn proves_the_capture(lab: &Lab, node: &Node, words: &[&str]) -> Result<()> {
    let [run, script, mark, ..] = words else { return Ok(()) };
    let wire = Capture::start(lab.lan(), lab.directory(), "open-wire")?;
    let mut sender =
        node.host.spawn("open-sender", "python3", &[run, script, mark, "192.0.2.9", "2001:db8::9"])?;
    wait::until_true(PATIENCE, "what nothing guards is on the wire", || {
        Ok(capture::has(&wire.bytes()?, MARK.as_bytes()))
    })?;
    sender.kill()
}

fn one_round(node: &mut Node, sender: &Process) -> Result<()> {
    let acts = [
        "ip rule flush; ip rule add lookup main pref 32766; ip -6 rule flush; ip -6 rule add lookup main pref 32766",
        "for f in -4 -6; do ip $f route flush proto 77 table all; done; true",
        "ip link del mesh0",
        "ip -4 addr flush dev mesh0; ip -6 addr flush dev mesh0",
    ];
    for act in acts {
        node.host.run("sh", &["-c", act])?;
        goes_on(sender)?;
    }
    node.stop()?;
    goes_on(sender)?;
    node.start_and_wait()?;
    goes_on(sender)?;
    node.kill()?;
    goes_on(sender)?;
    // While nobody is there to put anything back.
    node.host.run("ip", &["link", "del", "mesh0"]).or_else(|_| node.host.run("true", &[]))?;
    goes_on(sender)?;
    node.start_and_wait()?;
    goes_on(sender)?;
    for _ in 0..2 {
        let networkd = Networkd::start(&node.host)?;
        goes_on(sender)?;
        networkd.stop()?;
    }
    let second = Second::start(&node.host, 1)?;
    goes_on(sender)?;
    drop(second);
    goes_on(sender)
}

/// Until another hundred datagrams were tried.
fn goes_on(sender: &Process) -> Result<()> {
    let (sent, refused) = counts(sender)?;
    wait::until_true(PATIENCE, "another hundred datagrams", || {
        let (now_sent, now_refused) = counts(sender)?;
        Ok(now_sent + now_refused >= sent + refused + 100)
    })
}

fn counts(sender: &Process) -> Result<(u64, u64)> {
    let log = sender.log()?;
    let Some(line) = log.lines().rfind(|line| line.starts_with("sent ") && line.contains(" refused ")) else {
        return Ok((0, 0));
    };
    let mut words = line.split_whitespace();
    let mut number =
        || words.nth(1).and_then(|word| word.parse().ok()).with_context(|| format!("no count: {line}"));
    Ok((number()?, number()?))
}

/// Another daemon on the same host, with folder, port and interface of its own.
struct Second {
    host: Host,
    config: String,
    daemon: Process,
}

impl Second {
    fn start(host: &Host, number: u16) -> Result<Self> {
        let second = Self::prepare(host, number)?;
        wait::until_true(PATIENCE, "the second daemon runs", || second.shows("\"mode\": \"ebpf\"")).or_else(
            |_| wait::until_true(PATIENCE, "it runs degraded", || second.shows("\"running\": true")),
        )?;
        Ok(second)
    }

    fn prepare(host: &Host, number: u16) -> Result<Self> {
        let folder = host.directory().join(format!("second-{number}"));
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("config.yaml");
        std::fs::write(
            &file,
            format!(
                "node:\n  name: second{number}\n  data_dir: {}\n  listen: \"0.0.0.0:{}\"\ndiscovery:\n  lan: false\n  \
                 port_mapping: false\napi: {{listen_addr: off}}\nmeshlan:\n  interface: mesh{number}\n",
                folder.join("data").display(),
                7777 + number
            ),
        )?;
        let config = file.display().to_string();
        let program = host.meshhold.display().to_string();
        let add = ["mgmt-keys", "add", "--name", "Other", "--caps", "mesh-route", "--never-expires"];
        if !folder.join("data/keys.json").exists() {
            host.run(&program, &[&add[..], &["--allow", "tcp:80", "--config", &config]].concat())?;
        }
        let daemon = host.spawn(&format!("second-{number}"), &program, &["daemon", "--config", &config])?;
        Ok(Self { host: host.clone(), config, daemon })
    }

    fn status(&self) -> Result<String> {
        let program = self.host.meshhold.display().to_string();
        self.host.run(&program, &["meshlan", "status", "--json", "--config", &self.config])
    }

    fn shows(&self, text: &str) -> Result<bool> {
        Ok(self.status()?.contains(text))
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.daemon.terminate(PATIENCE);
    }
}

/// nebula #1379, tailscale #183: two daemons of one host take each other's loopback addresses.
#[test]
fn two_daemons_of_one_host_have_callers_of_their_own() -> Result<()> {
    run("two-daemons", |lab| {
        let (a, b) = scenario::pair(lab, &["tcp:80"])?;
        let _server = meshhold_tests::service::echo(&a.host, "tcp", "127.0.0.1".parse()?, 80)?;
        let reaches = || -> Result<()> {
            for address in a.both_addresses()? {
                b.host.tool(&["await", &address.to_string(), "80", "5000"])?;
            }
            Ok(())
        };
        reaches()?;
        let second = Second::start(&a.host, 1)?;
        let callers = || a.host.run("ip", &["route", "show", "table", "local", "proto", "77"]);
        wait::until_true(PATIENCE, "each has a piece of the callers' addresses", || {
            let routes = callers()?;
            Ok(routes.contains("127.64.0.0/12 dev mesh0") && routes.contains("127.80.0.0/12 dev mesh1"))
        })?;
        reaches().context("while the second runs")?;
        let third = Second::start(&a.host, 2)?;
        let fourth = Second::start(&a.host, 3)?;
        let fifth = Second::prepare(&a.host, 4)?;
        wait::until_true(PATIENCE, "the fifth is refused with what mends it", || {
            Ok(fifth.daemon.log()?.contains("127.64.0.0/10")
                && fifth.daemon.log()?.contains("namespace of its own"))
        })?;
        drop((third, fourth, fifth));
        reaches().context("after others were refused and ended")?;
        drop(second);
        reaches().context("after the second has ended")?;
        ensure!(a.status()?.warnings.is_empty(), "{:?}", a.status()?.warnings);
        Ok(())
    })
}
