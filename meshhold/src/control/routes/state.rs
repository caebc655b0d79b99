//! What is: status, networks, peers, paths, drops.

#![allow(unused_qualifications, reason = "in what utoipa's macro makes of parameters")]

use super::{App, misfit};
use crate::control::api::{
    DropsReply, Figures, Netcheck, NetworkStatus, PeerPaths, PeerStatus, ProgramCost, Request, Response,
    Status,
};
use crate::control::problem::Problem;
use crate::doctor::{self, Finding};
use crate::platform::linux::listeners::{self, Listener};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Answer of a handler.
pub(super) type Answer<T> = Result<Json<T>, Problem>;

/// The state of everything.
#[utoipa::path(get, path = "/api/v1/status", responses((status = 200, body = Status)))]
pub(super) async fn status(State(app): State<App>) -> Answer<Status> {
    known(&app).await.map(Json)
}

/// The networks of this node.
#[utoipa::path(get, path = "/api/v1/networks", responses((status = 200, body = Vec<NetworkStatus>)))]
pub(super) async fn networks(State(app): State<App>) -> Answer<Vec<NetworkStatus>> {
    Ok(Json(known(&app).await?.networks))
}

/// A peer, and where it is one.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NetworkPeer {
    /// The network's id.
    network: String,
    #[serde(flatten)]
    peer: PeerStatus,
}

/// The members of all networks, seen from this node.
#[utoipa::path(get, path = "/api/v1/peers", responses((status = 200, body = Vec<NetworkPeer>)))]
pub(super) async fn peers(State(app): State<App>) -> Answer<Vec<NetworkPeer>> {
    let networks = known(&app).await?.networks.into_iter();
    let peers = networks.flat_map(|NetworkStatus { id, peers, .. }| {
        peers.into_iter().map(move |peer| NetworkPeer { network: id.clone(), peer })
    });
    Ok(Json(peers.collect()))
}

pub(super) async fn known(app: &App) -> Result<Status, Problem> {
    match app.ask(Request::Status).await? {
        Response::Status(status) => Ok(*status),
        _ => Err(misfit()),
    }
}

/// Which paths were tried, and why each circuit takes the one it does.
#[utoipa::path(get, path = "/api/v1/paths", responses((status = 200, body = Vec<PeerPaths>)))]
pub(super) async fn paths(State(app): State<App>) -> Answer<Vec<PeerPaths>> {
    let Response::Paths(paths) = app.ask(Request::Paths).await? else { return Err(misfit()) };
    Ok(Json(paths))
}

/// What this node sees of the world: NAT, relays, port mapping, path MTU.
#[utoipa::path(get, path = "/api/v1/netcheck", responses((status = 200, body = Netcheck)))]
pub(super) async fn netcheck(State(app): State<App>) -> Answer<Netcheck> {
    let Response::Netcheck(netcheck) = app.ask(Request::Netcheck).await? else { return Err(misfit()) };
    Ok(Json(netcheck))
}

/// The kernel programs and what they cost.
#[utoipa::path(get, path = "/api/v1/programs", responses((status = 200, body = Vec<ProgramCost>)))]
pub(super) async fn programs(State(app): State<App>) -> Answer<Vec<ProgramCost>> {
    let Response::Programs(programs) = app.ask(Request::Programs).await? else { return Err(misfit()) };
    Ok(Json(programs))
}

/// What was counted since the start: handshakes, gossip, names, program runs.
#[utoipa::path(get, path = "/api/v1/figures", responses((status = 200, body = Figures)))]
pub(super) async fn figures(State(app): State<App>) -> Answer<Figures> {
    counted(&app).await.map(Json)
}

pub(super) async fn counted(app: &App) -> Result<Figures, Problem> {
    match app.ask(Request::Figures).await? {
        Response::Figures(figures) => Ok(*figures),
        _ => Err(misfit()),
    }
}

/// From where on.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Since {
    /// `seen` of the last answer; 0 or none at first.
    #[serde(default)]
    #[param(maximum = 9_007_199_254_740_991_u64)]
    seen: u64,
}

/// Larger numbers lose digits in JSON (RFC 8259 section 6).
const MAX_SEEN: u64 = (1 << 53) - 1;

/// What was dropped lately, and all counters.
#[utoipa::path(get, path = "/api/v1/drops", params(Since), responses((status = 200, body = DropsReply)))]
pub(super) async fn drops(
    State(app): State<App>,
    since: Result<Query<Since>, QueryRejection>,
) -> Answer<DropsReply> {
    let seen = since.ok().map(|Query(since)| since.seen).filter(|seen| *seen <= MAX_SEEN);
    let seen =
        seen.ok_or_else(|| Problem::malformed("`seen` isn't a number; use that of the last answer"))?;
    let Response::Drops(drops) = app.ask(Request::Drops { seen }).await? else { return Err(misfit()) };
    Ok(Json(drops))
}

/// The sockets of this host that wait for somebody.
#[utoipa::path(get, path = "/api/v1/listeners", responses((status = 200, body = Vec<Listener>)))]
pub(super) async fn listeners() -> Answer<Vec<Listener>> {
    let found = tokio::task::spawn_blocking(listeners::all).await;
    found.map(Json).map_err(|_| Problem::failed("can't look at this host's sockets"))
}

/// What keeps this node from doing its work, with what mends it.
#[utoipa::path(get, path = "/api/v1/doctor", responses((status = 200, body = Vec<Finding>)))]
pub(super) async fn doctor(State(app): State<App>) -> Answer<Vec<Finding>> {
    let (status, port) = (known(&app).await?, app.listen);
    let found = tokio::task::spawn_blocking(move || doctor::examine(&status, port)).await;
    found.map(Json).map_err(|_| Problem::failed("the checks were given up; see the daemon's log"))
}

/// What runs here.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Version {
    /// Of MeshHold.
    version: String,
    /// Of the kernel.
    kernel: String,
}

/// What runs here.
#[utoipa::path(get, path = "/api/v1/version", responses((status = 200, body = Version)))]
pub(super) async fn version() -> Json<Version> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Json(Version { version: env!("CARGO_PKG_VERSION").to_owned(), kernel: kernel.trim().to_owned() })
}

/// The key store changed on disk: read it again.
#[utoipa::path(post, path = "/api/v1/reload", responses((status = 204)))]
pub(super) async fn reload(State(app): State<App>) -> Result<StatusCode, Problem> {
    app.change(Request::Reload).await.map(|_| StatusCode::NO_CONTENT)
}
