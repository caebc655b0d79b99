//! Questions to the node: why, which address, and does it answer.

#![allow(unused_qualifications, reason = "in what utoipa's macro makes of parameters")]

use super::state::Answer;
use super::{App, Input, misfit};
use crate::control::api::{ExplainRequest, Explanation, Request, Response, Traffic, Verdict};
use crate::control::echo;
use crate::control::problem::Problem;
use crate::datapath::probe::Way;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use utoipa::{IntoParams, ToSchema};

/// Most echoes that one request asks for: they take a while.
const MAX_ECHOES: u8 = 10;

/// Why would a packet pass or be dropped?
#[utoipa::path(post, path = "/api/v1/explain", request_body = ExplainRequest, responses((status = 200, body = Explanation)))]
pub(super) async fn explain(
    State(app): State<App>,
    Input(question): Input<ExplainRequest>,
) -> Answer<Explanation> {
    explained(&app, Request::Explain(question)).await.map(Json)
}

/// A packet to be asked about.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::control) struct PacketQuestion {
    /// From its IP header on, a number 0 to 255 a byte.
    #[schema(value_type = Vec<u8>, max_items = 65535)]
    pub(in crate::control) packet: Vec<u8>,
    /// Where it is: `out`, `in` or `lan`; by its source address where none is named.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(in crate::control) at: Option<Way>,
}

/// What would become of this very packet?
#[utoipa::path(post, path = "/api/v1/explain/packet", request_body = PacketQuestion,
    responses((status = 200, body = Explanation)))]
pub(super) async fn explain_packet(
    State(app): State<App>,
    Input(PacketQuestion { packet, at }): Input<PacketQuestion>,
) -> Answer<Explanation> {
    explained(&app, Request::ExplainPacket { packet, at }).await.map(Json)
}

async fn explained(app: &App, request: Request) -> Result<Explanation, Problem> {
    match app.ask(request).await? {
        Response::Explanation(explanation) => Ok(explanation.asked_of_host().await),
        _ => Err(misfit()),
    }
}

/// Whom to look up.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// A name, address or node id.
    name: String,
}

/// An address.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(in crate::control) struct Resolved {
    /// The address.
    #[schema(value_type = String)]
    pub(in crate::control) address: IpAddr,
}

/// Which address does a name, address or node id mean?
#[utoipa::path(get, path = "/api/v1/resolve", params(Wanted), responses((status = 200, body = Resolved)))]
pub(super) async fn resolve(
    State(app): State<App>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer<Resolved> {
    let Query(Wanted { name }) = wanted.map_err(|_| Problem::malformed("`name` says whom to look up"))?;
    Ok(Json(Resolved { address: address(&app, name).await? }))
}

async fn address(app: &App, name: String) -> Result<IpAddr, Problem> {
    match app.ask(Request::Resolve(name)).await? {
        Response::Address(address) => Ok(address),
        _ => Err(misfit()),
    }
}

/// Whom to ping.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PingRequest {
    /// A name, IP address or node id.
    to: String,
    /// How many echoes, 1 to 10.
    #[serde(default = "few")]
    #[schema(minimum = 1, maximum = 10)]
    count: u8,
}

fn few() -> u8 {
    4
}

/// What came back.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Pinged {
    /// Where to.
    #[schema(value_type = String)]
    address: IpAddr,
    /// Display name of the member there.
    peer: Option<String>,
    /// Round-trip time of each echo, in milliseconds; null without a reply.
    rtts_ms: Vec<Option<f64>>,
    /// At which step it failed, where nothing came back.
    failure: Option<String>,
}

/// Asks a member or device for echoes, and says where it fails.
#[utoipa::path(post, path = "/api/v1/ping", request_body = PingRequest, responses((status = 200, body = Pinged)))]
pub(super) async fn ping(State(app): State<App>, Input(request): Input<PingRequest>) -> Answer<Pinged> {
    if !(1..=MAX_ECHOES).contains(&request.count) {
        return Err(Problem::invalid(format!("a count of {}; use 1 to {MAX_ECHOES}", request.count)));
    }
    let address = address(&app, request.to).await?;
    let question =
        || ExplainRequest { traffic: Traffic::Icmp, to: address.to_string(), port: None, from: None };
    let before = explained(&app, Request::Explain(question())).await?;
    let answers = match (before.own_device, before.verdict) {
        (Some(target), _) => echoes(target, request.count).await?,
        (None, Verdict::Pass) => echoes(address, request.count).await?,
        (None, Verdict::Drop) => Vec::new(),
    };
    let after = explained(&app, Request::Explain(question())).await?;
    let rtts_ms: Vec<Option<f64>> = answers.iter().map(echo::milliseconds).collect();
    let failure = rtts_ms.iter().all(Option::is_none).then(|| echo::failure(&answers, &after));
    Ok(Json(Pinged {
        address,
        peer: after.peer.filter(|_| after.own_device.is_none()).map(|peer| peer.name),
        rtts_ms,
        failure,
    }))
}

async fn echoes(address: IpAddr, count: u8) -> Result<Vec<echo::Answer>, Problem> {
    let asked = tokio::task::spawn_blocking(move || echo::ask(address, count.into(), |_, _| {})).await;
    let asked = asked.map_err(|_| Problem::failed("the echoes were given up"))?;
    asked.map_err(|error| Problem::failed(format!("{error:#}")))
}
