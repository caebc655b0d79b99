//! What a peer takes of the daemon's memory that is known and idle. The daemon is a real one; its peers are on paper only.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use meshhold_tests::process::output_with_input;
use meshhold_tests::{Lab, Node, Settings, run, wait};

/// One network holds 4,096, if its range has room for so many blocks.
const PEERS: usize = 4_000;
const RANGE: &str = "100.64.0.0/12";
/// Bytes a peer.
const MOST: u64 = 2_000;
const KNOWN_LIMIT: Duration = Duration::from_secs(60);
/// Until what came with the start has been digested and saved.
const SETTLE: Duration = Duration::from_secs(10);

#[test]
fn an_idle_peer_takes_two_kilobytes() -> Result<()> {
    run("known", |lab| {
        let alone = node(lab, "alone", 1)?;
        let many = node(lab, "many", PEERS)?;
        std::thread::sleep(SETTLE);
        let more = many.anonymous_kib()?.saturating_sub(alone.anonymous_kib()?);
        let bytes = more * 1024 / PEERS as u64;
        println!("figure: an idle known peer takes {bytes} bytes ({MOST})");
        ensure!((1..=MOST).contains(&bytes), "an idle known peer takes {bytes} bytes, for {MOST} at most");
        Ok(())
    })
}

/// A running node whose state of before holds records of `count` members.
fn node(lab: &Lab, name: &str, count: usize) -> Result<Node> {
    let mut node = Node::new(lab.host(name)?, Settings::default())?;
    let key = node.mint_in(RANGE, &[])?;
    let mut tool = Command::new(env!("CARGO_BIN_EXE_benchtool"));
    let state = output_with_input(tool.args(["members", &count.to_string()]), &key)?;
    node.remember(&state)?;
    node.start_and_wait()?;
    wait::until_true(KNOWN_LIMIT, &format!("the node knows {count} peers"), || {
        Ok(node.network()?.peers.len() >= count)
    })?;
    Ok(node)
}
