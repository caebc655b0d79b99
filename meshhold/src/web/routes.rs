//! Logging in and out, sessions, tokens, and who did what.

use super::audit::Entry;
use super::gate::cookie_name;
use super::guard::{Access, Guard};
use super::password;
use super::sessions::{How, SESSION, Session};
use super::tokens::{NewToken, TokenEntry, TokenError};
use crate::config::keys::Capability;
use crate::config::secret::SecretText;
use crate::control::connection::Caller;
use crate::control::problem::Problem;
use crate::control::routes::{App, Input};
use axum::extract::{Path, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// These addresses of the API.
pub(crate) fn api_router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(login))
        .routes(routes!(logout))
        .routes(routes!(session))
        .routes(routes!(sessions))
        .routes(routes!(end_session))
        .routes(routes!(link))
        .routes(routes!(set_password))
        .routes(routes!(tokens, add_token))
        .routes(routes!(remove_token))
        .routes(routes!(audit))
}

/// One of the two.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    /// The password of the Web UI.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    password: Option<SecretText>,
    /// The token of a link that `meshhold web` printed.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    link: Option<SecretText>,
}

/// The session that asks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OwnSession {
    #[serde(flatten)]
    session: Session,
    /// What it permits.
    capability: Capability,
    /// What writes must send as `X-CSRF-Token`.
    #[schema(value_type = String)]
    csrf: SecretText,
}

type WithCookie<T> = ([(HeaderName, String); 1], T);

/// Logs in: the answer sets the session's cookie.
#[utoipa::path(post, path = "/api/v1/login", request_body = Login, responses((status = 200, body = OwnSession)))]
async fn login(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Input(login): Input<Login>,
) -> Result<WithCookie<Json<OwnSession>>, Problem> {
    let Caller::Web { source, .. } = caller else {
        return Err(Problem::conflict("the control socket needs no login"));
    };
    let how = match (login.password, login.link) {
        (Some(password), None) => by_password(&app.guard, source, password).await?,
        (None, Some(link)) => by_link(&app.guard, source, &link)?,
        _ => return Err(Problem::invalid("send either `password` or `link`")),
    };
    let (session, token) = app.guard.sessions().start(source, how);
    app.guard.audit().note(&source.to_string(), &format!("session {}", session.id), "login", "ok");
    caller.proven();
    let own = own(&app.guard, session)?;
    Ok(([cookie(&app.guard, token.reveal(), SESSION.as_secs())], Json(own)))
}

async fn by_password(guard: &Arc<Guard>, source: IpAddr, password: SecretText) -> Result<How, Problem> {
    guard.not_locked(source)?;
    let _one = guard.hashing.acquire().await.map_err(|_| Problem::unavailable("the daemon is stopping"))?;
    // Whoever waited may be locked out by now.
    guard.not_locked(source)?;
    let data_dir = guard.data_dir.clone();
    let verify = move || password::verify(&data_dir, password.reveal());
    if !tokio::task::spawn_blocking(verify).await.unwrap_or(false) {
        guard.failed(source, "login");
        return Err(Problem::unauthorized(
            "wrong password, or none is set; `meshhold web` prints a link that needs none",
        ));
    }
    guard.succeeded(source);
    Ok(How::Password)
}

/// Not subject to the lockout: nobody guesses 256 bits, and the operator must get in.
fn by_link(guard: &Guard, source: IpAddr, link: &SecretText) -> Result<How, Problem> {
    if guard.sessions().use_link(link.reveal()) {
        return Ok(How::Link);
    }
    guard.failed(source, "login by link");
    Err(Problem::unauthorized("this link is used or older than a minute; run `meshhold web` again"))
}

fn own(guard: &Guard, session: Session) -> Result<OwnSession, Problem> {
    let csrf = guard.sessions().csrf(&session.id).cloned();
    let csrf = csrf.ok_or_else(|| Problem::unauthorized("the session has ended; log in again"))?;
    Ok(OwnSession { session, capability: Capability::Admin, csrf })
}

fn cookie(guard: &Guard, token: &str, seconds: u64) -> (HeaderName, String) {
    let secure = match &guard.site {
        Some(site) if site.scheme == "https" => "; Secure",
        _ => "",
    };
    let name = cookie_name(guard);
    let text = format!("{name}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    (header::SET_COOKIE, text)
}

/// Ends the session that asks.
#[utoipa::path(post, path = "/api/v1/logout", responses((status = 204)))]
async fn logout(
    State(app): State<App>,
    Extension(access): Extension<Access>,
) -> Result<WithCookie<StatusCode>, Problem> {
    let id = access.session.ok_or_else(|| Problem::conflict("only a session can be ended"))?;
    app.guard.sessions().end(&id);
    Ok(([cookie(&app.guard, "", 0)], StatusCode::NO_CONTENT))
}

/// The session that asks.
#[utoipa::path(get, path = "/api/v1/session", responses((status = 200, body = OwnSession)))]
async fn session(
    State(app): State<App>,
    Extension(access): Extension<Access>,
) -> Result<Json<OwnSession>, Problem> {
    let id = access.session.ok_or_else(|| Problem::not_found("this access has no session"))?;
    let found = app.guard.sessions().list(Some(&id)).into_iter().find(|session| session.id == id);
    let found = found.ok_or_else(|| Problem::unauthorized("the session has ended; log in again"))?;
    own(&app.guard, found).map(Json)
}

/// All sessions.
#[utoipa::path(get, path = "/api/v1/sessions", responses((status = 200, body = Vec<Session>)))]
async fn sessions(State(app): State<App>, Extension(access): Extension<Access>) -> Json<Vec<Session>> {
    Json(app.guard.sessions().list(access.session.as_deref()))
}

/// Ends a session.
#[utoipa::path(delete, path = "/api/v1/sessions/{id}", params(("id" = String, Path, description = "the session's id")),
    responses((status = 204)))]
async fn end_session(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    if app.guard.sessions().end(&id) {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::not_found("there is no such session any more"))
}

/// A one-time link. Over the control socket only.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct NewLink {
    /// For a browser, within a minute and once.
    #[schema(value_type = String)]
    pub(crate) url: SecretText,
    /// SHA-256 of the certificate, where this node signed it itself.
    pub(crate) fingerprint: Option<String>,
}

/// Makes a one-time link. Over the control socket only.
#[utoipa::path(post, path = "/api/v1/links", responses((status = 201, body = NewLink)))]
async fn link(State(app): State<App>) -> Result<(StatusCode, Json<NewLink>), Problem> {
    let site = app.guard.site.as_ref().ok_or_else(|| {
        Problem::conflict(
            "the Web UI is off; `meshhold meshlan status` says why, and api.listen_addr sets its address",
        )
    })?;
    let token = app.guard.sessions().link();
    // In the fragment: browsers don't send it, and no log holds it.
    let url = SecretText::new(format!("{}://{}/#link={}", site.scheme, site.main, token.reveal()));
    Ok((StatusCode::CREATED, Json(NewLink { url, fingerprint: site.fingerprint.clone() })))
}

/// The password to be.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    /// At least 10 characters.
    #[schema(value_type = String)]
    password: SecretText,
}

/// Replaces the password of the Web UI, and ends the sessions that the old one started. Over the control socket only.
#[utoipa::path(put, path = "/api/v1/password", request_body = NewPassword, responses((status = 204)))]
async fn set_password(
    State(app): State<App>,
    Input(NewPassword { password }): Input<NewPassword>,
) -> Result<StatusCode, Problem> {
    let data_dir = app.guard.data_dir.clone();
    let set = tokio::task::spawn_blocking(move || password::set(&data_dir, password.reveal())).await;
    let set = set.map_err(|_| Problem::failed("hashing the password failed"))?;
    set.map_err(|error| Problem::invalid(format!("{error:#}")))?;
    app.guard.sessions().end_by_password();
    Ok(StatusCode::NO_CONTENT)
}

/// All tokens of programs.
#[utoipa::path(get, path = "/api/v1/tokens", responses((status = 200, body = Vec<TokenEntry>)))]
async fn tokens(State(app): State<App>) -> Json<Vec<TokenEntry>> {
    Json(app.guard.tokens().list())
}

/// Keeps a token for a program, by its digest: who made it keeps the token.
#[utoipa::path(post, path = "/api/v1/tokens", request_body = NewToken, responses((status = 201, body = TokenEntry)))]
async fn add_token(
    State(app): State<App>,
    Input(new): Input<NewToken>,
) -> Result<(StatusCode, Json<TokenEntry>), Problem> {
    let added = app.guard.tokens().add(new)?;
    Ok((StatusCode::CREATED, Json(added)))
}

/// Forgets a token.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", params(("id" = String, Path, description = "the token's id")),
    responses((status = 200, body = TokenEntry)))]
async fn remove_token(State(app): State<App>, Path(id): Path<String>) -> Result<Json<TokenEntry>, Problem> {
    Ok(Json(app.guard.tokens().remove(&id)?))
}

/// Who did what since the start, newest first.
#[utoipa::path(get, path = "/api/v1/audit", responses((status = 200, body = Vec<Entry>)))]
async fn audit(State(app): State<App>) -> Json<Vec<Entry>> {
    Json(app.guard.audit().recent())
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let detail = error.to_string();
        match error {
            TokenError::Invalid(_) => Self::invalid(detail),
            TokenError::NotFound(_) => Self::not_found(detail),
            TokenError::Damaged(_) | TokenError::File(_) => Self::failed(detail),
        }
    }
}
