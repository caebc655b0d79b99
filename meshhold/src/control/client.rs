//! The command line's side of the control API: one request, one reply, blocking.

use super::api::{Request, Response};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// A daemon that is alive answers well within this.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Longer replies are none (bytes).
const MAX_REPLY: u64 = 32 << 20;

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
    let stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning(socket.to_owned())
        }
        io::ErrorKind::PermissionDenied => ClientError::Denied(socket.to_owned()),
        _ => broken(socket, &error),
    })?;
    exchange(&stream, request).map_err(|error| broken(socket, &error))
}

fn exchange(mut stream: &UnixStream, request: &Request) -> io::Result<Response> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // Roomy from the start, so that growing leaves no copy of a secret behind.
    let mut line = Zeroizing::new(Vec::with_capacity(super::MAX_REQUEST));
    serde_json::to_writer(&mut *line, request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut reply = Vec::new();
    BufReader::new(stream).take(MAX_REPLY).read_until(b'\n', &mut reply)?;
    if reply.is_empty() {
        return Err(io::Error::other("it closed the connection without a reply"));
    }
    Ok(serde_json::from_slice(&reply)?)
}

fn broken(socket: &Path, error: &io::Error) -> ClientError {
    let what = match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("no reply within {} s", TIMEOUT.as_secs())
        }
        _ => error.to_string(),
    };
    ClientError::Broken { path: socket.to_owned(), what }
}
