//! The measured programs over the daemon's own tables: loads, fills, runs. Knows no packet.

use std::{path::PathBuf, process::Command, time::Instant};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, HashMap, MapData},
    programs::{SchedClassifier, TestRun, TestRunOptions},
};
use meshhold::datapath::{ebpf::EbpfDatapath, policy::Policy};
use meshhold_common::{
    Address, Reason,
    maps::{Flow, FlowKey},
};

use crate::{
    packets::{ACK, TCP, ipv4, tcp},
    support::{OWN4, PEER4},
};

static OBJECT: &[u8] = include_bytes_aligned!(env!("MESHHOLD_EBPF_BENCH"));
/// Many short batches: of these at least one meets no interrupt and no other process.
const BATCHES: u16 = 25;
const REPEAT: u16 = 4_000;
const PROGRAMS: [&str; 15] = [
    "empty",
    "reference",
    "ingress",
    "egress",
    "ingress_next",
    "ingress_scan",
    "egress_next",
    "only_next",
    "ingress_back",
    "egress_back",
    "ingress_next_back",
    "only_back",
    "only_next_back",
    "there_and_back",
    "only_turn",
];

/// What one packet costs.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cost {
    /// The empty program, in nanoseconds.
    pub(crate) empty: f64,
    /// The reference program above that.
    pub(crate) unit: f64,
    /// The measured program above what it is compared with.
    pub(crate) nanoseconds: f64,
}

fn reference_packet() -> Vec<u8> {
    ipv4(PEER4, OWN4, TCP, &tcp(443, 9999, ACK))
}

/// Loaded programs.
pub(crate) struct Runner {
    ebpf: Ebpf,
    datapath: EbpfDatapath,
}

impl Runner {
    /// Pins the daemon's maps on a file system of this namespace, and loads the programs over them.
    pub(crate) fn new() -> Self {
        let mount = tempfile::tempdir().unwrap().keep();
        let status = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&mount).status().unwrap();
        assert!(status.success(), "cannot mount a BPF file system");
        let root = mount.join("v1");
        let datapath = EbpfDatapath::open(Some(&root)).unwrap();
        let pins: Vec<(String, PathBuf)> = std::fs::read_dir(&root)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
            .collect();
        let mut loader = EbpfLoader::new();
        for (name, path) in &pins {
            loader.map_pin_path(name, path.as_path());
        }
        let mut runner = Self { ebpf: loader.load(OBJECT).unwrap(), datapath };
        for name in PROGRAMS {
            runner.program(name).load().unwrap();
        }
        let mut reference: HashMap<&mut MapData, FlowKey, Flow> =
            runner.ebpf.map_mut("REFERENCE").unwrap().try_into().unwrap();
        let (own, peer) = (Address::v4(OWN4), Address::v4(PEER4));
        reference.insert(FlowKey::new(own, peer, 9999, 443, TCP), Flow::default(), 0).unwrap();
        assert!(runner.run("reference", &reference_packet(), 1));
        let _ = Command::new("umount").arg("--lazy").arg(&mount).status();
        let _ = std::fs::remove_dir(&mount);
        runner
    }

    /// Makes this the policy.
    pub(crate) fn apply(&mut self, policy: &Policy) {
        self.datapath.apply(policy).unwrap();
    }

    /// Runs a program over one packet; whether that passed.
    pub(crate) fn run(&mut self, program: &str, packet: &[u8], repeat: u32) -> bool {
        self.test(program, packet, repeat).0
    }

    /// The reasons that one run of a program gives to a packet.
    pub(crate) fn reason(&mut self, program: &str, packet: &[u8]) -> Reason {
        let before = self.datapath.counters().unwrap();
        self.test(program, packet, 1);
        let after = self.datapath.counters().unwrap();
        let changed = Reason::ALL.iter().find(|reason| before[**reason as usize] != after[**reason as usize]);
        *changed.unwrap()
    }

    /// Whether a program changes the packet.
    pub(crate) fn rewrites(&mut self, program: &str, packet: &[u8]) -> bool {
        let mut out = vec![0; packet.len() + 64];
        let options =
            TestRunOptions { data_in: Some(packet), data_out: Some(&mut out), ..TestRunOptions::default() };
        let length = self.program(program).test_run(options).unwrap().data_size_out as usize;
        out[..length] != *packet
    }

    /// The empty program and the reference program.
    pub(crate) fn reference(&mut self) -> Cost {
        self.cost("reference", "empty", &reference_packet())
    }

    /// What a program costs above another one.
    pub(crate) fn cost(&mut self, program: &str, above: &str, packet: &[u8]) -> Cost {
        self.cost_of_each(program, above, BATCHES, |_| packet.to_vec())
    }

    /// The same for programs that make each packet a new one; `packet` gives the one to begin with at this port.
    /// As many packets in all as there are ports.
    pub(crate) fn cost_of_first(
        &mut self,
        program: &str,
        above: &str,
        packet: impl Fn(u16) -> Vec<u8>,
    ) -> Cost {
        self.cost_of_each(program, above, u16::MAX / REPEAT, packet)
    }

    /// Everything that is compared runs in turns, so that what slows the machine down slows down all of it.
    fn cost_of_each(
        &mut self,
        program: &str,
        above: &str,
        batches: u16,
        packet: impl Fn(u16) -> Vec<u8>,
    ) -> Cost {
        let known = reference_packet();
        let mut best = [f64::INFINITY; 4];
        for batch in 0..batches {
            let packet = packet(batch.wrapping_mul(REPEAT));
            self.set_original(&packet);
            let runs = [("empty", &known), ("reference", &known), (above, &packet), (program, &packet)];
            for (best, (program, packet)) in best.iter_mut().zip(runs) {
                *best = best.min(self.test(program, packet, u32::from(REPEAT)).1);
            }
        }
        let [empty, reference, above, program] = best;
        Cost { empty, unit: reference - empty, nanoseconds: program - above }
    }

    fn set_original(&mut self, packet: &[u8]) {
        let mut original = [0_u8; 40];
        let length = packet.len().min(original.len());
        original[..length].copy_from_slice(&packet[..length]);
        let words: [u64; 5] =
            std::array::from_fn(|word| u64::from_ne_bytes(original[word * 8..][..8].try_into().unwrap()));
        let mut map: Array<&mut MapData, [u64; 5]> =
            self.ebpf.map_mut("ORIGINAL").unwrap().try_into().unwrap();
        map.set(0, words, 0).unwrap();
    }

    fn test(&mut self, program: &str, packet: &[u8], repeat: u32) -> (bool, f64) {
        let options = TestRunOptions { data_in: Some(packet), repeat, ..TestRunOptions::default() };
        let program = self.program(program);
        let start = Instant::now();
        let result = program.test_run(options).unwrap();
        // The kernel's own reading is in whole nanoseconds; what the call costs besides is in each, and falls out.
        let nanoseconds = start.elapsed().as_nanos() as f64 / f64::from(repeat);
        (result.return_value as i32 == -1, nanoseconds)
    }

    fn program(&mut self, name: &str) -> &mut SchedClassifier {
        self.ebpf.program_mut(name).unwrap().try_into().unwrap()
    }
}
