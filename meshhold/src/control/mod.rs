//! The control API: what the daemon answers to the command line, to browsers and to programs.
//!
//! HTTP and JSON, the same handlers on the control socket and on `api.listen_addr`. [`api`] is the vocabulary, `routes` what
//! each address means, [`client`] the command line's side, [`server`] the control socket. Who may ask over TCP is decided in
//! `web`. A thread of its own serves it all: the daemon's loop never waits for a client.

pub mod api;
mod calls;
pub mod client;
pub(crate) mod connection;
pub(crate) mod echo;
mod explanation;
mod figures;
pub mod problem;
pub(crate) mod routes;
pub mod server;
mod thread;

pub use thread::{Control, ControlConfig};

use tokio::sync::oneshot;

/// A request and the place for its reply.
pub type Asked = (api::Request, oneshot::Sender<api::Response>);

/// Longer requests are refused (bytes, without headers).
pub const MAX_REQUEST: usize = 64 << 10;

/// The OpenAPI document of this version, JSON.
pub fn openapi() -> String {
    routes::document().to_pretty_json().unwrap_or_default()
}
