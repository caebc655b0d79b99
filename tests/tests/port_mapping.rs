//! Port mappings by a real miniupnpd: two sites behind symmetric NATs, which only relays connect otherwise, get direct.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meshhold_tests::igd::{self, Igd, Speaks};
use meshhold_tests::nat::{Inner6, Kind, Router};
use meshhold_tests::path::{self, Pings};
use meshhold_tests::{Lab, Node, Settings, run, wait};

const PATIENCE: Duration = Duration::from_secs(10);
const RELAYED: Duration = Duration::from_secs(3);
const DIRECT: Duration = Duration::from_secs(10);

/// Two members, each behind a symmetric NAT, and what is around them.
struct Sites {
    a: Node,
    b: Node,
    /// Before `a`.
    router: Router,
    /// Its address outside.
    external: Ipv4Addr,
    _relays: [Node; 2],
}

impl Sites {
    /// Nobody is started but the relays.
    fn new(lab: &Lab) -> Result<Self> {
        let relays = path::relays(lab)?;
        let known = || Settings::knowing(&[&relays[0], &relays[1]]);
        let site = |name| -> Result<_> {
            let (host, router) = lab.behind_nat(Kind::Symmetric, Inner6::Off, name)?;
            let router = router.context("no router")?;
            let external = igd::give_public_address(&router.host)?;
            Ok((Node::new(host, known()?)?, router, external))
        };
        let ((mut a, router, external), (b, ..)) = (site("a")?, site("b")?);
        b.join(&a.mint(&[])?, &[])?;
        a.configure(Settings { port_mapping: true, log: Some("meshhold=debug"), ..known()? })?;
        Ok(Self { a, b, router, external, _relays: relays })
    }

    fn start(&mut self) -> Result<()> {
        self.a.start_and_wait()?;
        self.b.start_and_wait()?;
        self.b.wait_known(&self.a).map(drop)
    }

    /// Gives the router another address, and makes it the gateway of `a`.
    fn gateway(&self, last: u8) -> Result<Ipv4Addr> {
        let [a, b, c, _] = self.a.host.ipv4.octets();
        let address = Ipv4Addr::new(a, b, c, last);
        self.router.host.namespace().ip(&format!("address add {address}/24 dev {}", self.router.lan()))?;
        self.use_gateway(last)?;
        Ok(address)
    }

    fn use_gateway(&self, last: u8) -> Result<()> {
        let [a, b, c, _] = self.a.host.ipv4.octets();
        let address = Ipv4Addr::new(a, b, c, last);
        self.a.host.namespace().ip(&format!("route replace default via {address}")).map(drop)
    }

    fn netcheck(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.a.meshhold(&["netcheck", "--json"])?)?)
    }

    /// Waits for a mapping by `protocol`, and yields the address outside.
    fn mapped(&self, protocol: &str) -> Result<SocketAddr> {
        let mut last = serde_json::Value::Null;
        let found = wait::until(PATIENCE, &format!("a mapping by {protocol}"), || {
            last = self.netcheck()?;
            let mapping = &last["port_mapping"];
            if mapping["protocol"] != protocol {
                return Ok(None);
            }
            Ok(mapping["external"].as_str().map(str::parse).transpose()?)
        });
        found.with_context(|| format!("the last netcheck: {last}"))
    }

    /// Pings from `b`, once they are answered and the path is of that kind.
    fn pinged(&self, limit: Duration, kind: &str) -> Result<(Pings, Option<SocketAddr>)> {
        let pings = Pings::start(&self.b.host, self.b.wait_known(&self.a)?.ipv6.into())?;
        pings.next(RELAYED)?;
        let path = path::wait_shown(limit, &self.b, &self.a.id()?, |path| path.kind == kind)?;
        println!("{kind} after {:?} at {:?}", pings.elapsed(), path.remote);
        Ok((pings, path.remote))
    }
}

#[test]
fn a_mapping_by_pcp_comes_goes_and_makes_the_path_direct() -> Result<()> {
    run("mapping-pcp", |lab| {
        let mut sites = Sites::new(lab)?;
        let silent = sites.gateway(9)?;
        sites.start()?;
        let (pings, _) = sites.pinged(RELAYED, "relay")?;
        let igd = Igd::start(&sites.router, sites.external, Speaks::Pcp)?;
        ensure!(sites.netcheck()?["port_mapping"].is_null(), "nobody at {silent} grants one");
        // Another gateway is asked now and not minutes later, and the circuit that is up makes use of it.
        sites.use_gateway(1)?;
        let external = sites.mapped("pcp")?;
        ensure!(external == SocketAddr::from((sites.external, 7777)), "{external}");
        let granted = Instant::now();
        let path = path::wait_shown(DIRECT, &sites.b, &sites.a.id()?, |path| path.kind == "direct")?;
        println!("direct {:?} after the mapping", granted.elapsed());
        ensure!(path.remote == Some(external), "{path:?}");
        pings.next(RELAYED)?;
        ensure!(igd.mappings()?.len() == 1, "{:?}", igd.mappings()?);
        sites.a.stop()?;
        ensure!(igd.mappings()?.is_empty(), "a clean stop gives it back: {:?}", igd.mappings()?);
        Ok(())
    })
}

#[test]
fn a_mapping_by_upnp_makes_the_path_direct() -> Result<()> {
    run("mapping-upnp", |lab| {
        let mut sites = Sites::new(lab)?;
        let igd = Igd::start(&sites.router, sites.external, Speaks::Upnp)?;
        sites.start()?;
        let external = sites.mapped("upnp")?;
        ensure!(external == SocketAddr::from((sites.external, 7777)), "{external}");
        let (_pings, remote) = sites.pinged(DIRECT, "direct")?;
        ensure!(remote == Some(external), "{remote:?}");
        ensure!(igd.mappings()?.len() == 1, "{:?}", igd.mappings()?);
        sites.a.stop()?;
        ensure!(igd.mappings()?.is_empty(), "a clean stop gives it back: {:?}", igd.mappings()?);
        Ok(())
    })
}
