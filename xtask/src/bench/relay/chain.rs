//! Two members with routers or relays between them, each in namespaces of its own.
//!
//! Owns how they come up, and the proof that the packets take the way that the case says. Must not know what is measured.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshhold_tests::{Host, Node, Settings, wait};

use super::super::site::{Site, Underlay};
use super::Middle;

/// Everything, as the load programs use several ports.
const OPEN: [&str; 2] = ["tcp:1-65535", "udp:1-65535"];
/// Takes all capabilities from a daemon.
const BARE: [&str; 4] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"];
const ON_ITS_WAY: Duration = Duration::from_secs(20);

/// What runs.
pub(super) struct Chain {
    pub(super) site: Site,
    /// Of b, as a must use it.
    pub(super) address: IpAddr,
    pub(super) relays: Vec<Node>,
    middle: Middle,
    /// a and b, where there is a tunnel.
    members: Vec<Node>,
}

impl Chain {
    /// Waits until a reaches b by the way that the case says; `rate` is the relays' budget in Mbit/s.
    pub(super) fn new(underlay: Underlay, middle: Middle, hops: u8, rate: Option<u32>) -> Result<Self> {
        let site = Site::chain(underlay, hops)?;
        let address = IpAddr::from([10, 91, hops + 1, 2]);
        let mut chain = Self { site, address, relays: Vec::new(), middle, members: Vec::new() };
        let outcome = chain.start(rate);
        outcome.with_context(|| chain.site.logs())?;
        Ok(chain)
    }

    /// Processes of the relays.
    pub(super) fn pids(&self) -> Result<Vec<u32>> {
        self.relays.iter().map(Node::pid).collect()
    }

    /// Fails where the packets went another way than the case says.
    pub(super) fn prove(&self) -> Result<()> {
        let [a, b] = self.members.as_slice() else { return Ok(()) };
        let path = self.path(a, b)?;
        let via = self.relays.iter().map(Node::id).collect::<Result<Vec<_>>>()?;
        let kind = if self.relays.is_empty() { "direct" } else { "relay" };
        ensure!(
            path.0 == kind && path.1 == via,
            "the path is {} via {:?}, not {kind} via {via:?}",
            path.0,
            path.1
        );
        for relay in &self.relays {
            let legs = relay.status()?.relay.legs;
            let by = self.middle.name();
            let fits = !legs.is_empty() && legs.iter().all(|leg| leg.by == by);
            ensure!(fits, "{} does not relay by its {by}: {legs:?}", relay.host.name);
        }
        Ok(())
    }

    fn path(&self, a: &Node, b: &Node) -> Result<(String, Vec<String>)> {
        let status = a.status()?;
        let path = status.peer(&b.id()?).and_then(|peer| peer.path.clone()).context("no path")?;
        Ok((path.kind, path.via))
    }

    fn start(&mut self, rate: Option<u32>) -> Result<()> {
        match self.middle {
            Middle::Raw | Middle::Forward => self.route()?,
            Middle::Kernel | Middle::Workers => self.start_relays(rate)?,
            Middle::Direct => {}
        }
        if self.middle != Middle::Raw {
            self.start_members()?;
        }
        self.answered()?;
        wait::until_true(ON_ITS_WAY, "the packets take the case's way", || Ok(self.prove().is_ok()))
            .or_else(|_| self.prove())
    }

    fn answered(&self) -> Result<()> {
        wait::until_true(ON_ITS_WAY, &format!("a pings {}", self.address), || {
            self.site.a.succeeds("ping", &["-n", "-c1", "-W1", &self.address.to_string()])
        })
    }

    /// Every host of the middle forwards, and everybody knows the ways to both ends.
    fn route(&self) -> Result<()> {
        let last = self.site.hops.len() + 1;
        let route = |host: &Host, cable: usize, via: usize, end: u8| {
            host.namespace().ip(&format!("route add 10.91.{cable}.0/24 via 10.91.{via}.{end}"))
        };
        if last > 1 {
            route(&self.site.a, last, 1, 2)?;
            route(&self.site.b, 1, last, 1)?;
        }
        for (cable, host) in (1..).zip(&self.site.hops) {
            host.run("sysctl", &["-qw", "net.ipv4.ip_forward=1"])?;
            if cable > 1 {
                route(host, 1, cable, 1)?;
            }
            if cable + 1 < last {
                route(host, last, cable + 1, 2)?;
            }
        }
        Ok(())
    }

    fn start_relays(&mut self, rate: Option<u32>) -> Result<()> {
        for (cable, host) in (1..).zip(&self.site.hops) {
            host.run("sysctl", &["-qw", "net.ipv4.ip_forward=0"])?;
            let bootstrap = self.relays.last().map(|left| at_right(left, cable)).transpose()?;
            let wrapper = if self.middle == Middle::Workers { BARE.to_vec() } else { Vec::new() };
            let bootstrap = bootstrap.into_iter().collect();
            let settings = Settings { bootstrap, wrapper, relay_rate: rate, ..Settings::relay() };
            let mut relay = Node::new(host.clone(), settings)?;
            relay.start_and_wait()?;
            self.relays.push(relay);
        }
        Ok(())
    }

    /// Each knows its neighbour.
    fn start_members(&mut self) -> Result<()> {
        let known = self.relays.first().map(Node::multiaddr).transpose()?;
        let settings = |known: Option<String>| Settings {
            bootstrap: known.into_iter().collect(),
            ..Settings::default()
        };
        let mut a = Node::new(self.site.a.clone(), settings(known))?;
        let known = match self.relays.last() {
            Some(relay) => at_right(relay, self.relays.len() + 1)?,
            None => a.multiaddr()?,
        };
        let mut b = Node::new(self.site.b.clone(), settings(Some(known)))?;
        b.join(&a.mint(&OPEN)?, &OPEN)?;
        a.start_and_wait()?;
        b.start_and_wait()?;
        a.wait_known(&b)?;
        self.address = b.addresses()?.0.into();
        self.members = vec![a, b];
        Ok(())
    }
}

/// Where a relay is reached by its neighbour on the right, over this cable.
fn at_right(relay: &Node, cable: usize) -> Result<String> {
    Ok(format!("/ip4/10.91.{cable}.1/udp/7777/quic-v1/p2p/{}", relay.id()?))
}
