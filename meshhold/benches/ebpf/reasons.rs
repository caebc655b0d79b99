//! One packet for every reason: what each costs when it comes again and again.

use std::collections::BTreeMap;

use meshhold::datapath::ebpf::Program;
use meshhold_common::Reason;

use crate::{
    report::{Bar, Report},
    runner::{Cost, Runner},
    specimens::zoo,
    support::{policy, usual_scope},
};

const GROUP: &str = "By reason, the same packet again and again";

pub(crate) fn measure(runner: &mut Runner, report: &mut Report) {
    let mut costs: BTreeMap<Reason, Cost> = BTreeMap::new();
    runner.apply(&policy(usual_scope()));
    for specimen in zoo() {
        let packets: Vec<(Program, Vec<u8>)> = specimen.packets().collect();
        let ((program, packet), before) = packets.split_last().unwrap();
        for (program, packet) in before {
            runner.run(name(*program), packet, 1);
        }
        let name = name(*program);
        let reason = runner.reason(name, packet);
        // Where the first run rewrites the packet, the next ones have another one before them.
        if costs.contains_key(&reason) || runner.rewrites(name, packet) {
            continue;
        }
        costs.insert(reason, runner.cost(name, "empty", packet));
    }
    for (reason, cost) in costs {
        report.add(GROUP, format!("`{}`", reason.as_str()), cost, Bar::None);
    }
}

const fn name(program: Program) -> &'static str {
    match program {
        Program::Egress => "egress",
        _ => "ingress",
    }
}
