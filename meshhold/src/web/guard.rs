//! Who may ask what: sessions, tokens, the password and the hosts that count as this node's own.
//!
//! Owns what is known of callers. Must not know routes.

use super::Web;
use super::audit::Audit;
use super::lockout::Lockout;
use super::sessions::Sessions;
use super::tokens::{TokenEntry, Tokens, is_token};
use crate::config::keys::Capability;
use crate::control::ControlConfig;
use crate::control::problem::Problem;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;

/// Who asks, and what they may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// For the audit: `uid 0`, `session 1f…`, `token 3a… prometheus`.
    pub(crate) who: String,
    /// Their address; none over the control socket.
    pub(crate) source: Option<IpAddr>,
    /// `admin` or `view`.
    pub(crate) capability: Capability,
    /// Their session's id, where they have one.
    pub(crate) session: Option<String>,
}

/// The address that browsers use.
#[derive(Clone, Debug)]
pub(super) struct Site {
    /// `http` or `https`.
    pub(super) scheme: &'static str,
    pub(super) port: u16,
    /// What `Host` may say.
    hosts: BTreeSet<String>,
    /// The one that is printed.
    pub(super) main: String,
    /// SHA-256 of the certificate, where this node signed it itself.
    pub(super) fingerprint: Option<String>,
}

impl Site {
    pub(super) fn new(
        address: SocketAddr,
        names: &[String],
        scheme: &'static str,
        fingerprint: Option<String>,
    ) -> Self {
        let port = address.port();
        let own = match address.ip() {
            ip if ip.is_unspecified() => None,
            ip => Some(bracketed(ip)),
        };
        let local = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned);
        let named: Vec<String> = own.iter().chain(names).cloned().collect();
        let main = named.first().unwrap_or(&local[1]).clone();
        let all = named.iter().chain(&local).flat_map(|name| authorities(name, scheme, port));
        Self { scheme, port, hosts: all.collect(), main: authority(&main, port), fingerprint }
    }

    /// Whether `host` is this node's own.
    pub(super) fn is_own(&self, host: &str) -> bool {
        self.hosts.contains(&host.to_ascii_lowercase())
    }
}

fn authority(name: &str, port: u16) -> String {
    format!("{}:{port}", name.to_ascii_lowercase())
}

/// With its port, and without where browsers leave it out.
pub(super) fn authorities(name: &str, scheme: &str, port: u16) -> Vec<String> {
    let default = if scheme == "https" { 443 } else { 80 };
    let bare = (port == default).then(|| name.to_ascii_lowercase());
    bare.into_iter().chain([authority(name, port)]).collect()
}

/// As it stands in a URL.
pub(super) fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// All that is known of callers.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(super) data_dir: PathBuf,
    pub(super) site: Option<Site>,
    /// Name or id of the network whose members may ask, and the suffix of mesh names.
    pub(super) mesh: Option<(String, String)>,
    pub(super) open_metrics: bool,
    sessions: Mutex<Sessions>,
    tokens: Mutex<Tokens>,
    lockout: Mutex<Lockout>,
    audit: Mutex<Audit>,
    /// Hashing a password takes 19 MiB and some time: one at a time.
    pub(super) hashing: Semaphore,
}

impl Guard {
    /// Reads what is kept in the data folder. `web` is the listener, where there is one.
    ///
    /// # Errors
    /// The tokens' file is damaged.
    pub(crate) fn open(config: &ControlConfig, web: Option<&Web>) -> anyhow::Result<Self> {
        let mesh = config.api.mesh_access.clone().map(|network| (network, config.suffix.clone()));
        Ok(Self {
            data_dir: config.data_dir.clone(),
            site: web.map(|web| web.site.clone()),
            mesh,
            open_metrics: config.api.open_metrics,
            sessions: Mutex::default(),
            tokens: Mutex::new(Tokens::open(&config.data_dir)?),
            lockout: Mutex::default(),
            audit: Mutex::new(Audit::new(&config.data_dir)),
            hashing: Semaphore::new(1),
        })
    }

    pub(super) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        held(&self.sessions)
    }

    pub(super) fn tokens(&self) -> MutexGuard<'_, Tokens> {
        held(&self.tokens)
    }

    pub(super) fn audit(&self) -> MutexGuard<'_, Audit> {
        held(&self.audit)
    }

    /// Refuses a source that failed too often, before anything costly is done for it.
    pub(super) fn not_locked(&self, source: IpAddr) -> Result<(), Problem> {
        match held(&self.lockout).locked(source, Instant::now()) {
            None => Ok(()),
            Some(seconds) => Err(Problem::too_many(
                "too many failures from your address; wait, or use `meshhold web`",
                seconds,
            )),
        }
    }

    /// A login or token of this source was wrong.
    pub(super) fn failed(&self, source: IpAddr, action: &str) {
        held(&self.lockout).fail(source, Instant::now());
        self.audit().note(&source.to_string(), "-", action, "401");
    }

    /// A login of this source was right.
    pub(super) fn succeeded(&self, source: IpAddr) {
        held(&self.lockout).forget(source);
    }

    /// The access that a bearer token gives. A right one is no guess: it is not subject to the lockout.
    pub(super) fn by_token(&self, source: IpAddr, token: &str) -> Result<Access, Problem> {
        let found = self.tokens().find(token, unix_now());
        let Some(entry) = found else {
            // What can't be a token is no guess.
            if is_token(token) {
                self.not_locked(source)?;
                self.failed(source, "bearer token");
            }
            return Err(Problem::unauthorized(
                "no such token, or it has ended; `meshhold mgmt-keys list` shows them",
            ));
        };
        let TokenEntry { id, name, capability, .. } = entry;
        Ok(Access { who: format!("token {id} {name}"), source: Some(source), capability, session: None })
    }

    /// The access that a session's cookie gives.
    pub(super) fn by_session(&self, source: IpAddr, token: &str) -> Option<Access> {
        let id = self.sessions().find(token)?.id;
        let who = format!("session {id}");
        Some(Access { who, source: Some(source), capability: Capability::Admin, session: Some(id) })
    }

    /// Whether an access that was given still holds.
    pub(crate) fn still_in(&self, access: &Access) -> bool {
        match &access.session {
            Some(id) => self.sessions().lasts(id),
            None => true,
        }
    }
}

/// A panic elsewhere leaves these consistent: each change is one step.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
