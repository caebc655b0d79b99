//! Programs as filters, as before Linux 6.6: what a killed daemon leaves behind, other people's filters, and a clean exit.

use std::{fs, os::fd::AsFd as _, path::Path, process::Command};

use meshhold::{
    datapath::{
        ebpf::{
            EbpfDatapath, Hook,
            Program::{Answer, Guard, Ingress},
        },
        policy::Policy,
    },
    platform::linux::{
        sys,
        tc::{self, Filter, Seat, Side},
    },
};
use meshhold_common::Reason;

use crate::{
    attach::{attached, interfaces},
    namespace::{self, BpfMount, sh},
    packets::{SYN, TCP, ipv4, tcp},
    support::{Kernel, OWN4, PEER4, is_root, policy, usual_scope},
};

fn filters(interface: &str, side: Side) -> Vec<Filter> {
    tc::filters(sys::index_of(interface).unwrap(), side).unwrap()
}

/// Filters and qdiscs as an operator sees them; ids of programs and the like are left out.
fn shown(interface: &str) -> String {
    let tc = |words: &[&str]| {
        let output = Command::new("tc").args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let disciplines = tc(&["qdisc", "show", "dev", interface]);
    ["ingress", "egress"]
        .iter()
        .fold(disciplines, |text, side| text + &tc(&["filter", "show", "dev", interface, side]))
}

#[test]
fn filters_outlive_a_killed_daemon_and_are_replaced_in_place() {
    let name = "clsact::filters_outlive_a_killed_daemon_and_are_replaced_in_place";
    if !is_root() || !namespace::inside_by(name, "clsact") {
        return;
    }
    let mount = BpfMount::new();
    let root = mount.pin_root();
    interfaces();
    let before = ["mt0", "ga0"].map(shown);
    let request = ipv4(PEER4, OWN4, TCP, &tcp(1, 22, SYN));

    let mut first = EbpfDatapath::load("mt0", &root).unwrap();
    assert_eq!(first.hook(), Hook::Clsact);
    first.apply(&policy(usual_scope())).unwrap();
    first.guard("ga0").unwrap();
    drop(first);
    let places = [("mt0", Side::Ingress), ("mt0", Side::Egress), ("ga0", Side::Ingress)];
    let left = places.map(|(interface, side)| filters(interface, side));
    assert!(left.iter().all(|filters| filters.len() == 1), "{left:?}");
    assert!(shown("mt0").contains("meshhold:mesh_ingress"), "{}", shown("mt0"));

    let mut second = EbpfDatapath::load("mt0", &root).unwrap();
    second.guard("ga0").unwrap();
    let now = places.map(|(interface, side)| filters(interface, side));
    for (now, left) in now.iter().zip(&left) {
        let ([now], [left]) = (now.as_slice(), left.as_slice()) else { panic!("{now:?} after {left:?}") };
        assert_eq!((now.priority, now.handle), (left.priority, left.handle));
        assert_ne!(now.program, left.program);
    }
    let mut kernel = Kernel(second);
    assert_eq!(kernel.reason(Ingress, &request), Reason::PassScope, "what was in force stays");
    let frame = [&[2; 12], &[8, 0][..], &request].concat();
    assert_eq!(kernel.reason(Guard, &frame), Reason::LanGuard);
    kernel.0.apply(&policy(usual_scope())).unwrap();
    assert_eq!(kernel.reason(Ingress, &request), Reason::PassScope);
    kernel.0.apply(&Policy::default()).unwrap();

    for _ in 0..2 {
        kernel.0.unguard("ga0").unwrap();
        assert_eq!(filters("ga0", Side::Ingress), []);
    }
    kernel.0.guard("ga0").unwrap();
    sh("ip link set ga0 name gz0");
    kernel.0.guard("gz0").unwrap();
    assert_eq!(filters("gz0", Side::Ingress).len(), 1, "renamed, it still has one");
    kernel.0.unguard("ga0").unwrap();
    assert_eq!(filters("gz0", Side::Ingress).len(), 1);
    sh("ip link set gz0 name ga0");
    kernel.0.guard("ga0").unwrap();
    kernel.0.detach_all().unwrap();
    assert_eq!(["mt0", "ga0"].map(shown), before);
    assert!(!Path::new(&root).exists());
}

/// Whoever had filters or a qdisc there has them afterwards, and ours come first meanwhile.
#[test]
fn filters_of_others_stay_and_two_daemons_keep_apart() {
    let name = "clsact::filters_of_others_stay_and_two_daemons_keep_apart";
    if !is_root() || !namespace::inside_by(name, "clsact") {
        return;
    }
    let mount = BpfMount::new();
    interfaces();
    sh("ip tuntap add dev mt1 mode tun");
    // Another program at the first priority, and one of another kind there.
    let foreign = EbpfDatapath::open(None).unwrap();
    let mut foreign = Kernel(foreign);
    let program = foreign.0.program(Answer).unwrap().fd().unwrap().as_fd().try_clone_to_owned().unwrap();
    for interface in ["mt0", "gb0"] {
        let seat = Seat { interface: sys::index_of(interface).unwrap(), side: Side::Ingress, handle: 1 };
        assert!(tc::set(&seat, "theirs", program.as_fd()).unwrap());
    }
    sh("tc qdisc add dev ga0 clsact");
    sh("tc filter add dev ga0 ingress protocol ip prio 1 u32 match u32 0 0 flowid 1:1");
    sh("tc filter add dev ga0 egress protocol all prio 9 u32 match u32 0 0 flowid 1:1");
    let places = ["mt0", "ga0", "gb0"];
    let before = places.map(shown);

    let mut one = EbpfDatapath::load("mt0", &mount.pin_root()).unwrap();
    let mut other = EbpfDatapath::load("mt1", &mount.0.path().join("meshhold/mt1/v1")).unwrap();
    for guarded in ["ga0", "gb0"] {
        one.guard(guarded).unwrap();
        other.guard(guarded).unwrap();
    }
    let on = |interface| filters(interface, Side::Ingress);
    assert_eq!((on("ga0").len(), on("gb0").len(), on("mt0").len()), (2, 3, 2));
    for interface in ["gb0", "mt0"] {
        let all = on(interface);
        assert_eq!(
            all.last().map(|filter| filter.handle),
            Some(1),
            "theirs comes last on {interface}: {all:?}"
        );
    }
    one.detach_all().unwrap();
    assert_eq!((on("ga0").len(), on("gb0").len(), on("mt1").len()), (1, 2, 1));
    other.detach_all().unwrap();
    assert_eq!(places.map(shown), before);
}

/// Shapers make it (`tc qdisc add dev eth0 ingress`). It has the handle of clsact and takes filters for egress too, but runs
/// them on what comes in.
#[test]
fn an_ingress_qdisc_takes_no_program_for_egress() {
    let name = "clsact::an_ingress_qdisc_takes_no_program_for_egress";
    if !is_root() || !namespace::inside_by(name, "clsact") {
        return;
    }
    let mount = BpfMount::new();
    interfaces();
    sh("tc qdisc add dev ga0 ingress");
    sh("tc qdisc add dev mt0 ingress");
    let before = ["mt0", "ga0"].map(shown);
    let error = EbpfDatapath::load("mt0", &mount.pin_root()).err().expect("no egress there").to_string();
    assert!(
        error.contains("mesh_egress") && error.contains("`ingress` qdisc") && !error.contains('\n'),
        "{error}"
    );
    assert_eq!(["mt0", "ga0"].map(shown), before);
    sh("tc qdisc del dev mt0 ingress");
    let mut datapath = EbpfDatapath::load("mt0", &mount.pin_root()).unwrap();
    let error = datapath.guard("ga0").unwrap_err().to_string();
    assert!(error.contains("mesh_barrier") && error.contains("`ingress` qdisc"), "{error}");
    assert_eq!(filters("ga0", Side::Ingress).len(), 1, "the guard is there without the barrier");
    datapath.detach_all().unwrap();
    assert_eq!(shown("ga0"), before[1]);
}

#[test]
fn what_a_killed_daemon_left_is_taken_off_without_it() {
    for hook in ["clsact", "tcx"] {
        let name = "clsact::what_a_killed_daemon_left_is_taken_off_without_it";
        if !is_root() || !namespace::inside_by(name, hook) {
            continue;
        }
        let mount = BpfMount::new();
        let root = mount.pin_root();
        interfaces();
        let before = ["mt0", "ga0"].map(shown);
        let mut killed = EbpfDatapath::load("mt0", &root).unwrap();
        killed.guard("ga0").unwrap();
        let hook = killed.hook();
        drop(killed);
        EbpfDatapath::take_off("mt0", &root).unwrap();
        assert_eq!(["mt0", "ga0"].map(shown), before, "{hook:?}");
        assert!(attached("mt0", aya::programs::TcAttachType::Ingress).is_empty(), "{hook:?}");
        let pins =
            fs::read_dir(&root).unwrap().flatten().filter_map(|pin| pin.file_name().into_string().ok());
        let attached: Vec<String> = pins.filter(|pin| pin.starts_with("link_")).collect();
        assert_eq!(attached, Vec::<String>::new());
        return;
    }
}
