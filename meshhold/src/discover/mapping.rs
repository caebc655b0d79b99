//! Port mappings: asks this host's IPv4 gateway to let everybody in to the UDP port that circuits and links share.
//!
//! Owns when the gateway is asked, and a mapping from its grant to its end; `pxp` and `upnp` own the protocols. Must not
//! know links, records or what the external address is used for. What a gateway says may be a lie: it is bounded in size and
//! time, and all that it can bring about is that peers try an address in vain.

mod pxp;
#[cfg(test)]
mod tests;
mod upnp;

use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use meshhold_core::path::is_usable;
use rand_core::{OsRng, RngCore as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::platform::linux::Net;

/// An address of the Internet: the route there names the gateway. Nothing is sent to it.
const ANYWHERE: Ipv4Addr = Ipv4Addr::new(198, 41, 0, 4);
/// What is asked for. Renewed at half of what is granted.
const LIFETIME: Duration = Duration::from_secs(3_600);
/// Grants shorter than that are renewed as if they were that long.
const SHORTEST: Duration = Duration::from_secs(120);
/// Between askings that got nothing: doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(15);
const LAST_RETRY: Duration = Duration::from_secs(600);
/// Changes elsewhere on the host don't make the same gateway be asked more often than this.
const PAUSE: Duration = Duration::from_secs(30);
/// How long a mapping's release may hold up the daemon's end.
const RELEASE: Duration = Duration::from_secs(1);
/// Longest part of a message that may quote a gateway, in characters.
const QUOTED: usize = 300;

/// How a gateway was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
    /// An Internet Gateway Device.
    Upnp,
}

impl Protocol {
    /// In the order in which they are tried.
    const ALL: [Self; 3] = [Self::Pcp, Self::NatPmp, Self::Upnp];

    /// Its name in `netcheck`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pcp => "pcp",
            Self::NatPmp => "nat-pmp",
            Self::Upnp => "upnp",
        }
    }
}

/// A mapping that a gateway granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// How.
    pub protocol: Protocol,
    /// Address and port outside, as the gateway says. Not always one of the Internet: see [`is_public`].
    pub external: SocketAddrV4,
}

/// Whether the Internet leads to `ip` at all (RFC 6890).
pub fn is_public(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && b & 0xc0 == 64;
    let benchmark = a == 198 && b & 0xfe == 18;
    let reserved = a == 0 || a >= 224 || [a, b, c] == [192, 0, 0];
    let local = ip.is_private() || ip.is_loopback() || ip.is_link_local();
    !(local || shared || benchmark || reserved || ip.is_documentation())
}

/// Keeps a mapping on this host's gateway, where that grants one.
#[derive(Debug)]
pub struct PortMapper {
    looks: watch::Sender<u64>,
    mapping: watch::Receiver<Option<Mapping>>,
    task: JoinHandle<()>,
}

impl PortMapper {
    /// Starts to ask. `listen` is where circuits and links are taken.
    ///
    /// # Errors
    /// When the host's routes can't be asked for.
    pub fn start(listen: SocketAddr) -> anyhow::Result<Self> {
        let port = NonZeroU16::new(listen.port()).context("node.listen has no port")?;
        let (looks, watched) = watch::channel(0);
        let (told, mapping) = watch::channel(None);
        let surroundings = Surroundings { listen: listen.ip(), port, net: Net::new()?, looks: watched };
        let task = Task {
            told,
            nonce: [OsRng.next_u32(), OsRng.next_u32(), OsRng.next_u32()],
            place: None,
            held: None,
            failures: 0,
            asked: None,
            due: Instant::now(),
        };
        Ok(Self { looks, mapping, task: tokio::spawn(task.run(surroundings)) })
    }

    /// What the gateway grants now.
    pub fn mapping(&self) -> Option<Mapping> {
        *self.mapping.borrow()
    }

    /// Addresses or routes changed, or this host slept.
    pub fn look_again(&self) {
        self.looks.send_modify(|looks| *looks = looks.wrapping_add(1));
    }

    /// Gives the mapping back.
    pub async fn close(self) {
        drop(self.looks);
        if tokio::time::timeout(RELEASE, self.task).await.is_err() {
            tracing::debug!("the gateway doesn't take the port mapping back; it ends by itself");
        }
    }
}

/// Between whom a mapping is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    gateway: Ipv4Addr,
    source: Ipv4Addr,
    port: NonZeroU16,
}

/// What a gateway granted.
#[derive(Debug)]
struct Grant {
    external: SocketAddrV4,
    lifetime: Duration,
    /// The device that granted it, by UPnP.
    device: Option<upnp::Device>,
}

#[derive(Debug)]
struct Held {
    protocol: Protocol,
    grant: Grant,
    until: Instant,
}

/// Where this host is.
struct Surroundings {
    listen: IpAddr,
    port: NonZeroU16,
    net: Net,
    looks: watch::Receiver<u64>,
}

impl Surroundings {
    /// None where no gateway is in between, or where it needs not be asked.
    async fn place(&self) -> Option<Place> {
        let way = self.net.way(ANYWHERE.into()).await.ok()?.ok()?;
        let (IpAddr::V4(source), Some(IpAddr::V4(gateway))) = (way.source, way.gateway) else { return None };
        let serves = self.listen.is_unspecified() || self.listen == source;
        (serves && !is_public(source)).then_some(Place { gateway, source, port: self.port })
    }

    /// Until it isn't `place` any more, or the gateway there may be asked again; false when nobody wants to know.
    async fn change(&mut self, place: Option<Place>, asked: Option<Instant>) -> bool {
        while self.looks.changed().await.is_ok() {
            if self.place().await != place || !is_recent(asked) {
                return true;
            }
        }
        false
    }
}

struct Task {
    told: watch::Sender<Option<Mapping>>,
    /// Shows a PCP gateway that who renews or ends a mapping is who made it.
    nonce: [u32; 3],
    place: Option<Place>,
    held: Option<Held>,
    /// Askings in a row that got nothing.
    failures: u32,
    asked: Option<Instant>,
    due: Instant,
}

impl Task {
    /// Until [`PortMapper`] is closed or dropped.
    async fn run(mut self, mut surroundings: Surroundings) {
        loop {
            self.be_at(surroundings.place().await);
            tokio::select! {
                wanted = surroundings.change(self.place, self.asked) => if !wanted { break },
                () = self.work() => {}
            }
        }
        self.release().await;
    }

    /// A gateway that is new, or that wasn't asked lately, is asked at once.
    fn be_at(&mut self, place: Option<Place>) {
        let moved = place != self.place;
        if moved {
            self.place = place;
            self.forget();
        }
        if moved || !is_recent(self.asked) {
            (self.failures, self.due) = (0, Instant::now());
        }
    }

    /// Waits until it is time, asks, and tells what came of it.
    async fn work(&mut self) {
        let Some(place) = self.place else { return pending().await };
        tokio::time::sleep_until(self.due.into()).await;
        self.asked = Some(Instant::now());
        match self.ask(place).await {
            Ok((protocol, grant)) => self.granted(protocol, grant),
            Err(error) => self.failed(place, &error),
        }
    }

    fn granted(&mut self, protocol: Protocol, grant: Grant) {
        let (now, lifetime) = (Instant::now(), grant.lifetime.clamp(SHORTEST, LIFETIME));
        let mapping = Mapping { protocol, external: grant.external };
        (self.failures, self.due) = (0, now + lifetime / 2);
        self.held = Some(Held { protocol, grant, until: now + lifetime });
        if self.told.send_replace(Some(mapping)) != Some(mapping) {
            tracing::info!(protocol = protocol.as_str(), external = %mapping.external, "port mapped");
        }
    }

    fn failed(&mut self, place: Place, error: &anyhow::Error) {
        let now = Instant::now();
        let quoted: String = format!("{error:#}").chars().take(QUOTED).collect();
        tracing::debug!(gateway = %place.gateway, error = %quoted.escape_debug(), "no port mapping");
        self.due = now + (FIRST_RETRY * 2_u32.saturating_pow(self.failures.min(8))).min(LAST_RETRY);
        self.failures += 1;
        if self.held.as_ref().is_some_and(|held| held.until <= now) {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.held = None;
        if self.told.send_replace(None).is_some() {
            tracing::info!("the port mapping is gone");
        }
    }

    /// By all protocols, that of the present mapping first.
    async fn ask(&self, place: Place) -> anyhow::Result<(Protocol, Grant)> {
        let mut protocols = Protocol::ALL;
        protocols.sort_by_key(|protocol| self.held.as_ref().is_some_and(|held| held.protocol != *protocol));
        let mut refused = Vec::new();
        for protocol in protocols {
            match self.ask_by(protocol, place).await {
                Ok(grant) if is_usable(&grant.external.into()) => return Ok((protocol, grant)),
                Ok(grant) => refused.push(format!("{} is no external address", grant.external)),
                Err(error) => refused.push(format!("{}: {error:#}", protocol.as_str())),
            }
        }
        anyhow::bail!(refused.join("; "))
    }

    async fn ask_by(&self, protocol: Protocol, place: Place) -> anyhow::Result<Grant> {
        let held = self.held.as_ref().map(|held| &held.grant);
        let wanted = held.map(|grant| grant.external);
        match protocol {
            Protocol::Pcp => pxp::pcp(place, self.nonce, wanted).await,
            Protocol::NatPmp => pxp::nat_pmp(place, wanted).await,
            Protocol::Upnp => upnp::map(place, held.and_then(|grant| grant.device.as_ref()), wanted).await,
        }
    }

    async fn release(self) {
        let (Some(place), Some(held)) = (self.place, self.held) else { return };
        let released = match (held.protocol, held.grant.device) {
            (Protocol::Pcp, _) => pxp::end_pcp(place, self.nonce).await,
            (Protocol::NatPmp, _) => pxp::end_nat_pmp(place).await,
            (Protocol::Upnp, Some(device)) => upnp::end(&device, held.grant.external.port()).await,
            (Protocol::Upnp, None) => Ok(()),
        };
        if let Err(error) = released {
            tracing::debug!(gateway = %place.gateway, error = %error, "the port mapping was not taken back");
        }
    }
}

fn is_recent(asked: Option<Instant>) -> bool {
    asked.is_some_and(|asked| asked.elapsed() < PAUSE)
}
