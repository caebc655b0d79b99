//! Runs a program as on a kernel without IPv6 (`ipv6.disable=1`): there is no socket of that family.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let family = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::AF_INET6 as u64)?;
    let sockets = vec![SeccompRule::new(vec![family])?];
    let refusal = SeccompAction::Errno(libc::EAFNOSUPPORT as u32);
    let architecture = std::env::consts::ARCH.try_into()?;
    let rules = [(libc::SYS_socket, sockets)].into();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, architecture)?;
    apply_filter(&BpfProgram::try_from(filter)?).context("cannot filter system calls")?;
    Err(Command::new(program).args(arguments).exec()).with_context(|| format!("cannot run {program}"))
}
