//! The system that a kernel boots into: busybox, the daemon, the kernel programs' tests, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::packages::{Kernel, MODULES};
use crate::{cargo, setup};

const INIT: &str = include_str!("init.sh");
/// Of this machine; busybox has less able ones.
const PROGRAMS: [&str; 3] = ["ip", "tc", "unshare"];
const FOLDERS: [&str; 9] = ["bin", "usr/bin", "proc", "sys", "dev", "tmp", "run", "etc", "modules"];

/// Makes what all kernels share, an archive.
pub(super) fn base(folder: &Path) -> Result<PathBuf> {
    let busybox = setup::unpack("busybox", "bin/busybox", &["busybox-static"])?;
    let tests = tests()?;
    let [daemon, labtool] = ["meshhold", "labtool"].map(|name| cargo::target_dir().join("debug").join(name));
    let root = folder.join("root");
    let _ = fs::remove_dir_all(&root);
    for part in FOLDERS {
        fs::create_dir_all(root.join(part))?;
    }
    fs::copy(busybox.join("bin/busybox"), root.join("bin/busybox"))?;
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let mut libraries = BTreeSet::new();
    for (name, program) in [("meshhold", daemon), ("labtool", labtool), ("kernel-tests", tests)] {
        output(Command::new("strip").arg("-o").arg(root.join("usr/bin").join(name)).arg(&program))?;
        libraries.extend(needed(&program)?);
    }
    for name in PROGRAMS {
        let path =
            PathBuf::from(output(Command::new("sh").args(["-c", &format!("command -v {name}")]))?.trim());
        fs::copy(&path, root.join("usr/bin").join(name)).with_context(|| format!("cannot copy {name}"))?;
        libraries.extend(needed(&path)?);
    }
    for library in &libraries {
        let inside = root.join(library.trim_start_matches('/'));
        inside.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::copy(library, inside)?;
    }
    let archive = folder.join("base.cpio");
    pack(&root, &archive)?;
    Ok(archive)
}

/// The shared archive, and behind it one with the kernel's modules.
pub(super) fn with_modules(base: &Path, kernel: &Kernel) -> Result<PathBuf> {
    let root = kernel.folder.join("root");
    fs::create_dir_all(root.join("modules"))?;
    for (at, module) in MODULES.iter().enumerate() {
        fs::copy(kernel.module(module), root.join(format!("modules/{at}-{module}.ko")))?;
    }
    let modules = kernel.folder.join("modules.cpio");
    pack(&root, &modules)?;
    let initrd = kernel.folder.join("initrd");
    fs::copy(base, &initrd)?;
    fs::OpenOptions::new().append(true).open(&initrd)?.write_all(&fs::read(modules)?)?;
    Ok(initrd)
}

/// The tests of the kernel programs, built with all else as for other tests.
fn tests() -> Result<PathBuf> {
    cargo::run(&["build", "--workspace"])?;
    let build =
        ["test", "--workspace", "--test", "kernel", "--no-run", "--message-format=json-render-diagnostics"];
    let found = cargo::command(&build).stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(found.status.success(), "building the tests of the kernel programs failed");
    let messages = String::from_utf8(found.stdout)?;
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut tests =
        artifacts.filter(|artifact| artifact.pointer("/target/name") == Some(&Value::from("kernel")));
    let tests = tests.find_map(|artifact| Some(PathBuf::from(artifact.get("executable")?.as_str()?)));
    tests.context("cargo built no test program `kernel`")
}

/// The shared libraries of a program.
fn needed(program: &Path) -> Result<Vec<String>> {
    let listed = output(Command::new("ldd").arg(program))?;
    Ok(listed.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect())
}

fn pack(root: &Path, archive: &Path) -> Result<()> {
    let pack = format!("find . | cpio --create --format=newc --quiet > '{}'", archive.display());
    output(Command::new("sh").args(["-c", &pack]).current_dir(root)).map(drop)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
