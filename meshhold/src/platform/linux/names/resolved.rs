//! systemd-resolved: whether there is one for us, and which names it asks our server for, on our interface only.
//!
//! Owns the calls of `resolvectl`. These say "interface number 3" to whichever daemon is on the system bus, and that may
//! live in another network namespace, where number 3 is somebody's uplink: so nothing is called before it is known whose
//! it is. What is set belongs to the interface and vanishes with it. Must not know names or addresses.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::bus;
use crate::platform::linux::listeners;

const PROGRAM: &str = "resolvectl";
const PATIENCE: Duration = Duration::from_secs(5);
const BUS_NAME: &str = "org.freedesktop.resolve1";
/// A socket of systemd-resolved, or of systemd on its behalf, in the namespace in which that runs.
const SOCKET: &str = "/run/systemd/resolve/io.systemd.Resolve";
const FOLDER: &str = "/run/systemd/resolve";
/// Where its stubs listen, unless it is told to have none.
pub(super) const STUBS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];
/// What `/etc/resolv.conf` should lead to.
pub(super) const STUB_FILE: &str = "/run/systemd/resolve/stub-resolv.conf";
/// None of these is ours to answer; the zones' own names are signed by nobody.
const REFUSED: [(&str, &str); 5] =
    [("default-route", "false"), ("llmnr", "no"), ("mdns", "no"), ("dnssec", "no"), ("dnsovertls", "no")];

/// Whose systemd-resolved can be called from here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whose {
    /// It lives in our network namespace.
    Ours,
    /// It lives in another one, and must not be touched.
    Elsewhere,
    /// None runs.
    #[default]
    Nobody,
}

/// Why resolved doesn't ask us.
#[derive(Debug, thiserror::Error)]
pub enum ResolvedError {
    /// There is no `resolvectl`.
    #[error("there is no `{PROGRAM}` here to tell systemd-resolved with")]
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

/// What resolved is to know of our interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of the mesh interface.
    pub interface: String,
    /// Our name server.
    pub server: SocketAddr,
    /// The zones that it answers for, without a dot at the end.
    pub zones: Vec<String>,
}

impl Whose {
    /// Looks. Blocks for a second at most.
    pub fn look() -> Self {
        if !STUBS.iter().any(|stub| listens(*stub)) && !has_socket() {
            let elsewhere = fs::exists(FOLDER).unwrap_or_default() && bus::owner(BUS_NAME).is_some();
            return if elsewhere { Self::Elsewhere } else { Self::Nobody };
        }
        // The sockets are here, but the bus may be another's.
        match bus::owner(BUS_NAME) {
            Some(process) if is_elsewhere(process) => Self::Elsewhere,
            _ => Self::Ours,
        }
    }
}

impl Settings {
    /// Lets resolved ask our server for names in the zones, and for no others.
    ///
    /// # Errors
    /// [`ResolvedError`]; what was set until then stays until [`take_back`].
    pub async fn tell(&self) -> Result<(), ResolvedError> {
        for (what, value) in REFUSED {
            call(&[what, &self.interface, value]).await?;
        }
        let zones = self.routing();
        let words: Vec<&str> =
            ["domain", &self.interface].into_iter().chain(zones.iter().map(String::as_str)).collect();
        call(&words).await?;
        // Last: from now on it asks there.
        call(&["dns", &self.interface, &self.server.to_string()]).await.map(drop)
    }

    /// Whether it knows.
    pub async fn stand(&self) -> bool {
        let (server, zones, no) = ([self.server.to_string()], self.routing(), ["no".to_owned()]);
        for (what, wanted) in [("dns", server.as_slice()), ("domain", &zones), ("default-route", &no)] {
            let Ok(printed) = call(&[what, &self.interface]).await else { return false };
            let words: Vec<&str> = printed.split_whitespace().collect();
            if !wanted.iter().all(|wanted| words.contains(&wanted.as_str())) {
                return false;
            }
        }
        true
    }

    /// `~` makes it a routing domain: never appended to what somebody asks for.
    fn routing(&self) -> Vec<String> {
        self.zones.iter().map(|zone| format!("~{zone}")).collect()
    }
}

/// Undoes [`Settings::tell`]. Nothing to do where the interface has gone, or resolved isn't ours.
///
/// # Errors
/// [`ResolvedError`]
pub async fn take_back(interface: &str) -> Result<(), ResolvedError> {
    if tokio::task::spawn_blocking(Whose::look).await.unwrap_or_default() != Whose::Ours {
        return Ok(());
    }
    call(&["revert", interface]).await.map(drop)
}

/// Whether something in our namespace takes questions there.
pub(super) fn listens(stub: IpAddr) -> bool {
    listeners::on_port(false, 53).iter().any(|at| at.ip() == stub)
}

/// Unix sockets are listed in the namespace in which they were made.
fn has_socket() -> bool {
    let text = fs::read_to_string("/proc/self/net/unix").unwrap_or_default();
    text.lines().any(|line| line.split_whitespace().next_back() == Some(SOCKET))
}

/// Whether a process can be seen to live in another network namespace.
fn is_elsewhere(process: u32) -> bool {
    let of = |process: &str| fs::metadata(format!("/proc/{process}/ns/net")).ok().map(|at| at.ino());
    of(&process.to_string()).is_some_and(|found| Some(found) != of("self"))
}

async fn call(words: &[&str]) -> Result<String, ResolvedError> {
    let refused = |what: String| ResolvedError::Refused {
        command: words.iter().take(2).copied().collect::<Vec<_>>().join(" "),
        what,
    };
    let mut command = Command::new(PROGRAM);
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    match timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(Ok(output)) => Err(refused(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Err(ResolvedError::Absent),
        Ok(Err(error)) => Err(refused(error.to_string())),
        Err(_) => Err(refused(format!("no answer within {} s", PATIENCE.as_secs()))),
    }
}
