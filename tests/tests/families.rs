//! Hosts without IPv6 on the mesh interface, among members that have it.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use meshhold_tests::ask::{dig, explain};
use meshhold_tests::service::{self, Sshd};
use meshhold_tests::{run, scenario, wait};

const PATIENCE: Duration = Duration::from_secs(15);
/// As in a container whose runtime has switched IPv6 off and keeps `/proc/sys` from being written.
const SWITCH_OFF: &str = "for all in all default; do echo 1 > /proc/sys/net/ipv6/conf/$all/disable_ipv6; done; \
    mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys";

#[test]
fn who_has_no_ipv6_says_so_and_is_reached_all_the_same() -> Result<()> {
    run("no-ipv6-inside", |lab| {
        let (mut a, b) = scenario::pair(lab, &["tcp:22", "tcp:9100", "udp:9100"])?;
        let (ipv4, ipv6) = a.addresses()?;
        wait::until_true(PATIENCE, "a has an AAAA while it has IPv6", || {
            Ok(dig(&b, &["+short", "a.mesh", "AAAA"])? == ipv6.to_string())
        })?;
        a.stop()?;
        a.host.run("sh", &["-c", SWITCH_OFF])?;
        let any = Ipv6Addr::UNSPECIFIED.into();
        let shell = Sshd::start(&a.host, &["::", "0.0.0.0"], 22)?;
        let _echoes = [service::echo(&a.host, "tcp", any, 9100)?, service::echo(&a.host, "udp", any, 9100)?];
        a.start_and_wait()?;

        let id = a.id()?;
        wait::until_true(PATIENCE, "b knows that a has no IPv6", || {
            Ok(b.status()?.peer(&id).is_some_and(|peer| peer.ipv6.is_unspecified()))
        })?;
        for (node, name) in [(&a, "a.mesh"), (&b, "a.mesh"), (&a, "b.mesh")] {
            let [four, six] = ["A", "AAAA"].map(|kind| dig(node, &["+short", name, kind]));
            ensure!(!four?.is_empty() && six?.is_empty() == (name == "a.mesh"), "{name}");
        }
        let status = a.status()?;
        ensure!(
            status.networks.iter().all(|network| network.ipv6.is_unspecified()),
            "a shows an IPv6 address"
        );
        ensure!(
            status.warnings.iter().any(|text| text.contains("no IPv6 on mesh0")),
            "{:?}",
            status.warnings
        );

        wait::until_true(PATIENCE, "b pings a", || {
            b.host.succeeds("ping", &["-nc1", "-W1", &ipv4.to_string()])
        })?;
        for address in [IpAddr::V4(ipv4), IpAddr::V6(ipv6)] {
            for (protocol, bytes) in [("tcp", "300000"), ("udp", "1000")] {
                b.host.tool(&["ask", protocol, &address.to_string(), "9100", bytes])?;
            }
            let line = format!("ssh {} root@{address} 'echo here'", shell.options());
            let printed = b.host.run("sh", &["-c", &line])?;
            ensure!(printed.trim() == "here", "{printed}");
        }
        ensure!(b.host.ping(ipv6.into(), 1)? == (0, 1), "a ping by IPv6 is refused at once");
        let (answer, _) = explain(&b, &["icmp", &ipv6.to_string()])?;
        ensure!(
            (answer["verdict"].as_str(), answer["reason"].as_str()) == (Some("drop"), Some("no-owner")),
            "{answer:?}"
        );
        let (answer, _) = explain(&b, &["tcp", &format!("[{ipv6}]:22")])?;
        ensure!(answer["verdict"] == "pass", "{answer:?}");
        let (answer, _) = explain(&a, &["icmp", &ipv6.to_string()])?;
        ensure!(answer["verdict"] == "drop", "{answer:?}");
        Ok(())
    })
}
