//! The same packets as the kernel would judge, through the worker's tables.

use super::super::policy::PeerPolicy;
use super::*;

const OWN: [u8; 4] = [198, 18, 0, 17];
const PEER: [u8; 4] = [198, 18, 0, 33];

fn policy(open: &[u16]) -> Arc<Policy> {
    let peer = PeerPolicy {
        index: 1,
        ipv4: PEER.into(),
        ipv6: "fd12:1:0:2::1".parse().unwrap(),
        caller4: [127, 64, 0, 1].into(),
        caller6: [127, 64, 0, 2].into(),
    };
    let scope = open.iter().map(|port| PortRange { protocol: 17, first: *port, last: *port }).collect();
    let network = NetworkPolicy {
        index: 0,
        range: ([198, 18, 0, 0].into(), 18),
        prefix6: ("fd12:1::".parse().unwrap(), 32),
        own4: Some(OWN.into()),
        own6: "fd12:1:0:1::1".parse().unwrap(),
        without_ipv6: false,
        scope,
        peers: vec![peer],
        devices: Vec::new(),
    };
    Arc::new(Policy { networks: vec![network] })
}

fn udp(source: [u8; 4], destination: [u8; 4], from: u16, to: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(source.into_iter().chain(destination));
    packet.extend(from.to_be_bytes().into_iter().chain(to.to_be_bytes()).chain([0, 8, 0, 0]));
    packet
}

#[test]
fn closed_until_opened_and_answers_pass() {
    let closed = Rules::new(policy(&[]), None, 0);
    let request = udp(PEER, OWN, 4000, 53);
    assert_eq!(closed.ingress(&request, 0), Reason::PortDenied);
    let open = Rules::new(policy(&[53]), Some(&closed), 0);
    assert_eq!(open.ingress(&request, 0), Reason::PassScope);
    assert_eq!(open.ingress(&udp([198, 18, 0, 49], OWN, 4000, 53), 0), Reason::UnknownSource);

    let answer = udp(PEER, OWN, 9000, 4000);
    assert_eq!(closed.ingress(&answer, 0), Reason::PortDenied);
    assert_eq!(closed.egress(&udp(OWN, PEER, 4000, 9000), 0), Reason::PassEgress);
    assert_eq!(closed.ingress(&answer, 0), Reason::PassFlow);
    assert_eq!(open.ingress(&answer, FLOW_SECONDS), Reason::PassFlow, "flows survive a policy change");
    assert_eq!(open.ingress(&answer, 2 * FLOW_SECONDS), Reason::PassFlow, "what comes keeps them alive");
    assert_eq!(open.ingress(&answer, 3 * FLOW_SECONDS + 1), Reason::PortDenied, "and silence ends them");
}

#[test]
fn a_closed_port_is_cut_both_ways() {
    let open = Rules::new(policy(&[53]), None, 0);
    let (request, answer) = (udp(PEER, OWN, 4000, 53), udp(OWN, PEER, 53, 4000));
    assert_eq!(open.ingress(&request, 0), Reason::PassScope);
    assert_eq!(open.egress(&answer, 0), Reason::PassEgress);
    let closed = Rules::new(policy(&[]), Some(&open), 0);
    assert_eq!(closed.egress(&answer, 1), Reason::PortDenied);
    assert_eq!(closed.ingress(&request, 1), Reason::PortDenied);
}

#[test]
fn later_fragments_follow_their_first() {
    let open = Rules::new(policy(&[53]), None, 0);
    let mut first = udp(PEER, OWN, 4000, 53);
    first[6] = 0x20;
    let mut later = first.clone();
    (later[6], later[7]) = (0, 185);
    assert_eq!(open.ingress(&later, 0), Reason::FragmentNoFirst);
    assert_eq!(open.ingress(&first, 0), Reason::PassScope);
    assert_eq!(open.ingress(&later, 0), Reason::PassFragment);
}
