//! The thread that serves the control API.
//!
//! Owns its start and its end. What nothing works without is an error, what only degrades a warning.

use super::Asked;
use super::routes::{self, App};
use super::server::{Server, ServerError};
use crate::config::{ApiConfig, Config};
use crate::platform::linux::{memory, sched};
use crate::web::{Guard, Web};
use axum::Router;
use meshhold_core::key::Ipv4Range;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// Requests that may wait.
const CALLS: usize = 16;

/// What the control API needs to know.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// The folder of passwords, tokens and the audit log.
    pub data_dir: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// Where else to listen, and to whom.
    pub api: ApiConfig,
    /// What the IPv4 ranges of new networks are taken from.
    pub space: Ipv4Range,
    /// Suffix of mesh names.
    pub suffix: String,
    /// The node's own UDP port.
    pub listen: u16,
}

impl From<&Config> for ControlConfig {
    fn from(config: &Config) -> Self {
        Self {
            data_dir: config.node.data_dir.clone(),
            socket: config.socket(),
            api: config.api.clone(),
            space: config.meshlan.ipv4_range,
            suffix: config.meshlan.dns_suffix.clone(),
            listen: config.node.listen.port(),
        }
    }
}

/// The running control API.
#[derive(Debug)]
pub struct Control {
    thread: JoinHandle<()>,
    /// The Web UI is served.
    pub web: bool,
    /// What is degraded, a sentence each.
    pub warnings: Vec<String>,
}

impl Control {
    /// Listens, and serves on a thread of its own until the returned receiver is dropped.
    ///
    /// # Errors
    /// The control socket can't be had, or what the Web UI keeps is damaged.
    pub fn start(config: ControlConfig) -> anyhow::Result<(Self, mpsc::Receiver<Asked>)> {
        let (server, unreachable) = bind(&config.socket)?;
        let (web, mut warnings) = Web::bind(&config);
        warnings.extend(unreachable);
        let serves_web = web.is_some();
        let guard = Arc::new(Guard::open(&config, web.as_ref())?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (calls, queue) = mpsc::channel(CALLS);
        let app = App::new(calls.clone(), guard, config.space, config.listen);
        let serve = move || {
            // A crowd of visitors must not take the processor from packets.
            if let Err(error) = sched::stand_back() {
                tracing::debug!(%error, "the control API takes as much of the processor as packets");
            }
            let (router, site) = (routes::router(&app), web.map(|web| (web, routes::site(&app))));
            memory::return_holes();
            runtime.block_on(async {
                tokio::select! {
                    ended = serve_commands(server, router) => tracing::error!(?ended, "the control socket is closed"),
                    () = Web::serve(site) => {}
                    () = calls.closed() => {}
                }
            });
            // Whoever hashes a password or waits for an echo is not waited for.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(serve)?;
        Ok((Self { thread, web: serves_web, warnings }, queue))
    }

    /// Waits for its end, once the receiver is dropped.
    pub fn close(self) {
        if self.thread.join().is_err() {
            tracing::error!("the control API's thread panicked");
        }
    }
}

/// The control socket. Where the disk is read-only there is none: a node that nobody can ask is better than none at all.
fn bind(path: &Path) -> Result<(Option<Server>, Option<String>), ServerError> {
    match Server::bind(path) {
        Ok(server) => Ok((Some(server), None)),
        Err(error) if error.is_read_only() => {
            let text = format!(
                "no control socket, for {} is on a read-only file system: the mesh works, commands don't; mount it writable and restart \
                 the daemon, or set api.socket to a path that can be written",
                path.display()
            );
            tracing::warn!("{text}");
            Ok((None, Some(text)))
        }
        Err(error) => Err(error),
    }
}

async fn serve_commands(server: Option<Server>, router: Router) -> io::Result<()> {
    match server {
        Some(server) => server.serve(router).await,
        None => std::future::pending().await,
    }
}
