//! Key changes while the daemon runs: a new key joins, an edited one changes its scope, a removed one leaves.
//!
//! Owns the step from the key store to running networks. Must not know how a key operation works
//! (that is `config::keys`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use meshhold_core::key::NetworkId;
use meshhold_core::membership::MembershipState;

use super::network::Network;
use super::{Daemon, unix_now};
use crate::config::keys::{KeyRequest, ManagementKey, execute};
use crate::control::Asked;
use crate::control::api::{Explanation, Request, Response};
use crate::control::problem::Problem;

fn explained(outcome: anyhow::Result<Explanation>) -> Response {
    match outcome {
        Ok(explanation) => Response::Explanation(Box::new(explanation)),
        Err(error) => Response::Error(Problem::invalid(format!("{error:#}"))),
    }
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
        self.apply_keys(BTreeMap::new());
        result.into()
    }

    /// Reads the key store again, as on SIGHUP.
    pub(super) fn reload_keys(&mut self) -> Response {
        match self.store.reload() {
            Ok(()) => {
                self.apply_keys(BTreeMap::new());
                Response::Done
            }
            Err(error) => {
                tracing::error!("{error}; the keys in use stay as they are");
                Response::Error(Problem::failed(error.to_string()))
            }
        }
    }

    /// Brings the running networks in line with the store: nothing else of them is touched. `remembered` holds
    /// what is known of networks that are not running yet.
    pub(super) fn apply_keys(&mut self, mut remembered: BTreeMap<String, MembershipState>) {
        let now = unix_now();
        let active: BTreeSet<NetworkId> =
            self.store.keys().iter().filter(|k| k.is_active(now)).map(|k| k.network).collect();
        self.leave_all_but(&active);
        let keys: Vec<&ManagementKey> = self.store.keys().iter().filter(|k| k.is_active(now)).collect();
        for (rank, key) in keys.into_iter().enumerate() {
            if let Some(network) = self.networks.values_mut().find(|n| n.id == key.network) {
                network.scope.clone_from(&key.allow);
                network.name.clone_from(&key.name);
                network.expires = key.expires;
                network.rank = rank;
                continue;
            }
            let index = (0..).find(|index| !self.networks.contains_key(index)).unwrap_or(u16::MAX);
            let state = remembered.remove(&key.network.to_string()).unwrap_or_default();
            let mut network =
                Network::open(index, key, self.identity.node_id(), &self.config.node.name, state);
            network.rank = rank;
            self.circuits.machine.add_network(network.id, network.keys.psk.clone());
            self.links.subscribe(network.keys.topic_id());
            self.networks.insert(index, network);
            self.stale.addresses = true;
        }
        self.stale.policy = true;
    }

    fn leave_all_but(&mut self, active: &BTreeSet<NetworkId>) {
        let now = Instant::now();
        let gone: Vec<u16> =
            self.networks.iter().filter(|(_, n)| !active.contains(&n.id)).map(|(i, _)| *i).collect();
        for index in gone {
            let Some(network) = self.networks.remove(&index) else { continue };
            tracing::info!(network = %network.name, "left");
            self.circuits.machine.remove_network(now, network.id);
            self.links.unsubscribe(network.keys.topic_id());
            self.callers.retain(|(id, _)| *id != network.id);
            self.stale.addresses = true;
        }
    }
}
