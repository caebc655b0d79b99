//! `cargo xtask ci`: everything that a change must pass.

use anyhow::{Result, ensure};

use crate::test::{self, Tally};
use crate::{cargo, setup, sizes};

pub(crate) fn run() -> Result<()> {
    setup::run()?;
    let mut tally = Tally::default();
    tally.check("formatting", cargo::run(&["fmt", "--all", "--check"]));
    let lints = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    tally.check("lints", cargo::run(&lints));
    tally.check("documentation", documentation());
    tally.check("sizes", sizes::run());
    let outcome = test::tests(&mut tally);
    tally.check("tests", outcome);
    tally.close()
}

fn documentation() -> Result<()> {
    cargo::say("cargo doc");
    let arguments = ["doc", "--workspace", "--no-deps", "--document-private-items"];
    let status = cargo::command(&arguments).env("RUSTDOCFLAGS", "-D warnings").status()?;
    ensure!(status.success(), "rustdoc has warnings");
    Ok(())
}
