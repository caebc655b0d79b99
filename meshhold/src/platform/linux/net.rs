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
        address::{AddressAttribute, AddressFlags, AddressMessage},
        link::{LinkAttribute, LinkMessage},
    },
};

use super::{
    error::{NetError, errno},
    list::{Address, connect, settled},
    routes::Wanted,
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
    /// One entry a network of this node.
    pub networks: Vec<NetworkAddresses>,
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

    /// Fails with [`NetError::NameTaken`] when an interface of that name exists, naming whose it is.
    pub async fn require_free(&self, interface: &str) -> Result<(), NetError> {
        let Some(taken) = self.interfaces().await?.into_iter().find(|found| found.name == interface) else {
            return Ok(());
        };
        let owner = match taken.kind.as_deref() {
            Some("tun") => tun_owner(interface),
            Some(kind) => format!("a device of kind {kind}"),
            None => String::from("a hardware device"),
        };
        Err(NetError::NameTaken { name: interface.to_owned(), owner })
    }

    /// Brings the interface to the given state, whatever it was before: call it again with a changed set.
    ///
    /// Returns what could not be had and is done without, a sentence each (IPv6 switched off, say).
    pub async fn set_up(&self, setup: &InterfaceSetup) -> Result<Vec<String>, NetError> {
        let Some(index) = self.index_of(&setup.interface).await? else {
            return Err(NetError::NoInterface(setup.interface.clone()));
        };
        let mut notices = Vec::new();
        let ipv6 = self.prepare_link(index, setup, &mut notices).await?;
        if !loopback_is_up() {
            notices.push(String::from(
                "interface lo is down: services on loopback addresses can't be reached, `ip link set lo up`",
            ));
        }
        let mut addresses = Vec::new();
        let mut routes = Vec::new();
        for network in &setup.networks {
            if let Some(own4) = network.own4 {
                addresses.push((IpAddr::V4(own4), 32));
                routes.push(range_route(network.range, own4));
            }
            if ipv6 {
                addresses.push((IpAddr::V6(network.own6), 128));
                routes.push(range_route(network.prefix6, network.own6));
            }
        }
        if loopback_is_up() && !routes.is_empty() {
            routes.push(Wanted::Callers { mtu: setup.mtu.saturating_sub(TRANSLATION) });
        }
        // A route's source address must exist, and goes only once no route needs it.
        self.add_addresses(index, &addresses).await?;
        self.reconcile_routes(&setup.interface, Some(index), &routes).await?;
        self.remove_other_addresses(index, &addresses).await?;
        Ok(notices)
    }

    /// Takes away everything that [`Net::set_up`] made; also right when the interface is gone already.
    pub async fn tear_down(&self, interface: &str) -> Result<(), NetError> {
        let index = self.index_of(interface).await?;
        self.reconcile_routes(interface, index, &[]).await?;
        if let Some(index) = index {
            self.remove_other_addresses(index, &[]).await?;
        }
        Ok(())
    }

    /// Settings, MTU and state of the link; tells whether IPv6 can be used on it.
    async fn prepare_link(
        &self,
        index: u32,
        setup: &InterfaceSetup,
        notices: &mut Vec<String>,
    ) -> Result<bool, NetError> {
        let name = &setup.interface;
        self.set_link(format!("apply IPv4 settings to {name}"), sysctl::ipv4_request(index)).await?;
        let mut link = LinkUnspec::new_with_index(index).mtu(setup.mtu).build();
        link.attributes.push(LinkAttribute::TxQueueLen(TRANSMIT_QUEUE));
        link.attributes.push(LinkAttribute::GsoMaxSize(setup.gso_max));
        self.set_link(format!("set the MTU of {name} to {}", setup.mtu), link).await?;

        let ipv6 = setup.mtu >= IPV6_MINIMUM_MTU && sysctl::apply_ipv6(name);
        if ipv6 {
            let what = format!("switch off link-local addresses on {name}");
            self.set_link(what, sysctl::no_link_local_request(index)).await?;
        } else {
            notices.push(format!(
                "IPv6 is not available on {name} (switched off in the kernel, or an MTU below 1280): IPv4 only"
            ));
        }
        self.set_link(format!("bring {name} up"), LinkUnspec::new_with_index(index).up().build()).await?;
        Ok(ipv6)
    }

    async fn set_link(&self, what: String, message: LinkMessage) -> Result<(), NetError> {
        self.handle.link().set(message).execute().await.map_err(|error| NetError::new(what, error))
    }

    async fn add_addresses(&self, index: u32, wanted: &[(IpAddr, u8)]) -> Result<(), NetError> {
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
        }
        Ok(())
    }

    async fn remove_other_addresses(&self, index: u32, wanted: &[(IpAddr, u8)]) -> Result<(), NetError> {
        for (found, message) in self.addresses_of(index).await? {
            if wanted.contains(&(found.ip, found.prefix)) {
                continue;
            }
            let what = format!("remove address {}/{}", found.ip, found.prefix);
            settled(what, &[libc::EADDRNOTAVAIL], self.handle.address().del(message).execute().await)?;
        }
        Ok(())
    }

    async fn addresses_of(&self, index: u32) -> Result<Vec<(Address, AddressMessage)>, NetError> {
        Ok(self.addresses().await?.into_iter().filter(|(found, _)| found.interface == index).collect())
    }
}

fn range_route(range: (impl Into<IpAddr>, u8), source: impl Into<IpAddr>) -> Wanted {
    Wanted::Range { range: (range.0.into(), range.1), source: source.into() }
}

/// Whether 127.0.0.1 is an address of this namespace: only then the kernel takes it as a route's source.
fn loopback_is_up() -> bool {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).is_ok()
}

/// Says which process holds a TUN device, as far as `/proc` shows it.
fn tun_owner(interface: &str) -> String {
    let namespace = |process: &Path| fs::metadata(process.join("ns/net")).map(|metadata| metadata.ino()).ok();
    let own = namespace(Path::new("/proc/self"));
    let holder = fs::read_dir("/proc").ok().and_then(|entries| {
        let mut processes = entries.flatten().filter(|entry| is_number(&entry.file_name()));
        // The same name may exist in other namespaces.
        processes.find(|entry| {
            let path = entry.path();
            namespace(&path) == own && holds_tun(&path.join("fdinfo"), interface)
        })
    });
    let Some(holder) = holder else {
        return format!("a TUN device whose process can't be seen (left over? `ip link del {interface}`)");
    };
    let command = fs::read_to_string(holder.path().join("comm")).unwrap_or_default();
    format!("process {} ({})", holder.file_name().display(), command.trim())
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
