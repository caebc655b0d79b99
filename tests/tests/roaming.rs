//! A member that moves under a running TCP download, and one that is frozen: the download survives, and its pauses are short.
//!
//! Each change also shows that it took effect: the sender's path ends at the new place.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use meshhold_tests::flow::Flow;
use meshhold_tests::nat::{Inner6, Kind, Router};
use meshhold_tests::path::{self, Pings};
use meshhold_tests::process::Process;
use meshhold_tests::{Host, Lab, Node, Settings, run, service, wait};

const CHANGES: u8 = 20;
const P95_MS: u64 = 1_000;
const PATIENCE: Duration = Duration::from_secs(20);
const RECOVERY: Duration = Duration::from_secs(3);
/// Another length of the freeze, in seconds; 600 by hand.
const FREEZE: &str = "MESHHOLD_FREEZE_SECONDS";

/// A download from `b` to `a`, which moves; a relay knows both.
struct Roaming {
    a: Node,
    b: Node,
    download: Flow,
    _relays: [Node; 2],
    _server: Process,
}

#[test]
fn a_download_survives_new_addresses() -> Result<()> {
    run("roaming-address", |lab| {
        let (host, _) = lab.behind_nat(Kind::None, Inner6::Off, "a")?;
        let mut address = host.ipv4.octets();
        let mut roaming = Roaming::start(lab, host)?;
        roaming.measure("address", |a, number| {
            a.namespace().ip(&format!("address delete {}/24 dev eth0", IpAddr::from(address)))?;
            address = [10, 90, 0, 100 + number];
            a.namespace().ip(&format!("address add {}/24 dev eth0", IpAddr::from(address)))?;
            Ok(Arrival::At(address.into()))
        })
    })
}

#[test]
fn a_download_survives_new_ports() -> Result<()> {
    run("roaming-port", |lab| {
        let (host, router) = lab.behind_nat(Kind::PortRestricted, Inner6::Off, "a")?;
        let router = router.context("no router")?;
        let mut roaming = Roaming::start(lab, host)?;
        roaming.measure("port", |_, _| router.forget().map(|()| Arrival::elsewhere(&router)))
    })
}

#[test]
fn a_download_survives_other_interfaces() -> Result<()> {
    run("roaming-interface", |lab| {
        let (host, _) = lab.behind_nat(Kind::None, Inner6::Off, "a")?;
        let (first, second) = (host.ipv4, lab.uplink(&host)?);
        let mut roaming = Roaming::start(lab, host)?;
        roaming.measure("interface", |a, number| {
            let (down, up, address) =
                if number % 2 == 0 { ("eth0", "eth1", second) } else { ("eth1", "eth0", first) };
            // The kernel takes up to a second until an interface that comes up carries packets.
            a.namespace().ip(&format!("link set {up} up"))?;
            wait::until_true(PATIENCE, "the other interface is up", || {
                Ok(a.run("ip", &["-o", "link", "show", up])?.contains("state UP"))
            })?;
            a.namespace().ip(&format!("link set {down} down"))?;
            Ok(Arrival::At(address.into()))
        })
    })
}

#[test]
fn a_download_survives_another_family() -> Result<()> {
    run("roaming-family", |lab| {
        let (host, _) = lab.behind_nat(Kind::None, Inner6::Off, "a")?;
        let (ipv4, ipv6) = (host.ipv4, host.ipv6);
        let mut roaming = Roaming::start(lab, host)?;
        roaming.measure("family", |a, number| {
            let both = [format!("{ipv4}/24 dev eth0"), format!("{ipv6}/64 dev eth0 nodad")];
            let ([old, new], address) = match number % 2 {
                0 => (both, IpAddr::from(ipv6)),
                _ => ([both[1].clone(), both[0].clone()], IpAddr::from(ipv4)),
            };
            a.namespace().ip(&format!("address add {new}"))?;
            a.namespace().ip(&format!("address delete {}", old.trim_end_matches(" nodad")))?;
            Ok(Arrival::At(address))
        })
    })
}

#[test]
fn a_frozen_daemon_recovers() -> Result<()> {
    let seconds: u64 = std::env::var(FREEZE).map_or(Ok(10), |seconds| seconds.parse())?;
    let freeze = Duration::from_secs(seconds);
    meshhold_tests::lab::run_within(freeze + Duration::from_secs(200), "freeze", |lab| {
        let (host, _) = lab.behind_nat(Kind::None, Inner6::Off, "a")?;
        let mut roaming = Roaming::start(lab, host)?;
        let pings = Pings::start(&roaming.a.host, roaming.a.wait_known(&roaming.b)?.ipv6.into())?;
        pings.next(PATIENCE)?;
        roaming.a.signal("STOP")?;
        let frozen = SystemTime::now();
        // What was answered before is in the log a moment later.
        let settled = wait::until(PATIENCE, "the answers end", || {
            let before = pings.answered()?;
            let quiet =
                wait::never(Duration::from_millis(200), "an answer", || Ok(pings.answered()? > before));
            Ok(quiet.is_ok().then_some(before))
        })?;
        wait::never(freeze, "an answer of a frozen daemon", || Ok(pings.answered()? > settled))?;
        roaming.a.signal("CONT")?;
        let recovered = pings.next(PATIENCE)?;
        println!("frozen for {freeze:?}: a ping was answered {recovered:?} after");
        ensure!(recovered <= RECOVERY, "{recovered:?} until a ping was answered");
        // TCP tries again in steps that double: up to as long as it was frozen, and never above two minutes.
        let again = PATIENCE + freeze.min(Duration::from_secs(120));
        let pause = roaming.download.pause_since(frozen, again)?;
        println!("the download stood still for {pause} ms");
        Ok(())
    })
}

/// Runs a daemon by a clock that `/run/clock` on its host sets forward or back; libfaketime, for a clock is the whole machine's.
const SET_CLOCK: [&str; 5] = [
    "env",
    "LD_PRELOAD=/usr/$LIB/faketime/libfaketime.so.1",
    "FAKETIME_TIMESTAMP_FILE=/run/clock",
    "FAKETIME_NO_CACHE=1",
    "FAKETIME_DONT_FAKE_MONOTONIC=1",
];

#[test]
fn a_clock_that_is_set_an_hour_off_is_noticed_and_survived() -> Result<()> {
    run("clock", |lab| {
        let mut b = Node::new(lab.host("b")?, Settings::default())?;
        let host = lab.host("a")?;
        let set =
            |host: &Host, by: &str| host.run("sh", &["-c", &format!("echo {by} > /run/clock")]).map(drop);
        set(&host, "+0")?;
        let settings = Settings { wrapper: SET_CLOCK.to_vec(), ..Settings::knowing(&[&b])? };
        let mut a = Node::new(host, settings)?;
        a.join(&b.mint(&[])?, &[])?;
        b.start_and_wait()?;
        a.start_and_wait()?;
        let pings = Pings::start(&a.host, a.wait_peer_up(&b)?.ipv6.into())?;
        for (jumps, by) in [(1, "+3600"), (2, "+0"), (3, "-3600"), (4, "+0")] {
            set(&a.host, by)?;
            wait::until_true(PATIENCE, "the jump is noticed", || {
                Ok(a.log()?.matches("the clock jumped").count() >= jumps)
            })?;
            let answered = pings.next(PATIENCE)?;
            println!("clock at {by}: a ping was answered {answered:?} after the jump was noticed");
            ensure!(answered <= RECOVERY, "{answered:?} until a ping was answered");
        }
        // Who comes now is known to it too.
        let mut c = Node::new(lab.host("c")?, Settings::knowing(&[&b])?)?;
        c.join(&b.meshhold(&["mgmt-keys", "share", &b.key_id(0)?])?, &[])?;
        c.start_and_wait()?;
        a.wait_peer_up(&c).map(drop)
    })
}

/// Where the sender's path ends after a change.
enum Arrival {
    /// At this address.
    At(IpAddr),
    /// At a port of this address that is another than before.
    Elsewhere(IpAddr),
}

impl Arrival {
    fn elsewhere(router: &Router) -> Self {
        Self::Elsewhere(router.host.ipv4.into())
    }

    fn holds(&self, before: Option<SocketAddr>, now: SocketAddr) -> bool {
        match self {
            Self::At(address) => now.ip().to_canonical() == *address,
            Self::Elsewhere(address) => now.ip().to_canonical() == *address && before != Some(now),
        }
    }
}

impl Roaming {
    /// The download runs over a direct path.
    fn start(lab: &Lab, host: Host) -> Result<Self> {
        let relays = path::relays(lab)?;
        let known = Settings::knowing(&[&relays[0], &relays[1]])?;
        let mut b = Node::new(lab.host("b")?, known.clone())?;
        let mut a = Node::new(host, known)?;
        a.join(&b.mint(&["tcp:80"])?, &[])?;
        b.start_and_wait()?;
        a.start_and_wait()?;
        let server = service::pour(&b.host, "::".parse()?, 80)?;
        let address = a.wait_peer_up(&b)?.ipv6.to_string();
        let download = Flow::download(&a.host, &address, "80")?;
        path::wait_shown(PATIENCE, &b, &a.id()?, |path| path.kind == "direct")?;
        Ok(Self { a, b, download, _relays: relays, _server: server })
    }

    fn measure(&mut self, what: &str, mut change: impl FnMut(&Host, u8) -> Result<Arrival>) -> Result<()> {
        let id = self.a.id()?;
        let mut pauses = Vec::new();
        for number in 0..CHANGES {
            let before = path::shown(&self.b, &id)?.and_then(|path| path.remote);
            let begun = SystemTime::now();
            let arrival = change(&self.a.host, number)?;
            path::wait_shown(PATIENCE, &self.b, &id, |path| {
                path.kind == "direct" && path.remote.is_some_and(|now| arrival.holds(before, now))
            })
            .with_context(|| format!("change {number} of {what}; pauses in ms so far: {pauses:?}"))?;
            pauses.push(self.download.pause_since(begun, PATIENCE)?);
        }
        println!("{what}: pauses in ms {pauses:?}");
        pauses.sort_unstable();
        let p95 = pauses.get(pauses.len() * 95 / 100 - 1).copied().context("nothing was changed")?;
        println!("{what}: p95 {p95} ms, longest {:?} ms of {CHANGES} changes", pauses.last());
        ensure!(p95 <= P95_MS, "p95 of the pauses is {p95} ms");
        Ok(())
    }
}
