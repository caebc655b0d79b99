//! Running cargo, and where the project lies.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The workspace's root folder.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The folder with the build's results.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// The cargo that runs this task, in the workspace.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs cargo with its output on the terminal.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    watch(&mut command(arguments))
}

/// Runs a [`command`] with its output on the terminal.
pub(crate) fn watch(command: &mut Command) -> Result<()> {
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    let what = format!("cargo {}", arguments.join(" "));
    say(&what);
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "`{what}` failed");
    Ok(())
}

/// A headline on the terminal.
pub(crate) fn say(what: &str) {
    println!("\n==> {what}");
}

/// Fails unless run as root: namespaces and kernel programs need it.
pub(crate) fn need_root(task: &str) -> Result<()> {
    let user = Command::new("id").arg("-u").output().context("cannot run `id`")?;
    ensure!(
        user.stdout.trim_ascii() == b"0",
        "`cargo xtask {task}` needs root for its network namespaces: run it as root, for instance by `sudo -E`"
    );
    Ok(())
}
