//! What is sent arrives, byte for byte and with its ECN bits, whichever of the two ends use offloads.
//!
//! `cargo xtask soak` runs it with many more bytes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::exchange::{self, Found, PORTS};
use meshhold_tests::{Lab, Node, Settings, lab, scenario};

/// Bytes of each combination, and what a soak says instead.
const BYTES: u64 = 40_000_000;
const BYTES_VARIABLE: &str = "MESHHOLD_SOAK_BYTES";
/// Most bytes of one exchange: the lab's commands are bounded in time.
const AT_ONCE: u64 = 400_000_000;
/// The slowest that a machine may be, in bytes a second, and what a start may take.
const SLOWEST: u64 = 4_000_000;
const START: Duration = Duration::from_secs(60);
/// Datagrams that may be lost in a thousand.
const TOLERATED: u64 = 10;

#[test]
fn offload_at_both_ends() -> Result<()> {
    combination("on/on", true, true)
}

#[test]
fn offload_at_neither_end() -> Result<()> {
    combination("off/off", false, false)
}

#[test]
fn offload_at_the_server_only() -> Result<()> {
    combination("on/off", true, false)
}

#[test]
fn offload_at_the_caller_only() -> Result<()> {
    combination("off/on", false, true)
}

fn combination(name: &str, server: bool, caller: bool) -> Result<()> {
    let bytes = match std::env::var(BYTES_VARIABLE) {
        Ok(bytes) => bytes.parse().with_context(|| format!("{BYTES_VARIABLE} is no number: {bytes}"))?,
        Err(_) => BYTES,
    };
    let limit = START + Duration::from_secs(bytes / SLOWEST);
    lab::run_within(limit, &format!("bytes-{}", name.replace('/', "-")), |lab| {
        let (a, b) = pair(lab, server, caller)?;
        let found = everywhere(&a, &b, server, bytes)?;
        println!(
            "figure: offload {name}: {} bytes and {} datagrams, lost {}, altered {}, other DSCP or ECN {}, repeated {}, \
             {} streams with the same BLAKE3 at both ends",
            found.bytes,
            found.sent,
            found.lost(),
            found.altered,
            found.remarked,
            found.repeated,
            found.hashes.len()
        );
        ensure!(found.altered == 0 && found.remarked == 0, "something arrived that was not sent: {found:?}");
        ensure!(found.lost() * 1000 <= found.sent * TOLERATED, "too much was lost: {found:?}");
        Ok(())
    })
}

/// Two connected members: `a` serves, `b` calls.
fn pair(lab: &Lab, server: bool, caller: bool) -> Result<(Node, Node)> {
    let offload = |offload| Settings { offload: Some(offload), ..Settings::default() };
    let mut a = Node::new(lab.host("a")?, offload(server))?;
    let known = Settings { offload: Some(caller), ..Settings::knowing(&[&a])? };
    let mut b = Node::new(lab.host("b")?, known)?;
    scenario::connect(&mut a, &mut b, &PORTS)?;
    Ok((a, b))
}

/// So many bytes in all, over all paths.
fn everywhere(server: &Node, caller: &Node, offload: bool, bytes: u64) -> Result<Found> {
    let paths = exchange::paths(server, offload)?;
    let mut found = Found::default();
    let rounds = bytes.div_ceil(paths.len() as u64 * AT_ONCE).max(1);
    let each = bytes / (rounds * paths.len() as u64);
    for seed in 0..rounds {
        for path in &paths {
            found.add(path.exchange(caller, seed, each)?);
        }
    }
    Ok(found)
}
