//! The addresses and the policy of the tests, and a loaded data path that runs single packets.

use std::{
    net::{Ipv4Addr, Ipv6Addr, UdpSocket},
    sync::OnceLock,
};

use aya::programs::{TestRun, TestRunOptions};
use meshhold::datapath::{
    ebpf::{EbpfDatapath, Program},
    policy::{NetworkPolicy, PeerPolicy, Policy, PortRange},
};
use meshhold_common::{Reason, maps::Counter};

use crate::packets::{Ip4, Ip6, TCP, UDP};

/// What the programs return for a packet that goes on.
const NEXT: i32 = -1;
/// What they return for one that leaves by another interface.
const REDIRECT: i32 = 7;
/// What they return for one that does not.
const DROP: i32 = 2;

pub(crate) const OWN4: Ip4 = [198, 18, 0, 1];
pub(crate) const PEER4: Ip4 = [198, 18, 0, 17];
pub(crate) const CALLER4: Ip4 = [127, 64, 0, 9];
pub(crate) const CALLER6: Ip4 = [127, 96, 0, 9];
/// Instead of those two: with 127.0.0.1 they have the sums of the addresses that they stand for, as the daemon chooses
/// them, so no checksum changes.
pub(crate) const NEUTRAL_CALLER4: Ip4 = [127, 64, 141, 245];
pub(crate) const NEUTRAL_CALLER6: Ip4 = [127, 96, 9, 141];
pub(crate) const LOCALHOST: Ip4 = [127, 0, 0, 1];
/// In the range, owned by nobody.
pub(crate) const NOBODY4: Ip4 = [198, 18, 1, 1];
/// Our address in the second network, and a peer of it.
pub(crate) const OTHER_OWN4: Ip4 = [10, 77, 0, 1];
pub(crate) const OTHER_PEER4: Ip4 = [10, 77, 0, 17];

pub(crate) const OWN6: Ip6 = six(1, 1);
/// The kernel's test run takes bytes 12 and 13 of a packet for its EtherType, and a family can only be changed on
/// an IPv6 packet: so these two bytes of the peer's address are 0x86dd.
pub(crate) const PEER6: Ip6 = six(1, 9);
pub(crate) const OTHER_PEER6: Ip6 = six(2, 9);

/// `fd12:<network>:86dd:<node>::1`
const fn six(network: u8, node: u8) -> Ip6 {
    [0xfd, 0x12, 0, network, 0x86, 0xdd, 0, node, 0, 0, 0, 0, 0, 0, 0, 1]
}

pub(crate) fn open(protocol: u8, first: u16, last: u16) -> PortRange {
    PortRange { protocol, first, last }
}

/// Ports open in most tests: SSH, 8000 to 8100, mDNS.
pub(crate) fn usual_scope() -> Vec<PortRange> {
    vec![open(TCP, 22, 22), open(TCP, 8000, 8100), open(UDP, 5353, 5353), open(UDP, 8000, 8000)]
}

/// Two networks, a peer in each; only the first has open ports.
pub(crate) fn policy(scope: Vec<PortRange>) -> Policy {
    let network = |index: u16, own4: Ip4, own6: Ip6, bits: u8, scope, peer| NetworkPolicy {
        index,
        range: (Ipv4Addr::new(own4[0], own4[1], 0, 0), bits),
        prefix6: (Ipv6Addr::new(0xfd12, u16::from(own6[3]), 0, 0, 0, 0, 0, 0), 32),
        own4: Some(own4.into()),
        own6: own6.into(),
        without_ipv6: false,
        scope,
        peers: vec![peer],
        devices: Vec::new(),
    };
    let peer = |index, ipv4: Ip4, ipv6: Ip6, caller4: Ip4, caller6: Ip4| PeerPolicy {
        index,
        ipv4: ipv4.into(),
        ipv6: ipv6.into(),
        caller4: caller4.into(),
        caller6: caller6.into(),
    };
    let first = network(0, OWN4, OWN6, 18, scope, peer(0, PEER4, PEER6, CALLER4, CALLER6));
    let others = peer(1, OTHER_PEER4, OTHER_PEER6, [127, 64, 0, 10], [127, 96, 0, 10]);
    Policy { networks: vec![first, network(1, OTHER_OWN4, six(2, 1), 16, Vec::new(), others)] }
}

/// The real programs with their real maps, attached to nothing.
pub(crate) struct Kernel(pub(crate) EbpfDatapath);

impl Kernel {
    pub(crate) fn new(policy: &Policy) -> Self {
        let mut datapath = EbpfDatapath::open(None).unwrap();
        datapath.apply(policy).unwrap();
        Self(datapath)
    }

    /// True where the packet goes on.
    pub(crate) fn passes(&mut self, program: Program, packet: &[u8]) -> bool {
        let result = self
            .0
            .program(program)
            .unwrap()
            .test_run(TestRunOptions { data_in: Some(packet), ..TestRunOptions::default() });
        match result.unwrap().return_value as i32 {
            NEXT | REDIRECT => true,
            DROP => false,
            other => panic!("{program:?} returned {other}"),
        }
    }

    /// The packet as the program leaves it.
    pub(crate) fn transform(&mut self, program: Program, packet: &[u8]) -> Vec<u8> {
        let mut out = vec![0; packet.len() + 64];
        let result = self.0.program(program).unwrap().test_run(TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        });
        let result = result.unwrap();
        assert!([NEXT, REDIRECT].contains(&(result.return_value as i32)));
        out.truncate(result.data_size_out as usize);
        out
    }

    /// Runs one packet and returns its reason, after checking that nothing else was counted.
    pub(crate) fn reason(&mut self, program: Program, packet: &[u8]) -> Reason {
        let (seen, before) = self.0.detailed_counters().unwrap();
        let passed = self.passes(program, packet);
        let (seen_after, after) = self.0.detailed_counters().unwrap();
        assert_eq!(seen_after.packets, seen.packets + 1);
        let mut changed = before.iter().zip(&after).filter(|(before, after)| before != after);
        let ((reason, old), (_, new)) = changed.next().expect("no reason was counted");
        assert!(changed.next().is_none(), "two reasons for one packet");
        let length = packet.len() as u64;
        assert_eq!(*new, Counter { packets: old.packets + 1, bytes: old.bytes + length });
        assert_eq!(reason.is_pass(), passed, "{reason:?} and the verdict disagree");
        *reason
    }

    /// Counted exactly once, each packet.
    pub(crate) fn assert_conserved(&self) {
        let (seen, reasons) = self.0.detailed_counters().unwrap();
        let sum = reasons.iter().fold(Counter::default(), |sum, (_, counter)| Counter {
            packets: sum.packets + counter.packets,
            bytes: sum.bytes + counter.bytes,
        });
        assert_eq!(seen, sum);
    }
}

/// A service on `127.0.0.1`, UDP port 8000, for all tests; it may be somebody else's.
pub(crate) fn loopback_service() {
    static SERVICE: OnceLock<Option<UdpSocket>> = OnceLock::new();
    SERVICE.get_or_init(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 8000)).ok());
}

/// Says why a test does nothing where it can't.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let root = status.lines().any(|line| line.starts_with("Uid:\t0\t"));
    if !root {
        eprintln!("skipped: loading eBPF programs needs root");
    }
    root
}
