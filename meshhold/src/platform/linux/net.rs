//! The mesh interface: link settings, addresses, routes.
//!
//! Owns the order in which they are put in place and taken away. Must not know who decided on them.

use std::{
    ffi::OsStr,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use futures_util::TryStreamExt as _;
use rtnetlink::{
    LinkUnspec,
    packet_route::{
        address::{AddressAttribute, AddressFlags},
        link::{LinkAttribute, LinkFlags, LinkMessage},
    },
};

use super::{
    error::{NetError, errno},
    list::{connect, settled},
    routes::{Owner, Wanted},
    sysctl,
};

/// Packets that wait for a worker at most (the kernel's default for TUN is 500).
const TRANSMIT_QUEUE: u32 = 1000;
/// Bytes that a packet gains at most from IPv4 to IPv6: the larger header and a fragment header.
const TRANSLATION: u32 = 28;
/// Smallest MTU of an IPv6 link, bytes (RFC 8200 section 5).
const IPV6_MINIMUM_MTU: u32 = 1280;

/// The mesh interface as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceSetup {
    /// Its name; it exists already.
    pub interface: String,
    /// Largest inner packet, bytes.
    pub mtu: u32,
    /// Largest super-packet that the kernel may hand over, bytes with the room that it keeps for headers.
    pub gso_max: u32,
    /// The caller addresses of this interface: base and prefix length.
    pub callers: (Ipv4Addr, u8),
    /// One entry a network of this node.
    pub networks: Vec<NetworkAddresses>,
}

/// What [`Net::set_up`] found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What can't be had and is done without, a sentence each (IPv6 switched off, say).
    pub notices: Vec<String>,
    /// What was not as it should be and now is, a phrase each.
    pub changed: Vec<String>,
}

/// One network's addresses on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkAddresses {
    /// Own IPv4 address; `None` leaves the network's IPv4 range alone (it conflicts with something here).
    pub own4: Option<Ipv4Addr>,
    /// The network's IPv4 range: base and prefix length.
    pub range: (Ipv4Addr, u8),
    /// Own IPv6 address.
    pub own6: Ipv6Addr,
    /// The network's IPv6 prefix: base and prefix length.
    pub prefix6: (Ipv6Addr, u8),
}

/// A connection to the kernel's network configuration, in the namespace in which it was made. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Net {
    pub(super) handle: rtnetlink::Handle,
}

impl Net {
    /// Connects. Must run inside a tokio runtime, which also drives the connection.
    pub fn new() -> Result<Self, NetError> {
        let handle = connect().map_err(|error| NetError::io("open a netlink socket", error))?;
        Ok(Self { handle })
    }

    /// Index of an interface, `None` when there is none of that name.
    pub async fn index_of(&self, interface: &str) -> Result<Option<u32>, NetError> {
        let found = self.handle.link().get().match_name(interface.to_owned()).execute().try_next().await;
        match found {
            Ok(message) => Ok(message.map(|message| message.header.index)),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(NetError::new(format!("look up interface {interface}"), error)),
        }
    }

    /// Fails with [`NetError::NameTaken`] when an interface of that name exists, naming whose it is; not where a former
    /// daemon left it, for the next one to go on with.
    pub async fn require_free(&self, interface: &str) -> Result<(), NetError> {
        let Some(taken) = self.interfaces().await?.into_iter().find(|found| found.name == interface) else {
            return Ok(());
        };
        if taken.is_left_over() {
            return Ok(());
        }
        let owner = match taken.kind.as_deref() {
            Some("tun") => tun_owner(interface),
            Some(kind) => format!("a device of kind {kind}"),
            None => String::from("a hardware device"),
        };
        Err(NetError::NameTaken { name: interface.to_owned(), owner })
    }

    /// Closes the ranges of networks whose interface need not be there; yields what was not closed before, a phrase each.
    pub async fn close(
        &self,
        interface: &str,
        networks: &[NetworkAddresses],
    ) -> Result<Vec<String>, NetError> {
        let owner = Owner { interface, index: self.index_of(interface).await? };
        let barrier = networks.iter().flat_map(NetworkAddresses::barrier).collect::<Vec<_>>();
        Ok(self.add_routes(owner, &barrier).await?.added)
    }

    /// Brings the interface to the given state, whatever it was before: call it again with a changed set, or with the same
    /// to put back what others took away. What is as it should be is not touched.
    ///
    /// # Errors
    /// There is no such interface, or netlink failed. The barrier of the ranges is up before anything else is tried.
    pub async fn set_up(&self, setup: &InterfaceSetup) -> Result<Outcome, NetError> {
        let mut outcome = Outcome::default();
        let index = self.index_of(&setup.interface).await?;
        let owner = Owner { interface: &setup.interface, index };
        let Some(index) = index else {
            self.add_routes(owner, &setup.barrier()).await?;
            return Err(NetError::NoInterface(setup.interface.clone()));
        };
        outcome.changed.extend(self.add_routes(owner, &setup.barrier()).await?.added);
        let ipv6 = self.prepare_link(index, setup, &mut outcome).await?;
        if !loopback_is_up() {
            outcome.notices.push(String::from(
                "interface lo is down: services on loopback addresses can't be reached, `ip link set lo up`",
            ));
        }
        // A route's source address must exist, and goes only once no route needs it.
        let addresses = setup.addresses(ipv6);
        self.add_addresses(index, &addresses, &mut outcome).await?;
        let changes = self.reconcile_routes(owner, &setup.routes(ipv6)).await?;
        outcome.changed.extend(changes.added);
        outcome.changed.extend(changes.removed);
        self.remove_other_addresses(index, &addresses, &mut outcome).await?;
        Ok(outcome)
    }

    /// Settings, MTU and state of the link; tells whether IPv6 can be used on it.
    async fn prepare_link(
        &self,
        index: u32,
        setup: &InterfaceSetup,
        outcome: &mut Outcome,
    ) -> Result<bool, NetError> {
        let name = &setup.interface;
        let link = self.link(index).await?;
        let differing = sysctl::ipv4_differing(&link);
        if !differing.is_empty() {
            self.set_link(format!("apply IPv4 settings to {name}"), sysctl::ipv4_request(index)).await?;
            outcome.changed.extend(differing.into_iter().map(|setting| format!("setting {setting}")));
        }
        let limits = [
            ("MTU", LinkAttribute::Mtu(setup.mtu)),
            ("queue length", LinkAttribute::TxQueueLen(TRANSMIT_QUEUE)),
            ("largest super-packet", LinkAttribute::GsoMaxSize(setup.gso_max)),
        ];
        for (what, attribute) in limits {
            if link.attributes.contains(&attribute) {
                continue;
            }
            let mut message = LinkUnspec::new_with_index(index).build();
            message.attributes.push(attribute);
            self.set_link(format!("set the {what} of {name}"), message).await?;
            outcome.changed.push(what.to_owned());
        }
        let ipv6 = setup.mtu >= IPV6_MINIMUM_MTU && sysctl::apply_ipv6(name, &mut outcome.changed);
        let makes_link_local = !sysctl::has_no_link_local(&link);
        if ipv6 && makes_link_local {
            let what = format!("switch off link-local addresses on {name}");
            self.set_link(what, sysctl::no_link_local_request(index)).await?;
        } else if !ipv6 {
            outcome.notices.push(format!(
                "IPv6 is not available on {name} (switched off in the kernel, or an MTU below 1280): IPv4 only"
            ));
        }
        if !link.header.flags.contains(LinkFlags::Up) {
            self.set_link(format!("bring {name} up"), LinkUnspec::new_with_index(index).up().build()).await?;
            outcome.changed.push(String::from("state \"up\""));
        }
        Ok(ipv6)
    }

    async fn link(&self, index: u32) -> Result<LinkMessage, NetError> {
        let what = format!("look up interface {index}");
        let found = self.handle.link().get().match_index(index).execute().try_next().await;
        let found = found.map_err(|error| NetError::new(&what, error))?;
        found.ok_or(NetError::NoInterface(index.to_string()))
    }

    async fn set_link(&self, what: String, message: LinkMessage) -> Result<(), NetError> {
        self.handle.link().set(message).execute().await.map_err(|error| NetError::new(what, error))
    }

    async fn add_addresses(
        &self,
        index: u32,
        wanted: &[(IpAddr, u8)],
        outcome: &mut Outcome,
    ) -> Result<(), NetError> {
        let existing = self.addresses_of(index).await?;
        for (ip, prefix) in wanted {
            if existing.iter().any(|(found, _)| (found.ip, found.prefix) == (*ip, *prefix)) {
                continue;
            }
            let mut request = self.handle.address().add(index, *ip, *prefix);
            if ip.is_ipv6() {
                // There is no one to ask for duplicates, and the range's route is ours to make.
                let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
                request.message_mut().attributes.push(AddressAttribute::Flags(flags));
            }
            settled(format!("add address {ip}/{prefix}"), &[libc::EEXIST], request.execute().await)?;
            outcome.changed.push(format!("address {ip}"));
        }
        Ok(())
    }

    async fn remove_other_addresses(
        &self,
        index: u32,
        wanted: &[(IpAddr, u8)],
        outcome: &mut Outcome,
    ) -> Result<(), NetError> {
        for (found, message) in self.addresses_of(index).await? {
            if wanted.contains(&(found.ip, found.prefix)) {
                continue;
            }
            let what = format!("remove address {}/{}", found.ip, found.prefix);
            settled(what, &[libc::EADDRNOTAVAIL], self.handle.address().del(message).execute().await)?;
            outcome.changed.push(format!("foreign address {}/{}", found.ip, found.prefix));
        }
        Ok(())
    }
}

impl InterfaceSetup {
    fn addresses(&self, ipv6: bool) -> Vec<(IpAddr, u8)> {
        let of = |network: &NetworkAddresses| {
            let ipv4 = network.own4.map(|own| (IpAddr::V4(own), 32));
            ipv4.into_iter().chain(ipv6.then_some((IpAddr::V6(network.own6), 128)))
        };
        self.networks.iter().flat_map(of).collect()
    }

    /// All routes; a range without an address here is only closed.
    fn routes(&self, ipv6: bool) -> Vec<Wanted> {
        let of = |network: &NetworkAddresses| {
            let (base, prefix) = network.range;
            let ipv4 = network
                .own4
                .map(|own| Wanted::Range { range: (base.into(), prefix), source: Some(own.into()) });
            let (base, prefix) = network.prefix6;
            let source = ipv6.then_some(network.own6.into());
            ipv4.into_iter().chain([Wanted::Range { range: (base.into(), prefix), source }])
        };
        let mut routes: Vec<Wanted> = self.networks.iter().flat_map(of).collect();
        if loopback_is_up() && !routes.is_empty() {
            routes.push(Wanted::Callers { range: self.callers, mtu: self.mtu.saturating_sub(TRANSLATION) });
        }
        routes
    }

    /// What closes the ranges.
    fn barrier(&self) -> Vec<Wanted> {
        self.networks.iter().flat_map(NetworkAddresses::barrier).collect()
    }
}

impl NetworkAddresses {
    fn barrier(&self) -> impl Iterator<Item = Wanted> + use<> {
        let ipv4 = self.own4.map(|_| (IpAddr::V4(self.range.0), self.range.1));
        let ipv6 = (IpAddr::V6(self.prefix6.0), self.prefix6.1);
        ipv4.into_iter().chain([ipv6]).map(|range| Wanted::Range { range, source: None })
    }
}

/// Whether the kernel does IPv6 on an interface now; false where there is no such interface.
pub fn has_ipv6(interface: &str) -> bool {
    sysctl::ipv6_works(interface)
}

/// Whether 127.0.0.1 is an address of this namespace: only then the kernel takes it as a route's source.
fn loopback_is_up() -> bool {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).is_ok()
}

/// Says whose a TUN device is.
fn tun_owner(interface: &str) -> String {
    tun_holder(interface).unwrap_or_else(|| {
        format!("a TUN device whose process can't be seen (left over? `ip link del {interface}`)")
    })
}

/// The process of this network namespace that holds a TUN device, as far as `/proc` shows it.
pub fn tun_holder(interface: &str) -> Option<String> {
    let namespace = |process: &Path| fs::metadata(process.join("ns/net")).map(|metadata| metadata.ino()).ok();
    let own = namespace(Path::new("/proc/self"));
    let mut processes = fs::read_dir("/proc").ok()?.flatten().filter(|entry| is_number(&entry.file_name()));
    // The same name may exist in other namespaces.
    let holder = processes.find(|entry| {
        let path = entry.path();
        namespace(&path) == own && holds_tun(&path.join("fdinfo"), interface)
    })?;
    let command = fs::read_to_string(holder.path().join("comm")).unwrap_or_default();
    Some(format!("process {} ({})", holder.file_name().display(), command.trim()))
}

fn is_number(name: &OsStr) -> bool {
    name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
}

fn holds_tun(descriptors: &Path, interface: &str) -> bool {
    let Ok(entries) = fs::read_dir(descriptors) else { return false };
    entries.flatten().any(|entry| {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        text.lines().any(|line| line.strip_prefix("iff:").is_some_and(|name| name.trim() == interface))
    })
}
