//! Every program passes the verifier, inside its budget.

use std::time::Instant;

use meshhold::datapath::ebpf::{EbpfDatapath, Program};

use crate::support::is_root;

/// Most instructions that the verifier may have to walk through for one program; its own limit is a million.
const VERIFIED_INSTRUCTIONS: u32 = 50_000;

#[test]
fn the_verifier_accepts_every_program_within_budget() {
    if !is_root() {
        return;
    }
    let start = Instant::now();
    let mut datapath = EbpfDatapath::open(None).unwrap();
    println!("loaded in {:?}", start.elapsed());
    let mut worst = 0;
    for program in Program::ALL {
        let info = datapath.program(program).unwrap().info().unwrap();
        let verified = info.verified_instruction_count().unwrap();
        println!(
            "{}: {verified} instructions verified, {} bytes of machine code",
            program.name(),
            info.size_jitted()
        );
        worst = worst.max(verified);
    }
    assert!(worst <= VERIFIED_INSTRUCTIONS);
}
