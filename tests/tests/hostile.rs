//! Junk from outside: the daemon keeps its process id, its memory and its members.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use meshhold_tests::capture::Capture;
use meshhold_tests::{Node, run, scenario, service};

const MESH_PORT: &str = "7777";
/// Growth of the resident memory under a flood, in KiB.
const GROWTH_KIB: u64 = 32 * 1024;
const PORT: &str = "80";

#[test]
fn junk_datagrams_of_all_sizes_are_survived() -> Result<()> {
    run("junk", |lab| {
        let (mut a, b) = scenario::pair(lab, &["tcp:80"])?;
        let attacker = lab.host("attacker")?;
        let _server = service::echo(&a.host, "tcp", Ipv4Addr::LOCALHOST.into(), 80)?;
        let (pid, before) = (a.pid()?, a.resident_kib()?);
        for target in [a.host.ipv4.to_string(), a.host.ipv6.to_string()] {
            attacker.tool(&["flood", &target, MESH_PORT])?;
        }
        unharmed(&mut a, &b, pid, before)
    })
}

#[test]
fn mutated_real_datagrams_are_survived() -> Result<()> {
    run("mutated", |lab| {
        let (mut a, mut b) = scenario::strangers(lab)?;
        b.join(&a.mint(&["tcp:80"])?, &[])?;
        let attacker = lab.host("attacker")?;
        let wire = Capture::start(lab.lan(), lab.directory(), "wire")?;
        a.start_and_wait()?;
        b.start_and_wait()?;
        b.wait_peer_up(&a)?;
        let _server = service::echo(&a.host, "tcp", Ipv4Addr::LOCALHOST.into(), 80)?;
        let datagrams = datagrams_to(&wire.finish()?, a.host.ipv4);
        ensure!(datagrams.len() > 10, "only {} datagrams were captured", datagrams.len());
        let files = write_mutants(&attacker.directory().join("mutants"), &datagrams)?;
        let (pid, before) = (a.pid()?, a.resident_kib()?);
        for chunk in files.chunks(200) {
            let target = a.host.ipv4.to_string();
            let mut arguments = vec!["hurl", &target, MESH_PORT];
            arguments.extend(chunk.iter().filter_map(|file| file.to_str()));
            attacker.tool(&arguments)?;
        }
        unharmed(&mut a, &b, pid, before)
    })
}

#[test]
fn malformed_control_messages_are_survived() -> Result<()> {
    run("control", |lab| {
        let (mut a, b) = scenario::pair(lab, &["tcp:80"])?;
        let _server = service::echo(&a.host, "tcp", Ipv4Addr::LOCALHOST.into(), 80)?;
        let (pid, before) = (a.pid()?, a.resident_kib()?);
        let data = a.data_dir();
        let sockets = a.host.run("find", &[&data.to_string_lossy(), "-type", "s"])?;
        let socket = sockets.lines().next().context("no control socket in the data folder")?;
        for _ in 0..10 {
            a.host.tool(&["unix-junk", socket])?;
        }
        unharmed(&mut a, &b, pid, before)
    })
}

/// Same process, bounded memory, still answering members and its own command line.
fn unharmed(node: &mut Node, member: &Node, pid: u32, before_kib: u64) -> Result<()> {
    ensure!(node.is_alive()? && node.pid()? == pid, "the daemon died: {}", node.log()?);
    ensure!(node.status()?.running);
    for address in node.both_addresses()? {
        member.host.tool(&["ask", "tcp", &address.to_string(), PORT])?;
    }
    let after = node.resident_kib()?;
    println!("figure: resident memory {before_kib} KiB before, {after} KiB after");
    ensure!(after <= before_kib + GROWTH_KIB, "memory grew from {before_kib} to {after} KiB");
    Ok(())
}

/// Payloads of the UDP datagrams to the mesh port of `address`, as captured (each is seen on several ports).
fn datagrams_to(packets: &[Vec<u8>], address: Ipv4Addr) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = packets
        .iter()
        .filter(|packet| packet.get(16..20) == Some(&address.octets()[..]) && packet.get(9) == Some(&17))
        .filter_map(|packet| Some(packet.get(28..)?.to_vec()))
        .collect();
    found.sort();
    found.dedup();
    found.truncate(60);
    found
}

/// Each datagram whole, cut at many lengths, with single bits flipped, and with foreign type bytes.
fn write_mutants(folder: &std::path::Path, datagrams: &[Vec<u8>]) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder)?;
    let mut mutants: Vec<Vec<u8>> = Vec::new();
    for datagram in datagrams {
        mutants.push(datagram.clone());
        mutants.extend((0..datagram.len()).step_by(17).map(|length| datagram[..length].to_vec()));
        for (position, kind) in (0..datagram.len()).step_by(23).zip(0_u8..) {
            let mut flipped = datagram.clone();
            flipped[position] ^= 1 << (position % 8);
            mutants.push(flipped.clone());
            flipped[0] = kind;
            mutants.push(flipped);
        }
    }
    let paths = mutants.iter().enumerate().map(|(number, mutant)| {
        let path = folder.join(number.to_string());
        std::fs::write(&path, mutant)?;
        Ok(path)
    });
    paths.collect()
}
