//! `meshlan forwards`: LAN devices that this node fronts.

use super::args::ForwardsCommand;
use super::ask;
use super::output::{Outcome, printable, table};
use crate::config::Config;
use crate::control::api::{DeviceState, DeviceStatus, ForwardRequest, Request, Response};
use crate::forward::{Forward, Origin};

/// Runs one of the commands. They need the daemon: it alone knows addresses and ways.
pub(super) fn run(config: &Config, command: ForwardsCommand, json: bool) -> anyhow::Result<Outcome> {
    let request = match command {
        ForwardsCommand::Add { name, target } => ForwardRequest::Add(Forward { name, target }),
        ForwardsCommand::List => ForwardRequest::List,
        ForwardsCommand::Rm { name } => ForwardRequest::Remove { name },
    };
    match ask(config, &Request::Forward(request))? {
        Response::Forwards(devices) if json => Ok(Outcome::json(&devices)),
        Response::Forwards(devices) => Ok(Outcome::text(list(&devices))),
        _ => anyhow::bail!("the daemon's answer isn't a list of devices; restart it with this version"),
    }
}

/// One row a device and network.
pub(super) fn list(devices: &[DeviceStatus]) -> String {
    let row = |device: &DeviceStatus| {
        let ipv4 = device.ipv4.map(|address| address.to_string()).unwrap_or_default();
        let origin = match device.origin {
            Origin::Config => "config",
            Origin::Runtime => "runtime",
        };
        let target = format!("-> {}", device.target);
        let state = state(device.state).to_owned();
        vec![printable(&device.name), ipv4, device.ipv6.to_string(), target, origin.to_owned(), state]
    };
    table(&devices.iter().map(row).collect::<Vec<_>>())
}

fn state(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Ready => "ready",
        DeviceState::NoRoute => "no route to it from here",
        DeviceState::OwnAddress => "refused: an address of this node",
        DeviceState::MeshAddress => "refused: a mesh address",
        DeviceState::NoKernelPrograms => "off: needs the kernel programs",
    }
}
