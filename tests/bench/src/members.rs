//! Members that exist on paper only, so that one daemon can know thousands of peers without thousands of processes.
//!
//! Each has an identity of its own, and a record that it signed and sealed: a daemon checks it like any other. Knows
//! where in the daemon's state file such records wait.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use meshhold::link::Snapshot;
use meshhold_core::address::Block;
use meshhold_core::identity::Identity;
use meshhold_core::key::{MeshKey, NetworkKeys};
use meshhold_core::record::{Envelope, LIFETIME, RecordBody};
use rand_core::OsRng;
use serde_json::json;

/// Prints a state with `count` members, the same number in each network whose key comes in.
pub(crate) fn print(count: usize) -> Result<()> {
    let keys = std::io::stdin().lock().lines().map(|line| Ok(line?.trim().parse()?));
    let keys: Vec<MeshKey> = keys.collect::<Result<_>>()?;
    ensure!(!keys.is_empty(), "no key came in: write one a line");
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut envelopes = Vec::with_capacity(count);
    for (at, key) in keys.iter().enumerate() {
        let here = count * (at + 1) / keys.len() - count * at / keys.len();
        envelopes.extend(members(key, here, now)?);
    }
    let state = json!({"links": Snapshot { links: Vec::new(), envelopes }});
    std::io::stdout().write_all(state.to_string().as_bytes()).context("cannot write the state")
}

/// The records of `count` members, no two of which claim the same block.
fn members(key: &MeshKey, count: usize, now: u64) -> Result<Vec<Arc<Envelope>>> {
    let keys = NetworkKeys::derive(key);
    let (mut taken4, mut taken6) = (BTreeSet::new(), BTreeSet::new());
    let mut envelopes = Vec::with_capacity(count);
    let mut tries = 0;
    while envelopes.len() < count {
        tries += 1;
        ensure!(
            tries <= 10 * count,
            "the network's range has no room for {count} members: mint its key with a larger one"
        );
        let identity = Identity::generate(&mut OsRng);
        let block = Block::derive(&keys, key.range, identity.node_id(), 0);
        if taken4.insert(block.base4) && taken6.insert(block.base6) {
            let envelope = record(&identity, envelopes.len(), now).seal(&keys, &identity, &mut OsRng)?;
            envelopes.push(Arc::new(envelope));
        }
    }
    Ok(envelopes)
}

/// What a usual node says of itself: a name, and one endpoint a family (of the ranges for documentation).
fn record(identity: &Identity, number: usize, now: u64) -> RecordBody {
    let low = number as u16;
    let endpoints = [
        SocketAddr::from((Ipv4Addr::new(192, 0, 2, number as u8), 7777)),
        SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, low, 0, 0, 0, 1), 7777)),
    ];
    RecordBody {
        node: identity.node_id(),
        name: format!("member-{number}"),
        attempt: 0,
        claimed_at: now,
        endpoints: endpoints.into(),
        devices: Vec::new(),
        relays: Vec::new(),
        version: now,
        expires: now + LIFETIME,
        without_ipv6: false,
    }
}
