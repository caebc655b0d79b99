//! `cargo xtask bench --ebpf`: what a packet costs in the kernel programs, measured without traffic.

use anyhow::Result;

use crate::cargo;

/// Prints the tables and writes the figures to `bench-ebpf.json` in the build folder.
pub(super) fn run() -> Result<()> {
    let file = cargo::target_dir().join("bench-ebpf.json");
    let file = file.display().to_string();
    // The measured programs are always optimised; what starts them needn't be.
    cargo::run(&[
        "bench",
        "--profile",
        "dev",
        "--package",
        "meshhold",
        "--bench",
        "ebpf",
        "--",
        "--json",
        &file,
    ])
}
