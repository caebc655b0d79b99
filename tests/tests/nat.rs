//! The lab's routers do what RFC 4787 calls them, seen by plain UDP sockets: how they map, whom they let in, what they forget.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meshhold_tests::capture::{self, Capture};
use meshhold_tests::nat::{Inner6, Kind, Router};
use meshhold_tests::{Host, Lab, fault, run, service, wait};

/// How long a datagram is waited for; the round trip in the lab is far below a millisecond.
const SILENCE: Duration = Duration::from_millis(100);
const ARRIVAL: Duration = Duration::from_secs(1);
const PORT: u16 = 7777;
const CANARY: &[u8] = b"a canary that was sent";

/// What is seen of a router from outside.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// All destinations see one source.
    one_mapping: bool,
    /// A stranger gets in.
    anybody: bool,
    /// Another port of an address that was sent to gets in.
    other_port: bool,
}

#[test]
fn each_kind_maps_and_filters_as_its_name_says() -> Result<()> {
    run("nat", |lab| {
        let (x, y) = (lab.host("x")?, lab.host("y")?);
        let expected = [
            (Kind::None, [true, true, true]),
            (Kind::FullCone, [true, true, true]),
            (Kind::AddressRestricted, [true, false, true]),
            (Kind::PortRestricted, [true, false, false]),
            (Kind::Symmetric, [false, false, false]),
        ];
        for (number, (kind, [one_mapping, anybody, other_port])) in (0_u16..).zip(expected) {
            let (host, router) = lab.behind_nat(kind, Inner6::Off, kind.name())?;
            let seen = look(&host, [&x, &y], 5000 + 10 * number)?;
            println!("{kind:?}: {seen:?}");
            ensure!(seen == Seen { one_mapping, anybody, other_port }, "{kind:?} is {seen:?}");
            ensure!(router.is_some() == (kind != Kind::None));
        }
        Ok(())
    })
}

/// Sends to two ports of `x` and to `y`, and finds out who may answer to the mapping for the first of them.
fn look(host: &Host, [x, y]: [&Host; 2], port: u16) -> Result<Seen> {
    let inner = open(host, Ipv4Addr::UNSPECIFIED.into(), PORT)?;
    let servers =
        [(x, port), (x, port + 1), (y, port)].map(|(host, port)| open(host, host.ipv4.into(), port));
    let [first, second, third] = servers;
    let (first, second, third) = (first?, second?, third?);
    let mapped = source(&inner, &first)?;
    // Asked before the others were sent to: they are strangers yet.
    let anybody = admitted(&third, &inner, mapped)?;
    let other_port = admitted(&second, &inner, mapped)?;
    ensure!(admitted(&first, &inner, mapped)?, "who was sent to may answer");
    let [again, other, far] = [&first, &second, &third].map(|server| source(&inner, server));
    ensure!(again? == mapped, "a mapping lasts");
    Ok(Seen { one_mapping: other? == mapped && far? == mapped, anybody, other_port })
}

#[test]
fn mappings_end_and_are_forgotten() -> Result<()> {
    run("nat-timeout", |lab| {
        let x = lab.host("x")?;
        let server = open(&x, x.ipv4.into(), 5000)?;
        for kind in [Kind::FullCone, Kind::PortRestricted] {
            let (host, router) = behind(lab, kind, Inner6::Off)?;
            let inner = open(&host, host.ipv4.into(), PORT)?;
            let before = source(&inner, &server)?;
            router.forget()?;
            ensure!(!admitted(&server, &inner, before)?, "{kind:?}: a forgotten mapping is closed");
            ensure!(source(&inner, &server)? != before, "{kind:?}: the next mapping is another");
            let lived = lifetime(&router, &host, &server)?;
            println!("{kind:?}: a mapping of 2 s ended after {lived:?}");
            ensure!((1_800..4_000).contains(&lived.as_millis()), "{kind:?}: {lived:?}");
        }
        Ok(())
    })
}

/// Each mapping is asked once, as an answer would make it last: the first that is closed shows how long they live.
fn lifetime(router: &Router, host: &Host, server: &UdpSocket) -> Result<Duration> {
    router.set_udp_timeout(2)?;
    let sockets = (0..60).map(|_| open(host, host.ipv4.into(), 0)).collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    let mapped = sockets.iter().map(|socket| source(socket, server)).collect::<Result<Vec<_>>>()?;
    let mut rest = sockets.iter().zip(mapped);
    wait::until(Duration::from_secs(10), "a mapping ends", || {
        let (socket, mapped) = rest.next().context("no mapping is left to ask")?;
        // An open one answers at once; so that the sockets last, each is given its time.
        let asked = Instant::now();
        let open = admitted(server, socket, mapped)?;
        std::thread::sleep(SILENCE.saturating_sub(asked.elapsed()));
        Ok((!open).then(|| begun.elapsed()))
    })
}

#[test]
fn routers_can_be_broken_and_mended() -> Result<()> {
    run("nat-faults", |lab| {
        let (x, y) = (lab.host("x")?, lab.host("y")?);
        let (host, router) = behind(lab, Kind::FullCone, Inner6::Off)?;
        let inner = open(&host, host.ipv4.into(), PORT)?;
        let servers = [open(&x, x.ipv4.into(), 5000)?, open(&y, y.ipv4.into(), 5000)?];
        let reached = || -> Result<Vec<bool>> {
            servers.iter().map(|server| Ok(passes(&inner, server)?.is_some())).collect()
        };
        ensure!(reached()? == [true, true]);
        fault::block_udp_except(&router.host, x.ipv4.into())?;
        ensure!(reached()? == [true, false], "only x is left");
        fault::mend(&router.host)?;
        ensure!(reached()? == [true, true]);
        fault::cut(&router.host, x.ipv4.into())?;
        ensure!(reached()? == [false, true], "only x is cut off");
        fault::mend(&router.host)?;
        ensure!(reached()? == [true, true]);
        let own = open(&host, host.ipv4.into(), PORT + 1)?;
        let mapped = source(&own, &servers[0])?;
        ensure!(!admitted(&inner, &own, mapped)?, "no way back in by the outer address");
        captured(&router.host, &inner, &servers[0])?;
        let _iperf = service::iperf(&x, "0.0.0.0", 5201)?;
        ensure!(service::transfer(&host, x.ipv4.into(), 5201, 1, &[])?.mbits > 100.0, "not limited yet");
        router.limit_rate(20)?;
        for reverse in [&[][..], &["-R"]] {
            let limited = service::transfer(&host, x.ipv4.into(), 5201, 2, reverse)?.mbits;
            ensure!(limited > 5.0 && limited < 25.0, "{limited} Mbit/s");
        }
        Ok(())
    })
}

/// A capture on the router holds what was said through it, and nothing else.
fn captured(router: &Host, inner: &UdpSocket, server: &UdpSocket) -> Result<()> {
    let capture = Capture::on(router, "router")?;
    let mapped = source(inner, server)?;
    server.send_to(CANARY, mapped)?;
    heard(inner)?.context("it arrives")?;
    wait::until_true(ARRIVAL, "the capture has it", || Ok(capture::has(&capture.bytes()?, CANARY)))?;
    let found = capture::found(&capture.finish()?, &[CANARY, b"one that was not"]);
    ensure!(found == [CANARY], "{found:?}");
    Ok(())
}

#[test]
fn ipv6_is_routed_behind_a_firewall() -> Result<()> {
    run("nat-ipv6", |lab| {
        let (x, y) = (lab.host("x")?, lab.host("y")?);
        let (host, _router) = behind(lab, Kind::Symmetric, Inner6::Firewalled)?;
        let (far, _other) = lab.behind_nat(Kind::FullCone, Inner6::Firewalled, "far")?;
        let inner = open(&host, host.ipv6.into(), PORT)?;
        let own = SocketAddr::new(host.ipv6.into(), PORT);
        let [x, y] = [&x, &y].map(|server| open(server, server.ipv6.into(), 5000));
        let (x, y, far) = (x?, y?, open(&far, far.ipv6.into(), PORT)?);
        ensure!(!admitted(&x, &inner, own)?, "nobody was sent to");
        ensure!(source(&inner, &x)? == own, "not translated");
        ensure!(
            admitted(&x, &inner, own)? && !admitted(&y, &inner, own)?,
            "who was sent to, and nobody else"
        );
        ensure!(passes(&inner, &far)?.is_none(), "the other site's firewall is closed");
        ensure!(passes(&far, &inner)? == Some(far.local_addr()?), "both have sent: open");
        let (bare, _router) = lab.behind_nat(Kind::FullCone, Inner6::Off, "bare")?;
        let unplugged = open(&bare, Ipv6Addr::UNSPECIFIED.into(), PORT)?;
        ensure!(unplugged.send_to(b"?", x.local_addr()?).is_err(), "no IPv6 there");
        Ok(())
    })
}

fn behind(lab: &Lab, kind: Kind, inner6: Inner6) -> Result<(Host, Router)> {
    let (host, router) = lab.behind_nat(kind, inner6, kind.name())?;
    Ok((host, router.context("no router")?))
}

fn open(host: &Host, address: IpAddr, port: u16) -> Result<UdpSocket> {
    host.udp_socket(SocketAddr::new(address, port))
}

/// Where a datagram of `from` comes from in the eyes of `to`.
fn source(from: &UdpSocket, to: &UdpSocket) -> Result<SocketAddr> {
    passes(from, to)?.context("nothing arrived")
}

/// As [`source`]; `None` if it doesn't arrive.
fn passes(from: &UdpSocket, to: &UdpSocket) -> Result<Option<SocketAddr>> {
    from.send_to(b"hello", to.local_addr()?)?;
    heard(to)
}

/// Whether a datagram of `from` to the mapping arrives at who made it.
fn admitted(from: &UdpSocket, to: &UdpSocket, mapped: SocketAddr) -> Result<bool> {
    from.send_to(b"anybody there?", mapped)?;
    Ok(heard(to)?.is_some())
}

fn heard(socket: &UdpSocket) -> Result<Option<SocketAddr>> {
    socket.set_read_timeout(Some(SILENCE))?;
    match socket.recv_from(&mut [0; 64]) {
        Ok((_, from)) => Ok(Some(from)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    }
}
