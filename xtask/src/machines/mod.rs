//! `cargo xtask machines`: whole Debian systems under qemu, with the package installed, and what people and programs do to them.
//!
//! Owns the order of things. What is tried stands in `rows.rs`.

mod boxed;
mod cages;
mod calm;
mod guest;
mod image;
mod neighbours;
mod package;
mod power;
mod rows;
mod stage;
mod table;
mod traffic;
mod unit;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;

use crate::{cargo, qemu, setup};
use calm::Plan;
use image::System;
use rows::{ROWS, Row, Trial};
use stage::{Packages, Stage};
use table::Line;

/// For the second member, and for what looks at the wire.
const PACKAGES: [&str; 5] = ["curl", "iproute2", "openssh-client", "python3", "tcpdump"];

/// What may be chosen.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Only this system
    #[arg(long)]
    system: Option<System>,
    /// The systems' user space in namespaces on this machine's own kernel: quick, at full speed, without boots
    #[arg(long)]
    boxed: bool,
    /// Only these rows; what a row needs of those before it must be named too
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How often each row's command is run
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// The daemon, in place of a release build of this tree
    #[arg(long)]
    meshhold: Option<PathBuf>,
    /// What it is upgraded to and from, in place of a development build of this tree
    #[arg(long)]
    other: Option<PathBuf>,
    /// Make the images and end
    #[arg(long)]
    images: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    cargo::need_root("machines")?;
    setup::debian(&PACKAGES)?;
    qemu::install()?;
    let systems = arguments.system.map_or(System::ALL.to_vec(), |system| vec![system]);
    let images: Vec<_> = systems.iter().map(|system| image::get(*system)).collect::<Result<_>>()?;
    if arguments.images {
        return Ok(());
    }
    let rows: Vec<&Row> = ROWS.iter().filter(|row| arguments.wants(row)).collect();
    ensure!(!rows.is_empty(), "no row is named so; there are: {}", names());
    let meshhold = built(arguments.meshhold.as_deref(), "release")?;
    let other = built(arguments.other.as_deref(), "debug")?;
    let folder = tempfile::tempdir()?;
    let packages = Packages {
        first: package::build(&meshhold, "0.1.0", folder.path())?,
        other: package::build(&other, "0.1.1", folder.path())?,
    };
    let mut lines = Vec::new();
    for (system, image) in systems.iter().zip(&images) {
        cargo::say(&format!("{}: booting, installing", system.title()));
        let mut stage = Stage::new(image, arguments.boxed, &meshhold, &packages)?;
        let kernel = stage.guest.run("uname -r")?;
        let how = if arguments.boxed { "boxed on" } else { "kernel" };
        let title = format!("{}, {how} {}", system.title(), kernel.trim());
        for row in &rows {
            lines.push(try_row(&mut stage, row, arguments.rounds, &title));
        }
    }
    print!("\n{}", table::markdown(&lines));
    if lines.iter().any(|line| line.outcome.is_err()) {
        std::process::exit(1);
    }
    Ok(())
}

impl Arguments {
    fn wants(&self, row: &Row) -> bool {
        let here = !(self.boxed && row.emulated);
        here && (self.only.is_empty() || self.only.iter().any(|name| name == row.name))
    }
}

fn names() -> String {
    ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
}

/// The executable that was named, or a build of this tree.
fn built(named: Option<&Path>, profile: &str) -> Result<PathBuf> {
    if let Some(path) = named {
        ensure!(path.is_file(), "no executable at {}", path.display());
        return Ok(path.to_owned());
    }
    let release: &[&str] = if profile == "release" { &["--release"] } else { &[] };
    cargo::run(&[&["build", "--package", "meshhold"], release].concat())?;
    Ok(cargo::target_dir().join(profile).join("meshhold"))
}

fn try_row(stage: &mut Stage, row: &Row, rounds: u32, system: &str) -> Line {
    let begin = Instant::now();
    println!("{system}: {} ({})", row.name, row.situation);
    let outcome = match row.trial {
        Trial::Act(act) => act(stage),
        Trial::Command(command, away) => {
            calm::undisturbed(stage, Plan { rounds, away }, |stage| stage.guest.run(command).map(drop))
        }
    };
    let outcome = outcome.map_err(|error| format!("{error:#}"));
    let seen = outcome.as_ref().map_or_else(|fault| format!("FAILED: {fault}"), Clone::clone);
    println!("    {seen} (in {:.0?})", begin.elapsed());
    if outcome.is_err() {
        stage.account().lines().for_each(|line| println!("    | {line}"));
        stage.heal();
    }
    Line { system: system.to_owned(), name: row.name, situation: row.situation, outcome }
}
