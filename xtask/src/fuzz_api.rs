//! `cargo xtask fuzz-api`: schemathesis against the HTTP API of a real node, in a namespace of its own.
//!
//! By hand, not in CI: it installs schemathesis from PyPI into the target folder.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use meshhold_tests::lab::Lifetime;
use meshhold_tests::{Lab, Node, Settings};

use crate::cargo;

const VERSION: &str = "schemathesis==4.32.5";

/// Runs it with `examples` generated requests an operation.
///
/// # Errors
/// Something can't be installed or started, or schemathesis found a failure.
pub(crate) fn fuzz(examples: u32) -> Result<()> {
    cargo::need_root("fuzz-api")?;
    let folder = cargo::target_dir().join("schemathesis");
    let program = folder.join("bin/schemathesis");
    if !program.exists() {
        cargo::say("installing schemathesis from PyPI");
        succeed(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        succeed(Command::new(folder.join("bin/pip")).args(["install", "--quiet", VERSION]))?;
    }
    cargo::run(&["build", "--package", "meshhold"])?;
    let lab = Lab::new("fuzz-api", &cargo::target_dir().join("debug/meshhold"), Lifetime::Scoped)?;
    let settings =
        Settings { api: Some("listen_addr: 127.0.0.1:8080"), meshlan: Some(false), ..Settings::default() };
    let mut node = Node::new(lab.host("a")?, settings)?;
    node.start_and_wait()?;
    let add = ["mgmt-keys", "add", "--name", "fuzz", "--caps", "admin", "--never-expires"];
    let token = format!("Authorization: Bearer {}", node.meshhold(&add)?.trim());
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/schemathesis.toml");
    let mut command = node.host.namespace().command(&program.to_string_lossy());
    // Without the endless stream, and without what would take away its own token.
    command
        .args([
            "--config-file",
            config,
            "run",
            "http://127.0.0.1:8080/api/v1/openapi.json",
            "--header",
            &token,
        ])
        .args(["--exclude-path", "/api/v1/events", "--exclude-operation-id", "remove_token"])
        .args(["--max-examples", &examples.to_string()])
        .current_dir(lab.directory());
    let outcome = succeed(&mut command);
    ensure!(node.is_alive()?, "the daemon died: {}", node.log()?);
    outcome
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(status.success(), "{:?} failed ({status}); its messages are above", command.get_program());
    Ok(())
}
