//! What can go wrong between the daemon and the kernel programs.

use std::{io, path::PathBuf};

use aya::{maps::MapError, pin::PinError, programs::ProgramError};
use thiserror::Error;

use super::refusal;

/// A failure of the kernel data path. The daemon falls back to user space enforcement on any of them.
#[derive(Debug, Error)]
pub enum EbpfError {
    /// Built with `MESHHOLD_SKIP_EBPF=1`, or for another system.
    #[error(
        "this meshhold was built without eBPF; build it without MESHHOLD_SKIP_EBPF to have the policy in the kernel"
    )]
    NotBuilt,
    /// The pin folder.
    #[error("cannot use {path} for BPF pins: {source}; is a BPF file system mounted at /sys/fs/bpf?")]
    PinRoot {
        /// Folder or pin.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A link can't be pinned.
    #[error("cannot pin {path}: {source}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// Cause.
        source: PinError,
    },
    /// The object was refused before its programs were looked at.
    #[error("the kernel refused the eBPF maps: {0}; CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN are needed")]
    Load(String),
    /// Object and daemon disagree (a bug of the build).
    #[error("the eBPF object has no usable {what}")]
    Object {
        /// Program or map.
        what: &'static str,
    },
    /// A program was refused.
    #[error("the kernel refused the eBPF program {program}: {cause}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The verifier's last words, and what the kernel lacks: one line.
        cause: String,
    },
    /// A program can't be attached.
    #[error("cannot attach {program} to interface {interface} by {hook}: {cause}")]
    Attach {
        /// Its name.
        program: &'static str,
        /// The interface.
        interface: String,
        /// How.
        hook: &'static str,
        /// One line.
        cause: String,
    },
    /// A map operation.
    #[error("eBPF map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// Cause.
        source: MapError,
    },
    /// More than the maps hold.
    #[error("{count} {what} are more than the {limit} that the kernel tables hold")]
    TooMany {
        /// Networks or peers.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many fit.
        limit: u32,
    },
    /// The time since boot, which the kernel programs count in, can't be read.
    #[error("cannot read /proc/uptime: {0}")]
    Uptime(io::Error),
}

impl EbpfError {
    /// About a program with this name.
    pub(super) fn program(program: &'static str) -> impl Fn(ProgramError) -> Self {
        move |error| Self::Program { program, cause: refusal::of_program(program, &error) }
    }

    /// About all that is loaded before the programs.
    pub(super) fn object(error: &aya::EbpfError) -> Self {
        Self::Load(refusal::of_object(error))
    }
}
