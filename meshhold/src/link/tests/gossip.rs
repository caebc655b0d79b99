//! Envelopes over real links, through a node that holds no key.

use meshhold_core::record::testing::{TopicKey, envelope};

use super::*;

fn topic_key() -> TopicKey {
    TopicKey::from_seed([9; 32])
}

fn news(version: u64) -> Envelope {
    envelope(&topic_key(), [1; 16], version, u64::MAX, b"sealed")
}

impl Node {
    async fn until_version(&mut self, version: u64) {
        let wanted = |event| matches!(event, LinkEvent::Envelope(e) if e == news(version)).then_some(());
        self.until("the envelope", wanted).await;
    }
}

#[tokio::test]
async fn an_envelope_reaches_members_through_a_relay_without_the_key() {
    let topic = topic_key().topic();
    let relay = Node::new(1, &[]);
    let early = Node::new(2, &[&relay]);
    early.links.subscribe(topic);
    early.links.publish(news(1));
    let mut late = Node::new(3, &[&relay]);
    late.links.subscribe(topic);
    late.until_version(1).await;
    early.links.publish(news(2));
    late.until_version(2).await;
    drop(early);
    let mut after = Node::new(4, &[&relay]);
    after.until_up(relay.id).await;
    after.links.subscribe(topic);
    after.until_version(2).await;
    assert!(relay.links.snapshot().envelopes.is_empty());
    assert_eq!(after.links.snapshot().envelopes, [news(2)]);
}

#[tokio::test]
async fn a_member_that_dials_a_member_tells_what_it_knows_and_hears_the_rest() {
    let topic = topic_key().topic();
    let mut one = Node::new(1, &[]);
    let mut two = Node::new(2, &[]);
    let other = |version| envelope(&topic_key(), [2; 16], version, u64::MAX, b"sealed");
    for (node, known) in [(&one, news(1)), (&two, other(1))] {
        node.links.subscribe(topic);
        node.links.publish(known);
    }
    one.links.want_peers(vec![(two.id, vec!["127.0.0.1:9".parse().unwrap(), two.addr])]);
    two.until_version(1).await;
    let wanted = |event| matches!(event, LinkEvent::Envelope(e) if e == other(1)).then_some(());
    one.until("the other's envelope", wanted).await;
}

#[tokio::test]
async fn a_node_starts_offline_with_the_envelopes_it_kept() {
    let one = Node::new(1, &[]);
    one.links.subscribe(topic_key().topic());
    one.links.publish(news(1));
    let kept = async {
        while one.links.snapshot().envelopes.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        one.links.snapshot()
    };
    let snapshot = tokio::time::timeout(PATIENCE, kept).await.unwrap();
    let mut again = Node::start(socket("127.0.0.1:0"), LinksConfig { snapshot, ..config(1, &[]) });
    again.links.subscribe(topic_key().topic());
    again.until_version(1).await;
}
