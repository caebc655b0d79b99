//! Tests in network and mount namespaces of their own.
//!
//! Owns the way in: the test binary starts itself again under `unshare`, so that nothing is left when the
//! inner process ends. Must not know what a test does.

use std::process::Command;

const INSIDE: &str = "MESHHOLD_TEST_NAMESPACE";

/// Runs `body` in fresh network and mount namespaces with `lo` up. `test` is the test's full path
/// (`module_path!()` and its name). Skips with a printed reason when that isn't permitted.
pub(super) fn isolated(module: &str, test: &str, body: impl AsyncFnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body());
        return;
    }
    if super::sys::effective_uid() != 0 {
        println!("skipped {test}: needs root for namespaces");
        return;
    }
    // Test names don't begin with the crate's name, module paths do.
    let name = format!("{}::{test}", module.split_once("::").unwrap().1);
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed inside its namespace");
}

/// Runs `ip` with words split at spaces; returns its output and panics when it fails.
pub(super) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Everything that the host's configuration consists of, to compare before and after.
pub(super) fn snapshot() -> String {
    let parts =
        ["rule show", "-6 rule show", "route show table all", "-6 route show table all", "-br addr show"];
    parts.iter().map(|part| ip(part)).collect()
}

/// Waits until `holds`, two seconds at the most.
pub(super) fn wait_for(holds: impl Fn() -> bool) {
    let late = std::time::Instant::now() + std::time::Duration::from_secs(2);
    while !holds() {
        assert!(std::time::Instant::now() < late, "what was waited for never came");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
