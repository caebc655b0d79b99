//! The TCP listener of the Web UI.
//!
//! Owns who has to give way when there are too many connections. Must not know what is asked.

use super::guard::Site;
use super::{password, site, tls};
use crate::control::ControlConfig;
use crate::control::connection::{self, Caller};
use crate::platform::linux::families;
use anyhow::{Context, ensure};
use axum::Router;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// Most connections at a time: beyond, the oldest of those that have not proved who they are gives way.
const MAX_CONNECTIONS: usize = 128;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// A TLS handshake that takes longer is given up.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// The listener, and what it is called.
pub(crate) struct Web {
    listener: std::net::TcpListener,
    tls: Option<TlsAcceptor>,
    pub(super) site: Site,
}

impl Web {
    /// Listens where the configuration says. Where it can't, or must not, the warning says why.
    pub(crate) fn bind(config: &ControlConfig) -> (Option<Self>, Vec<String>) {
        let Some(address) = config.api.listen_addr else { return (None, Vec::new()) };
        match Self::try_bind(config, address) {
            Ok(web) => (Some(web), Vec::new()),
            Err(error) => {
                let text = format!("the Web UI is off: {error:#}");
                tracing::warn!("{text}");
                (None, vec![text])
            }
        }
    }

    fn try_bind(config: &ControlConfig, address: SocketAddr) -> anyhow::Result<Self> {
        let beyond = !address.ip().is_loopback();
        ensure!(
            password::is_set(&config.data_dir) || !beyond && config.api.mesh_access.is_none(),
            "others can reach it at {address}: set a password with `meshhold web set-password` and restart, or set api.listen_addr to 127.0.0.1:8080 and remove api.mesh_access"
        );
        let tls = match beyond || config.api.tls_cert.is_some() {
            true => Some(tls::load(config)?),
            false => None,
        };
        let listener = open(families::listenable(address))
            .with_context(|| format!("can't listen on {address}; set api.listen_addr to a free address"))?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let fingerprint = tls.as_ref().and_then(|tls| tls.fingerprint.clone());
        let site = Site::new(address, &config.api.hosts, scheme, fingerprint);
        Ok(Self { listener, tls: tls.map(|tls| tls.acceptor), site })
    }

    /// Serves until it is dropped; for ever nothing where there is no listener.
    pub(crate) async fn serve(site: Option<(Self, Router)>) {
        let Some((Self { listener, tls, .. }, router)) = site else { return std::future::pending().await };
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "the Web UI can't be served");
                return std::future::pending().await;
            }
        };
        let (router, mut connections) = (site::guarded(router), Connections::default());
        loop {
            match listener.accept().await {
                Ok((stream, from)) => connections.start(stream, from.ip(), tls.clone(), router.clone()),
                Err(error) => {
                    // Out of file descriptors: accepting again at once would spin.
                    tracing::warn!(%error, "the Web UI can't accept a connection; trying again");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}

/// With `[::]` both families, whatever `net.ipv6.bindv6only` says.
fn open(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Those that are served, oldest first.
#[derive(Default)]
struct Connections(Vec<(AbortHandle, Arc<AtomicBool>)>);

impl Connections {
    fn start(&mut self, stream: TcpStream, source: IpAddr, tls: Option<TlsAcceptor>, router: Router) {
        self.0.retain(|(task, _)| !task.is_finished());
        if self.0.len() >= MAX_CONNECTIONS {
            let unproven = self.0.iter().position(|(_, proved)| !proved.load(Ordering::Relaxed));
            // Who has proved who they are gives way only to one who may do so too.
            let (task, _) = self.0.remove(unproven.unwrap_or(0));
            task.abort();
        }
        let proved = Arc::new(AtomicBool::new(false));
        let caller = Caller::Web { source: source.to_canonical(), proved: Arc::clone(&proved) };
        let task = tokio::spawn(serve(stream, caller, tls, router));
        self.0.push((task.abort_handle(), proved));
    }
}

async fn serve(stream: TcpStream, caller: Caller, tls: Option<TlsAcceptor>, router: Router) {
    // Answers are small, and somebody waits for them.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return connection::serve(stream, router, caller).await };
    if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        connection::serve(stream, router, caller).await;
    }
}
