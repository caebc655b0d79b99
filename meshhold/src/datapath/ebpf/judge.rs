//! Asks the programs about a packet that nobody sent (`BPF_PROG_TEST_RUN`).
//!
//! Meant for programs of their own, loaded for the question and attached to nothing: whatever they count, open or remember
//! ends with them. Sockets are looked up in the namespace that the process runs in, as by the attached ones.

use aya::programs::{TestRun as _, TestRunOptions};
use meshhold_common::Reason;

use super::{EbpfDatapath, EbpfError, Program};

/// Bytes of an IPv6 packet's source address that a test run reads as EtherType, from its beginning; only with this
/// value in them a program can change the family of the packet.
pub const ETHERTYPE_AT: usize = 4;
/// `ETH_P_IPV6`.
pub const ETHERTYPE: [u8; 2] = [0x86, 0xdd];

impl EbpfDatapath {
    /// What becomes of `packet` at these programs, the first that takes it.
    ///
    /// # Errors
    /// [`EbpfError`] where the kernel can't run one.
    pub fn judge(&mut self, programs: &[Program], packet: &[u8]) -> Result<Option<Reason>, EbpfError> {
        for program in programs {
            let before = self.counters()?;
            let options = TestRunOptions { data_in: Some(packet), ..TestRunOptions::default() };
            let name = program.name();
            let failed = |source| EbpfError::Program { program: name, source };
            self.program(*program)?.test_run(options).map_err(failed)?;
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
