//! Members find each other through a node that holds no key, keep their addresses, and come back without it.

use anyhow::{Result, ensure};
use meshhold_tests::{Lab, Node, Settings, run};

struct Trio {
    rendezvous: Node,
    a: Node,
    b: Node,
}

/// `a` and `b` share a key and know only `rendezvous`, which has none.
fn trio(lab: &Lab) -> Result<Trio> {
    let mut rendezvous = Node::new(lab.host("r")?, Settings::default())?;
    let mut a = Node::new(lab.host("a")?, Settings::knowing(&[&rendezvous])?)?;
    let mut b = Node::new(lab.host("b")?, Settings::knowing(&[&rendezvous])?)?;
    let key = a.mint(&[])?;
    b.join(&key, &[])?;
    rendezvous.start_and_wait()?;
    a.start_and_wait()?;
    b.start_and_wait()?;
    a.wait_peer_up(&b)?;
    b.wait_peer_up(&a)?;
    Ok(Trio { rendezvous, a, b })
}

#[test]
fn members_meet_through_a_keyless_node() -> Result<()> {
    run("rendezvous", |lab| {
        let trio = trio(lab)?;
        let networks = trio.rendezvous.status()?.networks;
        ensure!(networks.is_empty(), "the rendezvous is no member: {networks:?}");
        Ok(())
    })
}

#[test]
fn addresses_survive_restart_and_reinstall() -> Result<()> {
    run("restart", |lab| {
        let mut trio = trio(lab)?;
        let (id, addresses) = (trio.a.id()?, trio.a.addresses()?);
        trio.a.stop()?;
        trio.a.start_and_wait()?;
        ensure!(trio.a.addresses()? == addresses, "after a restart");
        trio.a.kill()?;
        // A reinstall keeps the data folder and writes the configuration anew.
        trio.a.configure(Settings::knowing(&[&trio.rendezvous])?)?;
        trio.a.start_and_wait()?;
        ensure!(trio.a.id()? == id && trio.a.addresses()? == addresses, "after a reinstall");
        trio.b.wait_peer_up(&trio.a)?;
        Ok(())
    })
}

#[test]
fn members_meet_again_without_their_bootstrap_node() -> Result<()> {
    run("offline", |lab| {
        let mut trio = trio(lab)?;
        let (a_addresses, b_addresses) = (trio.a.addresses()?, trio.b.addresses()?);
        for node in [&mut trio.a, &mut trio.b, &mut trio.rendezvous] {
            node.stop()?;
        }
        trio.a.start_and_wait()?;
        ensure!(trio.a.addresses()? == a_addresses, "alone and offline");
        trio.b.start_and_wait()?;
        trio.b.wait_peer_up(&trio.a)?;
        ensure!(trio.b.addresses()? == b_addresses);
        Ok(())
    })
}
