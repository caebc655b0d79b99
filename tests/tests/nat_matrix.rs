//! Members behind every pair of NAT kinds, with two relays that hold no key: how soon a ping is answered, and by which path.
//!
//! Where one NAT draws ports and the other admits only who was sent to, many ports are tried: no packet is lost meanwhile, and what
//! is won carries data.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::lab::run_within;
use meshhold_tests::nat::{Inner6, Kind};
use meshhold_tests::path::{self, Pings};
use meshhold_tests::{Lab, Node, Settings, fault, run, service};

const LIMIT: Duration = Duration::from_secs(420);
/// A path that doesn't come is waited for a little longer than allowed, to see how far off it is.
const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PING: Duration = Duration::from_secs(1);
const DIRECT: Duration = Duration::from_secs(5);
const RELAYED: Duration = Duration::from_secs(3);
/// A session is renewed after 120 s and ends after 180.
const RENEWED: Duration = Duration::from_secs(190);
/// Answers that show that a path is usable.
const SOME: usize = 20;

/// One a direction: a server says that it is busy for a while after a test.
const SERVICES: [u16; 2] = [5201, 5202];
/// What a path that was won by many ports carries at least; debug builds do a hundred times that.
const CARRIED_MBITS: f64 = 5.0;

/// What one pair showed.
struct Cell {
    kinds: [Kind; 2],
    wanted: &'static str,
    first: Option<Duration>,
    shown: Option<Duration>,
    found: String,
    lost: Vec<usize>,
}

#[test]
fn every_pair_of_kinds_finds_its_path() -> Result<()> {
    run_within(LIMIT, "nat-matrix", |lab| {
        let [r1, r2] = path::relays(lab)?;
        let key = minted(lab, &r1)?;
        let side = |name: &str| {
            let sites = Kind::ALL.into_iter();
            sites.map(|kind| member(lab, [&r1, &r2], kind, name, &key)).collect::<Result<Vec<_>>>()
        };
        let (here, there) = (side("a")?, side("b")?);
        let mut cells = Vec::new();
        for (&kind, a) in Kind::ALL.iter().zip(&here) {
            for (&other, b) in Kind::ALL.iter().zip(&there) {
                cells.push(measure([kind, other], a, b)?);
                if by_many_ports([kind, other]) {
                    carries(a, b)?;
                }
            }
        }
        println!("{}", table(&cells)?);
        let missed = cells.iter().filter(|cell| !cell.holds()).count();
        ensure!(missed == 0, "{missed} of {} pairs miss their limits", cells.len());
        Ok(())
    })
}

#[test]
fn ipv6_is_direct_where_both_nats_are_symmetric() -> Result<()> {
    run("nat-ipv6-direct", |lab| {
        let [r1, r2] = path::relays(lab)?;
        let key = minted(lab, &r1)?;
        let [a, b] = ["a", "b"].map(|name| {
            let (host, _) = lab.behind_nat(Kind::Symmetric, Inner6::Firewalled, name)?;
            joined(Node::new(host, Settings::knowing(&[&r1, &r2])?)?, &key)
        });
        let (a, b) = (a?, b?);
        let pings = Pings::start(&a.host, a.wait_known(&b)?.ipv6.into())?;
        pings.next(FIRST_PING)?;
        let path = path::wait_shown(DIRECT, &a, &b.id()?, |path| path.kind == "direct")?;
        ensure!(path.remote.is_some_and(|remote| remote.is_ipv6()), "{path:?}");
        pings.next(FIRST_PING).map(drop)
    })
}

#[test]
fn where_udp_passes_to_the_relay_only_it_is_relayed() -> Result<()> {
    run("nat-blocked", |lab| {
        let [r1, r2] = path::relays(lab)?;
        let key = minted(lab, &r1)?;
        let (host, router) = lab.behind_nat(Kind::FullCone, Inner6::Off, "a")?;
        let router = router.context("no router")?;
        fault::block_udp_except(&router.host, r1.host.ipv4.into())?;
        let a = joined(Node::new(host, Settings::knowing(&[&r1, &r2])?)?, &key)?;
        let b = member(lab, [&r1, &r2], Kind::None, "b", &key)?;
        let pings = Pings::start(&a.host, a.wait_known(&b)?.ipv6.into())?;
        pings.next(FIRST_PING)?;
        let path = path::wait_shown(RELAYED, &a, &b.id()?, |path| path.kind == "relay")?;
        ensure!(path.via == [r1.id()?], "{path:?}");
        fault::mend(&router.host)?;
        // The same pair is direct as soon as nothing is in the way; how soon it tries again is the daemon's affair.
        path::wait_shown(Duration::from_secs(60), &a, &b.id()?, |path| path.kind == "direct")?;
        pings.next(FIRST_PING).map(drop)
    })
}

#[test]
#[ignore = "by hand: takes three minutes"]
fn a_path_that_was_won_outlives_its_session() -> Result<()> {
    run("nat-renewal", |lab| {
        let [r1, r2] = path::relays(lab)?;
        let key = minted(lab, &r1)?;
        let a = member(lab, [&r1, &r2], Kind::Symmetric, "a", &key)?;
        let b = member(lab, [&r1, &r2], Kind::PortRestricted, "b", &key)?;
        let pings = Pings::start(&a.host, a.wait_known(&b)?.ipv6.into())?;
        let id = b.id()?;
        let won = path::wait_shown(PATIENCE, &a, &id, |path| path.kind == "direct")?;
        let begun = pings.elapsed();
        while pings.elapsed() < begun + RENEWED {
            pings.next(FIRST_PING)?;
            let now = path::shown(&a, &id)?.context("no path")?;
            ensure!((&now.reason, now.remote) == (&won.reason, won.remote), "{now:?} instead of {won:?}");
        }
        println!("lost: {:?} of {}", pings.lost()?, pings.answered()?);
        ensure!(pings.lost()?.is_empty());
        Ok(())
    })
}

/// A key of a network whose first member stays on the bridge.
fn minted(lab: &Lab, relay: &Node) -> Result<String> {
    Node::new(lab.host("minter")?, Settings::knowing(&[relay])?)?.mint(&[])
}

fn member(lab: &Lab, relays: [&Node; 2], kind: Kind, side: &str, key: &str) -> Result<Node> {
    let (host, _) = lab.behind_nat(kind, Inner6::Off, &format!("{side}-{}", kind.name()))?;
    joined(Node::new(host, Settings::knowing(&relays)?)?, key)
}

fn joined(mut node: Node, key: &str) -> Result<Node> {
    node.join(key, &SERVICES.map(|port| format!("tcp:{port}")).each_ref().map(String::as_str))?;
    node.start_and_wait()?;
    Ok(node)
}

fn measure(kinds: [Kind; 2], a: &Node, b: &Node) -> Result<Cell> {
    let wanted = if punchable(kinds) { "direct" } else { "relay" };
    let (id, peer) = (b.id()?, a.wait_known(b)?);
    b.wait_known(a)?;
    let pings = Pings::start(&a.host, peer.ipv6.into())?;
    let first = pings.next(PATIENCE).ok().map(|_| pings.elapsed());
    let shown = path::wait_shown(PATIENCE, a, &id, |path| path.kind == wanted).ok().map(|_| pings.elapsed());
    let before = pings.answered()?;
    let usable = (0..SOME).try_for_each(|_| pings.next(FIRST_PING).map(drop));
    let found = match (path::shown(a, &id)?, usable) {
        (Some(path), Ok(())) => path.kind,
        (path, _) => {
            let kind = path.map_or("none".to_owned(), |path| path.kind);
            format!("{kind}, {} of {SOME} answers", pings.answered()? - before)
        }
    };
    if !punchable(kinds) {
        // Said anew with each attempt to leave the relay, should another one have become the shorter way.
        path::wait_shown(PATIENCE, a, &id, |path| path.reason.contains("both NATs draw"))?;
    }
    let lost = pings.lost()?;
    println!("{kinds:?}: first {first:?}, {wanted} {shown:?}, {found}, lost: {lost:?}");
    Ok(Cell { kinds, wanted, first, shown, found, lost })
}

/// Data in both directions over the path that was won, which both ends say how they found.
fn carries(a: &Node, b: &Node) -> Result<()> {
    let address = a.wait_known(b)?.ipv6.into();
    for (port, options) in SERVICES.into_iter().zip([&[][..], &["-R"]]) {
        let _server = service::iperf(&b.host, "127.0.0.1", port)?;
        let mbits = service::transfer(&a.host, address, port, 1, options)?.mbits;
        println!("{mbits:.0} Mbit/s {options:?}");
        ensure!(mbits > CARRIED_MBITS, "{mbits} Mbit/s {options:?}");
    }
    for (from, to) in [(a, b), (b, a)] {
        let path = path::shown(from, &to.id()?)?.context("no path")?;
        println!("{}: {:?}: {}", from.host.name, path.remote, path.reason);
        ensure!(path.kind == "direct" && path.reason.contains("NAT draws one"), "{path:?}");
    }
    Ok(())
}

/// Two ports that are drawn for each other are never known to the other end.
fn punchable(kinds: [Kind; 2]) -> bool {
    kinds != [Kind::Symmetric; 2]
}

/// A port that is drawn for each destination can't be told to who must have sent to it before.
fn by_many_ports(kinds: [Kind; 2]) -> bool {
    punchable(kinds) && kinds.contains(&Kind::Symmetric) && kinds.contains(&Kind::PortRestricted)
}

impl Cell {
    fn holds(&self) -> bool {
        let limit = if self.wanted == "direct" { DIRECT } else { RELAYED };
        let within = |time: Option<Duration>, limit| time.is_some_and(|time| time <= limit);
        within(self.first, FIRST_PING)
            && within(self.shown, limit)
            && self.found == self.wanted
            && self.lost.is_empty()
    }
}

fn table(cells: &[Cell]) -> Result<String> {
    let mut text = format!("{:<44}{:>12}{:>12}{:>6}  path\n", "kinds", "first ms", "path ms", "lost");
    let show = |time: Option<Duration>| time.map_or("-".to_owned(), |time| time.as_millis().to_string());
    for cell in cells {
        let verdict = if cell.holds() { "" } else { "  MISSED" };
        let kinds = format!("{:?} x {:?}", cell.kinds[0], cell.kinds[1]);
        writeln!(
            text,
            "{kinds:<44}{:>12}{:>12}{:>6}  {}{verdict}",
            show(cell.first),
            show(cell.shown),
            cell.lost.len(),
            cell.found
        )?;
    }
    Ok(text)
}
