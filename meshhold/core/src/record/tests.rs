//! What is believed of an envelope, and what is not.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::key::{Ipv4Range, MeshKey};
use crate::session::Secret;

const NOW: u64 = 1_800_000_000;

fn keys(secret: u8) -> NetworkKeys {
    let range = Ipv4Range::new([10, 77, 0, 0].into(), 16).unwrap();
    NetworkKeys::derive(&MeshKey { range, secret: Secret([secret; 32]), owner: [0; 32] })
}

fn body(node: NodeId) -> RecordBody {
    RecordBody {
        node,
        name: "nas".into(),
        attempt: 3,
        claimed_at: NOW - 5,
        endpoints: vec!["192.0.2.1:7777".parse().unwrap(), "[2001:db8::1]:7777".parse().unwrap()],
        devices: Vec::new(),
        relays: Vec::new(),
        version: 9,
        expires: NOW + LIFETIME,
        without_ipv6: false,
    }
}

fn envelope(network: u8, node: u8) -> Envelope {
    let identity = Identity::from_seed([node; 32]);
    body(identity.node_id()).seal(&keys(network), &identity, &mut StdRng::seed_from_u64(1)).unwrap()
}

#[test]
fn members_read_what_a_member_said() {
    let sealed = envelope(1, 2);
    assert!(sealed.verify(), "needs no secret");
    assert_eq!(RecordBody::open(&keys(1), &sealed), Ok(body(Identity::from_seed([2; 32]).node_id())));
}

#[test]
fn a_relay_sees_neither_name_nor_address_nor_node() {
    let sealed = envelope(1, 2);
    let bytes = postcard::to_allocvec(&sealed).unwrap();
    let node = Identity::from_seed([2; 32]).node_id();
    for canary in [&b"nas"[..], &[192, 0, 2, 1], &node.0] {
        assert!(!bytes.windows(canary.len()).any(|window| window == canary));
    }
}

#[test]
fn another_network_s_envelope_is_not_opened() {
    assert_eq!(RecordBody::open(&keys(1), &envelope(2, 2)), Err(RecordError::Topic));
    let mut moved = envelope(2, 2);
    moved.topic = keys(1).topic_id();
    assert_eq!(RecordBody::open(&keys(1), &moved), Err(RecordError::Envelope));
    // Even signed with this network's topic key, it was sealed for another.
    let moved = Envelope::sign(&keys(1).topic_key(), moved.slot, moved.version, moved.expires, moved.sealed);
    assert_eq!(RecordBody::open(&keys(1), &moved), Err(RecordError::Seal));
}

#[test]
fn every_changed_field_is_noticed() {
    let changes: [fn(&mut Envelope); 6] = [
        |e| e.topic[3] ^= 1,
        |e| e.slot[3] ^= 1,
        |e| e.version += 1,
        |e| e.expires += 1,
        |e| e.sealed[40] ^= 1,
        |e| e.signature[3] ^= 1,
    ];
    for (at, change) in changes.iter().enumerate() {
        let mut changed = envelope(1, 2);
        change(&mut changed);
        assert!(!changed.verify(), "change {at}");
        assert!(RecordBody::open(&keys(1), &changed).is_err(), "change {at}");
    }
}

#[test]
fn a_member_cannot_speak_for_another() {
    let (liar, victim) = (Identity::from_seed([3; 32]), Identity::from_seed([2; 32]));
    let forged = body(victim.node_id()).seal(&keys(1), &liar, &mut StdRng::seed_from_u64(1)).unwrap();
    assert!(forged.verify(), "the liar is a member");
    assert_eq!(RecordBody::open(&keys(1), &forged), Err(RecordError::Signature));
    // Nor may it put its own words into the victim's place.
    let own = envelope(1, 3);
    let place = envelope(1, 2).slot;
    let moved = Envelope::sign(&keys(1).topic_key(), place, own.version, own.expires, own.sealed);
    assert_eq!(RecordBody::open(&keys(1), &moved), Err(RecordError::Seal));
}

#[test]
fn what_is_too_large_is_not_sealed_or_believed() {
    let identity = Identity::from_seed([2; 32]);
    let mut rng = StdRng::seed_from_u64(1);
    let large = RecordBody { name: "n".repeat(MAX_SEALED), ..body(identity.node_id()) };
    assert_eq!(large.seal(&keys(1), &identity, &mut rng).unwrap_err(), RecordError::Format);
    let bad_names = ["n".repeat(MAX_NAME + 1), "a\nb".into(), "\u{1b}[2J".into()];
    for name in bad_names {
        let sealed =
            RecordBody { name, ..body(identity.node_id()) }.seal(&keys(1), &identity, &mut rng).unwrap();
        assert_eq!(RecordBody::open(&keys(1), &sealed), Err(RecordError::Format));
    }
    let endpoints = vec!["192.0.2.1:1".parse().unwrap(); MAX_ENDPOINTS + 1];
    let many =
        RecordBody { endpoints, ..body(identity.node_id()) }.seal(&keys(1), &identity, &mut rng).unwrap();
    assert_eq!(RecordBody::open(&keys(1), &many), Err(RecordError::Format));
}

#[test]
fn what_is_said_behind_a_record_is_signed_too() {
    let (identity, other) = (Identity::from_seed([2; 32]), Identity::from_seed([3; 32]));
    let mut rng = StdRng::seed_from_u64(1);
    let without = RecordBody { without_ipv6: true, ..body(identity.node_id()) };
    let sealed = without.clone().seal(&keys(1), &identity, &mut rng).unwrap();
    assert_eq!(RecordBody::open(&keys(1), &sealed), Ok(without.clone()));
    // Who doesn't know of it reads what is before.
    let plain =
        |body: &RecordBody, signature| postcard::to_allocvec(&Signed { body: body.clone(), signature });
    let topic = keys(1).topic_key().verifying_key().to_bytes();
    let said = statement(&topic, &without).unwrap();
    let signed = plain(&without, identity.sign(&said)).unwrap();
    let more = |by: &Identity, said: &[u8]| {
        let signature = by.sign(&further_statement(said, true));
        postcard::to_allocvec(&More { without_ipv6: true, signature }).unwrap()
    };
    let whole = [signed.clone(), more(&identity, &said)].concat();
    let old: Signed = postcard::from_bytes(&whole).unwrap();
    assert_eq!(old.body, body(identity.node_id()), "the same record, without what is behind it");
    // Nobody else can say it, nor behind another record.
    for forged in [more(&other, &said), more(&identity, b"another"), vec![1]] {
        let envelope = reseal(&sealed, &[signed.clone(), forged].concat());
        assert!(RecordBody::open(&keys(1), &envelope).is_err());
    }
    assert!(RecordBody::open(&keys(1), &reseal(&sealed, &whole)).is_ok());
}

/// As a member without the node's key could.
fn reseal(like: &Envelope, plain: &[u8]) -> Envelope {
    let nonce = [7; NONCE];
    let payload = Payload { msg: plain, aad: &Envelope::head(&like.topic, &like.slot, like.version) };
    let cipher = XChaCha20Poly1305::new((&keys(1).record.0).into());
    let sealed = [nonce.to_vec(), cipher.encrypt(XNonce::from_slice(&nonce), payload).unwrap()].concat();
    Envelope::sign(&keys(1).topic_key(), like.slot, like.version, like.expires, sealed)
}

#[test]
fn time_bounds_a_record() {
    let record = body(NodeId([2; 32]));
    assert_eq!(record.check_time(NOW), Ok(()));
    assert_eq!(record.check_time(record.expires), Err(RecordError::Expired));
    let future = RecordBody { claimed_at: NOW + SKEW + 1, ..record.clone() };
    assert_eq!(future.check_time(NOW), Err(RecordError::Future));
    let eternal = RecordBody { expires: NOW + LIFETIME + SKEW + 1, ..record };
    assert_eq!(eternal.check_time(NOW), Err(RecordError::Future));
}
