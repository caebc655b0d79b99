//! Management keys: networks joined and made, open ports, and secrets that are shared.

#![allow(unused_qualifications, reason = "in what utoipa's macro makes of parameters")]

use super::state::Answer;
use super::{App, Input, misfit, qr};
use crate::config::keys::{Capability, KeyDetails, KeyEntry, KeyReply, KeyRequest, NewKey, NewNetwork};
use crate::config::secret::SecretText;
use crate::control::api::{Request, Response};
use crate::control::problem::Problem;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use meshhold_core::scope::{PortRule, Scope};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A key, with its revision as entity tag.
type Tagged = ([(HeaderName, String); 1], Json<KeyDetails>);

/// The last second that dates are written for.
const YEAR_9999: u64 = 253_402_300_799;

/// A network to make, or to join where `key` is given.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::control) struct AddKey {
    /// Display name.
    #[schema(min_length = 1, max_length = 64)]
    pub(in crate::control) name: String,
    /// Ports to open (`tcp:22`, `udp:5000-5010`); none denies everything.
    #[serde(default)]
    pub(in crate::control) allow: Vec<String>,
    /// When the key ends (Unix seconds); null is never.
    #[serde(default)]
    #[schema(maximum = 253_402_300_799_u64)]
    pub(in crate::control) expires: Option<u64>,
    /// The `meshkey1…` string of the network to join.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(in crate::control) key: Option<SecretText>,
    /// IPv4 range of a network to make (`base/prefix`); a free one if absent.
    #[serde(default)]
    pub(in crate::control) ipv4_range: Option<String>,
}

/// What changes about a key.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::control) struct EditKey {
    /// The new name.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 64)]
    pub(in crate::control) name: Option<String>,
    /// The ports that are open then, and no others.
    #[serde(default)]
    pub(in crate::control) allow: Option<Vec<String>>,
}

/// What a change is meant for; read by [`revision`].
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is the document's")]
struct IfMatch {
    /// The entity tag of the state that the change is meant for, or `*`.
    #[param(rename = "If-Match", required = false, value_type = String)]
    tag: Option<String>,
}

/// A secret for another node to join with.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Shared {
    /// The `meshkey1…` string.
    #[schema(value_type = String)]
    key: SecretText,
    /// Its QR code, SVG.
    qr: String,
}

/// All keys.
#[utoipa::path(get, path = "/api/v1/keys", responses((status = 200, body = Vec<KeyEntry>)))]
pub(super) async fn list(State(app): State<App>) -> Answer<Vec<KeyEntry>> {
    entries(&app).await.map(Json)
}

pub(super) async fn entries(app: &App) -> Result<Vec<KeyEntry>, Problem> {
    match app.ask(Request::Key(KeyRequest::List)).await? {
        Response::Key(KeyReply::Keys(keys)) => Ok(keys),
        _ => Err(misfit()),
    }
}

/// Makes a network, or joins one.
#[utoipa::path(post, path = "/api/v1/keys", request_body = AddKey, responses((status = 201, body = KeyDetails)))]
pub(super) async fn add(
    State(app): State<App>,
    Input(new): Input<AddKey>,
) -> Result<(StatusCode, Tagged), Problem> {
    let AddKey { name, allow, expires, key, ipv4_range } = new;
    if expires.is_some_and(|end| end > YEAR_9999) {
        return Err(Problem::invalid("`expires` is in Unix seconds, up to the year 9999; null is never"));
    }
    let allow = scope(&allow)?;
    let range = ipv4_range.map(|text| text.parse()).transpose();
    let range = range.map_err(|error: <meshhold_core::key::Ipv4Range as std::str::FromStr>::Err| {
        Problem::invalid(error.to_string())
    })?;
    let request = match key {
        Some(_) if range.is_some() => {
            return Err(Problem::invalid(
                "a network that is joined has its range already; leave ipv4_range out",
            ));
        }
        Some(key) => {
            let caps = vec![Capability::MeshRoute];
            KeyRequest::Add(NewKey { name, caps, allow, expires, key, owner_secret: None })
        }
        None => KeyRequest::Mint(NewNetwork { name, allow, expires, range, space: app.space }),
    };
    Ok((StatusCode::CREATED, one(app.change(Request::Key(request)).await?)?))
}

/// One key, without the secret.
#[utoipa::path(get, path = "/api/v1/keys/{id}", params(("id" = String, Path, description = "id or a unique start of it")),
    responses((status = 200, body = KeyDetails)))]
pub(super) async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Tagged, Problem> {
    one(app.ask(Request::Key(KeyRequest::Show { id })).await?)
}

/// Changes name or open ports; with `If-Match` only if nobody else did meanwhile.
#[utoipa::path(patch, path = "/api/v1/keys/{id}", params(("id" = String, Path, description = "id or a unique start of it"), IfMatch),
    request_body = EditKey, responses((status = 200, body = KeyDetails)))]
pub(super) async fn edit(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Input(change): Input<EditKey>,
) -> Result<Tagged, Problem> {
    let allow = change.allow.as_deref().map(scope).transpose()?;
    let (name, revision) = (change.name, revision(&headers));
    one(app.change(Request::Key(KeyRequest::Edit { id, allow, name, revision })).await?)
}

/// Leaves the network and forgets the key; with `If-Match` only if nobody else changed it meanwhile.
#[utoipa::path(delete, path = "/api/v1/keys/{id}", params(("id" = String, Path, description = "id or a unique start of it"), IfMatch),
    responses((status = 200, body = KeyDetails)))]
pub(super) async fn remove(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Tagged, Problem> {
    let revision = revision(&headers);
    one(app.change(Request::Key(KeyRequest::Remove { id, revision })).await?)
}

/// The secret itself, as text and as QR code.
#[utoipa::path(post, path = "/api/v1/keys/{id}/share", params(("id" = String, Path, description = "id or a unique start of it")),
    responses((status = 200, body = Shared)))]
pub(super) async fn share(State(app): State<App>, Path(id): Path<String>) -> Answer<Shared> {
    match app.ask(Request::Key(KeyRequest::Share { id })).await? {
        Response::Key(KeyReply::Secret(key)) => Ok(Json(Shared { qr: qr::picture(key.reveal())?, key })),
        _ => Err(misfit()),
    }
}

fn one(response: Response) -> Result<Tagged, Problem> {
    let Response::Key(KeyReply::Key(details)) = response else { return Err(misfit()) };
    Ok(([(header::ETAG, format!("\"{}\"", details.entry.revision))], Json(*details)))
}

/// The revision that `If-Match` names; none where it is absent or `*`. What is no entity tag fits no state.
fn revision(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::IF_MATCH)?.to_str().unwrap_or_default().trim();
    let tag = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    (text != "*").then(|| tag.unwrap_or_default().to_owned())
}

fn scope(rules: &[String]) -> Result<Scope, Problem> {
    let rules: Result<Vec<PortRule>, _> = rules.iter().map(|rule| rule.parse::<PortRule>()).collect();
    rules.map(Scope::from).map_err(|error| Problem::invalid(error.to_string()))
}
