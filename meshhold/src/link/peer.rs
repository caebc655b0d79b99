//! One link: the greeting, then frames both ways until it ends.
//!
//! Owns the stream of a connection. Must not know topics, targets or other links.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use meshhold_core::gossip::LinkId;
use meshhold_core::identity::NodeId;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use tokio::sync::mpsc;

use super::admit::Permit;
use super::frame::{self, Frame, FrameError};
use super::hub::Input;
use super::socket::canonical;
use super::tls;

/// From the end of the QUIC handshake to the far end's Hello.
const GREETING: Duration = Duration::from_secs(5);

/// Why a link is closed, as the far end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Close {
    /// This node stops or has no more use for the link.
    Done = 0,
    /// Another link to the same node stays.
    Duplicate = 1,
    /// The far end broke the protocol.
    Violation = 2,
}

impl Close {
    pub(super) fn apply(self, connection: &Connection, reason: &str) {
        connection.close(VarInt::from_u32(self as u32), reason.as_bytes());
    }
}

/// A link whose ends know each other, before it is put to use.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) connection: Connection,
    pub(super) node: NodeId,
    /// We dialed it.
    pub(super) outgoing: bool,
    /// The far end's start.
    pub(super) instance: u64,
    send: SendStream,
    recv: RecvStream,
    permit: Option<Permit>,
}

/// Opens the stream and exchanges Hello.
///
/// # Errors
/// When the far end doesn't greet in time, or in another version of the protocol.
pub(super) async fn greet(
    connection: Connection,
    permit: Option<Permit>,
    instance: u64,
) -> anyhow::Result<Greeted> {
    let outgoing = permit.is_none();
    let greeting = exchange(&connection, outgoing, instance);
    let outcome = tokio::time::timeout(GREETING, greeting).await.context("no greeting in time");
    match outcome.and_then(|greeted| greeted) {
        Ok((node, instance, send, recv)) => {
            let mut permit = permit;
            permit.iter_mut().for_each(Permit::greeted);
            Ok(Greeted { connection, node, outgoing, instance, send, recv, permit })
        }
        Err(error) => {
            Close::Violation.apply(&connection, "no valid greeting");
            Err(error)
        }
    }
}

async fn exchange(
    connection: &Connection,
    outgoing: bool,
    instance: u64,
) -> anyhow::Result<(NodeId, u64, SendStream, RecvStream)> {
    let node = tls::remote_node(connection).context("the far end has no node id")?;
    let (mut send, mut recv) =
        if outgoing { connection.open_bi().await } else { connection.accept_bi().await }?;
    frame::write(&mut send, &Frame::Hello { version: frame::VERSION, instance }).await?;
    match frame::read(&mut recv).await? {
        Frame::Hello { version: frame::VERSION, instance } => Ok((node, instance, send, recv)),
        Frame::Hello { version, .. } => {
            bail!("node {node} speaks link version {version}, not {}", frame::VERSION)
        }
        _ => bail!("node {node} did not begin with Hello"),
    }
}

impl Greeted {
    /// The far end's address, an IPv4 one shown as such.
    pub(super) fn remote(&self) -> SocketAddr {
        canonical(self.connection.remote_address())
    }

    /// Carries frames until the link ends; the last input to `hub` says why.
    pub(super) async fn serve(self, link: LinkId, queue: mpsc::Receiver<Frame>, hub: mpsc::Sender<Input>) {
        let Self { connection, send, mut recv, permit, .. } = self;
        let writer = tokio::spawn(write_all(send, queue));
        let reason = read_all(link, &mut recv, &connection, &hub).await;
        writer.abort();
        drop(permit);
        // The hub is gone only when everything ends.
        let _ = hub.send(Input::Closed { link, reason }).await;
    }
}

async fn write_all(mut send: SendStream, mut queue: mpsc::Receiver<Frame>) {
    while let Some(frame) = queue.recv().await {
        if let Err(error) = frame::write(&mut send, &frame).await {
            tracing::trace!(%error, "link is written no more");
            return;
        }
    }
}

async fn read_all(
    link: LinkId,
    recv: &mut RecvStream,
    connection: &Connection,
    hub: &mpsc::Sender<Input>,
) -> String {
    loop {
        match frame::read(recv).await {
            Ok(frame) => {
                if hub.send(Input::Frame { link, frame }).await.is_err() {
                    Close::Done.apply(connection, "stopping");
                    return "stopping".into();
                }
            }
            Err(error @ (FrameError::Oversized(_) | FrameError::Malformed)) => {
                Close::Violation.apply(connection, &error.to_string());
                return format!("it sent {error}");
            }
            Err(_) => {
                Close::Done.apply(connection, "stream ended");
                return ended(connection);
            }
        }
    }
}

fn ended(connection: &Connection) -> String {
    match connection.close_reason() {
        Some(ConnectionError::ApplicationClosed(close)) => format!("closed by the far end ({close})"),
        Some(reason) => reason.to_string(),
        None => "stream ended".into(),
    }
}
