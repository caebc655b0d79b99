//! What each address of the control API means.
//!
//! Owns the table of routes and the document that describes them. Handlers translate between HTTP and the daemon's
//! requests and decide nothing. Must not know who may ask.

mod devices;
pub(super) mod events;
mod input;
mod keys;
mod metrics;
mod qr;
mod questions;
mod state;

pub(super) use devices::AddDevice;
pub(crate) use input::Input;
pub(super) use keys::{AddKey, EditKey};
pub(super) use questions::{PacketQuestion, Resolved};

use super::api::{Request, Response};
use super::problem::{MEDIA_TYPE, Problem};
use super::{Asked, MAX_REQUEST};
use crate::web::{self, Guard, Needs};
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, header};
use axum::routing::get;
use axum::{Router, middleware};
use meshhold_core::key::Ipv4Range;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, OpenApi, PathItem, Ref, RefOr, Response as Documented, ResponseBuilder,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What handlers share.
#[derive(Clone, Debug)]
pub(crate) struct App {
    daemon: mpsc::Sender<Asked>,
    /// Who may ask.
    pub(crate) guard: Arc<Guard>,
    space: Ipv4Range,
    /// The node's own UDP port.
    listen: u16,
    /// Counts changes made through the API.
    changes: Arc<watch::Sender<u64>>,
}

impl App {
    /// Talks to the daemon over `daemon`.
    pub(crate) fn new(daemon: mpsc::Sender<Asked>, guard: Arc<Guard>, space: Ipv4Range, listen: u16) -> Self {
        Self { daemon, guard, space, listen, changes: Arc::new(watch::Sender::new(0)) }
    }

    /// The daemon's answer, where it isn't a refusal.
    pub(crate) async fn ask(&self, request: Request) -> Result<Response, Problem> {
        let stopping = || Problem::unavailable("the daemon is stopping; ask again when it runs");
        let (reply, answered) = oneshot::channel();
        self.daemon.send((request, reply)).await.map_err(|_| stopping())?;
        match answered.await.map_err(|_| stopping())? {
            Response::Error(problem) => Err(problem),
            response => Ok(response),
        }
    }

    /// As [`App::ask`], for what changes something: those who watch are told at once.
    async fn change(&self, request: Request) -> Result<Response, Problem> {
        let response = self.ask(request).await;
        self.changes.send_modify(|count| *count += 1);
        response
    }
}

/// An answer of another kind than the question's.
fn misfit() -> Problem {
    Problem::failed("the daemon's answer doesn't fit the question; this is a defect of MeshHold")
}

/// The API, for the control socket.
pub(crate) fn router(app: &App) -> Router {
    gated(Router::new(), app)
}

/// The API and the pages, for TCP.
pub(crate) fn site(app: &App) -> Router {
    gated(web::pages_router(), app)
}

/// `more` and the API, behind the gate.
fn gated(more: Router<App>, app: &App) -> Router {
    let (router, _) = described().split_for_parts();
    let json = [(header::CONTENT_TYPE, "application/json")];
    // Made anew for each who asks: hardly anybody does, and it is larger than everything else here.
    let document = async move || (json, document().to_json().unwrap_or_default());
    router
        .merge(more)
        .route("/api/v1/openapi.json", get(document))
        .fallback(async || Problem::not_found("nothing is here; `/api/v1/openapi.json` lists what there is"))
        .method_not_allowed_fallback(async || {
            Problem::with_status(StatusCode::METHOD_NOT_ALLOWED, "not this method here")
        })
        .layer(middleware::from_fn_with_state(app.clone(), web::gate))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(app.clone())
}

/// The OpenAPI document.
pub(super) fn document() -> OpenApi {
    described().split_for_parts().1
}

fn described() -> OpenApiRouter<App> {
    let info = utoipa::openapi::InfoBuilder::new()
        .title("MeshHold")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("The control API of one MeshHold node."))
        .build();
    let document = utoipa::openapi::OpenApiBuilder::new().info(info).build();
    let mut router = OpenApiRouter::with_openapi(document)
        .routes(routes!(state::status))
        .routes(routes!(state::networks))
        .routes(routes!(state::peers))
        .routes(routes!(state::paths))
        .routes(routes!(state::netcheck))
        .routes(routes!(state::drops))
        .routes(routes!(state::listeners))
        .routes(routes!(state::doctor))
        .routes(routes!(state::programs))
        .routes(routes!(state::figures))
        .routes(routes!(state::version))
        .routes(routes!(metrics::metrics))
        .routes(routes!(state::reload))
        .routes(routes!(keys::list, keys::add))
        .routes(routes!(keys::show, keys::edit, keys::remove))
        .routes(routes!(keys::share))
        .routes(routes!(qr::read))
        .routes(routes!(devices::list, devices::add))
        .routes(routes!(devices::remove))
        .routes(routes!(questions::explain))
        .routes(routes!(questions::explain_packet))
        .routes(routes!(questions::resolve))
        .routes(routes!(questions::ping))
        .routes(routes!(events::events))
        .merge(web::api_router());
    let document = router.get_openapi_mut();
    describe_problems(document);
    describe_access(document);
    router
}

/// A bearer token; browsers have a session's cookie instead. `x-needs` says what each operation takes.
fn describe_access(document: &mut OpenApi) {
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("bearer", bearer);
    document.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>("bearer", [])]);
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            let (needs, security) = match Needs::of(&method, path) {
                Needs::Nobody => ("nobody".to_owned(), SecurityRequirement::default()),
                Needs::Socket => ("socket".to_owned(), SecurityRequirement::new("bearer", [""; 0])),
                Needs::Capability(one) => {
                    (one.to_string(), SecurityRequirement::new("bearer", [one.to_string()]))
                }
            };
            operation.security = Some(vec![security]);
            let extensions = operation.extensions.get_or_insert_default();
            extensions.insert("x-needs".to_owned(), needs.into());
        }
    }
}

/// The operations of one address.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let all = [
        (Method::GET, &mut item.get),
        (Method::POST, &mut item.post),
        (Method::PUT, &mut item.put),
        (Method::PATCH, &mut item.patch),
        (Method::DELETE, &mut item.delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Every operation may be refused, always in the same shape.
fn describe_problems(document: &mut OpenApi) {
    let schema = <Problem as utoipa::PartialSchema>::schema();
    let components = document.components.get_or_insert_default();
    components.schemas.insert("Problem".to_owned(), schema);
    let refusals = [
        ("400", "the request isn't one"),
        ("401", "nobody is logged in"),
        ("403", "not this one, or not from there"),
        ("404", "there is no such thing"),
        ("405", "not this method here"),
        ("408", "the request took too long"),
        ("409", "something is in the way"),
        ("412", "somebody else changed it meanwhile"),
        ("413", "the request is too long"),
        ("415", "not this media type"),
        ("422", "a value is no good"),
        ("429", "too many failures"),
        ("500", "this node failed"),
        ("503", "not now"),
    ];
    for (_, operation) in document.paths.paths.values_mut().flat_map(operations) {
        for (status, description) in refusals {
            let known = &mut operation.responses.responses;
            known.entry(status.to_owned()).or_insert_with(|| RefOr::T(refusal(description)));
        }
    }
}

fn refusal(description: &str) -> Documented {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new().description(description).content(MEDIA_TYPE, content).build()
}
