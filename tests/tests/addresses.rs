//! Hosts with other addresses than usual: none of IPv6, several of one family, one on a tunnel. The mesh works there without
//! a word of configuration.

use std::time::Duration;

use anyhow::{Result, ensure};
use meshhold_tests::lab::{benchtool, without_ipv6};
use meshhold_tests::process::Process;
use meshhold_tests::{Host, Lab, Node, Settings, path, run, wait};

const PATIENCE: Duration = Duration::from_secs(20);

/// `ipv6.disable=1`, or a container whose seccomp profile has no AF_INET6: socket(2) says EAFNOSUPPORT.
#[test]
fn a_kernel_without_ipv6_runs_on_ipv4_alone() -> Result<()> {
    run("no-ipv6", |lab| {
        let everything =
            Settings { lan_discovery: true, port_mapping: true, dht: true, ..Settings::default() };
        let settings = Settings { wrapper: without_ipv6()?, api: Some(""), ..everything };
        let mut bare = Node::new(lab.host("bare")?, settings)?;
        let status = joined(lab, &mut bare)?;
        ensure!(status.warnings.is_empty(), "{:?}", status.warnings);
        let log = bare.log()?;
        ensure!(log.matches("this kernel has no IPv6: listening on 0.0.0.0:7777").count() == 1, "{log}");
        Ok(())
    })
}

#[test]
fn ipv6_that_is_switched_off_or_kept_apart_changes_nothing() -> Result<()> {
    run("odd-ipv6", |lab| {
        for (name, setting) in [("off", "net/ipv6/conf/all/disable_ipv6"), ("apart", "net/ipv6/bindv6only")] {
            let host = lab.host(name)?;
            host.run("sh", &["-c", &format!("echo 1 > /proc/sys/{setting}")])?;
            let mut node = Node::new(host, Settings::default())?;
            let status = joined(lab, &mut node)?;
            ensure!(status.warnings.is_empty(), "{:?}", status.warnings);
        }
        Ok(())
    })
}

/// Lets `node` meet a member that knows it by its IPv4 address, until each pings the other.
fn joined(lab: &Lab, node: &mut Node) -> Result<meshhold_tests::status::Status> {
    let mut other = Node::new(lab.host(&format!("other-{}", node.host.name))?, Settings::knowing(&[node])?)?;
    other.join(&node.mint(&[])?, &[])?;
    let status = node.start_and_wait()?;
    other.start_and_wait()?;
    other.wait_peer_up(node)?;
    node.wait_peer_up(&other)?;
    Ok(status)
}

/// Rootless podman's tap0, pasta, a full tunnel: the only address that leads anywhere is a tunnel's, and others know it.
#[test]
fn a_node_whose_only_uplink_is_a_tun_device_is_called() -> Result<()> {
    run("tun-uplink", |lab| {
        let (router, inner) = (lab.host("router")?, lab.host("inner")?);
        let _tunnel = tunnel(&router, &inner)?;
        let mut inner = Node::new(inner, Settings::default())?;
        let mut caller = Node::new(lab.host("caller")?, Settings::default())?;
        caller.host.namespace().ip(&format!("route add {INNER} via {}", router.ipv4))?;
        inner.configure(Settings::knowing(&[&caller])?)?;
        inner.join(&caller.mint(&[])?, &[])?;
        caller.start_and_wait()?;
        inner.start_and_wait()?;
        // Nothing goes the other way before.
        caller.wait_peer_up(&inner)?;
        let direct = |path: &meshhold_tests::status::Path| {
            path.remote.is_some_and(|remote| remote.ip().to_string() == INNER)
        };
        path::wait_shown(PATIENCE, &caller, &inner.id()?, direct).map(drop)
    })
}

const INNER: &str = "10.95.0.2";

/// Makes `inner` reachable by [`INNER`] alone, on a TUN device that holds its default route; its cable carries nothing else.
fn tunnel(router: &Host, inner: &Host) -> Result<Vec<Process>> {
    let (tool, mut ends) = (benchtool()?, Vec::new());
    for (host, other) in [(router, inner), (inner, router)] {
        let [local, remote] = [host, other].map(|end| format!("[{}]:5000", end.ipv6));
        ends.push(host.spawn("tunnel", &tool, &["copy", "split", "aes-128-gcm", "tap0", &local, &remote])?);
        wait::until_true(PATIENCE, "the tunnel's device is there", || {
            host.succeeds("ip", &["link", "show", "tap0"])
        })?;
        host.namespace().ip("link set tap0 up")?;
    }
    router.namespace().ip("address add 10.95.0.1 peer 10.95.0.2 dev tap0")?;
    router.run("sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
    inner.namespace().ip(&format!("address delete {}/24 dev eth0", inner.ipv4))?;
    inner.namespace().ip("address add 10.95.0.2/32 dev tap0")?;
    inner.namespace().ip("route add default dev tap0")?;
    // Of the cable's own address nobody may make use but the tunnel.
    let cable = "table inet cable {
        chain input { type filter hook input priority 0; iifname eth0 udp dport 7777 drop; }
        chain output { type filter hook output priority 0; oifname eth0 udp dport 7777 drop; }
    }";
    inner.run("nft", &[cable])?;
    Ok(ends)
}
