//! What every request passes before a handler sees it.
//!
//! Owns the order of the checks: host and origin, then who asks, then whether they may. Must not know what requests mean.

use super::guard::{Access, Guard, authorities, bracketed};
use crate::config::keys::Capability;
use crate::control::api::{Request as Ask, Response as Answer};
use crate::control::connection::Caller;
use crate::control::problem::Problem;
use crate::control::routes::App;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::time::Duration;

/// A request that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// What writes of a session must carry.
const CSRF: &str = "x-csrf-token";
/// Only over the control socket.
const LOCAL: [(Method, &str); 2] = [(Method::POST, "/api/v1/links"), (Method::PUT, "/api/v1/password")];
/// No address takes another one.
const METHODS: [Method; 6] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
/// Nobody needs to be known for these.
const OPEN: [&str; 2] = ["/api/v1/openapi.json", "/api/v1/login"];
/// They look like writes and change nothing.
const QUESTIONS: [&str; 4] = ["/api/v1/explain", "/api/v1/explain/packet", "/api/v1/ping", "/api/v1/qr"];

/// What a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing: anybody may ask.
    Nobody,
    /// This capability.
    Capability(Capability),
    /// The control socket.
    Socket,
}

impl Needs {
    /// What `method` at `path` takes.
    pub(crate) fn of(method: &Method, path: &str) -> Self {
        if is_page(path) || OPEN.contains(&path) {
            return Self::Nobody;
        }
        if LOCAL.iter().any(|(local, at)| local == method && *at == path) {
            return Self::Socket;
        }
        let changes = is_unsafe(method) && !QUESTIONS.contains(&path);
        Self::Capability(if changes { Capability::Admin } else { Capability::View })
    }
}

/// Lets a request through, or says why not.
pub(crate) async fn gate(State(app): State<App>, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    let outcome = match head.extensions.get::<Caller>().cloned() {
        Some(caller) => admit(&app, &head, &caller).await,
        None => Err(Problem::failed("nobody knows who asks; this is a defect of MeshHold")),
    };
    let access = match outcome {
        Ok(access) => access,
        Err(problem) => return problem.into_response(),
    };
    let noted = access.clone().filter(|_| is_write(&head)).map(|access| (access, described(&head)));
    if let Some(access) = access {
        head.extensions.insert(access);
    }
    let request = Request::from_parts(head, body);
    let late =
        || Problem::with_status(StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response();
    let response = tokio::time::timeout(PATIENCE, next.run(request)).await.unwrap_or_else(|_| late());
    if let Some((access, action)) = noted {
        let source = access.source.map_or_else(|| "socket".to_owned(), |source| source.to_string());
        let status = response.status();
        let outcome = if status.is_success() { "ok".to_owned() } else { status.as_u16().to_string() };
        app.guard.audit().note(&source, &access.who, &action, &outcome);
    }
    response
}

/// Who asks, if they may; nobody where nobody needs to be known.
async fn admit(app: &App, head: &Parts, caller: &Caller) -> Result<Option<Access>, Problem> {
    let source = match caller {
        Caller::Local { uid: Some(uid) } => {
            let who = format!("uid {uid}");
            return Ok(Some(Access { who, source: None, capability: Capability::Admin, session: None }));
        }
        Caller::Local { uid: None } => {
            return Err(Problem::forbidden("only root and the daemon's own user may ask"));
        }
        Caller::Web { source, .. } => *source,
    };
    if !METHODS.contains(&head.method) {
        return Err(Problem::with_status(StatusCode::METHOD_NOT_ALLOWED, "not this method here"));
    }
    right_host(app, head).await?;
    right_origin(&app.guard, head)?;
    let path = head.uri.path();
    let needs = Needs::of(&head.method, path);
    if needs == Needs::Nobody || is_open_metrics(&app.guard, head, source) {
        return Ok(None);
    }
    let access = identify(&app.guard, &head.headers, source)?;
    caller.proven();
    if needs == Needs::Socket {
        return Err(Problem::forbidden("this is for the command line on the node itself"));
    }
    may(&app.guard, head, &access)?;
    Ok(Some(access))
}

/// A name that resolves to this host is not yet a name of this host: against DNS rebinding.
async fn right_host(app: &App, head: &Parts) -> Result<(), Problem> {
    let wrong = || {
        Problem::forbidden(
            "this host name isn't this node's; use the address that `meshhold web` prints, or add it to api.hosts",
        )
    };
    let host = host(head).ok_or_else(wrong)?;
    if app.guard.site.as_ref().is_some_and(|site| site.is_own(host)) || is_mesh_host(app, host).await {
        return Ok(());
    }
    Err(wrong())
}

/// The one host that a request names.
fn host(head: &Parts) -> Option<&str> {
    let mut named = head.headers.get_all(header::HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else { return None };
    let host = host.to_str().ok()?;
    let agrees = head.uri.authority().is_none_or(|authority| authority.as_str() == host);
    agrees.then_some(host)
}

/// Whether `host` is this node's address or name in the network that may ask.
async fn is_mesh_host(app: &App, host: &str) -> bool {
    let (Some((wanted, suffix)), Some(site)) = (&app.guard.mesh, &app.guard.site) else { return false };
    let Ok(Answer::Status(status)) = app.ask(Ask::Status).await else { return false };
    let networks = status.networks.iter().filter(|network| network.name == *wanted || network.id == *wanted);
    let addresses = networks
        .flat_map(|network| network.ipv4.map(IpAddr::V4).into_iter().chain(network.ipv6.map(IpAddr::V6)));
    let names = addresses.map(bracketed).chain([format!("{}.{suffix}", status.name)]);
    let host = host.to_ascii_lowercase();
    names.flat_map(|name| authorities(&name, site.scheme, site.port)).any(|own| own == host)
}

/// Pages of other sites don't ask, not even with this browser's cookies.
fn right_origin(guard: &Guard, head: &Parts) -> Result<(), Problem> {
    let scheme = guard.site.as_ref().map_or("http", |site| site.scheme);
    let own = host(head).map(|host| format!("{scheme}://{host}"));
    let mut origins = head.headers.get_all(header::ORIGIN).iter();
    let origin = origins.next().map(|value| value.to_str().unwrap_or_default().to_owned());
    let referer = header_text(&head.headers, header::REFERER.as_str()).map(origin_of);
    let fetched = header_text(&head.headers, "sec-fetch-site");
    let foreign = origin.is_some() && origin != own
        || origins.next().is_some()
        || origin.is_none() && is_unsafe(&head.method) && referer.is_some() && referer != own
        || matches!(fetched, Some("cross-site" | "same-site")) && !is_visit(head);
    if foreign { Err(Problem::forbidden("pages of other sites don't get an answer")) } else { Ok(()) }
}

/// The page itself, opened by a link from elsewhere: it holds nothing yet.
fn is_visit(head: &Parts) -> bool {
    head.uri.path() == "/" && header_text(&head.headers, "sec-fetch-mode") == Some("navigate")
}

fn is_page(path: &str) -> bool {
    path == "/" || path.starts_with("/assets/")
}

/// Scheme and authority of a URL.
fn origin_of(url: &str) -> String {
    url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/")
}

fn is_open_metrics(guard: &Guard, head: &Parts, source: IpAddr) -> bool {
    guard.open_metrics && source.is_loopback() && head.uri.path() == "/metrics" && !is_unsafe(&head.method)
}

fn identify(guard: &Guard, headers: &HeaderMap, source: IpAddr) -> Result<Access, Problem> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let text = value.to_str().unwrap_or_default();
        let token = text.strip_prefix("Bearer ").or_else(|| text.strip_prefix("bearer "));
        let token = token.ok_or_else(|| {
            Problem::unauthorized("only tokens are taken there: send `Authorization: Bearer TOKEN`")
        })?;
        return guard.by_token(source, token.trim());
    }
    cookies(guard, headers).find_map(|token| guard.by_session(source, token)).ok_or_else(|| {
        Problem::unauthorized(
            "nobody is logged in; run `meshhold web` on the node for a link, or send a bearer token",
        )
    })
}

/// The cookie's name: cookies don't know ports, and a host may have several nodes.
pub(super) fn cookie_name(guard: &Guard) -> String {
    format!("meshhold-{}", guard.site.as_ref().map_or(0, |site| site.port))
}

fn cookies<'a>(guard: &Guard, headers: &'a HeaderMap) -> impl Iterator<Item = &'a str> {
    let name = cookie_name(guard);
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = all.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(move |(key, _)| *key == name).map(|(_, token)| token)
}

fn may(guard: &Guard, head: &Parts, access: &Access) -> Result<(), Problem> {
    if let (Some(session), true) = (&access.session, is_unsafe(&head.method)) {
        let sent = header_text(&head.headers, CSRF).unwrap_or_default();
        let sessions = guard.sessions();
        let right = sessions.csrf(session).is_some_and(|token| {
            // Digests compare in constant time.
            blake3::hash(token.reveal().as_bytes()) == blake3::hash(sent.as_bytes())
        });
        if !right {
            return Err(Problem::forbidden(
                "the X-CSRF-Token header is missing or isn't this session's; `GET /api/v1/session` has it",
            ));
        }
    }
    if is_write(head) && access.capability != Capability::Admin {
        return Err(Problem::forbidden("this needs 'admin', and you have 'view'"));
    }
    Ok(())
}

fn is_unsafe(method: &Method) -> bool {
    *method != Method::GET && *method != Method::HEAD
}

fn is_write(head: &Parts) -> bool {
    let needs = Needs::of(&head.method, head.uri.path());
    matches!(needs, Needs::Socket | Needs::Capability(Capability::Admin))
}

fn described(head: &Parts) -> String {
    format!("{} {}", head.method, head.uri.path())
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}
