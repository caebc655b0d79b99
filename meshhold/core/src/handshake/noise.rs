//! Noise itself, by `snow`, with the core's own randomness.
//!
//! Owns the pattern, the prologue and the split into session keys. Must not know message framing.

use snow::params::NoiseParams;
use snow::{Builder, HandshakeState};

use super::HandshakeError;
use super::message::{Accept, INITIATION, Initiation, RESPONSE, SEALED_INITIATION, SEALED_RESPONSE};
use super::random::SeededRng;
use super::resolver::Resolver;
use crate::identity::{Identity, NodeId};
use crate::key::NetworkId;
use crate::session::Secret;

pub(crate) const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"meshhold v1 circuit";

/// What both ends know after the handshake.
#[derive(Debug)]
pub struct Outcome {
    /// Root of the keys from initiator to responder.
    pub to_responder: Secret,
    /// Root of the keys from responder to initiator.
    pub to_initiator: Secret,
    /// Cipher and lanes.
    pub accept: Accept,
}

/// The initiator between its two messages.
pub struct Initiator(HandshakeState);

/// The responder between its two messages.
pub struct Responder(HandshakeState);

impl Initiator {
    /// Writes message 1 to `peer`.
    pub fn start(
        network: NetworkId,
        psk: &Secret,
        identity: &Identity,
        peer: NodeId,
        payload: &Initiation,
        rng: SeededRng,
    ) -> Result<(Self, [u8; SEALED_INITIATION]), HandshakeError> {
        let remote = peer.noise_public().ok_or(HandshakeError)?;
        let secret = identity.noise_secret();
        let prologue = prologue(network);
        let builder = builder(rng)?.prologue(&prologue)?.local_private_key(&secret.0)?;
        let mut state = builder.remote_public_key(&remote)?.psk(2, &psk.0)?.build_initiator()?;
        let mut message = [0; SEALED_INITIATION];
        let written = state.write_message(&payload.encode(), &mut message)?;
        if written == SEALED_INITIATION { Ok((Self(state), message)) } else { Err(HandshakeError) }
    }

    /// Reads message 2.
    pub fn finish(mut self, message: &[u8]) -> Result<Outcome, HandshakeError> {
        let mut payload = [0; RESPONSE];
        let length = self.0.read_message(message, &mut payload)?;
        let accept = payload.get(..length).and_then(Accept::decode).ok_or(HandshakeError)?;
        Ok(split(&mut self.0, accept))
    }
}

impl Responder {
    /// Reads message 1. What it says is authenticated by the initiator's static key.
    pub fn read(
        network: NetworkId,
        psk: &Secret,
        identity: &Identity,
        message: &[u8],
        rng: SeededRng,
    ) -> Result<(Self, Initiation), HandshakeError> {
        let secret = identity.noise_secret();
        let prologue = prologue(network);
        let builder = builder(rng)?.prologue(&prologue)?.local_private_key(&secret.0)?;
        let mut state = builder.psk(2, &psk.0)?.build_responder()?;
        let mut payload = [0; INITIATION];
        let length = state.read_message(message, &mut payload)?;
        let said = payload.get(..length).and_then(Initiation::decode).ok_or(HandshakeError)?;
        let claimed = said.node.noise_public().ok_or(HandshakeError)?;
        if state.get_remote_static() != Some(&claimed) {
            return Err(HandshakeError);
        }
        Ok((Self(state), said))
    }

    /// Writes message 2. Only the holder of the initiator's key and the network key can read it.
    pub fn answer(mut self, accept: Accept) -> Result<(Outcome, [u8; SEALED_RESPONSE]), HandshakeError> {
        let mut message = [0; SEALED_RESPONSE];
        let written = self.0.write_message(&accept.encode(), &mut message)?;
        if written != SEALED_RESPONSE {
            return Err(HandshakeError);
        }
        Ok((split(&mut self.0, accept), message))
    }
}

pub(super) fn builder<'a>(rng: SeededRng) -> Result<Builder<'a>, HandshakeError> {
    let params: NoiseParams = PATTERN.parse().map_err(|_| HandshakeError)?;
    Ok(Builder::with_resolver(params, Box::new(Resolver::new(rng))))
}

fn prologue(network: NetworkId) -> Vec<u8> {
    [PROLOGUE, &network.0].concat()
}

/// The raw split of Noise, bound to the transcript once more.
fn split(state: &mut HandshakeState, accept: Accept) -> Outcome {
    let hash = state.get_handshake_hash().to_vec();
    let (to_responder, to_initiator) = state.dangerously_get_raw_split();
    let bind = |raw: [u8; 32]| {
        let raw = Secret(raw);
        let mut hasher = blake3::Hasher::new_derive_key("meshhold v1 circuit session");
        hasher.update(&raw.0).update(&hash);
        Secret(*hasher.finalize().as_bytes())
    };
    Outcome { to_responder: bind(to_responder), to_initiator: bind(to_initiator), accept }
}
