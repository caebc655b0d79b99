//! Real services on a host: echo servers that tell the caller's address, nginx, sshd, iperf3.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::{Host, labtool};
use crate::process::{Process, output};
use crate::wait;

const START_LIMIT: Duration = Duration::from_secs(10);
const PAGE: &str = "served on loopback only\n";

/// Body of the page that [`nginx`] serves.
pub fn page() -> &'static str {
    PAGE
}

/// An echo server (`tcp` or `udp`) that first tells each caller the address it saw.
pub fn echo(host: &Host, protocol: &str, bind: IpAddr, port: u16) -> Result<Process> {
    let label = format!("echo-{protocol}-{}-{port}", bind.to_string().replace([':', '.'], "_"));
    let arguments = ["serve", protocol, &bind.to_string(), &port.to_string()];
    let process = host.spawn_tool(&label, &arguments)?;
    ready(process, &label, |process| Ok(process.log()?.contains("serving")))
}

/// The other end of an exchange of checked content.
pub fn bytes(host: &Host, bind: IpAddr, port: u16) -> Result<Process> {
    let label = format!("bytes-{port}");
    let process = host.spawn_tool(&label, &["serve", "bytes", &bind.to_string(), &port.to_string()])?;
    ready(process, &label, |process| Ok(process.log()?.contains("serving")))
}

/// A download of 20 Mbit/s without an end, for each caller.
pub fn pour(host: &Host, bind: IpAddr, port: u16) -> Result<Process> {
    let process = host.spawn_tool("pour", &["serve", "pour", &bind.to_string(), &port.to_string()])?;
    ready(process, "pour", |process| Ok(process.log()?.contains("serving")))
}

/// nginx with one page, bound to `listen` (`127.0.0.1:80`, `[::1]:80`).
pub fn nginx(host: &Host, listen: &str) -> Result<Process> {
    let root = host.directory().join("www");
    std::fs::create_dir_all(&root)?;
    std::fs::write(root.join("index.html"), PAGE)?;
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {0}/{kind};", root.display()))
        .join(" ");
    let config = format!(
        "daemon off; master_process off; pid {0}/nginx.pid; error_log stderr; events {{}} http {{ access_log {0}/access; {temporary} \
         server {{ listen {listen}; root {0}; }} }}",
        root.display()
    );
    let path = root.join("nginx.conf");
    std::fs::write(&path, config)?;
    let label = "nginx";
    let process = host.spawn(label, "nginx", &["-e", "stderr", "-c", &path.to_string_lossy()])?;
    ready(process, label, |_| listening(host, "tcp", port_of(listen)?))
}

/// What curl gets from `http://address/`.
pub fn fetch(host: &Host, address: IpAddr) -> Result<String> {
    let host_part = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
    host.run(
        "curl",
        &["--silent", "--show-error", "--globoff", "--max-time", "5", &format!("http://{host_part}/")],
    )
}

/// An sshd with own host key and one authorised key.
#[derive(Debug)]
pub struct Sshd {
    _process: Process,
    identity: PathBuf,
}

impl Sshd {
    /// Listens on `port` of each of `binds`; root logs in by the key that is made here.
    pub fn start(host: &Host, binds: &[&str], port: u16) -> Result<Self> {
        let folder = host.directory().join("ssh");
        std::fs::create_dir_all(&folder)?;
        let (host_key, identity) = (folder.join("host"), folder.join("identity"));
        for key in [&host_key, &identity] {
            output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key))?;
        }
        std::fs::copy(identity.with_extension("pub"), folder.join("authorized"))?;
        unlock_root(host, &folder)?;
        let listen: String = binds.iter().map(|bind| format!("ListenAddress {bind}\n")).collect();
        let config = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             PermitRootLogin prohibit-password\nPidFile none\nPort {port}\n{listen}",
            host_key.display(),
            folder.join("authorized").display()
        );
        let path = folder.join("sshd_config");
        std::fs::write(&path, config)?;
        let process = host.spawn("sshd", "/usr/sbin/sshd", &["-D", "-e", "-f", &path.to_string_lossy()])?;
        let process = ready(process, "sshd", |_| listening(host, "tcp", port))?;
        Ok(Self { _process: process, identity })
    }

    /// Runs a command over ssh from `from` and yields its output.
    pub fn execute(&self, from: &Host, address: IpAddr, command: &str) -> Result<String> {
        from.run("sh", &["-c", &format!("ssh {} root@{address} '{command}'", self.options())])
    }

    /// The options that a shell's `ssh` needs to log in without asking.
    pub fn options(&self) -> String {
        let options = SSH_OPTIONS.map(|option| format!("-o {option}")).join(" ");
        format!("-F none {options} -i {}", self.identity.display())
    }
}

const SSH_OPTIONS: [&str; 5] = [
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
    "BatchMode=yes",
    "ConnectTimeout=5",
    "LogLevel=ERROR",
];

/// Options and folders that keep smbd off the machine's own.
const SMB_FOLDERS: [(&str, &str); 6] = [
    ("lock directory", "lock"),
    ("state directory", "state"),
    ("cache directory", "cache"),
    ("pid directory", "pid"),
    ("private dir", "private"),
    ("ncalrpc dir", "ncalrpc"),
];

/// smbd on all addresses with one share, `share`, that guests read and write.
pub fn smbd(host: &Host) -> Result<Process> {
    let folder = host.directory().join("samba");
    let share = folder.join("share");
    std::fs::create_dir_all(&share)?;
    let mut folders = String::new();
    for (option, name) in SMB_FOLDERS {
        std::fs::create_dir_all(folder.join(name))?;
        folders += &format!("{option} = {}/{name}\n", folder.display());
    }
    let config = format!(
        "[global]\nserver role = standalone server\nmap to guest = bad user\nguest account = root\n\
         disable netbios = yes\nsmb ports = 445\nlogging = file\nlog file = {0}/smbd.log\n{folders}\
         [share]\npath = {1}\nguest ok = yes\nread only = no\n",
        folder.display(),
        share.display()
    );
    let path = folder.join("smb.conf");
    std::fs::write(&path, config)?;
    let process =
        host.spawn("smbd", "smbd", &["--foreground", "--no-process-group", "-s", &path.to_string_lossy()])?;
    ready(process, "smbd", |_| listening(host, "tcp", 445))
}

/// `iperf3 -s` on `bind`.
pub fn iperf(host: &Host, bind: &str, port: u16) -> Result<Process> {
    let label = format!("iperf-{}", bind.replace([':', '.'], "_"));
    let process = host.spawn(&label, "iperf3", &["-s", "-B", bind, "-p", &port.to_string()])?;
    ready(process, &label, |_| listening(host, "tcp", port))
}

/// Result of one iperf3 run, as the receiver saw it.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// Megabits per second.
    pub mbits: f64,
    /// Lost datagrams in percent (UDP).
    pub lost_percent: f64,
    /// Segment size that the client's connection began with, bytes (TCP).
    pub mss: u64,
}

/// Runs an iperf3 client for `seconds` with further `options`, as soon as the server is done with the last one.
pub fn transfer(host: &Host, address: IpAddr, port: u16, seconds: u32, options: &[&str]) -> Result<Transfer> {
    let (address, port, seconds) = (address.to_string(), port.to_string(), seconds.to_string());
    let mut arguments = vec!["-J", "-c", &address, "-p", &port, "-t", &seconds, "--connect-timeout", "5000"];
    arguments.extend(options);
    wait::until(START_LIMIT, "iperf3's server is free", || Ok(attempt(host, &arguments).transpose()))?
}

/// `None` if the server isn't done with the client before.
fn attempt(host: &Host, arguments: &[&str]) -> Result<Option<Transfer>> {
    let report: Value = serde_json::from_str(&host.run("iperf3", arguments)?)?;
    // With -J an iperf3 that failed ends with 0 too.
    if let Some(error) = report["error"].as_str() {
        ensure!(error.contains("server is busy"), "iperf3: {error}");
        return Ok(None);
    }
    let end = &report["end"];
    let sum = end.get("sum_received").or_else(|| end.get("sum"));
    let sum = sum.with_context(|| format!("no sum in the result: {report}"))?;
    let number = |key: &str| sum.get(key).and_then(Value::as_f64).unwrap_or_default();
    Ok(Some(Transfer {
        mbits: number("bits_per_second") / 1e6,
        lost_percent: number("lost_percent"),
        mss: report["start"]["tcp_mss_default"].as_u64().unwrap_or_default(),
    }))
}

fn ready(
    mut process: Process,
    label: &str,
    mut is_ready: impl FnMut(&Process) -> Result<bool>,
) -> Result<Process> {
    wait::until_true(START_LIMIT, &format!("{label} listens"), || {
        ensure!(process.is_running()?, "{label} ended: {}", process.log()?);
        is_ready(&process)
    })?;
    Ok(process)
}

fn listening(host: &Host, protocol: &str, port: u16) -> Result<bool> {
    let flags = if protocol == "tcp" { "-Hltn" } else { "-Hlun" };
    Ok(!host.run("ss", &[flags, &format!("sport = :{port}")])?.trim().is_empty())
}

fn port_of(listen: &str) -> Result<u16> {
    let port = listen.split_whitespace().next().and_then(|address| address.rsplit(':').next());
    Ok(port.context("no port to listen on")?.parse()?)
}

/// sshd refuses a locked root account even for keys; this host sees an unlocked one, the machine keeps its own.
fn unlock_root(host: &Host, folder: &Path) -> Result<()> {
    let shadow = std::fs::read_to_string("/etc/shadow").unwrap_or_default();
    if !shadow.starts_with("root:!") {
        return Ok(());
    }
    let copy = folder.join("shadow");
    std::fs::write(&copy, shadow.replacen("root:!", "root:*", 1))?;
    host.run("mount", &["--bind", &copy.to_string_lossy(), "/etc/shadow"]).map(drop)
}

/// What a scan of all ports found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Ports that accepted.
    pub open: Vec<u16>,
    /// Ports that said no, by RST or ICMP.
    pub refused: Vec<u16>,
    /// Number of ports that said nothing.
    pub silent: usize,
}

/// Scans every `step`th port of `address`.
pub fn scan(from: &Host, protocol: &str, address: IpAddr, step: u32) -> Result<Scan> {
    let (tool, address, step) = (labtool()?, address.to_string(), step.to_string());
    let printed = from.run("prlimit", &["--nofile=8192", &tool, "scan", protocol, &address, &step])?;
    let line = |name: &str| printed.lines().find_map(|line| line.strip_prefix(name));
    let ports = |name: &str| -> Result<Vec<u16>> {
        Ok(serde_json::from_str(line(name).with_context(|| format!("not a scan: {printed}"))?)?)
    };
    let silent = line("silent ").context("the scan has no count")?.parse()?;
    Ok(Scan { open: ports("open ")?, refused: ports("refused ")?, silent })
}
