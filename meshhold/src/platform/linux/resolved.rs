//! systemd-resolved: which names it asks our server for, on our interface only.
//!
//! Owns the calls of `resolvectl`, which act in the namespace that the process runs in. What is set belongs to the
//! interface and vanishes with it, so a killed daemon leaves nothing behind. Must not know names or addresses.

use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

const PROGRAM: &str = "resolvectl";
const PATIENCE: Duration = Duration::from_secs(5);

/// Why resolved doesn't ask us.
#[derive(Debug, thiserror::Error)]
pub enum ResolvedError {
    /// There is no `resolvectl`.
    #[error("systemd-resolved is not installed here")]
    Absent,
    /// It said no.
    #[error("`resolvectl {command}` failed: {what}")]
    Refused {
        /// The words behind `resolvectl`.
        command: String,
        /// What it said.
        what: String,
    },
}

/// Lets resolved ask `server` for names in `zones` (and for no others), by way of `interface`.
///
/// # Errors
/// [`ResolvedError`]; what was set until then stays until [`take_back`].
pub async fn hand_over(interface: &str, server: SocketAddr, zones: &[String]) -> Result<(), ResolvedError> {
    call(&["dns", interface, &server.to_string()]).await?;
    // None of these is ours to answer; the zones' own names are signed by nobody.
    for (what, value) in
        [("default-route", "false"), ("llmnr", "no"), ("mdns", "no"), ("dnssec", "no"), ("dnsovertls", "no")]
    {
        call(&[what, interface, value]).await?;
    }
    // `~` makes it a routing domain: never appended to what somebody asks for.
    let zones: Vec<String> = zones.iter().map(|zone| format!("~{zone}")).collect();
    let words: Vec<&str> =
        ["domain", interface].into_iter().chain(zones.iter().map(String::as_str)).collect();
    call(&words).await
}

/// Undoes [`hand_over`]. Nothing to do where the interface has gone.
///
/// # Errors
/// [`ResolvedError`]
pub async fn take_back(interface: &str) -> Result<(), ResolvedError> {
    call(&["revert", interface]).await
}

async fn call(words: &[&str]) -> Result<(), ResolvedError> {
    let refused = |what: String| ResolvedError::Refused {
        command: words.iter().take(2).copied().collect::<Vec<_>>().join(" "),
        what,
    };
    let mut command = Command::new(PROGRAM);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    match timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(refused(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Err(ResolvedError::Absent),
        Ok(Err(error)) => Err(refused(error.to_string())),
        Err(_) => Err(refused(format!("no answer within {} s", PATIENCE.as_secs()))),
    }
}
