//! What systemd is told of this service (sd_notify(3)): ready, stopping, reloading, alive. Elsewhere nobody asks.
//!
//! Owns the few words of that protocol. Must not know what being ready means.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use super::sys;

/// The one who started this service, if it wants to hear.
#[derive(Debug, Default)]
pub struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    /// How often it must hear that this service lives: half of what it waits.
    watchdog: Option<Duration>,
    alive: Option<Instant>,
}

impl Notifier {
    /// As the environment says.
    pub fn from_environment() -> Self {
        let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let manager = open(&address).inspect_err(
            |error| tracing::warn!(%error, "systemd can't be told that the daemon is ready (NOTIFY_SOCKET)"),
        );
        let microseconds = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse::<u64>().ok());
        let for_us = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        let watchdog = microseconds.filter(|_| for_us).map(|wait| Duration::from_micros(wait) / 2);
        Self { manager: manager.ok(), watchdog, alive: None }
    }

    /// Addresses and names are in force; also after [`Self::reloading`].
    pub fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
    }

    /// The configuration is read anew.
    pub fn reloading(&self) {
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", sys::monotonic() / 1000));
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// The main loop turns. Cheap: said as often as the watchdog wants it.
    pub fn alive(&mut self, now: Instant) {
        let Some(every) = self.watchdog else { return };
        let is_due = |at| now.saturating_duration_since(at) >= every;
        if self.alive.is_none_or(is_due) {
            self.alive = Some(now);
            self.say("WATCHDOG=1");
        }
    }

    fn say(&self, message: &str) {
        let Some((socket, manager)) = &self.manager else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), manager) {
            tracing::debug!(%error, message, "systemd did not hear it");
        }
    }
}

/// An address that begins with `@` is an abstract one.
fn open(address: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let manager = match address.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that hangs must not hang this service too.
    socket.set_nonblocking(true)?;
    Ok((socket, manager))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 128];
        let len = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    }

    #[test]
    fn the_manager_hears_of_start_life_and_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let abstract_name = format!("meshhold-notify-{}", std::process::id());
        let in_the_abstract = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let managers = [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (UnixDatagram::bind_addr(&in_the_abstract).unwrap(), format!("@{abstract_name}").into()),
        ];
        for (manager, address) in managers {
            let watchdog = Some(Duration::from_secs(5));
            let mut notifier = Notifier { manager: Some(open(&address).unwrap()), watchdog, alive: None };
            notifier.ready("two networks");
            assert_eq!(heard(&manager), "READY=1\nSTATUS=two networks");
            let start = Instant::now();
            notifier.alive(start);
            notifier.alive(start + Duration::from_secs(4));
            notifier.alive(start + Duration::from_secs(5));
            assert_eq!([heard(&manager), heard(&manager)], ["WATCHDOG=1", "WATCHDOG=1"]);
            notifier.reloading();
            assert!(heard(&manager).starts_with("RELOADING=1\nMONOTONIC_USEC="));
            notifier.stopping();
            assert_eq!(heard(&manager), "STOPPING=1");
        }
    }
}
