//! Clocks that are wrong for a while, at a first start and later: once they are right, everybody knows everybody, keys are in
//! force, and nobody who was there before has another address.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use meshhold_tests::{Host, Lab, Node, Settings, run, wait};

/// Three times what a node may take after its clock is right: a fault, not a busy machine.
const RECOVERY: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a clock is wrong: several looks at it.
const WRONG: Duration = Duration::from_secs(4);
const NETWORKS: usize = 2;

/// Runs a daemon by a clock that `/run/clock` on its host sets; libfaketime, for a clock is the whole machine's.
const SET_CLOCK: [&str; 5] = [
    "env",
    "LD_PRELOAD=/usr/$LIB/faketime/libfaketime.so.1",
    "FAKETIME_TIMESTAMP_FILE=/run/clock",
    "FAKETIME_NO_CACHE=1",
    "FAKETIME_DONT_FAKE_MONOTONIC=1",
];

/// What a clock is off by, in seconds.
fn offsets() -> Result<[(&'static str, i64); 5]> {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    Ok([
        ("1970", 30 - now),
        ("3h-behind", -10_800),
        ("40d-ahead", 40 * 86_400),
        ("1h-ahead", 3_600),
        ("1h-behind", -3_600),
    ])
}

fn set(host: &Host, by: i64) -> Result<()> {
    host.run("sh", &["-c", &format!("echo {by:+} > /run/clock.new && mv /run/clock.new /run/clock")])
        .map(drop)
}

/// A network whose key never expires and one whose key does, each of 16 blocks only: many of its members want one block.
fn mint(node: &Node) -> Result<[String; NETWORKS]> {
    let add = ["mgmt-keys", "add", "--ipv4-range"];
    let for_ever =
        node.meshhold(&[&add[..], &["10.77.1.0/24", "--name", "For ever", "--never-expires"]].concat())?;
    let a_month =
        node.meshhold(&[&add[..], &["10.77.2.0/24", "--name", "A month", "--expires-in", "30d"]].concat())?;
    Ok([for_ever, a_month])
}

fn join(node: &Node, keys: &[String; NETWORKS]) -> Result<()> {
    let add = ["mgmt-keys", "add", "--key", "-", "--name"];
    node.meshhold_with_input(&[&add[..], &["For ever", "--never-expires"]].concat(), &keys[0])?;
    node.meshhold_with_input(&[&add[..], &["A month", "--expires-in", "30d"]].concat(), &keys[1]).map(drop)
}

/// How many peers a node knows in both networks.
fn known(node: &Node) -> Result<usize> {
    let networks = node.status()?.networks;
    Ok(if networks.len() == NETWORKS { networks.iter().map(|network| network.peers.len()).sum() } else { 0 })
}

fn addresses(node: &Node) -> Result<Vec<(String, Option<Ipv4Addr>)>> {
    Ok(node.status()?.networks.into_iter().map(|network| (network.name, network.ipv4)).collect())
}

/// Sets all clocks right and waits for each node to know all others.
fn recover(all: &[&Node], wrong: &[(&str, Node)]) -> Result<()> {
    wrong.iter().try_for_each(|(_, node)| set(&node.host, 0))?;
    let right = Instant::now();
    let wanted = NETWORKS * (all.len() - 1);
    let mut last = Duration::ZERO;
    for node in all {
        wait::until_true(PATIENCE, &format!("{} knows everybody", node.host.name), || {
            Ok(known(node)? == wanted)
        })?;
        last = right.elapsed();
    }
    println!("figure: all know all in both networks {last:?} after the clocks were right");
    ensure!(last <= RECOVERY, "{last:?}");
    Ok(())
}

/// A node whose clock is wrong, and how.
type Wrong = (&'static str, Node);

/// Two members with good clocks, and one for each wrong clock that has not been started.
fn members(lab: &Lab) -> Result<(Vec<Node>, Vec<Wrong>)> {
    let mut nas = Node::new(lab.host("nas")?, Settings::default())?;
    let keys = mint(&nas)?;
    nas.start_and_wait()?;
    let mut laptop = Node::new(lab.host("laptop")?, Settings::knowing(&[&nas])?)?;
    join(&laptop, &keys)?;
    laptop.start_and_wait()?;
    let mut wrong = Vec::new();
    for (name, by) in offsets()? {
        let host = lab.host(name)?;
        set(&host, by)?;
        let node = Node::new(host, Settings { wrapper: SET_CLOCK.to_vec(), ..Settings::knowing(&[&nas])? })?;
        join(&node, &keys)?;
        wrong.push((name, node));
    }
    wait::until_true(PATIENCE, "the good ones know each other", || {
        Ok(known(&nas)? == NETWORKS && known(&laptop)? == NETWORKS)
    })?;
    Ok((vec![nas, laptop], wrong))
}

fn warned(node: &Node) -> Result<bool> {
    let status = node.status()?;
    let networks = status.networks.iter().flat_map(|network| &network.warnings);
    Ok(status.warnings.iter().chain(networks).any(|text| text.starts_with("this host's clock")))
}

#[test]
fn wrong_clocks_cost_no_peer_no_key_and_no_address() -> Result<()> {
    run("clocks", |lab| {
        let (good, mut wrong) = members(lab)?;
        let before: Vec<_> = good.iter().map(addresses).collect::<Result<_>>()?;
        for (_, node) in &mut wrong {
            node.start()?;
        }
        wrong.iter_mut().try_for_each(|(_, node)| node.wait_running().map(drop))?;
        for (name, node) in wrong.iter().filter(|(name, _)| ["1970", "3h-behind"].contains(name)) {
            wait::until_true(PATIENCE, &format!("{name} is warned of"), || warned(node))?;
        }
        wait::never(WRONG, "an address of before moves", || {
            Ok(good.iter().map(addresses).collect::<Result<Vec<_>>>()? != before)
        })?;
        let all: Vec<&Node> = good.iter().chain(wrong.iter().map(|(_, node)| node)).collect();
        recover(&all, &wrong).context("wrong at the first start")?;
        let now: Vec<_> = good.iter().map(addresses).collect::<Result<_>>()?;
        ensure!(now == before, "who was there before moved: {before:?} {now:?}");
        for (name, node) in &wrong {
            wait::until_true(PATIENCE, &format!("{name} is no longer warned of"), || Ok(!warned(node)?))?;
        }

        let before: Vec<_> = all.iter().map(|node| addresses(node)).collect::<Result<_>>()?;
        for ((_, by), (_, node)) in offsets()?.iter().zip(&wrong) {
            set(&node.host, *by)?;
        }
        wait::until_true(PATIENCE, "all see the jump", || {
            wrong.iter().try_fold(true, |all, (_, node)| {
                Ok(all && node.log()?.matches("the clock jumped").count() >= 2)
            })
        })?;
        let ahead = &wrong[2].1;
        wait::never(WRONG, "a clock that is ahead for a moment ends a key or a record", || {
            Ok(known(ahead)? < NETWORKS * (all.len() - 1))
        })?;
        recover(&all, &wrong).context("wrong later")?;
        let now: Vec<_> = all.iter().map(|node| addresses(node)).collect::<Result<_>>()?;
        ensure!(now == before, "somebody moved: {before:?} {now:?}");
        Ok(())
    })
}

/// What a node told in its handshakes by a clock that was ahead, its peers must not hold against it until that time.
#[test]
fn a_node_that_was_ahead_until_its_restart_is_let_in_again() -> Result<()> {
    run("clock-handshake", |lab| {
        let mut nas = Node::new(lab.host("nas")?, Settings::default())?;
        let host = lab.host("pi")?;
        // So little that its records count.
        set(&host, 3_500)?;
        let mut pi =
            Node::new(host, Settings { wrapper: SET_CLOCK.to_vec(), ..Settings::knowing(&[&nas])? })?;
        pi.join(&nas.mint(&[])?, &[])?;
        nas.start_and_wait()?;
        pi.start_and_wait()?;
        pi.wait_peer_up(&nas)?;
        pi.kill()?;
        set(&pi.host, 0)?;
        pi.start_and_wait()?;
        let right = Instant::now();
        pi.wait_peer_up(&nas)?;
        println!("figure: let in {:?} after the restart by the right clock", right.elapsed());
        ensure!(right.elapsed() <= RECOVERY, "{:?}", right.elapsed());
        Ok(())
    })
}
