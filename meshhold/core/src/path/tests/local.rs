//! The own address of a path: learnt, kept, changed and lost.

use std::net::IpAddr;

use super::*;

const OWN: [u8; 4] = [198, 51, 100, 1];
const OTHER: [u8; 4] = [198, 51, 100, 2];

fn at(own: [u8; 4]) -> Path {
    direct(1, 1).from_address(Some(own.into()))
}

/// One connected peer, and what was done for it since.
struct One {
    paths: Paths,
    now: Instant,
}

impl One {
    fn new(path: Path) -> Self {
        let (mut paths, now) = (Paths::new(1420, [1; 32]), Instant::now());
        paths.taken(now, KEY, path, &[]);
        let mut one = Self { paths, now };
        one.done();
        one
    }

    fn done(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.paths.poll_output()).collect()
    }

    fn current(&self) -> Path {
        self.paths.current(KEY).unwrap().path
    }

    fn used(&mut self) -> Vec<Path> {
        let used = |output| if let Output::Use { path, .. } = output { Some(path) } else { None };
        self.done().into_iter().filter_map(used).collect()
    }

    /// Probes sent from now on, until something is lost.
    fn probed(&mut self) -> Vec<(Path, u32)> {
        self.paths.handle_timeout(self.now);
        let probe = |output| match output {
            Output::Send { path, message: Message::Ping { id }, .. } => Some((path, id)),
            _ => None,
        };
        self.done().into_iter().filter_map(probe).collect()
    }
}

#[test]
fn what_is_sent_leaves_from_the_address_that_the_peer_sends_to() {
    let mut one = One::new(direct(1, 1));
    one.paths.arrived(one.now, KEY, at(OWN));
    assert_eq!((one.used(), one.current()), (vec![at(OWN)], at(OWN)));
    assert_eq!(one.paths.report(KEY).unwrap().0.len(), 1, "the same path, better known");
    // The peer turned to another address of ours.
    one.paths.arrived(one.now, KEY, at(OTHER));
    assert_eq!((one.used(), one.current()), (vec![at(OTHER)], at(OTHER)));
    assert_eq!(one.paths.own_addresses(), [OWN, OTHER].map(IpAddr::from).into());
}

#[test]
fn a_probe_is_answered_from_the_address_that_it_came_to() {
    let mut one = One::new(relayed());
    one.paths.message(one.now, KEY, at(OWN), &Message::Ping { id: 7 });
    let answer = Message::Pong { id: 7, seen: at(OWN).remote };
    let answered = |output: &Output| matches!(output, Output::Send { path, message, .. } if *path == at(OWN) && *message == answer);
    assert!(one.done().iter().any(answered));
}

/// Firewalls that let in only who was sent to: the peer named its address, and its own probe opens one of ours.
#[test]
fn a_candidate_is_tried_from_the_address_that_the_peer_s_probe_came_to() {
    let mut one = One::new(relayed());
    let named = Message::Candidates { endpoints: vec![direct(1, 1).remote] };
    one.paths.message(one.now, KEY, relayed(), &named);
    assert!(one.probed().iter().any(|(path, _)| *path == direct(1, 1)));
    one.paths.message(one.now, KEY, at(OWN), &Message::Ping { id: 7 });
    one.done();
    let mut probes = Vec::new();
    for _ in 0..10 {
        one.now += Duration::from_millis(100);
        probes.extend(one.probed().into_iter().filter(|(path, _)| path.is_direct()));
    }
    assert!(
        probes.iter().all(|(path, _)| *path == at(OWN)),
        "and no more from where the system likes: {probes:?}"
    );
    let (_, id) = probes[0];
    one.paths.message(one.now, KEY, at(OWN), &Message::Pong { id, seen: direct(0, 1).remote });
    assert_eq!(one.current(), at(OWN));
}

#[test]
fn an_address_that_is_lost_is_left_at_once_and_the_peer_sees_where_we_are() {
    let mut one = One::new(at(OWN));
    one.paths.own_address_lost(one.now, OTHER.into());
    assert!(one.done().is_empty());
    one.paths.own_address_lost(one.now, OWN.into());
    let done = one.done();
    assert!(
        done.contains(&Output::Use { peer: KEY, path: direct(1, 1) })
            && done.contains(&Output::Show { peer: KEY })
    );
    assert!(one.paths.own_addresses().is_empty());
    one.paths.arrived(one.now, KEY, at(OTHER));
    assert_eq!(one.current(), at(OTHER));
}

/// A host takes in what is sent to the address of an interface that is down, by another one. That is no reason to answer from it.
#[test]
fn no_path_leaves_from_an_interface_that_is_down() {
    let mut one = One::new(at(OWN));
    one.paths.live_addresses(one.now, &[OTHER.into()].into());
    assert_eq!(one.current(), direct(1, 1));
    one.now += Duration::from_secs(5);
    one.paths.arrived(one.now, KEY, at(OWN));
    one.paths.message(one.now, KEY, at(OWN), &Message::Ping { id: 7 });
    assert_eq!(one.current(), direct(1, 1));
    one.paths.live_addresses(one.now, &[OWN.into(), OTHER.into()].into());
    one.paths.arrived(one.now, KEY, at(OWN));
    assert_eq!(one.current(), at(OWN), "it is up again");
}

/// Dual WAN: the default route moved, the old address is still there and leads nowhere.
#[test]
fn after_a_change_the_system_s_choice_is_tried_too() {
    let mut one = One::new(at(OWN));
    one.paths.shaken(one.now);
    let mut ids: Vec<(Path, u32)> = one.probed();
    for _ in 0..20 {
        one.now += Duration::from_millis(20);
        ids.extend(one.probed());
    }
    let (_, id) = *ids.iter().find(|(path, _)| *path == direct(1, 1)).unwrap();
    one.paths.message(one.now, KEY, at(OTHER), &Message::Pong { id, seen: direct(0, 1).remote });
    assert_eq!(one.current(), at(OTHER));
}
