//! The command line's side of the control API: one request, one reply, blocking.

use super::api::{Request, Response};
use super::calls::{self, Call};
use axum::body::Bytes;
use axum::http::header;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// A daemon that is alive answers well within this.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Longer replies are none (bytes).
const MAX_REPLY: usize = 32 << 20;

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon is running here (nobody answers at {path})", path = .0.display())]
    NotRunning(PathBuf),
    /// The socket isn't for this user.
    #[error("not allowed to talk to the daemon at {path}; run this as root or as the daemon's user", path = .0.display())]
    Denied(PathBuf),
    /// The conversation failed.
    #[error("talking to the daemon at {path}: {what}; see the daemon's log", path = .path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        what: String,
    },
}

/// Sends `request` to the daemon at `socket` and waits for its reply.
pub fn call(socket: &Path, request: &Request) -> Result<Response, ClientError> {
    let call = Call::new(request).map_err(|error| broken(socket, &error))?;
    let (status, body) = blocking(socket, call)?;
    calls::response(request, status, &body).map_err(|error| broken(socket, &error))
}

/// Sends a body to an address below `/api/v1/` and reads the answer, where it isn't a refusal.
///
/// # Errors
/// There is no reply, or it refuses.
pub(crate) fn send<T: DeserializeOwned>(
    socket: &Path,
    method: axum::http::Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> anyhow::Result<T> {
    let call = match body {
        Some(body) => Call::with(method, path.to_owned(), body)?,
        None => Call::bare(method, path.to_owned()),
    };
    let (status, body) = blocking(socket, call)?;
    if !(200..300).contains(&status) {
        let problem: super::problem::Problem = serde_json::from_slice(&body)?;
        return Err(problem.into());
    }
    Ok(serde_json::from_slice(if body.is_empty() { b"null" } else { &body })?)
}

fn blocking(socket: &Path, call: Call) -> Result<(u16, Bytes), ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| broken(socket, &error))?;
    runtime.block_on(async {
        let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(socket.to_owned())
            }
            io::ErrorKind::PermissionDenied => ClientError::Denied(socket.to_owned()),
            _ => broken(socket, &error),
        })?;
        match tokio::time::timeout(TIMEOUT, exchange(stream, call)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(broken(socket, &error)),
            Err(_) => Err(broken(socket, &format!("no reply within {} s", TIMEOUT.as_secs()))),
        }
    })
}

async fn exchange(stream: UnixStream, call: Call) -> anyhow::Result<(u16, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = hyper::Request::builder()
        .method(call.method)
        .uri(call.path)
        .header(header::HOST, "meshhold")
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(revision) = call.revision {
        request = request.header(header::IF_MATCH, format!("\"{revision}\""));
    }
    let body = Full::new(Bytes::from_owner(call.body));
    let response = sender.send_request(request.body(body)?).await?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_REPLY).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the reply breaks off: {error}"))?;
    Ok((status, body.to_bytes()))
}

fn broken(socket: &Path, what: &impl ToString) -> ClientError {
    ClientError::Broken { path: socket.to_owned(), what: what.to_string() }
}
