//! Asks the programs about a packet that nobody sent (`BPF_PROG_TEST_RUN`).
//!
//! By programs of their own, loaded for the question and attached to nothing: whatever they count, open or remember ends
//! with them. Sockets are looked up in the namespace that the process runs in, as by the attached ones.

use aya::programs::{TestRun as _, TestRunOptions};
use meshhold_common::Reason;

use super::{EbpfDatapath, EbpfError, Program};
use crate::datapath::policy::Policy;
use crate::datapath::probe::{Packet, Way};

/// Shorter packets can't be run (`ETH_HLEN`).
pub const LEAST: usize = 14;
/// Where a test run reads an EtherType, in an IPv6 packet the middle of its source address; only with that of IPv6 there
/// a program can change the family of the packet.
const ETHERTYPE_AT: usize = 12;
/// `ETH_P_IPV6`.
const ETHERTYPE: [u8; 2] = [0x86, 0xdd];

impl EbpfDatapath {
    /// What would become of `packet` at these programs, with the policy in force. `None`: they let it by without a word.
    ///
    /// # Errors
    /// [`EbpfError`] where the kernel can't run one.
    pub fn judge(&self, policy: &Policy, packet: &Packet) -> Result<Option<Reason>, EbpfError> {
        let found = self.copy(policy)?.run(packet.way, &framed(packet))?;
        match (found, packet.way) {
            // The decision to pass had been made, and the only one that is followed by a change of the packet.
            (Some(Reason::RewriteFailed), Way::Out) => Ok(Some(Reason::PassEgress)),
            // Of what comes by IPv4, only that for a device of the other family.
            (Some(Reason::RewriteFailed), _) if !packet.is_ipv6() => Ok(Some(Reason::PassForward)),
            (Some(Reason::RewriteFailed), _) => {
                let (policy, packet) = standing_in(policy, packet);
                self.copy(&policy)?.run(packet.way, &packet.bytes)
            }
            _ => Ok(found),
        }
    }

    fn copy(&self, policy: &Policy) -> Result<Self, EbpfError> {
        let mut copy = Self::open(None)?;
        copy.apply(policy)?;
        copy.remember(self)?;
        Ok(copy)
    }

    /// The reason of the first program that takes the packet.
    fn run(&mut self, way: Way, packet: &[u8]) -> Result<Option<Reason>, EbpfError> {
        let programs: &[Program] = match way {
            Way::In => &[Program::DeviceIngress, Program::Ingress],
            Way::Out => &[Program::Egress],
            Way::Lan => &[Program::Guard],
        };
        for program in programs {
            let before = self.counters()?;
            let options = TestRunOptions { data_in: Some(packet), ..TestRunOptions::default() };
            let name = program.name();
            self.program(*program)?.test_run(options).map_err(EbpfError::program(name))?;
            let after = self.counters()?;
            let counted =
                Reason::ALL.iter().zip(before.iter().zip(&after)).find(|(_, (old, new))| old != new);
            if let Some((reason, _)) = counted {
                return Ok(Some(*reason));
            }
        }
        Ok(None)
    }
}

/// As the programs of that place see it.
fn framed(packet: &Packet) -> Vec<u8> {
    let kind: [u8; 2] = if packet.is_ipv6() { ETHERTYPE } else { [8, 0] };
    match packet.way {
        Way::Lan => [&[0; ETHERTYPE_AT], &kind[..], &packet.bytes].concat(),
        Way::In | Way::Out => packet.bytes.clone(),
    }
}

/// An IPv6 caller is given an address that can be run, in the packet and in the rules alike.
fn standing_in(policy: &Policy, packet: &Packet) -> (Policy, Packet) {
    let (mut policy, mut packet) = (policy.clone(), packet.clone());
    let real = packet.source();
    if let Some(bytes) = packet.bytes.get_mut(ETHERTYPE_AT..ETHERTYPE_AT + ETHERTYPE.len()) {
        bytes.copy_from_slice(&ETHERTYPE);
    }
    if let Some(std::net::IpAddr::V6(stand_in)) = packet.source() {
        let peers = policy.networks.iter_mut().flat_map(|network| &mut network.peers);
        peers.filter(|peer| Some(peer.ipv6.into()) == real).for_each(|peer| peer.ipv6 = stand_in);
    }
    (policy, packet)
}
