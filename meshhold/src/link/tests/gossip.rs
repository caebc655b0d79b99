//! Envelopes over real links, through a node that holds no key.

use std::time::{SystemTime, UNIX_EPOCH};

use meshhold_core::key::{MeshKey, NetworkKeys};
use meshhold_core::record::{LIFETIME, RecordBody};
use meshhold_core::session::Secret;

use super::*;

fn network() -> NetworkKeys {
    let range = "10.77.0.0/16".parse().unwrap();
    NetworkKeys::derive(&MeshKey { range, secret: Secret([9; 32]), owner: [0; 32] })
}

/// What the member with that seed says.
fn news(member: u8, version: u64) -> Envelope {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let body = RecordBody {
        node: identity(member).node_id(),
        name: "member".into(),
        attempt: 0,
        claimed_at: now,
        endpoints: Vec::new(),
        devices: Vec::new(),
        relays: Vec::new(),
        version,
        expires: now + LIFETIME,
        without_ipv6: false,
    };
    body.seal(&network(), &identity(member), &mut OsRng).unwrap()
}

impl Node {
    async fn until_news(&mut self, expected: &Envelope) {
        let wanted = |event| matches!(event, LinkEvent::Envelope(found) if found == *expected).then_some(());
        self.until("the envelope", wanted).await;
    }
}

#[tokio::test]
async fn an_envelope_reaches_members_through_a_relay_without_the_key() {
    let (topic, [first, second]) = (network().topic_id(), [1, 2].map(|version| news(2, version)));
    let relay = Node::new(1, &[]);
    let early = Node::new(2, &[&relay]);
    early.links.subscribe(topic);
    early.links.publish(first.clone());
    let mut late = Node::new(3, &[&relay]);
    late.links.subscribe(topic);
    late.until_news(&first).await;
    early.links.publish(second.clone());
    late.until_news(&second).await;
    drop(early);
    let mut after = Node::new(4, &[&relay]);
    after.until_up(relay.id).await;
    after.links.subscribe(topic);
    after.until_news(&second).await;
    assert!(relay.links.snapshot().envelopes.is_empty());
    assert_eq!(after.links.snapshot().envelopes, [Arc::new(second)]);
}

#[tokio::test]
async fn a_member_that_dials_a_member_tells_what_it_knows_and_hears_the_rest() {
    let mut one = Node::new(1, &[]);
    let mut two = Node::new(2, &[]);
    let known = [news(1, 1), news(2, 1)];
    for (node, known) in [&one, &two].into_iter().zip(&known) {
        node.links.subscribe(network().topic_id());
        node.links.publish(known.clone());
    }
    one.links.want_peers(vec![(two.id, vec!["127.0.0.1:9".parse().unwrap(), two.addr])]);
    two.until_news(&known[0]).await;
    one.until_news(&known[1]).await;
}

#[tokio::test]
async fn a_node_starts_offline_with_the_envelopes_it_kept() {
    let (topic, known) = (network().topic_id(), news(1, 1));
    let one = Node::new(1, &[]);
    one.links.subscribe(topic);
    one.links.publish(known.clone());
    let kept = async {
        while one.links.snapshot().envelopes.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        one.links.snapshot()
    };
    let snapshot = tokio::time::timeout(PATIENCE, kept).await.unwrap();
    let mut again = Node::start(socket("127.0.0.1:0"), LinksConfig { snapshot, ..config(1, &[]) });
    again.links.subscribe(topic);
    again.until_news(&known).await;
}
