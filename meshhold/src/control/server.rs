//! The control socket: who may ask, and that nobody's input can hurt.
//!
//! Bounded in connections. Must not know what the requests mean.

use super::connection::{self, Caller};
use crate::config::private::{self, PrivateError};
use axum::Router;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Connections served at a time; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 32;

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

impl ServerError {
    /// Whether nothing can be written where the socket should be.
    pub fn is_read_only(&self) -> bool {
        let code = match self {
            Self::Folder(error) => error.code(),
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        };
        code == Some(libc::EROFS)
    }
}

/// The listening socket; its file is removed on drop.
#[derive(Debug)]
pub struct Server {
    listener: std::os::unix::net::UnixListener,
    path: PathBuf,
}

impl Server {
    /// Listens at `path` (mode 0600, in a folder of mode 0700). Replaces a socket that nobody listens on.
    pub fn bind(path: &Path) -> Result<Self, ServerError> {
        let fail = |source| ServerError::Io { path: path.to_owned(), source };
        let folder = path.parent().unwrap_or(Path::new("/"));
        private::folder(folder)?;
        let _lock = private::lock(folder)?;
        clear_stale(path)?;
        let listener = std::os::unix::net::UnixListener::bind(path).map_err(fail)?;
        let server = Self { listener, path: path.to_owned() };
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(fail)?;
        server.listener.set_nonblocking(true).map_err(fail)?;
        Ok(server)
    }

    /// Serves until it is dropped. Needs a tokio runtime.
    pub(super) async fn serve(self, router: Router) -> io::Result<()> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let (slots, own_uid) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), own_uid()?);
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
            match listener.accept().await {
                Ok((stream, _)) => {
                    let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                    let caller = Caller::Local { uid: uid.filter(|uid| *uid == 0 || *uid == own_uid) };
                    let connection = connection::serve(stream, router.clone(), caller);
                    tokio::spawn(async {
                        connection.await;
                        drop(slot);
                    });
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
