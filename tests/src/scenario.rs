//! Common beginnings: nodes that share a network.

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::node::{Node, Settings};

/// Two members of one network, connected: `a` minted the key and opens `allow`, `b` opens nothing and knows `a`.
pub fn pair(lab: &Lab, allow: &[&str]) -> Result<(Node, Node)> {
    let (mut a, mut b) = strangers(lab)?;
    let key = a.mint(allow)?;
    b.join(&key, &[])?;
    a.start_and_wait()?;
    b.start_and_wait()?;
    b.wait_peer_up(&a)?;
    Ok((a, b))
}

/// Two nodes without any key; `b` knows where `a` is. Neither is started.
pub fn strangers(lab: &Lab) -> Result<(Node, Node)> {
    let a = Node::new(lab.host("a")?, Settings::default())?;
    let b = Node::new(lab.host("b")?, Settings::knowing(&[&a])?)?;
    Ok((a, b))
}

/// Adds a third member that knows `known`, and connects it.
pub fn third(lab: &Lab, known: &Node, key: &str) -> Result<Node> {
    let mut node = Node::new(lab.host("c")?, Settings::knowing(&[known])?)?;
    node.join(key, &[]).context("the third member joins")?;
    node.start_and_wait()?;
    node.wait_peer_up(known)?;
    Ok(node)
}
