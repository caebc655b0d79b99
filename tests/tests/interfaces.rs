//! Interfaces of the host that are none, that come and go, or that belong to another namespace: the mesh works.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use meshhold_tests::{Node, run, scenario, service, wait};

const PATIENCE: Duration = Duration::from_secs(5);
/// Starts of the daemon beside interfaces that come and go.
const STARTS: usize = 3;

/// `bonding_masters` is a file there on every host that has loaded the bonding module.
#[test]
fn a_stray_file_in_sys_class_net_is_no_interface() -> Result<()> {
    run("bonding-masters", |lab| {
        let (mut a, mut b) = scenario::strangers(lab)?;
        show_stray_file(&a)?;
        scenario::connect(&mut a, &mut b, &["tcp:80"])?;
        works(&a, &b)
    })
}

#[test]
fn interfaces_that_come_and_go_at_the_start_leave_the_mesh_working() -> Result<()> {
    run("veth-churn", |lab| {
        let (mut a, mut b) = scenario::strangers(lab)?;
        b.join(&a.mint(&["tcp:80"])?, &[])?;
        b.start_and_wait()?;
        let churn = "while :; do for n in 1 2 3 4; do ip link add va$n type veth peer name vb$n; done; \
                     for n in 1 2 3 4; do ip link del va$n; done; done 2>/dev/null";
        let mut churn = a.host.spawn("churn", "sh", &["-c", churn])?;
        for start in 1..=STARTS {
            let status = a.start_and_wait()?;
            ensure!(status.datapath.mode == "ebpf", "start {start}: {:?}", status.warnings);
            b.wait_peer_up(&a)?;
            if start < STARTS {
                a.kill()?;
            }
        }
        ensure!(churn.is_running()?, "the interfaces came and went to the end");
        churn.kill()?;
        works(&a, &b)
    })
}

/// As after `nsenter --net` or with `NetworkNamespacePath=`: /sys shows the interfaces of the namespace it was mounted in.
#[test]
fn a_sysfs_of_another_namespace_is_not_believed() -> Result<()> {
    run("foreign-sysfs", |lab| {
        let (mut a, mut b) = scenario::strangers(lab)?;
        let mount = format!(
            "nsenter --net=/proc/{}/ns/net mount -t sysfs sysfs /sys && mount -t bpf bpf /sys/fs/bpf",
            lab.lan().pid()
        );
        a.host.run("sh", &["-c", &mount])?;
        ensure!(
            a.host.succeeds("test", &["-e", "/sys/class/net/br0"])?,
            "/sys shows the other namespace's bridge"
        );
        scenario::connect(&mut a, &mut b, &["tcp:80"])?;
        works(&a, &b)
    })
}

/// A guard that can't be put is said, tried again, and ends nothing else: here the interface's name is no text.
#[test]
fn an_interface_that_gets_no_guard_is_said_and_the_mesh_works() -> Result<()> {
    run("no-guard", |lab| {
        let (mut a, mut b) = scenario::strangers(lab)?;
        a.host.run("sh", &["-c", r"ip link add $(printf 'odd\377') type bridge"])?;
        scenario::connect(&mut a, &mut b, &["tcp:80"])?;
        let said = |node: &Node| -> Result<usize> {
            let warnings = node.status()?.warnings;
            Ok(warnings.iter().filter(|text| text.contains("no LAN guard on interface odd")).count())
        };
        wait::until_true(PATIENCE, "the missing guard is said", || Ok(said(&a)? == 1))?;
        reaches(&a, &b)?;
        a.host.run("sh", &["-c", r"ip link del $(printf 'odd\377')"])?;
        wait::until_true(PATIENCE, "the warning goes with the interface", || Ok(said(&a)? == 0))?;
        let lines = a.log()?.matches("no LAN guard on interface odd").count();
        ensure!(lines == 1, "logged {lines} times");
        works(&a, &b)
    })
}

/// A copy of the folder, as far as it matters, with the file in it.
fn show_stray_file(node: &Node) -> Result<()> {
    let copy = node.host.directory().join("class-net");
    let script = format!(
        "mkdir {0} && for name in $(ls /sys/class/net); do ln -s $(realpath /sys/class/net/$name) {0}/$name; done && \
         echo bond0 >{0}/bonding_masters && mount --bind {0} /sys/class/net",
        copy.display()
    );
    node.host.run("sh", &["-c", &script]).map(drop)
}

/// Everything is there, nothing is degraded.
fn works(a: &Node, b: &Node) -> Result<()> {
    let status = a.status()?;
    ensure!(status.datapath.mode == "ebpf" && status.warnings.is_empty(), "{status:?}");
    reaches(a, b)
}

/// Services of `a` on all addresses and on loopback, by both families.
fn reaches(a: &Node, b: &Node) -> Result<()> {
    for service in ["0.0.0.0", "127.0.0.1"] {
        let _server = service::echo(&a.host, "tcp", service.parse::<IpAddr>()?, 80)?;
        for address in a.both_addresses()? {
            b.host.tool(&["await", &address.to_string(), "80", "5000"])?;
        }
    }
    Ok(())
}
