//! Other programs, each with its own defaults, set up as its manual says. What `sources` names are registry packages.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use meshhold_tests::process::output;
use meshhold_tests::{Host, wait};

use super::install::{Source, find};
use super::own::first_line;
use super::rows::Peer;
use super::site::{INNER, START_LIMIT, Site, Tunnel};

const WIREGUARD_PORT: u16 = 51820;
const NEBULA_PORT: u16 = 4242;
const VPNCLOUD_PORT: u16 = 3210;

/// A host with its inner address, and the host at the other end.
type End<'a> = (&'a Host, Ipv4Addr, &'a Host);

fn ends(site: &Site) -> [End<'_>; 2] {
    [(&site.a, INNER[0], &site.b), (&site.b, INNER[1], &site.a)]
}

/// A file in the host's folder.
fn file(host: &Host, name: &str) -> String {
    host.directory().join(name).to_string_lossy().into_owned()
}

fn program(name: &str) -> Result<String> {
    find(name).with_context(|| format!("{name} is not installed; `cargo xtask bench --install` does it"))
}

fn version(name: &str, option: &str, cipher: &str) -> Option<String> {
    Some(format!("{}, {cipher}", first_line(&find(name)?, &[option])?))
}

/// Any program that `wg` configures.
pub(super) struct WireGuard {
    pub(super) program: &'static str,
    pub(super) arguments: &'static [&'static str],
    pub(super) source: Source,
}

impl Peer for WireGuard {
    fn version(&self) -> Option<String> {
        find("wg")?;
        version(self.program, "--version", "ChaCha20-Poly1305")
    }

    fn sources(&self) -> Vec<Source> {
        vec![Source::Debian("wireguard-tools"), self.source]
    }

    fn start(&self, site: &Site) -> Result<Tunnel> {
        let program = program(self.program)?;
        let (mut processes, mut keys) = (Vec::new(), Vec::new());
        for host in site.hosts() {
            let arguments = [self.arguments, &["wg0"]].concat();
            processes.push(host.spawn("wireguard", &program, &arguments)?);
            let make = format!("umask 077; wg genkey >{0}; wg pubkey <{0}", file(host, "key"));
            keys.push(host.run("sh", &["-c", &make])?.trim().to_owned());
        }
        for host in site.hosts() {
            wait::until_true(START_LIMIT, &format!("{} can be configured", self.program), || {
                host.succeeds("test", &["-S", "/run/wireguard/wg0.sock"])
            })?;
        }
        for ((host, _, other), (key, inner)) in ends(site).into_iter().zip(keys.iter().zip(INNER).rev()) {
            let set = format!(
                "wg set wg0 listen-port {WIREGUARD_PORT} private-key {} peer {key} allowed-ips {inner}/32 \
                 endpoint {}:{WIREGUARD_PORT}",
                file(host, "key"),
                other.ipv4
            );
            host.run("sh", &["-c", &set])?;
        }
        // 1420 is what wg-quick sets.
        let address = Some(site.address("wg0", "mtu 1420")?);
        Ok(Tunnel { address, processes, ..Tunnel::default() })
    }
}

/// Nebula: certificates of an own authority; b is the lighthouse.
pub(super) struct Nebula;

impl Peer for Nebula {
    fn version(&self) -> Option<String> {
        find("nebula-cert")?;
        Some(version("nebula", "-version", "AES-256-GCM")?.replacen("Version:", "nebula", 1))
    }

    fn sources(&self) -> Vec<Source> {
        vec![Source::Debian("nebula")]
    }

    fn start(&self, site: &Site) -> Result<Tunnel> {
        let (program, folder) = (program("nebula")?, site.b.directory());
        let certify = |arguments: &[&str]| {
            output(std::process::Command::new("nebula-cert").args(arguments).current_dir(folder))
        };
        certify(&["ca", "-name", "bench", "-duration", "24h"])?;
        let mut processes = Vec::new();
        for (host, inner, other) in ends(site) {
            certify(&["sign", "-name", &host.name, "-ip", &format!("{inner}/24")])?;
            let lighthouse = host.name == "b";
            let (known, hosts) = if lighthouse {
                (String::new(), String::new())
            } else {
                (format!("\"{}\": [\"{}:{NEBULA_PORT}\"]", INNER[1], other.ipv4), format!("\"{}\"", INNER[1]))
            };
            let folder = folder.display();
            let config = format!(
                "pki: {{ca: {folder}/ca.crt, cert: {folder}/{0}.crt, key: {folder}/{0}.key}}\n\
                 static_host_map: {{{known}}}\n\
                 lighthouse: {{am_lighthouse: {lighthouse}, interval: 5, hosts: [{hosts}]}}\n\
                 listen: {{host: 0.0.0.0, port: {NEBULA_PORT}}}\n\
                 tun: {{dev: neb0}}\nlogging: {{level: error, format: text}}\n\
                 firewall: {{outbound: [{{port: any, proto: any, host: any}}], inbound: [{{port: any, proto: any, host: any}}]}}\n",
                host.name
            );
            fs::write(file(host, "nebula.yml"), config)?;
            processes.push(host.spawn("nebula", &program, &["-config", &file(host, "nebula.yml")])?);
        }
        Ok(Tunnel { address: Some(INNER[1].into()), processes, ..Tunnel::default() })
    }
}

/// tinc 1.0: RSA keys, exchanged as host files; a connects to b.
pub(super) struct Tinc;

impl Peer for Tinc {
    fn version(&self) -> Option<String> {
        let line = version("tincd", "--version", "AES-256-CBC with HMAC-SHA256")?;
        let (version, cipher) = line.split_once(" (").unwrap_or((&line, ""));
        let cipher = cipher.rsplit_once(", ").map_or("", |(_, cipher)| cipher);
        Some(format!("{version}, {cipher}").trim_end_matches(", ").to_owned())
    }

    fn sources(&self) -> Vec<Source> {
        vec![Source::Debian("tinc")]
    }

    fn start(&self, site: &Site) -> Result<Tunnel> {
        let program = program("tincd")?;
        for (host, inner, other) in ends(site) {
            let folder = file(host, "tinc");
            fs::create_dir_all(format!("{folder}/hosts"))?;
            let connect =
                if host.name == "a" { format!("ConnectTo = {}\n", other.name) } else { String::new() };
            let config =
                format!("Name = {}\nInterface = tinc0\nMode = router\nAddressFamily = ipv4\n", host.name);
            fs::write(format!("{folder}/tinc.conf"), config + &connect)?;
            fs::write(
                format!("{folder}/hosts/{}", host.name),
                format!("Address = {}\nSubnet = {inner}/32\n", host.ipv4),
            )?;
            host.run(&program, &["-c", &folder, "-K2048"])?;
        }
        let mut processes = Vec::new();
        for (host, _, other) in ends(site) {
            let folder = file(host, "tinc");
            fs::copy(
                file(other, &format!("tinc/hosts/{}", other.name)),
                format!("{folder}/hosts/{}", other.name),
            )?;
            let pid_file = format!("--pidfile={folder}/pid");
            processes.push(host.spawn("tinc", &program, &["-c", &folder, "-D", &pid_file])?);
        }
        let address = Some(site.address("tinc0", "")?);
        Ok(Tunnel { address, processes, ..Tunnel::default() })
    }
}

/// VpnCloud: a shared password; a connects to b.
pub(super) struct VpnCloud;

impl Peer for VpnCloud {
    fn version(&self) -> Option<String> {
        version("vpncloud", "--version", "the fastest of its AEADs")
    }

    fn sources(&self) -> Vec<Source> {
        vec![Source::Crate("vpncloud")]
    }

    fn start(&self, site: &Site) -> Result<Tunnel> {
        let program = program("vpncloud")?;
        let mut processes = Vec::new();
        for (host, inner, other) in ends(site) {
            // It learns its own address from the default route; nothing is sent there.
            host.namespace().ip(&format!("route add default via {}", other.ipv4))?;
            let (port, peer) = (VPNCLOUD_PORT.to_string(), format!("{}:{VPNCLOUD_PORT}", other.ipv4));
            let claim = format!("{inner}/32");
            let common = ["--type", "tun", "--password", "bench", "--no-port-forwarding", "--no-auto-claim"];
            let own = ["--listen", &port, "--device", "vc0", "--claim", &claim];
            let mut arguments = [&common[..], &own].concat();
            if host.name == "a" {
                arguments.extend(["-c", &peer]);
            }
            processes.push(host.spawn("vpncloud", &program, &arguments)?);
        }
        // Not by its own --ip, which sets a wrong one when built with a current compiler.
        let address = Some(site.address("vc0", "")?);
        Ok(Tunnel { address, processes, ..Tunnel::default() })
    }
}
