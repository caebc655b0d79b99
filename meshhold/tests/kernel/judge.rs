//! What is explained is what happens: for every reason, a real packet through the attached programs on real interfaces, and
//! the same packet as a question. `wire.py` sends the packets.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
};

use meshhold::datapath::{
    ebpf::{
        EbpfDatapath,
        Program::{self, DeviceIngress, Guard},
    },
    policy::Policy,
    probe::{Packet, Way},
};
use meshhold_common::Reason;

use crate::{
    device::{hopless, to_device, with_device},
    namespace::{self, BpfMount},
    packets::{SYN, TCP, UDP, ipv4, ports},
    specimens::{Specimen, zoo},
    support::{OWN4, is_root, policy, usual_scope},
};

const WIRE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel/wire.py");

/// Sends packets by the mesh interface and by another one.
struct Injector {
    process: Child,
    said: BufReader<ChildStdout>,
}

impl Injector {
    fn start() -> Self {
        let mut process = Command::new("python3")
            .args([WIRE, "inject", "mt0", "ga0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        let mut injector = Self { process, said };
        assert_eq!(injector.hear(), "ready");
        injector
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// False where the interface doesn't take such a packet at all.
    fn send(&mut self, packet: &Packet) -> bool {
        let way = match packet.way {
            Way::In => "in",
            Way::Out => "out",
            Way::Lan => "lan",
        };
        let text: String = packet.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(self.process.stdin.as_mut().unwrap(), "{way} {text}").unwrap();
        self.hear() == "sent"
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn placed(program: Program, bytes: Vec<u8>) -> Packet {
    let way = match program {
        Program::Egress => Way::Out,
        Guard => Way::Lan,
        _ => Way::In,
    };
    Packet { way, bytes }
}

/// What a live packet was counted as.
fn counted(datapath: &EbpfDatapath, act: impl FnOnce()) -> Vec<Reason> {
    let before = datapath.counters().unwrap();
    act();
    let after = datapath.counters().unwrap();
    let changed = Reason::ALL.iter().zip(before.iter().zip(&after)).filter(|(_, (old, new))| old != new);
    changed.map(|(reason, _)| *reason).collect()
}

/// Specimens of what the zoo leaves out, each with its policy.
fn others() -> Vec<(Policy, Specimen)> {
    let specimen = |program, packet, reason| Specimen {
        what: "of the gateway and the guard",
        before: Vec::new(),
        program,
        packet,
        reason,
    };
    let mut cases: Vec<_> = [
        (to_device(TCP, 22, SYN), Reason::PassForward),
        (to_device(UDP, 5353, 0), Reason::PassForward),
        (to_device(TCP, 23, SYN), Reason::PortDenied),
        (to_device(TCP, 22, 0x04), Reason::NoTranslation),
        (hopless(to_device(TCP, 22, SYN)), Reason::HopLimit),
    ]
    .into_iter()
    .map(|(packet, reason)| (with_device(true), specimen(DeviceIngress, packet, reason)))
    .collect();
    let unreachable = specimen(DeviceIngress, to_device(TCP, 22, SYN), Reason::DeviceUnreachable);
    cases.push((with_device(false), unreachable));
    let smuggled = ipv4([192, 0, 2, 1], OWN4, TCP, &ports(TCP, 1, 22, SYN));
    cases.push((policy(usual_scope()), specimen(Guard, smuggled, Reason::LanGuard)));
    cases
}

#[test]
fn explained_and_live_packets_have_the_same_reason() {
    let name = "judge::explained_and_live_packets_have_the_same_reason";
    if is_root() && namespace::inside(name) {
        let met = explained_as_they_happen(1);
        let all = Reason::ALL.iter().copied().filter(|reason| reason.is_classifier());
        let missing: Vec<_> = all.filter(|reason| !met.contains(reason)).collect();
        // A rewrite is refused only where the kernel is out of memory. Nobody asks about a packet of another interface, where the
        // barrier is: `zoo` has that.
        assert_eq!(missing, [Reason::RewriteFailed, Reason::Barrier]);
    }
}

/// Before Linux 6.6; a part of them, for the programs are the same.
#[test]
fn explained_and_live_packets_have_the_same_reason_by_clsact() {
    let name = "judge::explained_and_live_packets_have_the_same_reason_by_clsact";
    if is_root() && namespace::inside_by(name, "clsact") {
        let met = explained_as_they_happen(12);
        assert!(met.contains(&Reason::LanGuard) && met.contains(&Reason::PassForward), "{met:?}");
    }
}

/// Takes every so many specimens of the zoo, and all others. Yields the reasons that were met.
fn explained_as_they_happen(step: usize) -> BTreeSet<Reason> {
    let mount = BpfMount::new();
    let mut injector = Injector::start();
    let (mut met, mut refused) = (BTreeSet::new(), 0);
    let zoo = zoo().into_iter().step_by(step).map(|specimen| (policy(usual_scope()), specimen));
    for (policy, specimen) in zoo.chain(others()) {
        let what = specimen.what;
        let mut datapath = EbpfDatapath::load("mt0", &mount.pin_root()).unwrap();
        datapath.apply(&policy).unwrap();
        datapath.guard("ga0").unwrap();
        for (program, bytes) in specimen.before {
            assert!(injector.send(&placed(program, bytes)), "{what}");
        }
        let packet = placed(specimen.program, specimen.packet);
        let mut explained = None;
        let by_asking = counted(&datapath, || explained = datapath.judge(&policy, &packet).unwrap());
        assert_eq!((by_asking, explained), (Vec::new(), Some(specimen.reason)), "{what}: explained");
        let mut sent = true;
        let live = counted(&datapath, || sent = injector.send(&packet));
        // A dropped packet may be an error for its sender too.
        if sent || !live.is_empty() {
            assert_eq!(live, [specimen.reason], "{what}: live");
            met.insert(specimen.reason);
        } else {
            refused += 1;
        }
        datapath.detach_all().unwrap();
    }
    println!(
        "figure: {} reasons, each explained as it happens; {refused} packets that no interface takes",
        met.len()
    );
    met
}
