//! Real sockets behind the programs on a real TUN, super-packets included: every bind that must be reachable is.
//! `wire.py` plays the encrypted path: it carries packets between two interfaces in two namespaces.

use std::process::Command;

use meshhold::datapath::ebpf::EbpfDatapath;
use meshhold_common::Reason;

use crate::{
    namespace::{self, BpfMount},
    packets::{TCP, UDP},
    support::{NEUTRAL_CALLER4, NEUTRAL_CALLER6, is_root, open, policy},
};

/// As firewalld, Docker or libvirt make the kernel work, whatever rules they put in.
const TRACKING: &str = "table inet lab {
    chain nat { type nat hook prerouting priority -100; }
    chain source { type nat hook postrouting priority 100; }
    chain filter { type filter hook input priority 0; ct state established,related accept; ct state invalid drop; }
}";
const WIRE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel/wire.py");

#[test]
fn services_on_every_bind_are_reachable_by_both_families() {
    if !is_root() || !namespace::inside("live::services_on_every_bind_are_reachable_by_both_families") {
        return;
    }
    let mount = BpfMount::new();
    let mut wire = Command::new("python3")
        .args([WIRE, "wire", "mt0"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(wire.stdout.take().unwrap()), &mut ready)
        .unwrap();
    let peer = ready.trim().to_owned();
    let mut datapath = EbpfDatapath::load("mt0", &mount.pin_root()).unwrap();
    let mut policy = policy(vec![open(TCP, 7000, 7099), open(UDP, 7000, 7099)]);
    datapath.apply(&policy).unwrap();
    let check = || Command::new("python3").args([WIRE, "check", &peer]).status().unwrap().success();
    assert!(check(), "with caller addresses that change checksums");
    let caller = &mut policy.networks[0].peers[0];
    (caller.caller4, caller.caller6) = (NEUTRAL_CALLER4.into(), NEUTRAL_CALLER6.into());
    datapath.apply(&policy).unwrap();
    assert!(check(), "with caller addresses that change none");
    let rules = Command::new("nft").args(["--", TRACKING]).status().unwrap();
    assert!(rules.success() && check(), "beside chains that track connections and translate addresses");
    let (seen, reasons) = datapath.detailed_counters().unwrap();
    println!("seen {seen:?}");
    for (reason, counter) in reasons.iter().filter(|(_, counter)| counter.packets > 0) {
        println!("{reason:?} {counter:?}");
    }
    wire.kill().unwrap();
    wire.wait().unwrap();
    let failed = reasons.iter().find(|(reason, _)| *reason == Reason::RewriteFailed).unwrap();
    assert_eq!(failed.1.packets, 0);
    datapath.detach_all().unwrap();
}
