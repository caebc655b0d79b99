//! `cargo xtask scale`: very many real daemons in one namespace, and what each of them costs while nothing happens.
//!
//! Members of one network without interface (they lack CAP_NET_ADMIN), each with an address of its own, as links are bounded
//! by address; the first is the bootstrap peer of all. Owns how the crowd is made and measured; ends it when it returns.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use meshhold_tests::lab::Lifetime;
use meshhold_tests::process::{Process, output, output_with_input};
use meshhold_tests::status::Status;
use meshhold_tests::{Host, Lab, wait};

use crate::cargo;

const PORT: u16 = 7777;
/// As setpriv(1) takes it: a daemon without the right to make an interface.
const BARE: [&str; 3] = ["--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"];
const SETTLE_LIMIT: Duration = Duration::from_secs(240);
const JOIN_LIMIT: Duration = Duration::from_secs(60);
/// Daemons started before the last of them must answer.
const BATCH: usize = 10;
const TICKS_PER_SECOND: f64 = 100.0;

/// What may be chosen.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How many daemons
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u16).range(2..=1000))]
    nodes: u16,
    /// Seconds without change that are measured
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seconds after all know each other before that
    #[arg(long, default_value_t = 130)]
    settle: u64,
}

/// What all have cost up to a moment.
struct Spent {
    at: Instant,
    bytes: u64,
    packets: u64,
    cpu_seconds: f64,
}

/// One daemon and its folder.
struct Member {
    name: String,
    config: PathBuf,
    process: Process,
}

struct Crowd {
    host: Host,
    key: String,
    rendezvous: String,
    members: Vec<Member>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    cargo::need_root("scale")?;
    cargo::run(&["build", "--release", "--package", "meshhold"])?;
    let lab = Lab::new("scale", &cargo::root().join("target/release/meshhold"), Lifetime::Scoped)?;
    let mut crowd = Crowd::new(lab.host("crowd")?)?;
    let count = usize::from(arguments.nodes);
    let begun = Instant::now();
    while crowd.members.len() < count {
        crowd.add()?;
        if crowd.members.len().is_multiple_of(BATCH) {
            crowd.last()?.wait_linked(&crowd.host)?;
        }
    }
    println!("{count} daemons started in {:.0?}", begun.elapsed());
    crowd.wait_known(count - 1, SETTLE_LIMIT)?;
    println!("all know all {:.0?} after the first start", begun.elapsed());
    pause(arguments.settle);
    let before = crowd.spent()?;
    pause(arguments.seconds);
    crowd.report(&before)?;
    let joined = Instant::now();
    crowd.add()?;
    crowd.wait_known(count, JOIN_LIMIT)?;
    println!("one more was known everywhere {:.1?} after its start, asking all included", joined.elapsed());
    Ok(())
}

/// Idleness is what is measured: there is no condition to wait for.
fn pause(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

impl Crowd {
    /// The first member, which has minted the key.
    fn new(host: Host) -> Result<Self> {
        let config = configure(&host, 0, None)?;
        let add = ["mgmt-keys", "add", "--name", "scale", "--caps", "mesh-route", "--never-expires"];
        let key = output(meshhold(&host, &config).args(add))?.trim().to_owned();
        let printed = output(meshhold(&host, &config).arg("id"))?;
        let id =
            printed.split_whitespace().find(|word| word.starts_with("12D3KooW")).context("no node id")?;
        let rendezvous = format!("/ip4/{}/udp/{PORT}/quic-v1/p2p/{id}", address(0));
        let members = vec![start(&host, 0, config)?];
        Ok(Self { host, key, rendezvous, members })
    }

    fn add(&mut self) -> Result<()> {
        let number = u16::try_from(self.members.len())?;
        let config = configure(&self.host, number, Some(&self.rendezvous))?;
        let add = ["mgmt-keys", "add", "--name", "scale", "--never-expires", "--key", "-"];
        output_with_input(meshhold(&self.host, &config).args(add), &self.key)?;
        self.members.push(start(&self.host, number, config)?);
        Ok(())
    }

    fn last(&self) -> Result<&Member> {
        self.members.last().context("nobody was started")
    }

    /// Waits until each lists so many others; who does is not asked again.
    fn wait_known(&self, others: usize, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        for member in &self.members {
            let rest = limit.saturating_sub(begun.elapsed());
            let what = format!("{} knows {others} others", member.name);
            wait::until_true(rest, &what, || Ok(member.known(&self.host)? == others))?;
        }
        Ok(())
    }

    fn spent(&self) -> Result<Spent> {
        let counters = self.host.run("cat", &["/proc/net/dev"])?;
        let line =
            counters.lines().find_map(|line| line.trim().strip_prefix("lo:")).context("no loopback")?;
        let numbers: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [bytes, packets, ..] = numbers.as_slice() else { return Err(anyhow::anyhow!("cut: {line}")) };
        let times = self.members.iter().map(Member::cpu_seconds).collect::<Result<Vec<f64>>>()?;
        Ok(Spent { at: Instant::now(), bytes: *bytes, packets: *packets, cpu_seconds: times.iter().sum() })
    }

    fn report(&self, before: &Spent) -> Result<()> {
        let now = self.spent()?;
        let nodes = self.members.len() as f64;
        let seconds = now.at.duration_since(before.at).as_secs_f64();
        let share = |amount: u64| amount as f64 / nodes / seconds;
        let (bytes, packets) = (share(now.bytes - before.bytes), share(now.packets - before.packets));
        println!("a node, of {nodes}, over {seconds:.0} s in which nothing happened:");
        println!("  sent {bytes:.0} B/s in {packets:.2} packets/s with all headers, and received as much");
        let cpu = (now.cpu_seconds - before.cpu_seconds) / nodes / seconds;
        println!("  {:.3} % of a core", cpu * 100.0);
        for (field, what) in
            [("VmRSS:", "resident"), ("RssAnon:", "of it not shared with the program's file")]
        {
            let memory = self.members.iter().map(|member| member.memory_kib(field));
            let mut memory = memory.collect::<Result<Vec<u64>>>()?;
            memory.sort_unstable();
            let mib = |kib: Option<&u64>| *kib.unwrap_or(&0) as f64 / 1024.0;
            let middle = mib(memory.get(memory.len() / 2));
            println!("  {middle:.1} MiB {what} in the middle, {:.1} MiB at most", mib(memory.last()));
        }
        Ok(())
    }
}

impl Member {
    fn status(&self, host: &Host) -> Result<Status> {
        let json = output(meshhold(host, &self.config).args(["meshlan", "status", "--json"]))?;
        serde_json::from_str(&json).with_context(|| format!("not a status: {json}"))
    }

    fn known(&self, host: &Host) -> Result<usize> {
        Ok(self.status(host)?.networks.first().map_or(0, |network| network.peers.len()))
    }

    fn wait_linked(&self, host: &Host) -> Result<()> {
        wait::until_true(JOIN_LIMIT, "the last started knows somebody", || {
            ensure!(Path::new(&format!("/proc/{}", self.process.pid())).exists(), "{}", self.process.log()?);
            Ok(self.known(host)? > 0)
        })
    }

    fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.pid()))?;
        let (_, rest) = stat.rsplit_once(')').context("no command in stat")?;
        let times = rest.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        let ticks: u64 = times.collect::<Result<Vec<_>, _>>()?.iter().sum();
        Ok(ticks as f64 / TICKS_PER_SECOND)
    }

    /// A field of `/proc/PID/status`.
    fn memory_kib(&self, field: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .with_context(|| format!("no {field}"))?;
        Ok(line.trim_end_matches("kB").trim().parse()?)
    }
}

/// Of the member of that number.
fn address(number: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 91, 0, 1).to_bits() + u32::from(number))
}

fn configure(host: &Host, number: u16, rendezvous: Option<&str>) -> Result<PathBuf> {
    let address = address(number);
    host.namespace().ip(&format!("address add {address}/32 dev eth0"))?;
    let folder = host.directory().join(number.to_string());
    std::fs::create_dir(&folder)?;
    let data = folder.join("data");
    let known = rendezvous.map_or(String::new(), |peer| format!("bootstrap_peers:\n  - {peer}\n"));
    let text = format!(
        "node:\n  name: member-{number}\n  data_dir: {}\n  listen: {address}:{PORT}\n{known}meshlan:\n  enabled: true\n",
        data.display()
    );
    let config = folder.join("config.yaml");
    std::fs::write(&config, text)?;
    Ok(config)
}

fn start(host: &Host, number: u16, config: PathBuf) -> Result<Member> {
    let program = host.meshhold.to_string_lossy();
    let mut arguments: Vec<&str> = BARE.to_vec();
    let shown = config.to_string_lossy().into_owned();
    arguments.extend([&*program, "daemon", "--config", &shown]);
    let name = format!("member-{number}");
    let process = host.spawn(&name, "setpriv", &arguments)?;
    Ok(Member { name, config, process })
}

fn meshhold(host: &Host, config: &Path) -> Command {
    let mut command = host.namespace().command(&host.meshhold.to_string_lossy());
    command.arg("--config").arg(config);
    command
}
