//! A MeshHold node in the lab, driven by the documented commands.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::Host;
use crate::process::{Finished, Process, finish};
use crate::status::{Network, Peer, Status};
use crate::wait;

/// How long a daemon may take to answer, and members to find each other, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
const EXIT_LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 7777;
/// Name of the network where a test has only one.
const HOME: &str = "Home network";

/// What goes into a node's configuration.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Multiaddrs of nodes known beforehand.
    pub bootstrap: Vec<String>,
    /// Display name, if not the host's.
    pub name: Option<String>,
    /// Value of `node.cipher`.
    pub cipher: Option<&'static str>,
    /// Value of `node.offload`, if not the default.
    pub offload: Option<bool>,
    /// Name and target of each of `meshlan.forwards`.
    pub forwards: Vec<(String, IpAddr)>,
    /// Relays for others: `relay.enabled`.
    pub relay: bool,
    /// Value of `relay.rate_mbit`, if not the default.
    pub relay_rate: Option<u32>,
    /// Value of `meshlan.enabled`, if not true.
    pub meshlan: Option<bool>,
    /// Value of `discovery.lan`: off in the lab unless a test is about it, so that nodes meet as it says.
    pub lan_discovery: bool,
    /// Value of `discovery.port_mapping`: off as well.
    pub port_mapping: bool,
    /// Content of section `api`: the Web UI is off in the lab unless a test is about it.
    pub api: Option<&'static str>,
    /// Value of `discovery.dht`.
    pub dht: bool,
    /// Values of `discovery.dht_bootstrap`.
    pub dht_bootstrap: Vec<String>,
    /// The swarm key.
    pub swarm_key: Option<String>,
    /// Value of `MESHHOLD_LOG`.
    pub log: Option<&'static str>,
    /// Words before the daemon's command line, such as `setpriv …`.
    pub wrapper: Vec<&'static str>,
}

impl Settings {
    /// Knows these nodes.
    pub fn knowing(nodes: &[&Node]) -> Result<Self> {
        let bootstrap = nodes.iter().map(|node| node.multiaddr()).collect::<Result<_>>()?;
        Ok(Self { bootstrap, ..Self::default() })
    }

    /// A node without key and interface that relays for others.
    pub fn relay() -> Self {
        Self { relay: true, meshlan: Some(false), ..Self::default() }
    }
}

/// A node: a host, its configuration and, when started, its daemon.
#[derive(Debug)]
pub struct Node {
    /// The machine.
    pub host: Host,
    settings: Settings,
    daemon: Option<Process>,
    starts: u32,
}

impl Node {
    /// Writes the configuration; starts nothing.
    pub fn new(host: Host, settings: Settings) -> Result<Self> {
        let node = Self { host, settings, daemon: None, starts: 0 };
        std::fs::write(node.config_path(), node.config()?)?;
        Ok(node)
    }

    /// Replaces the configuration; takes effect at the next start.
    pub fn configure(&mut self, settings: Settings) -> Result<()> {
        self.settings = settings;
        Ok(std::fs::write(self.config_path(), self.config()?)?)
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.host.directory().join("config.yaml")
    }

    /// The data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.host.directory().join("data")
    }

    /// Runs `meshhold <arguments> --config …` and yields its standard output.
    pub fn meshhold(&self, arguments: &[&str]) -> Result<String> {
        self.meshhold_with_input(arguments, "")
    }

    /// As [`Self::meshhold`], with something on standard input.
    pub fn meshhold_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        let finished = self.try_meshhold(arguments, input)?;
        if !finished.status.success() {
            bail!("{} from meshhold {arguments:?}: {}", finished.status, finished.stderr);
        }
        Ok(finished.stdout.trim().to_owned())
    }

    /// Runs a command of the daemon's command line, whatever its exit code.
    pub fn try_meshhold(&self, arguments: &[&str], input: &str) -> Result<Finished> {
        let mut command = self.host.namespace().command(&self.host.meshhold.to_string_lossy());
        finish(command.args(arguments).arg("--config").arg(self.config_path()), input)
    }

    /// The node id.
    pub fn id(&self) -> Result<String> {
        let printed = self.meshhold(&["id"])?;
        let id = printed.split_whitespace().find(|word| word.starts_with("12D3KooW"));
        id.map(str::to_owned).with_context(|| format!("`meshhold id` printed no node id: {printed}"))
    }

    /// Where others reach this node, as they write it in `bootstrap_peers`.
    pub fn multiaddr(&self) -> Result<String> {
        Ok(format!("/ip4/{}/udp/{PORT}/quic-v1/p2p/{}", self.host.ipv4, self.id()?))
    }

    /// Gives the node, before its first start, what it remembers: the content of its state file.
    pub fn remember(&self, state: &str) -> Result<()> {
        let path = self.data_dir().join("state.json");
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        file.and_then(|mut file| file.write_all(state.as_bytes())).context("cannot write the node's state")
    }

    /// Mints a new network's key and yields the key string.
    pub fn mint(&self, allow: &[&str]) -> Result<String> {
        self.mint_as(HOME, allow)
    }

    /// As [`Self::mint`], under another name.
    pub fn mint_as(&self, name: &str, allow: &[&str]) -> Result<String> {
        let key = self.meshhold(&add_arguments(name, &[], allow))?;
        ensure!(key.starts_with("meshkey1") && key.lines().count() == 1, "not a key alone: {key:?}");
        Ok(key)
    }

    /// As [`Self::mint`], for a network with an IPv4 range of its own.
    pub fn mint_in(&self, range: &str, allow: &[&str]) -> Result<String> {
        self.meshhold(&add_arguments(HOME, &["--ipv4-range", range], allow))
    }

    /// Joins the network of `key`, which goes in by standard input.
    pub fn join(&self, key: &str, allow: &[&str]) -> Result<()> {
        self.join_as(HOME, key, allow)
    }

    /// As [`Self::join`], under another name.
    pub fn join_as(&self, name: &str, key: &str, allow: &[&str]) -> Result<()> {
        self.meshhold_with_input(&add_arguments(name, &["--key", "-"], allow), key).map(drop)
    }

    /// Replaces the scope of the first key; no port = nothing open.
    pub fn set_scope(&self, allow: &[&str]) -> Result<()> {
        let id = self.key_id(0)?;
        let mut arguments = vec!["mgmt-keys", "edit", &id];
        if allow.is_empty() {
            arguments.push("--deny-all");
        }
        arguments.extend(allow.iter().flat_map(|rule| ["--allow", rule]));
        self.meshhold(&arguments).map(drop)
    }

    /// Id of the key at that position of `mgmt-keys list`.
    pub fn key_id(&self, position: usize) -> Result<String> {
        let list: serde_json::Value =
            serde_json::from_str(&self.meshhold(&["mgmt-keys", "list", "--json"])?)?;
        let id = list.get(position).and_then(|key| key.get("id")).and_then(|id| id.as_str());
        id.map(str::to_owned).with_context(|| format!("no key {position} in {list}"))
    }

    /// Starts the daemon without waiting for it.
    pub fn start(&mut self) -> Result<()> {
        self.starts += 1;
        let label = self.log_label();
        let mut command = self.daemon_command();
        if let Some(level) = self.settings.log {
            command.env("MESHHOLD_LOG", level);
        }
        self.daemon = Some(self.host.namespace().spawn(command, &label, &self.host.log_path(&label))?);
        Ok(())
    }

    /// Starts the daemon and waits until it answers.
    pub fn start_and_wait(&mut self) -> Result<Status> {
        self.start()?;
        self.wait_running()
    }

    /// Waits until `meshlan status` says `running`.
    pub fn wait_running(&mut self) -> Result<Status> {
        wait::until(PATIENCE, &format!("daemon of {} runs", self.host.name), || {
            let status = self.status()?;
            Ok(status.running.then_some(status))
        })
    }

    /// The answer of `meshlan status --json`.
    pub fn status(&self) -> Result<Status> {
        let json = self.meshhold(&["meshlan", "status", "--json"])?;
        serde_json::from_str(&json).with_context(|| format!("not the documented status: {json}"))
    }

    /// The only network of this node.
    pub fn network(&self) -> Result<Network> {
        let status = self.status()?;
        let networks = status.networks.len();
        let [network] = <[Network; 1]>::try_from(status.networks)
            .map_err(|_| anyhow::anyhow!("{} has {networks} networks, not one", self.host.name))?;
        Ok(network)
    }

    /// Own mesh addresses in the only network.
    pub fn addresses(&self) -> Result<(Ipv4Addr, Ipv6Addr)> {
        let network = self.network()?;
        Ok((network.ipv4.context("no mesh IPv4 address")?, network.ipv6))
    }

    /// Own mesh addresses in the only network, as both families want to be tested.
    pub fn both_addresses(&self) -> Result<[IpAddr; 2]> {
        let (ipv4, ipv6) = self.addresses()?;
        Ok([ipv4.into(), ipv6.into()])
    }

    /// Waits until this node lists `other` with its addresses.
    pub fn wait_known(&self, other: &Self) -> Result<Peer> {
        let id = other.id()?;
        wait::until(PATIENCE, &format!("{} knows {}", self.host.name, other.host.name), || {
            Ok(self.status()?.peer(&id).filter(|peer| peer.ipv4.is_some()).cloned())
        })
    }

    /// Waits until echo requests to `other` are answered, by both families: the circuit carries packets.
    pub fn wait_peer_up(&self, other: &Self) -> Result<Peer> {
        let peer = self.wait_known(other)?;
        for address in other.both_addresses()? {
            wait::until_true(PATIENCE, &format!("{} pings {address}", self.host.name), || {
                self.host.succeeds("ping", &["-n", "-c1", "-W1", &address.to_string()])
            })?;
        }
        Ok(peer)
    }

    /// Process id of the daemon.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.daemon.as_ref().context("the daemon was not started")?.pid())
    }

    /// Whether the daemon's process lives.
    pub fn is_alive(&mut self) -> Result<bool> {
        self.daemon.as_mut().context("the daemon was not started")?.is_running()
    }

    /// Sends the daemon a signal by name.
    pub fn signal(&self, name: &str) -> Result<()> {
        self.daemon.as_ref().context("the daemon was not started")?.signal(name)
    }

    /// What this start of the daemon logged so far.
    pub fn log(&self) -> Result<String> {
        self.daemon.as_ref().context("the daemon was not started")?.log()
    }

    /// SIGTERM; the exit must be clean.
    pub fn stop(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("the daemon was not started")?;
        let status = daemon.terminate(EXIT_LIMIT)?;
        ensure!(status.success(), "the daemon of {} ended with {status}: {}", self.host.name, daemon.log()?);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("the daemon was not started")?.kill()
    }

    /// Processor time that the daemon has used, in user space and in the kernel.
    pub fn processor_time(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        let (_, rest) = stat.rsplit_once(')').context("no process name")?;
        let ticks: u64 =
            rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
        // USER_HZ is 100 on every architecture that this runs on.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Resident memory of the daemon in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        self.memory_kib("VmRSS:")
    }

    /// What of that is the daemon's own, and no file's, in KiB.
    pub fn anonymous_kib(&self) -> Result<u64> {
        self.memory_kib("RssAnon:")
    }

    fn memory_kib(&self, field: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let line = line.with_context(|| format!("no {field} in the process's status"))?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }

    fn log_label(&self) -> String {
        format!("daemon-{}", self.starts)
    }

    fn daemon_command(&self) -> Command {
        let mut words: Vec<String> = self.settings.wrapper.iter().map(|&word| word.to_owned()).collect();
        words.push(self.host.meshhold.to_string_lossy().into_owned());
        words.extend(["daemon".to_owned(), "--config".to_owned()]);
        let (program, rest) =
            words.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
        let mut command = self.host.namespace().command(program);
        command.args(rest).arg(self.config_path());
        command
    }

    fn config(&self) -> Result<String> {
        let name = self.settings.name.as_deref().unwrap_or(&self.host.name);
        let mut text = format!("node:\n  name: {name}\n  data_dir: {}\n", show(&self.data_dir())?);
        if let Some(cipher) = self.settings.cipher {
            writeln!(text, "  cipher: {cipher}")?;
        }
        if let Some(offload) = self.settings.offload {
            writeln!(text, "  offload: {offload}")?;
        }
        if !self.settings.bootstrap.is_empty() {
            text.push_str("bootstrap_peers:\n");
        }
        for address in &self.settings.bootstrap {
            writeln!(text, "  - {address}")?;
        }
        let Settings { lan_discovery, port_mapping, dht, .. } = self.settings;
        writeln!(text, "discovery:\n  lan: {lan_discovery}\n  port_mapping: {port_mapping}\n  dht: {dht}")?;
        if !self.settings.dht_bootstrap.is_empty() {
            writeln!(text, "  dht_bootstrap: [{}]", self.settings.dht_bootstrap.join(", "))?;
        }
        writeln!(text, "api: {{{}}}", self.settings.api.unwrap_or("listen_addr: off"))?;
        if let Some(key) = &self.settings.swarm_key {
            writeln!(text, "swarm_key: {key}")?;
        }
        if self.settings.relay {
            text.push_str("relay:\n  enabled: true\n");
        }
        if let Some(rate) = self.settings.relay_rate {
            writeln!(text, "  rate_mbit: {rate}")?;
        }
        writeln!(text, "meshlan:\n  enabled: {}", self.settings.meshlan.unwrap_or(true))?;
        if !self.settings.forwards.is_empty() {
            text.push_str("  forwards:\n");
        }
        for (name, target) in &self.settings.forwards {
            writeln!(text, "    - name: {name}\n      target: {target}")?;
        }
        Ok(text)
    }
}

fn add_arguments<'a>(name: &'a str, key: &[&'a str], allow: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["mgmt-keys", "add", "--name", name, "--caps", "mesh-route", "--never-expires"];
    arguments.extend(key);
    arguments.extend(allow.iter().flat_map(|rule| ["--allow", rule]));
    arguments
}

fn show(path: &Path) -> Result<&str> {
    path.to_str().context("the temporary folder's path is not UTF-8")
}
