//! Noise against published vectors, and what a handshake refuses.

use serde_json::Value;

use super::noise::{PATTERN, builder};
use super::random::SeededRng;
use super::{Accept, HandshakeError, Initiation, Initiator, Responder};
use crate::identity::{Identity, NodeId};
use crate::key::NetworkId;
use crate::session::{Cipher, Secret};

const NETWORK: NetworkId = NetworkId([7; 16]);

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn our_noise_pattern_agrees_with_the_cacophony_vector() {
    let vector: Value = serde_json::from_str(include_str!("../../tests/vectors/noise_ikpsk2.json")).unwrap();
    let bytes = |name: &str| unhex(vector[name].as_str().unwrap());
    let psk = |name: &str| <[u8; 32]>::try_from(unhex(vector[name][0].as_str().unwrap())).unwrap();
    assert_eq!(vector["protocol_name"], PATTERN);
    let (prologue, initiator_static, responder_static) =
        (bytes("init_prologue"), bytes("init_static"), bytes("resp_static"));
    let (initiator_psk, responder_psk) = (psk("init_psks"), psk("resp_psks"));
    let start = |secret, ephemeral| {
        let builder = builder(rng(0)).unwrap().prologue(&prologue).unwrap();
        builder.local_private_key(secret).unwrap().fixed_ephemeral_key_for_testing_only(ephemeral)
    };
    let (initiator_ephemeral, responder_ephemeral) = (bytes("init_ephemeral"), bytes("resp_ephemeral"));
    let remote = bytes("init_remote_static");
    let initiator = start(&initiator_static, &initiator_ephemeral).psk(2, &initiator_psk).unwrap();
    let mut initiator = initiator.remote_public_key(&remote).unwrap().build_initiator().unwrap();
    let responder = start(&responder_static, &responder_ephemeral).psk(2, &responder_psk).unwrap();
    let mut responder = responder.build_responder().unwrap();
    let messages = vector["messages"].as_array().unwrap();
    let text = |at: usize, name: &str| unhex(messages[at][name].as_str().unwrap());
    let (mut wire, mut read) = ([0; 512], [0; 512]);
    for at in 0..2 {
        let (from, to) =
            if at == 0 { (&mut initiator, &mut responder) } else { (&mut responder, &mut initiator) };
        let length = from.write_message(&text(at, "payload"), &mut wire).unwrap();
        assert_eq!(wire[..length], text(at, "ciphertext"), "handshake message {at}");
        let length = to.read_message(&wire[..length], &mut read).unwrap();
        assert_eq!(read[..length], text(at, "payload"));
    }
    assert_eq!(initiator.get_handshake_hash(), bytes("handshake_hash"));
    assert_eq!(initiator.dangerously_get_raw_split(), responder.dangerously_get_raw_split());
    let (mut initiator, mut responder) =
        (initiator.into_transport_mode().unwrap(), responder.into_transport_mode().unwrap());
    for at in 2..messages.len() {
        let (from, to) =
            if at % 2 == 0 { (&mut initiator, &mut responder) } else { (&mut responder, &mut initiator) };
        let length = from.write_message(&text(at, "payload"), &mut wire).unwrap();
        assert_eq!(wire[..length], text(at, "ciphertext"), "transport message {at}");
        let length = to.read_message(&wire[..length], &mut read).unwrap();
        assert_eq!(read[..length], text(at, "payload"));
    }
}

fn payload(node: NodeId) -> Initiation {
    Initiation {
        node,
        time: [1; 12],
        lanes: 3,
        offers: vec![(Cipher::Aes256Gcm, 900), (Cipher::ChaCha20Poly1305, 400)],
    }
}

fn rng(seed: u8) -> SeededRng {
    SeededRng::new([seed; 32])
}

#[test]
fn both_ends_learn_the_same_keys_and_what_the_other_said() {
    let (alice, bob, psk) = (Identity::from_seed([1; 32]), Identity::from_seed([2; 32]), Secret([3; 32]));
    let said = payload(alice.node_id());
    let (initiator, message) = Initiator::start(NETWORK, &psk, &alice, bob.node_id(), &said, rng(4)).unwrap();
    let (responder, heard) = Responder::read(NETWORK, &psk, &bob, &message, rng(5)).unwrap();
    assert_eq!(heard, said);
    let accept = Accept { cipher: Cipher::Aes256Gcm, lanes: 4 };
    let (theirs, answer) = responder.answer(accept).unwrap();
    let ours = initiator.finish(&answer).unwrap();
    assert_eq!((&ours.to_responder, &ours.to_initiator), (&theirs.to_responder, &theirs.to_initiator));
    assert_ne!(ours.to_responder, ours.to_initiator);
    assert_eq!(ours.accept, accept);
}

#[test]
fn a_member_cannot_speak_as_another() {
    let (mallory, bob, psk) = (Identity::from_seed([1; 32]), Identity::from_seed([2; 32]), Secret([3; 32]));
    let said = payload(Identity::from_seed([9; 32]).node_id());
    let (_, message) = Initiator::start(NETWORK, &psk, &mallory, bob.node_id(), &said, rng(4)).unwrap();
    assert_eq!(Responder::read(NETWORK, &psk, &bob, &message, rng(5)).err(), Some(HandshakeError));
}

#[test]
fn another_network_or_another_key_fails() {
    let (alice, bob, psk) = (Identity::from_seed([1; 32]), Identity::from_seed([2; 32]), Secret([3; 32]));
    let said = payload(alice.node_id());
    let (_, message) = Initiator::start(NETWORK, &psk, &alice, bob.node_id(), &said, rng(4)).unwrap();
    assert!(Responder::read(NETWORK, &psk, &bob, &message, rng(5)).is_ok());
    assert!(Responder::read(NetworkId([8; 16]), &psk, &bob, &message, rng(5)).is_err());
    // The pre-shared key enters with message 2: the initiator finds out.
    let (initiator, message) = Initiator::start(NETWORK, &psk, &alice, bob.node_id(), &said, rng(4)).unwrap();
    let (responder, _) = Responder::read(NETWORK, &Secret([0; 32]), &bob, &message, rng(5)).unwrap();
    let (_, answer) = responder.answer(Accept { cipher: Cipher::Aes256Gcm, lanes: 1 }).unwrap();
    assert!(initiator.finish(&answer).is_err());
}

#[test]
fn offers_of_a_later_version_are_skipped() {
    let said = payload(NodeId([1; 32]));
    let mut bytes = said.encode();
    bytes[46] = 99;
    let heard = Initiation::decode(&bytes).unwrap();
    assert_eq!(heard.offers, said.offers[1..]);
    bytes[45] = 255;
    assert_eq!(Initiation::decode(&bytes).unwrap().offers, said.offers[1..]);
}
