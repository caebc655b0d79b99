//! Nodes for tests: who they are, where they are, and their circuits, all from fixed seeds.

use std::net::SocketAddr;

use crate::path::Path;
use std::time::Duration;

use crate::circuit::{Circuits, Output};
use crate::identity::{Identity, NodeId};
use crate::key::NetworkId;
use crate::session::{Cipher, Secret};

pub(super) const NETWORK: NetworkId = NetworkId([7; 16]);
pub(super) const PSK: Secret = Secret([9; 32]);
pub(super) const OFFERS: [(Cipher, u32); 2] = [(Cipher::ChaCha20Poly1305, 400), (Cipher::Aes256Gcm, 900)];

/// What the clock of all nodes says first, since the Unix epoch.
pub(super) const WALL: Duration = Duration::from_secs(1_700_000_000);

pub(super) fn identity(number: u8) -> Identity {
    Identity::from_seed([number; 32])
}

pub(super) fn id(number: u8) -> NodeId {
    identity(number).node_id()
}

pub(super) fn address(number: u8) -> Path {
    SocketAddr::from(([192, 0, 2, number], 7777)).into()
}

pub(super) fn circuits(number: u8, lanes: u8, offers: &[(Cipher, u32)], seed: u64) -> Circuits {
    let mut rng_seed = [number; 32];
    rng_seed[..8].copy_from_slice(&seed.to_be_bytes());
    Circuits::new(identity(number), lanes, offers.to_vec(), rng_seed, WALL)
}

pub(super) fn member(number: u8, seed: u64) -> Circuits {
    let mut circuits = circuits(number, 1, &OFFERS, seed);
    circuits.add_network(NETWORK, PSK);
    circuits
}

/// All datagrams that wait, and nothing else.
pub(super) fn transmits(circuits: &mut Circuits) -> Vec<(Path, Vec<u8>)> {
    let outputs = std::iter::from_fn(|| circuits.poll_output());
    outputs
        .filter_map(|output| match output {
            Output::Transmit { to, datagram } => Some((to, datagram)),
            _ => None,
        })
        .collect()
}
