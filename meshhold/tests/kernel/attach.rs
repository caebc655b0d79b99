//! Attaching, pinning, what a killed daemon leaves behind, and a clean exit. In namespaces of its own.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions};
use meshhold::datapath::{
    ebpf::{
        EbpfDatapath,
        Program::{Answer, Egress, Guard, Ingress},
    },
    policy::Policy,
};
use meshhold::platform::linux::sys::monotonic;
use meshhold_common::{
    Address, Reason,
    maps::{FLOW_SECONDS, FLOW_TICKS, FlowKey},
};

use crate::{
    namespace::{self, BpfMount, sh},
    packets::{SYN, TCP, UDP, ipv4, tcp, udp},
    support::{Kernel, OWN4, PEER4, is_root, policy, usual_scope},
};

/// Ids of the programs attached in one place.
pub(crate) fn attached(interface: &str, direction: TcAttachType) -> Vec<u32> {
    let (_, programs) = SchedClassifier::query_tcx(interface, direction).unwrap();
    programs.iter().map(|program| program.id()).collect()
}

/// The kernel frees an unpinned link a moment later.
pub(crate) fn wait_for(interface: &str, direction: TcAttachType, count: usize) -> Vec<u32> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let programs = attached(interface, direction);
        if programs.len() == count {
            return programs;
        }
        assert!(Instant::now() < deadline, "{interface} {direction:?}: {programs:?}, expected {count}");
        std::thread::yield_now();
    }
}

pub(crate) fn interfaces() {
    sh("ip tuntap add dev mt0 mode tun");
    sh("ip link add ga0 type veth peer name gb0");
}

#[test]
fn policy_outlives_a_killed_daemon_and_the_next_one_takes_over() {
    if !is_root() || !namespace::inside("attach::policy_outlives_a_killed_daemon_and_the_next_one_takes_over")
    {
        return;
    }
    let mount = BpfMount::new();
    let root = mount.pin_root();
    interfaces();
    let request = ipv4(PEER4, OWN4, TCP, &tcp(1, 22, SYN));

    let mut first = EbpfDatapath::load("mt0", &root).unwrap();
    first.apply(&policy(usual_scope())).unwrap();
    first.guard("ga0").unwrap();
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(Kernel(first).reason(Ingress, &request), Reason::PassScope);

    // Dropped without detaching, as after SIGKILL: everything is still in place.
    let before = [TcAttachType::Ingress, TcAttachType::Egress].map(|direction| attached("mt0", direction));
    let guard = attached("ga0", TcAttachType::Ingress);
    assert!(before.iter().all(|programs| programs.len() == 1));
    assert_eq!(guard.len(), 1);

    let mut second = Kernel(EbpfDatapath::load("mt0", &root).unwrap());
    second.0.guard("ga0").unwrap();
    let after = [TcAttachType::Ingress, TcAttachType::Egress].map(|direction| attached("mt0", direction));
    assert!(after.iter().zip(&before).all(|(after, before)| after.len() == 1 && after != before));
    assert_ne!(wait_for("ga0", TcAttachType::Ingress, 1), guard);

    // What was in force stays in force until the new daemon says otherwise, and nothing else is.
    assert_eq!(second.reason(Ingress, &request), Reason::PassScope);
    let closed = ipv4(PEER4, OWN4, TCP, &tcp(1, 23, SYN));
    assert_eq!(second.reason(Ingress, &closed), Reason::PortDenied);
    let frame = [&[2; 12], &[8, 0][..], &request].concat();
    assert_eq!(second.reason(Guard, &frame), Reason::LanGuard);
    second.0.apply(&policy(usual_scope())).unwrap();
    assert_eq!(second.reason(Ingress, &request), Reason::PassScope);
    second.0.apply(&Policy::default()).unwrap();
    assert_eq!(second.reason(Ingress, &request), Reason::NotForUs);

    second.0.unguard("ga0").unwrap();
    second.0.unguard("ga0").unwrap();
    wait_for("ga0", TcAttachType::Ingress, 0);
    second.0.guard("ga0").unwrap();
    second.0.detach_all().unwrap();
    for interface in ["mt0", "ga0"] {
        wait_for(interface, TcAttachType::Ingress, 0);
    }
    assert!(!Path::new(&root).exists());
}

/// Streams that nobody answers live on while they come, and a flow of long ago doesn't come alive by it. Flows that are told by
/// user space are as good as any.
#[test]
fn what_is_received_keeps_a_udp_flow_alive() {
    if !is_root() {
        return;
    }
    let mut kernel = Kernel::new(&policy(usual_scope()));
    assert!(kernel.0.take_forgotten() && !kernel.0.take_forgotten());
    let now = monotonic();
    let before = |seconds: u64| now.wrapping_sub(seconds * 1_000_000_000);
    let flow = |port| FlowKey::new(Address::v4(OWN4), Address::v4(PEER4), port, 5004, UDP);
    let stream = |port| ipv4(PEER4, OWN4, UDP, &udp(5004, port));
    kernel.0.seed(&[flow(41_000)], before(u64::from(FLOW_SECONDS) - 20)).unwrap();
    kernel.0.seed(&[flow(41_001)], before(u64::from(FLOW_SECONDS) + 20)).unwrap();
    kernel.0.seed(&[flow(41_002)], now).unwrap();
    let flows = kernel.0.flows().unwrap();
    assert_eq!(kernel.reason(Ingress, &stream(41_000)), Reason::PassFlow);
    assert_eq!(kernel.reason(Ingress, &stream(41_001)), Reason::PortDenied);
    assert_eq!(kernel.reason(Ingress, &stream(41_002)), Reason::PassFlow);
    let renewed = kernel.0.flows().unwrap();
    let (old, new) = (flows[&flow(41_000)], renewed[&flow(41_000)]);
    assert!(new.used.wrapping_sub(old.used) >= FLOW_TICKS - 25 && new.sent == old.sent, "{old:?} {new:?}");
    assert_eq!(flows[&flow(41_001)], renewed[&flow(41_001)]);
}

#[test]
fn a_pin_of_another_layout_is_made_anew_and_a_vanished_interface_does_not_hurt() {
    let name = "attach::a_pin_of_another_layout_is_made_anew_and_a_vanished_interface_does_not_hurt";
    if !is_root() || !namespace::inside(name) {
        return;
    }
    let mount = BpfMount::new();
    let root = mount.pin_root();
    interfaces();
    drop(EbpfDatapath::load("mt0", &root).unwrap());
    fs::remove_file(root.join("PORTS")).unwrap();
    fs::rename(root.join("FLOWS"), root.join("PORTS")).unwrap();
    sh("ip link del mt0");
    sh("ip tuntap add dev mt0 mode tun");
    let mut datapath = EbpfDatapath::load("mt0", &root).unwrap();
    datapath.apply(&policy(usual_scope())).unwrap();
    let mut kernel = Kernel(datapath);
    assert_eq!(kernel.reason(Ingress, &ipv4(PEER4, OWN4, TCP, &tcp(1, 22, SYN))), Reason::PassScope);
    wait_for("mt0", TcAttachType::Ingress, 1);
    kernel.0.detach_all().unwrap();
}

/// User space takes over then, and must not find a closed program in its way.
#[test]
fn a_load_that_fails_half_way_leaves_nothing_attached() {
    let name = "attach::a_load_that_fails_half_way_leaves_nothing_attached";
    if !is_root() || !namespace::inside(name) {
        return;
    }
    let mount = BpfMount::new();
    let root = mount.pin_root();
    interfaces();
    let mut first = EbpfDatapath::load("mt0", &root).unwrap();
    first.guard("ga0").unwrap();
    drop(first);
    // The ingress program comes last and finds its pin taken.
    fs::remove_file(root.join("link_mesh_ingress")).unwrap();
    fs::create_dir(root.join("link_mesh_ingress")).unwrap();
    let error = EbpfDatapath::load("mt0", &root).err().expect("a folder can't be replaced by a pin");
    assert!(error.to_string().contains("link_mesh_ingress"), "{error}");
    for (interface, direction) in
        [("mt0", TcAttachType::Egress), ("mt0", TcAttachType::Ingress), ("ga0", TcAttachType::Ingress)]
    {
        wait_for(interface, direction, 0);
    }
    fs::remove_dir(root.join("link_mesh_ingress")).unwrap();
    let mut again = EbpfDatapath::load("mt0", &root).unwrap();
    again.apply(&policy(usual_scope())).unwrap();
    let mut kernel = Kernel(again);
    let request = ipv4(PEER4, OWN4, TCP, &tcp(1, 22, SYN));
    assert_eq!(kernel.reason(Ingress, &request), Reason::PassScope);
    assert_eq!(kernel.reason(Egress, &ipv4(OWN4, PEER4, TCP, &tcp(22, 1, SYN))), Reason::PassEgress);
    kernel.0.detach_all().unwrap();
}

#[test]
fn a_drop_is_told_once_and_not_more_often_than_the_limit() {
    if !is_root() {
        return;
    }
    let mut kernel = Kernel::new(&policy(usual_scope()));
    let mut events = kernel.0.events().unwrap();
    assert!(kernel.0.events().is_none());
    assert!(kernel.passes(Ingress, &ipv4(PEER4, OWN4, TCP, &tcp(7, 22, SYN))));
    assert_eq!(events.next_event(), None, "a passed packet is no event");
    let denied = ipv4(PEER4, OWN4, TCP, &tcp(7, 23, SYN));
    assert!(!kernel.passes(Ingress, &denied));
    let event = events.next_event().unwrap();
    assert_eq!((event.source.octets4(), event.destination.octets4()), (PEER4, OWN4));
    assert_eq!((event.reason, event.length), (Reason::PortDenied as u32, denied.len() as u32));
    assert_eq!((event.source_port, event.destination_port, event.protocol), (7, 23, TCP));
    for _ in 0..1000 {
        assert!(!kernel.passes(Ingress, &denied));
    }
    let mut told = 0;
    while events.next_event().is_some() {
        told += 1;
    }
    // A thousand runs can meet one change of the second, on each of the CPUs they ran on.
    assert!((9..=100).contains(&told), "{told} events");
}

/// Somebody else's program on the same hook goes on seeing what we let by, and stays when we go.
#[test]
fn a_foreign_program_is_left_alone() {
    let name = "attach::a_foreign_program_is_left_alone";
    if !is_root() || !namespace::inside(name) {
        return;
    }
    let mount = BpfMount::new();
    interfaces();
    let mut foreign = EbpfDatapath::open(None).unwrap();
    for interface in ["mt0", "ga0"] {
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        let program = foreign.program(Answer).unwrap();
        program.attach_with_options(interface, TcAttachType::Ingress, order).unwrap();
    }
    let theirs = ["mt0", "ga0"].map(|interface| attached(interface, TcAttachType::Ingress));
    let mut datapath = EbpfDatapath::load("mt0", &mount.pin_root()).unwrap();
    datapath.apply(&policy(usual_scope())).unwrap();
    datapath.guard("ga0").unwrap();
    for (interface, theirs) in ["mt0", "ga0"].into_iter().zip(&theirs) {
        let all = attached(interface, TcAttachType::Ingress);
        assert_eq!((all.len(), all.last()), (2, theirs.last()), "ours comes first on {interface}");
    }
    datapath.detach_all().unwrap();
    for (interface, theirs) in ["mt0", "ga0"].into_iter().zip(theirs) {
        assert_eq!(wait_for(interface, TcAttachType::Ingress, 1), theirs);
    }
}
