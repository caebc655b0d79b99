//! Floods on the underlay port, junk and well-formed initiations, from real and forged sources: a transfer keeps its rate, a new
//! member joins, and nobody unverified gets more bytes than he sent.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use meshhold_tests::capture::Capture;
use meshhold_tests::process::Process;
use meshhold_tests::{Host, Lab, Node, Settings, run, scenario, service, wait};

const PORT: &str = "7777";
/// Datagrams a second of each kind: half from a real source, half from forged ones of both families.
const RATE: u64 = 20_000;
const KEPT: f64 = 0.8;
const JOIN: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(20);
/// The first of the forged addresses; all are of the bridge's prefixes and nobody's.
const FORGED: &str = "10.90.0.128";
const FORGED6: &str = "fd00:90::f000";
/// Rate of the transfer. Steady, so that what the sender of a flood takes of this machine isn't counted as the daemon's loss; by hand
/// another, 0 for none. Then the same floods are sent to a port whose datagrams are dropped on arrival, too.
const PACE: &str = "MESHHOLD_STORM_PACE";
const STEADY: &str = "200M";
/// The port of that.
const DROPPED: &str = "7799";
/// Seconds of each measurement, and how many pairs of them, by hand.
const SECONDS: &str = "MESHHOLD_STORM_SECONDS";
const ROUNDS: usize = 3;

#[test]
fn a_transfer_and_a_newcomer_hardly_notice_floods() -> Result<()> {
    run("underlay", |lab| {
        let seconds: u32 = std::env::var(SECONDS).map_or(Ok(2), |seconds| seconds.parse())?;
        let wire = Capture::start(lab.lan(), lab.directory(), "wire")?;
        let (mut a, mut b) = scenario::strangers(lab)?;
        let key = a.mint(&["tcp:5201"])?;
        b.join(&key, &[])?;
        a.start_and_wait()?;
        b.start_and_wait()?;
        let address = b.wait_peer_up(&a)?.ipv6.into();
        let _stranger = stranger(lab, &a)?;
        let attacker = lab.host("attacker")?;
        let files = initiations(&wire.finish()?, a.host.ipv4, &attacker.directory().join("initiations"))?;
        count(&a.host, &attacker)?;
        let _server = service::iperf(&a.host, "::", 5201)?;
        let pace = std::env::var(PACE);
        // In peace, under floods at the other port, and at ours.
        let targets =
            if pace.is_ok() { vec![None, Some(DROPPED), Some(PORT)] } else { vec![None, Some(PORT)] };
        let options = ["-b", pace.as_deref().unwrap_or(STEADY)];
        let mut rates = vec![0.0; targets.len()];
        for _ in 0..ROUNDS {
            for (rate, port) in rates.iter_mut().zip(&targets) {
                let storm = |port| Storm::start(&attacker, &a.host, port, seconds + 3, &files);
                let storm = port.map(storm).transpose()?;
                *rate += service::transfer(&b.host, address, 5201, seconds, &options)?.mbits / ROUNDS as f64;
                storm.map_or(Ok(()), Storm::end)?;
            }
        }
        for (port, rate) in targets.iter().zip(&rates) {
            println!("figure: {rate:.0} Mbit/s under floods at {port:?}, {:.2} of peace", rate / rates[0]);
        }
        // By hand what the senders take of this machine is known, and isn't the daemon's loss.
        let (quiet, stormy) = (rates[rates.len() - 2], rates[rates.len() - 1]);
        let took = newcomer(lab, &a, &key, Storm::start(&attacker, &a.host, PORT, 8, &files)?)?;
        println!("figure: a new member pinged {took:?} after its start, under floods");
        for (family, [received, answered]) in ["IPv4", "IPv6"].into_iter().zip(counted(&a.host)?) {
            println!(
                "figure: {received} bytes came by {family} from unverified senders, {answered} bytes went back"
            );
            ensure!(received > 1_000_000, "the floods did not arrive: {received} bytes");
            ensure!(answered <= received, "{answered} bytes for {received}");
        }
        ensure!(stormy >= KEPT * quiet, "{stormy} of {quiet} Mbit/s");
        ensure!(took <= JOIN, "{took:?} to join");
        ensure!(a.is_alive()?, "the daemon died");
        Ok(())
    })
}

/// A node of another network that dials `known`: what it sends is well-formed.
fn stranger(lab: &Lab, known: &Node) -> Result<Node> {
    let mut node = Node::new(lab.host("stranger")?, Settings::knowing(&[known])?)?;
    node.mint(&[])?;
    node.start_and_wait()?;
    let seen = format!("ss -Hlun sport = :{PORT}");
    wait::until_true(PATIENCE, "the stranger listens", || {
        Ok(!node.host.run("sh", &["-c", &seen])?.trim().is_empty())
    })?;
    Ok(node)
}

/// Files of the datagrams that open a circuit or a link at `address`, by strangers and members, as they were seen.
fn initiations(packets: &[Vec<u8>], address: Ipv4Addr, folder: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder)?;
    let payload = |packet: &Vec<u8>| {
        let is_ours = packet.get(16..20)? == address.octets() && packet.get(9) == Some(&17);
        packet.get(28..).filter(|_| is_ours).map(<[u8]>::to_vec)
    };
    // A long QUIC header of an Initial, or the first message of a handshake.
    let opens = |bytes: &Vec<u8>| bytes.first().is_some_and(|first| first >> 4 == 0xc || *first == 1);
    let mut found: Vec<Vec<u8>> = packets.iter().filter_map(payload).filter(opens).collect();
    found.sort();
    found.dedup();
    let links = found.iter().filter(|bytes| bytes[0] != 1).count();
    println!("{} circuit and {links} link initiations were seen", found.len() - links);
    ensure!(links >= 2 && links < found.len(), "initiations of both kinds");
    let paths = found.iter().enumerate().map(|(number, bytes)| {
        let path = folder.join(number.to_string());
        std::fs::write(&path, bytes)?;
        Ok(path)
    });
    paths.collect()
}

/// The floods of all kinds, until dropped.
struct Storm {
    senders: Vec<Process>,
}

impl Storm {
    fn start(attacker: &Host, target: &Host, port: &str, seconds: u32, files: &[PathBuf]) -> Result<Self> {
        let (four, six, seconds) = (target.ipv4.to_string(), target.ipv6.to_string(), seconds.to_string());
        let [half, quarter] = [RATE / 2, RATE / 4].map(|rate| rate.to_string());
        let sources = [("own", &four, &half), (FORGED, &four, &quarter), (FORGED6, &six, &quarter)];
        let files: Vec<&str> = files.iter().filter_map(|file| file.to_str()).collect();
        let mut senders = Vec::new();
        for files in [&[][..], &files] {
            for (source, address, rate) in sources {
                let mut arguments = vec!["storm", address, port, rate, &seconds, source];
                arguments.extend(files);
                let sender = attacker.spawn_tool(&format!("storm-{}", senders.len()), &arguments)?;
                wait::until_true(PATIENCE, "a flood has begun", || Ok(sender.log()?.contains("storming")))?;
                senders.push(sender);
            }
        }
        Ok(Self { senders })
    }

    /// Fails where it was over before.
    fn end(mut self) -> Result<()> {
        for sender in &mut self.senders {
            ensure!(sender.is_running()?, "a flood ended before its time: {}", sender.log()?);
        }
        Ok(())
    }
}

/// From its start until a ping to `known` is answered.
fn newcomer(lab: &Lab, known: &Node, key: &str, storm: Storm) -> Result<Duration> {
    let mut node = Node::new(lab.host("newcomer")?, Settings::knowing(&[known])?)?;
    node.join(key, &[])?;
    let begun = Instant::now();
    node.start()?;
    let (_, address) = known.addresses()?;
    wait::until_true(PATIENCE, "the newcomer pings", || {
        node.host.succeeds("ping", &["-n", "-c1", "-W1", &address.to_string()])
    })?;
    let took = begun.elapsed();
    storm.end()?;
    Ok(took)
}

/// Counts what comes from the attacker and from forged addresses, and what is sent to them.
fn count(target: &Host, attacker: &Host) -> Result<()> {
    let enemies = format!("{{ {}, {FORGED}-10.90.0.191 }}", attacker.ipv4);
    let enemies6 = format!("{FORGED6}-fd00:90::f03f");
    let rules = format!(
        "table inet storm {{
            chain input {{ type filter hook input priority 0
                udp dport {PORT} ip saddr {enemies} counter
                udp dport {PORT} ip6 saddr {enemies6} counter
                udp dport {DROPPED} drop
            }}
            chain output {{ type filter hook output priority 0
                ip daddr {enemies} counter
                ip6 daddr {enemies6} counter
            }}
        }}"
    );
    target.run("nft", &[&rules]).map(drop)
}

/// Bytes that came and bytes that went, with their IP headers, by IPv4 and IPv6.
fn counted(target: &Host) -> Result<[[u64; 2]; 2]> {
    let rules = target.run("nft", &["list", "table", "inet", "storm"])?;
    let numbers = rules.lines().filter_map(|line| line.split_once(" bytes ")?.1.trim().parse().ok());
    let numbers: Vec<u64> = numbers.collect();
    match numbers[..] {
        [four, six, to_four, to_six] => Ok([[four, to_four], [six, to_six]]),
        _ => anyhow::bail!("not four counters: {rules}"),
    }
}
