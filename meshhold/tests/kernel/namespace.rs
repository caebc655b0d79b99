//! Runs a test of this executable again inside network and mount namespaces of its own.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

/// Tells the second run that it is the inner one.
const INSIDE: &str = "MESHHOLD_TEST_NAMESPACE";

/// True inside. Outside it runs `test` (full path) inside and fails where that fails.
pub(crate) fn inside(test: &str) -> bool {
    inside_by(test, "tcx")
}

/// The same, where programs shall hang by this hook.
pub(crate) fn inside_by(test: &str, hook: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .env("MESHHOLD_HOOK", hook)
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed inside its namespaces");
    false
}

/// A BPF file system of the mount namespace's own.
pub(crate) struct BpfMount(pub(crate) tempfile::TempDir);

impl BpfMount {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        run("mount", &["-t", "bpf", "bpf", folder.path().to_str().unwrap()]);
        Self(folder)
    }

    pub(crate) fn pin_root(&self) -> PathBuf {
        self.0.path().join("meshhold/mt0/v1")
    }
}

impl Drop for BpfMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

pub(crate) fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{program} {arguments:?} failed");
}

/// Words of a command line without quoting.
pub(crate) fn sh(line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    run(words[0], &words[1..]);
}
