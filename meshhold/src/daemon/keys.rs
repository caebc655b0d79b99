//! Key changes while the daemon runs: a new key joins, an edited one changes its scope, a removed one leaves.
//!
//! Owns the step from the key store to running networks. Must not know how a key operation works
//! (that is `config::keys`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use meshhold_core::key::NetworkId;
use meshhold_core::membership::MembershipState;

use super::Daemon;
use super::network::Network;
use super::place::View;
use crate::config::keys::{KeyRequest, execute};
use crate::control::Asked;
use crate::control::api::{Explanation, Request, Response};
use crate::control::problem::Problem;

fn explained(outcome: anyhow::Result<Explanation>) -> Response {
    match outcome {
        Ok(explanation) => Response::Explanation(Box::new(explanation)),
        Err(error) => Response::Error(Problem::invalid(format!("{error:#}"))),
    }
}

/// What is remembered of a network that doesn't run: its key ended, or seems to have by a clock that is wrong.
#[derive(Debug)]
pub(super) struct Resting {
    state: MembershipState,
    view: Option<View>,
}

/// What the state file told, by network id.
pub(super) fn remembered(
    networks: BTreeMap<String, MembershipState>,
    mut views: BTreeMap<String, View>,
) -> BTreeMap<String, Resting> {
    let resting = |(id, state)| {
        let view = views.remove(&id);
        (id, Resting { state, view })
    };
    networks.into_iter().map(resting).collect()
}

impl Daemon {
    /// Answers one request of the control API.
    pub(super) async fn on_call(&mut self, call: Asked) {
        let (request, reply) = call;
        // Who asks sees what is known, not what was a moment ago.
        self.refresh_names();
        let response = match request {
            Request::Status => {
                self.tally();
                Response::Status(Box::new(self.status()))
            }
            Request::Key(request) => self.on_key_request(request),
            Request::Forward(request) => {
                let (response, changed) = self.gateway.on_request(request, &self.lan, &self.networks).await;
                self.stale.policy |= changed;
                self.stale.addresses |= changed;
                response
            }
            Request::Drops { seen } => Response::Drops(self.drops(seen)),
            Request::Resolve(text) => match self.resolve(&text) {
                Ok(address) => Response::Address(address),
                Err(error) => Response::Error(Problem::not_found(format!("{error:#}"))),
            },
            Request::Explain(request) => explained(self.explain(&request)),
            Request::ExplainPacket { packet, at } => explained(self.explain_packet(packet, at)),
            Request::Paths => Response::Paths(self.peer_paths()),
            Request::Programs => Response::Programs(self.lan.programs()),
            Request::Figures => Response::Figures(Box::new(self.figures())),
            Request::Netcheck => Response::Netcheck(self.netcheck()),
            Request::Reload => self.reload_keys(),
        };
        // A client that went away doesn't need the answer.
        let _ = reply.send(response);
    }

    fn on_key_request(&mut self, request: KeyRequest) -> Response {
        let result = execute(&mut self.store, request);
        self.apply_keys();
        result.into()
    }

    /// Reads the key store again, as on SIGHUP.
    pub(super) fn reload_keys(&mut self) -> Response {
        match self.store.reload() {
            Ok(()) => {
                self.apply_keys();
                Response::Done
            }
            Err(error) => {
                tracing::error!("{error}; the keys in use stay as they are");
                Response::Error(Problem::failed(error.to_string()))
            }
        }
    }

    /// Leaves the networks whose key has ended, and enters those whose key is in force again since the clock was set.
    pub(super) fn follow_keys(&mut self) {
        if self.in_force() != self.networks.values().map(|network| network.id).collect() {
            self.apply_keys();
        }
    }

    fn in_force(&self) -> BTreeSet<NetworkId> {
        let active = self.store.keys().iter().filter(|key| key.is_active(self.clock.ends()));
        active.map(|key| key.network).collect()
    }

    /// Brings the running networks in line with the store: nothing else of them is touched.
    pub(super) fn apply_keys(&mut self) {
        let active = self.in_force();
        self.leave_all_but(&active);
        for (rank, key) in self.store.keys().iter().filter(|key| active.contains(&key.network)).enumerate() {
            if let Some(network) = self.networks.values_mut().find(|n| n.id == key.network) {
                network.scope.clone_from(&key.allow);
                network.name.clone_from(&key.name);
                network.expires = key.expires;
                network.rank = rank;
                continue;
            }
            let index = (0..).find(|index| !self.networks.contains_key(index)).unwrap_or(u16::MAX);
            let (state, view) = match self.resting.remove(&key.network.to_string()) {
                Some(Resting { state, view }) => (state, view),
                None => (MembershipState::default(), None),
            };
            let mut network =
                Network::open(index, key, self.identity.node_id(), &self.config.node.name, state);
            (network.rank, network.view) = (rank, view);
            self.circuits.machine.add_network(network.id, network.keys.psk.clone());
            self.links.subscribe(network.keys.topic_id());
            self.networks.insert(index, network);
            self.stale.addresses = true;
        }
        self.stale.policy = true;
    }

    /// Addresses and callers are kept for as long as the key is there.
    fn leave_all_but(&mut self, active: &BTreeSet<NetworkId>) {
        let now = Instant::now();
        let gone: Vec<u16> =
            self.networks.iter().filter(|(_, n)| !active.contains(&n.id)).map(|(i, _)| *i).collect();
        for index in gone {
            let Some(network) = self.networks.remove(&index) else { continue };
            tracing::info!(network = %network.name, "left");
            self.circuits.machine.remove_network(now, network.id);
            self.links.unsubscribe(network.keys.topic_id());
            self.stale.addresses = true;
            let resting = Resting { state: network.members.state(), view: network.view };
            self.resting.insert(network.id.to_string(), resting);
        }
        let kept: BTreeSet<NetworkId> = self.store.keys().iter().map(|key| key.network).collect();
        self.callers.retain(|(id, _)| kept.contains(id));
        let kept: BTreeSet<String> = kept.iter().map(ToString::to_string).collect();
        self.resting.retain(|id, _| kept.contains(id));
    }

    /// What to remember of all networks, by id.
    pub(super) fn memberships(&self) -> BTreeMap<String, MembershipState> {
        let resting = self.resting.iter().map(|(id, resting)| (id.clone(), resting.state.clone()));
        let running = self.networks.values().map(|n| (n.id.to_string(), n.members.state()));
        resting.chain(running).collect()
    }

    /// Where networks are shown on this host, by id.
    pub(super) fn views(&self) -> BTreeMap<String, View> {
        let resting = self.resting.iter().map(|(id, resting)| (id.clone(), resting.view.clone()));
        let running = self.networks.values().map(|n| (n.id.to_string(), n.view.clone()));
        resting.chain(running).filter_map(|(id, view)| Some((id, view?))).collect()
    }
}
