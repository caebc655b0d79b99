//! `cargo xtask ci`: everything that a change must pass.

use anyhow::Result;

use crate::test::{self, Tally};
use crate::{cargo, setup, sizes};

pub(crate) fn run() -> Result<()> {
    setup::run()?;
    let mut tally = Tally::default();
    tally.check("formatting", cargo::run(&["fmt", "--all", "--check"]));
    let kernel = ["fmt", "--check", "--manifest-path", "meshhold-ebpf/Cargo.toml"];
    tally.check("formatting of the kernel programs", cargo::run(&kernel));
    let lints = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    tally.check("lints", read_only(&lints));
    let documentation = ["doc", "--workspace", "--no-deps", "--document-private-items"];
    tally.check("documentation", read_only(&documentation));
    tally.check("sizes", sizes::run());
    let outcome = test::tests(&mut tally);
    tally.check("tests", outcome);
    tally.close()
}

/// Runs cargo for what only reads the code: the kernel programs needn't be built for it.
fn read_only(arguments: &[&str]) -> Result<()> {
    let mut command = cargo::command(arguments);
    cargo::watch(command.env("MESHHOLD_SKIP_EBPF", "1").env("RUSTDOCFLAGS", "-D warnings"))
}
