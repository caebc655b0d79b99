//! `cargo xtask soak`: the lab's test of bytes in release mode with many more of them.
//!
//! Owns how many. The test knows what is sent and what must arrive.

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::cargo;

/// Combinations of ends with and without offload, a test each.
const COMBINATIONS: u64 = 4;
const BYTES_VARIABLE: &str = "MESHHOLD_SOAK_BYTES";

/// What may be chosen.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How much travels in all, in units of 10^9 bytes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    gigabytes: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    cargo::need_root("soak")?;
    cargo::run(&["build", "--release", "--package", "meshhold", "--package", "meshhold-tests"])?;
    let bytes = arguments.gigabytes * 1_000_000_000 / COMBINATIONS;
    let test = ["test", "--release", "--package", "meshhold-tests", "--test", "bytes"];
    cargo::say(&format!("{} GB in all, {bytes} bytes for each combination", arguments.gigabytes));
    let status = cargo::command(&test)
        .args(["--", "--test-threads=1", "--nocapture"])
        .env(BYTES_VARIABLE, bytes.to_string())
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the soak failed ({status}); what differs is said above");
    Ok(())
}
