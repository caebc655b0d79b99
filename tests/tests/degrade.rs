//! A missing privilege, device or kernel feature: one warning that names it, and the node keeps running, closed.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use meshhold_tests::lab::labtool;
use meshhold_tests::{Lab, Node, Settings, run, scenario, service, wait};

/// For how long a degraded daemon is watched.
const WATCH: Duration = Duration::from_secs(1);

const NO_NET_ADMIN: &[&str] = &["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"];
const NO_BPF: &[&str] = &["setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin", "--"];

#[test]
fn a_healthy_node_warns_of_nothing() -> Result<()> {
    run("healthy", |lab| {
        let mut node = keyed(lab, &[])?;
        let status = node.start_and_wait()?;
        ensure!(status.datapath.mode == "ebpf" && status.warnings.is_empty(), "{status:?}");
        ensure!(warnings(&node)?.is_empty(), "{:?}", warnings(&node)?);
        Ok(())
    })
}

#[test]
fn without_cap_net_admin_the_node_runs_without_an_interface() -> Result<()> {
    run("no-net-admin", |lab| {
        let mut node = keyed(lab, NO_NET_ADMIN)?;
        runs_degraded(&mut node, "off", "CAP_NET_ADMIN")
    })
}

#[test]
fn without_the_tun_device_the_node_runs_without_an_interface() -> Result<()> {
    run("no-tun", |lab| {
        let mut node = keyed(lab, &[])?;
        node.host.run("mount", &["-t", "tmpfs", "tmpfs", "/dev/net"])?;
        runs_degraded(&mut node, "off", "/dev/net/tun")
    })
}

#[test]
fn without_ebpf_the_node_is_closed_rather_than_open() -> Result<()> {
    run("no-ebpf", |lab| {
        let (_, mut b) = scenario::strangers(lab)?;
        let mut a =
            Node::new(lab.host("degraded")?, Settings { wrapper: NO_BPF.to_vec(), ..Settings::default() })?;
        b.configure(Settings::knowing(&[&a])?)?;
        b.join(&a.mint(&["tcp:80", "tcp:82"])?, &[])?;
        runs_degraded(&mut a, "userspace", "CAP_BPF")?;
        b.start_and_wait()?;
        b.wait_peer_up(&a)?;
        let (any, loopback): (IpAddr, IpAddr) = ("::".parse()?, "127.0.0.1".parse()?);
        let _servers = [
            service::echo(&a.host, "tcp", any, 80)?,
            service::echo(&a.host, "tcp", any, 81)?,
            service::echo(&a.host, "tcp", loopback, 82)?,
        ];
        for address in a.both_addresses()? {
            let address = address.to_string();
            let reaches = |port| b.host.succeeds(&labtool()?, &["await", &address, port, "1000"]);
            ensure!(reaches("80")?, "an allowed port of a service on all addresses: {address}");
            ensure!(!reaches("81")?, "a port that is not allowed: {address}");
            ensure!(!reaches("82")?, "a loopback service: {address}");
        }
        Ok(())
    })
}

/// A member of a network, not started.
fn keyed(lab: &Lab, wrapper: &[&'static str]) -> Result<Node> {
    let node = Node::new(lab.host("a")?, Settings { wrapper: wrapper.to_vec(), ..Settings::default() })?;
    node.mint(&["tcp:80"])?;
    Ok(node)
}

fn runs_degraded(node: &mut Node, mode: &str, missing: &str) -> Result<()> {
    let status = node.start_and_wait()?;
    ensure!(status.datapath.mode == mode, "{:?}", status.datapath);
    ensure!(status.warnings.iter().any(|text| text.contains(missing)), "status: {:?}", status.warnings);
    wait::until_true(WATCH, "the warning is logged", || Ok(!warnings(node)?.is_empty()))?;
    wait::never(WATCH, "the daemon ends or warns again", || {
        Ok(!node.is_alive()? || warnings(node)?.len() > 1)
    })?;
    ensure!(warnings(node)?.iter().all(|line| line.contains(missing)), "{:?}", warnings(node)?);
    Ok(())
}

/// Warnings about the packet path. That no resolver asks us for names is said once too, and no concern of these tests.
fn warnings(node: &Node) -> Result<Vec<String>> {
    let log = node.log()?;
    let warnings = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
    Ok(warnings.filter(|line| !line.contains("daemon::names")).map(str::to_owned).collect())
}

/// What is attached before a load fails would go on filtering, closed, under the workers that take over.
#[test]
fn programs_that_fail_half_way_leave_the_mesh_to_user_space() -> Result<()> {
    run("half-loaded", |lab| {
        let (mut a, b) = scenario::pair(lab, &["tcp:80"])?;
        let _server = service::echo(&a.host, "tcp", "::".parse()?, 80)?;
        a.kill()?;
        // The ingress program is attached last, and finds that its pin is a folder.
        let spoil =
            "set -e; cd /sys/fs/bpf/meshhold/mesh0*/v1; rm link_mesh_ingress; mkdir link_mesh_ingress";
        a.host.run("sh", &["-c", spoil])?;
        let status = a.start_and_wait()?;
        ensure!(status.datapath.mode == "userspace", "{:?}", status.datapath);
        let told = status.warnings.iter().find(|warning| warning.contains("link_mesh_ingress"));
        ensure!(told.is_some_and(|warning| !warning.contains('\n')), "{:?}", status.warnings);
        b.wait_peer_up(&a)?;
        for address in a.both_addresses()? {
            let address = address.to_string();
            wait::until_true(Duration::from_secs(5), "a service on all addresses is reached", || {
                b.host.succeeds(&labtool()?, &["await", &address, "80", "1000"])
            })?;
            ensure!(b.host.succeeds("ping", &["-n", "-c2", "-W2", &address])?, "ping {address}");
        }
        Ok(())
    })
}
