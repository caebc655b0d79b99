//! Where other programs come from, and where they are: Debian's packages on the path, crates in a folder of the bench.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::rows::Row;
use crate::{cargo, setup};

/// Where a program comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A package of the distribution.
    Debian(&'static str),
    /// A crate on crates.io.
    Crate(&'static str),
}

/// Installs what the rows need and isn't here.
pub(super) fn install(rows: &[Row]) -> Result<()> {
    let missing = rows.iter().filter(|row| !row.is_here());
    let sources: Vec<Source> = missing.flat_map(|row| row.peer.sources()).collect();
    let packages: Vec<&str> = sources
        .iter()
        .filter_map(|source| match source {
            Source::Debian(name) => Some(*name),
            Source::Crate(_) => None,
        })
        .collect();
    setup::debian(&packages)?;
    for source in sources {
        if let Source::Crate(name) = source {
            build(name)?;
        }
    }
    Ok(())
}

fn build(name: &str) -> Result<()> {
    let (root, build) = (root(), root().join("build"));
    let folder =
        |path: &PathBuf| path.to_str().map(str::to_owned).context("the target folder's path is not UTF-8");
    cargo::run(&["install", "--locked", name, "--root", &folder(&root)?, "--target-dir", &folder(&build)?])
}

fn root() -> PathBuf {
    cargo::target_dir().join("bench/peers")
}

/// A program on the path, or among the crates installed here.
pub(super) fn find(program: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(root().join("bin")).chain(std::env::split_paths(&path));
    let file = folders.map(|folder| folder.join(program)).find(|file| file.is_file())?;
    file.to_str().map(str::to_owned)
}
