//! Clocks that were wrong: what they claim, and what is said when they are right again.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::key::MeshKey;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;
/// So small that most members want a block that another has.
const RANGE: &str = "10.77.0.0/24";

fn keys() -> NetworkKeys {
    let key = MeshKey::mint(RANGE.parse().unwrap(), [7; 32], &mut StdRng::seed_from_u64(3));
    NetworkKeys::derive(&key)
}

fn member(node: u8, claimed_at: u64) -> Membership {
    let state = MembershipState { claimed_at, ..MembershipState::default() };
    Membership::new(keys(), RANGE.parse().unwrap(), NodeId([node; 32]), String::new(), state)
}

fn says(member: &mut Membership, now: u64) -> RecordBody {
    member.own_record(now, Said::default()).unwrap()
}

/// Two members that want one block: the first has it since a day, the second claims it since `claimed_at`.
fn rivals(claimed_at: u64) -> (Membership, Membership) {
    let first = member(1, NOW - DAY);
    let second = (2..=255).map(|node| member(node, claimed_at)).find(|one| one.own4() == first.own4());
    (first, second.expect("255 nodes share 16 blocks"))
}

#[test]
fn a_claim_from_before_the_first_program_yields_wherever_it_stands() {
    let (mut nas, mut newcomer) = rivals(30);
    assert!(!newcomer.has_claim(), "it is given up in our own state");
    let body = RecordBody { claimed_at: 30, ..says(&mut newcomer, NOW) };
    assert_eq!(nas.handle_record(NOW, body.clone()), Ok(Change::Peer(body.node)));
    let (_, mut late) = rivals(0);
    assert_eq!(late.handle_record(NOW, says(&mut nas, NOW)), Ok(Change::OwnAddressMoved));
}

#[test]
fn a_claim_of_the_future_is_made_anew_by_the_right_clock() {
    let mut member = member(1, NOW + 40 * DAY);
    let body = says(&mut member, NOW);
    assert_eq!((body.claimed_at, body.check_time(NOW)), (NOW, Ok(())));
    member.say_again();
    assert_eq!(says(&mut member, NOW - 1800).claimed_at, NOW, "what others believe stays");
}

#[test]
fn after_a_jump_there_is_a_newer_record_that_counts() {
    for (wrong, right) in [(NOW + 40 * DAY, NOW), (NOW - 40 * DAY, NOW), (NOW, NOW - 40 * DAY)] {
        let mut member = member(1, 0);
        let before = says(&mut member, wrong);
        let after = says(&mut member, right);
        assert!(after.version > before.version, "{wrong}, {right}");
        assert_eq!((after.expires, after.check_time(right)), (right + LIFETIME, Ok(())));
        assert_eq!(member.own_record(right, Said::default()), None, "once");
    }
}

#[test]
fn a_node_without_memory_goes_on_above_what_its_wrong_clock_said() {
    let said = says(&mut member(1, 0), NOW + 40 * DAY);
    let mut again = member(1, 0);
    assert_eq!(again.handle_record(NOW, said.clone()), Ok(Change::Nothing));
    assert!(says(&mut again, NOW).version > said.version);
}
