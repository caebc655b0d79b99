//! The same packets through the kernel programs and the user-space classifier: no difference allowed.

use std::{collections::BTreeMap, time::Instant};

use meshhold::datapath::ebpf::Program::{self, Egress, Ingress};
use meshhold_common::{Action, Change, Reason};

use crate::{
    specimens::{Specimen, zoo},
    support::{Kernel, is_root, policy, usual_scope},
    tables::Memory,
};

/// How many packets; `MESHHOLD_FUZZ_PACKETS` asks for another number.
const PACKETS: usize = 1_000_000;
/// Packets to one set of tables: fewer than would make the kernel's flow table evict.
const CHUNK: usize = 50_000;
/// Packets between two comparisons of the counters.
const BATCH: usize = 1_000;
/// The kernel's test run takes no shorter and not much longer packets.
const SIZES: std::ops::RangeInclusive<usize> = 14..=2_000;

/// xorshift64*: enough to vary packets, and repeatable.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }
}

/// A packet of the zoo, or pure noise, with up to four changes.
fn packet(random: &mut Random, seeds: &[(Program, Vec<u8>)]) -> (Program, Vec<u8>) {
    let (program, seed) = &seeds[random.below(seeds.len())];
    let program = if random.below(8) == 0 { [Ingress, Egress][random.below(2)] } else { *program };
    let mut bytes = seed.clone();
    if random.below(50) == 0 {
        bytes = (0..random.below(120)).map(|_| random.next() as u8).collect();
    }
    for _ in 0..random.below(5) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        match random.below(8) {
            0 => bytes.truncate(at),
            1 => bytes.extend((0..random.below(40)).map(|_| 0xa5)),
            2 => bytes[at] = random.next() as u8,
            3 => bytes[at] ^= 1 << random.below(8),
            // Fields that matter most: version and lengths, fragment fields, protocols, ports.
            4 => bytes[at % 8] = [0x45, 0x46, 0x60, 0x00, 0x20, 0x2c][random.below(6)],
            5 => bytes[at % 44] = [0, 6, 17, 44, 58, 60, 1, 43][random.below(8)],
            6 => {
                let donor = &seeds[random.below(seeds.len())].1;
                let until = donor.len().min(bytes.len());
                let from = at.min(until);
                bytes[from..until].copy_from_slice(&donor[from..until]);
            }
            _ => {}
        }
    }
    bytes.resize(bytes.len().clamp(*SIZES.start(), *SIZES.end()), 0);
    // Where the test run takes bytes 12 and 13 for an EtherType it knows, it wants that header behind it, and room
    // for the fragment header that the translation takes out.
    match bytes[12..14] {
        [0x86, 0xdd] if bytes.len() < 62 => bytes.resize(62, 0),
        [0x08, 0x00] if bytes.len() < 34 => bytes.resize(34, 0),
        _ => {}
    }
    (program, bytes)
}

/// What the test run makes of a verdict: it cannot change an IPv4 packet's family.
fn expected((reason, action): (Reason, Action)) -> Reason {
    if action.change == Change::ToIpv6 { Reason::RewriteFailed } else { reason }
}

fn run_chunk(
    random: &mut Random,
    seeds: &[(Program, Vec<u8>)],
    packets: usize,
    met: &mut BTreeMap<Reason, usize>,
) {
    let policy = policy(usual_scope());
    let mut kernel = Kernel::new(&policy);
    let mut tables = Memory::new(&policy);
    let mut counts = [0_u64; Reason::COUNT];
    let mut last = packet(random, seeds);
    for number in 1..=packets {
        // Often the same again: then the kernel goes by what it has kept.
        if random.below(4) > 0 {
            last = packet(random, seeds);
        }
        let (program, ref bytes) = last;
        let verdict = if program == Ingress { tables.ingress(bytes) } else { tables.egress(bytes) };
        let reason = expected(verdict);
        assert_eq!(kernel.passes(program, bytes), reason.is_pass(), "{program:?} {reason:?} {bytes:02x?}");
        counts[reason as usize] += 1;
        *met.entry(reason).or_default() += 1;
        if number % BATCH == 0 || number == packets {
            assert_eq!(kernel.0.counters().unwrap(), counts, "last of the batch: {program:?} {bytes:02x?}");
        }
    }
    kernel.assert_conserved();
}

#[test]
fn kernel_and_user_space_agree_on_random_packets() {
    if !is_root() {
        return;
    }
    let wanted = std::env::var("MESHHOLD_FUZZ_PACKETS").map_or(PACKETS, |number| number.parse().unwrap());
    let seeds: Vec<(Program, Vec<u8>)> = zoo().into_iter().flat_map(Specimen::packets).collect();
    let mut random = Random(0x6d65_7368_686f_6c64);
    let mut met = BTreeMap::new();
    let start = Instant::now();
    let mut left = wanted;
    while left > 0 {
        let chunk = left.min(CHUNK);
        run_chunk(&mut random, &seeds, chunk, &mut met);
        left -= chunk;
    }
    println!("{wanted} packets without a difference in {:?}: {met:?}", start.elapsed());
    assert!(wanted < PACKETS || met.len() >= 20, "the packets are too uniform: {met:?}");
}
