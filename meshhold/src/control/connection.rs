//! One HTTP connection, from whatever it came over.
//!
//! Owns the limits of a connection: header size and time, one request at a time. Must not know what is asked.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Silent clients are dropped after this, and so are those that take longer for a request's head.
const HEAD: Duration = Duration::from_secs(10);
/// A request's head fits into this, or is refused (bytes).
const MAX_HEAD: usize = 16 << 10;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// A process of this host, over the control socket.
    Local {
        /// Its user id, where it may ask.
        uid: Option<u32>,
    },
    /// Somebody over TCP.
    Web {
        /// Their address.
        source: IpAddr,
        /// Set as soon as they have proved who they are.
        proved: Arc<AtomicBool>,
    },
}

impl Caller {
    /// They have proved who they are: their connection is kept when others have to give way.
    pub(crate) fn proven(&self) {
        if let Self::Web { proved, .. } = self {
            proved.store(true, Ordering::Relaxed);
        }
    }
}

/// Serves one connection until it ends.
pub(crate) async fn serve<S>(stream: S, router: Router, caller: Caller)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(caller.clone());
        hyper::service::Service::call(&router, request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the control API ended badly");
    }
}
