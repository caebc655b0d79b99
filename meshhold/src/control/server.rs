//! The daemon's side of the control API: who may ask, and that nobody's input can hurt.
//!
//! Bounded in connections, message size and time. Must not know what the requests mean.

use super::MAX_REQUEST;
use super::api::{Request, Response};
use crate::config::private::{self, PrivateError};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use zeroize::{Zeroize, Zeroizing};

/// A request and the place for its reply.
pub type Asked = (Request, oneshot::Sender<Response>);

/// Connections served at a time; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 32;

/// Silent clients are dropped after this.
const IDLE: Duration = Duration::from_secs(10);

/// Clients that were told off have this long to finish writing and read why.
const LINGER: Duration = Duration::from_secs(1);

/// Why the socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The folder of the socket.
    #[error(transparent)]
    Folder(#[from] PrivateError),
    /// Another daemon answers there.
    #[error("another daemon is running (it answers at {path}); stop it, or give this one an own node.data_dir", path = .0.display())]
    Taken(PathBuf),
    /// Something that isn't a socket is in the way.
    #[error("{path} is in the way of the control socket; move it away or set api.socket", path = .0.display())]
    InTheWay(PathBuf),
    /// The system refused.
    #[error("control socket {path}: {source}; set api.socket to a short path in a folder of its own", path = .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The listening socket; its file is removed on drop.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    own_uid: u32,
}

impl Server {
    /// Listens at `path` (mode 0600, in a folder of mode 0700). Replaces a socket that nobody listens on. Needs a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, ServerError> {
        let fail = |source| ServerError::Io { path: path.to_owned(), source };
        let folder = path.parent().unwrap_or(Path::new("/"));
        private::folder(folder)?;
        let _lock = private::lock(folder)?;
        clear_stale(path)?;
        let listener = UnixListener::bind(path).map_err(fail)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(fail)?;
        let own_uid = own_uid().map_err(fail)?;
        Ok(Self { listener, path: path.to_owned(), own_uid })
    }

    /// Serves until the receiving side of `requests` is dropped.
    pub async fn serve(self, requests: mpsc::Sender<Asked>) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = requests.closed() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(converse(stream, self.own_uid, requests.clone(), slot));
                }
                Err(error) => {
                    // Out of file descriptors: accepting again at once would spin.
                    tracing::warn!(%error, "control socket can't accept; trying again");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Serves the control API at `path` until the receiving side of `requests` is dropped.
pub async fn serve(path: &Path, requests: mpsc::Sender<Asked>) -> Result<(), ServerError> {
    Server::bind(path)?.serve(requests).await;
    Ok(())
}

fn clear_stale(path: &Path) -> Result<(), ServerError> {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.file_type().is_socket() {
        return Err(ServerError::InTheWay(path.to_owned()));
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ServerError::Taken(path.to_owned()));
    }
    std::fs::remove_file(path).map_err(|source| ServerError::Io { path: path.to_owned(), source })
}

/// The effective user id, by asking the kernel who sits at our own socket pair.
fn own_uid() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}

async fn converse(
    mut stream: UnixStream,
    own_uid: u32,
    requests: mpsc::Sender<Asked>,
    _slot: OwnedSemaphorePermit,
) {
    let allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own_uid);
    if !allowed {
        let refusal = Response::Error("only root and the daemon's own user may ask".to_owned());
        return dismiss(&mut stream, &refusal).await;
    }
    let mut received = Zeroizing::new(Vec::with_capacity(MAX_REQUEST));
    loop {
        let (response, last) = match timeout(IDLE, next_line(&mut stream, &mut received)).await {
            Ok(Ok(Some(line))) => match serde_json::from_slice(&line) {
                Ok(request) => (ask(&requests, request).await, false),
                // Not the parser's own words: they may quote a secret.
                Err(_) => (Response::Error("not a request of this version".to_owned()), true),
            },
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                (Response::Error(error.to_string()), true)
            }
            Ok(Ok(None) | Err(_)) | Err(_) => return,
        };
        if last {
            return dismiss(&mut stream, &response).await;
        }
        if !answer(&mut stream, &response).await {
            return;
        }
    }
}

/// The next line without its end; `None` when the client is done.
async fn next_line(
    stream: &mut UnixStream,
    received: &mut Vec<u8>,
) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    loop {
        if let Some(end) = received.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = received.split_at(end);
            let (line, rest) =
                (Zeroizing::new(line.to_vec()), Zeroizing::new(rest.get(1..).unwrap_or_default().to_vec()));
            received.zeroize();
            received.extend_from_slice(&rest);
            return Ok(Some(line));
        }
        if received.len() >= MAX_REQUEST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a request is at most {MAX_REQUEST} bytes"),
            ));
        }
        let room = (MAX_REQUEST - received.len()) as u64;
        if (&mut *stream).take(room).read_buf(received).await? == 0 {
            return Ok(None);
        }
    }
}

async fn ask(requests: &mpsc::Sender<Asked>, request: Request) -> Response {
    let (reply, answered) = oneshot::channel();
    if requests.send((request, reply)).await.is_err() {
        return Response::Error("the daemon is stopping".to_owned());
    }
    answered.await.unwrap_or_else(|_| Response::Error("the daemon is stopping".to_owned()))
}

/// Answers, and closes once the client had a chance to read that: closing under its write would show it a
/// broken pipe instead. Bounded in time, and in memory by one small buffer.
async fn dismiss(stream: &mut UnixStream, response: &Response) {
    if !answer(stream, response).await || stream.shutdown().await.is_err() {
        return;
    }
    let mut ignored = Zeroizing::new([0; 4096]);
    let drain = async { while stream.read(&mut *ignored).await.is_ok_and(|count| count > 0) {} };
    let _ = timeout(LINGER, drain).await;
}

async fn answer(stream: &mut UnixStream, response: &Response) -> bool {
    let Ok(mut line) = serde_json::to_vec(response) else { return false };
    line.push(b'\n');
    timeout(IDLE, stream.write_all(&line)).await.is_ok_and(|written| written.is_ok())
}
