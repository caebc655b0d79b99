//! LAN devices that this node fronts.

use super::state::Answer;
use super::{App, Input, misfit};
use crate::control::api::{DeviceStatus, ForwardRequest, Request, Response};
use crate::control::problem::Problem;
use crate::forward::Forward;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A device to front.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::control) struct AddDevice {
    /// Display name.
    #[schema(min_length = 1, max_length = 63)]
    pub(in crate::control) name: String,
    /// Its IP address in the LAN.
    #[schema(min_length = 2, max_length = 45)]
    pub(in crate::control) target: String,
}

/// All of them, an entry a network and device.
#[utoipa::path(get, path = "/api/v1/devices", responses((status = 200, body = Vec<DeviceStatus>)))]
pub(super) async fn list(State(app): State<App>) -> Answer<Vec<DeviceStatus>> {
    devices(app.ask(Request::Forward(ForwardRequest::List)).await?)
}

/// Gives a device a mesh address and a name in every network of this node.
#[utoipa::path(post, path = "/api/v1/devices", request_body = AddDevice,
    responses((status = 201, body = Vec<DeviceStatus>)))]
pub(super) async fn add(
    State(app): State<App>,
    Input(new): Input<AddDevice>,
) -> Result<(StatusCode, Json<Vec<DeviceStatus>>), Problem> {
    let target = new.target.parse().map_err(|_| {
        Problem::invalid(
            "the target isn't an IP address; give the device's own in the LAN, e.g. 192.168.1.40",
        )
    })?;
    let request = ForwardRequest::Add(Forward { name: new.name, target });
    Ok((StatusCode::CREATED, devices(app.change(Request::Forward(request)).await?)?))
}

/// Fronts a device no longer.
#[utoipa::path(delete, path = "/api/v1/devices/{name}", params(("name" = String, Path, description = "display name")),
    responses((status = 200, body = Vec<DeviceStatus>)))]
pub(super) async fn remove(State(app): State<App>, Path(name): Path<String>) -> Answer<Vec<DeviceStatus>> {
    devices(app.change(Request::Forward(ForwardRequest::Remove { name })).await?)
}

fn devices(response: Response) -> Answer<Vec<DeviceStatus>> {
    match response {
        Response::Forwards(devices) => Ok(Json(devices)),
        _ => Err(misfit()),
    }
}
