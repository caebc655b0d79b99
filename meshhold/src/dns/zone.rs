//! What there is to say about names: a picture that is replaced whole.
//!
//! Owns the difference between "no such name" and "nothing of that type" (RFC 2308, RFC 8020). Must not know sockets or
//! messages.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_server::proto::rr::rdata::{A, AAAA, NS, PTR, SOA};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordType};

/// How long an answer may be kept, in seconds: as long as an address that moved may be wrong.
const TTL: u32 = 10;
/// Refresh, retry and expiry of a zone that nobody copies.
const TIMES: (i32, i32, i32) = (3600, 600, 86_400);

/// A node or a device of a network.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name in the network.
    pub label: String,
    /// The network, by its place in the list.
    pub network: usize,
    /// Where IPv4 of the network is in use.
    pub ipv4: Option<Ipv4Addr>,
    /// Where its node has IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// What programs of this host are told in place of both, where its mesh addresses lead nowhere from here.
    pub near: Option<IpAddr>,
}

/// All names of this node's networks; answers are made when they are asked for.
#[derive(Debug, Default)]
pub struct Zone {
    suffix: Option<LowerName>,
    reverse: Vec<LowerName>,
    networks: Vec<String>,
    /// By label, and of one label the older network's first: the first has the bare name.
    hosts: Vec<Packed>,
    /// The labels of all hosts end to end: a string for each would double what a host costs.
    labels: String,
    /// What programs of this host are told of few of `hosts`, by place.
    near: BTreeMap<u32, IpAddr>,
    /// Places in `hosts`, by address.
    by_ipv4: Vec<u32>,
    by_ipv6: Vec<u32>,
}

/// A [`Host`] in 28 bytes.
#[derive(Clone, Copy, Debug)]
struct Packed {
    label_at: u32,
    label_len: u8,
    network: u16,
    ipv4: Option<Ipv4Addr>,
    /// `::` where there is none.
    ipv6: Ipv6Addr,
}

/// What a question leads to.
#[derive(Debug, PartialEq)]
pub enum Found {
    /// These.
    Records(Vec<Record>),
    /// The name is there, without such records; the SOA of its zone.
    NoData(Box<Record>),
    /// The name isn't there; the SOA of its zone.
    NoName(Box<Record>),
    /// None of our zones.
    Foreign,
}

impl Zone {
    /// The names of `hosts` below `suffix`, and those of their addresses in the `reverse` zones. `networks` are the labels
    /// of the networks, oldest first.
    pub fn new(suffix: Name, reverse: Vec<Name>, networks: Vec<String>, mut hosts: Vec<Host>) -> Self {
        hosts.sort_unstable_by(|one, other| (&one.label, one.network).cmp(&(&other.label, other.network)));
        let mut zone = Self {
            suffix: Some(suffix.into()),
            reverse: reverse.into_iter().map(LowerName::from).collect(),
            networks,
            hosts: Vec::with_capacity(hosts.len()),
            labels: String::with_capacity(hosts.iter().map(|host| host.label.len()).sum()),
            ..Self::default()
        };
        for (at, host) in (0..).zip(&hosts) {
            zone.near.extend(host.near.map(|near| (at, near)));
            let label_at = zone.labels.len() as u32;
            zone.labels.push_str(&host.label);
            let (label_len, network) = (host.label.len() as u8, host.network as u16);
            let (ipv4, ipv6) = (host.ipv4, host.ipv6.unwrap_or(Ipv6Addr::UNSPECIFIED));
            zone.hosts.push(Packed { label_at, label_len, network, ipv4, ipv6 });
        }
        zone.by_ipv4 = zone.sorted(|host| host.ipv4.map(IpAddr::V4));
        zone.by_ipv6 = zone.sorted(|host| host.ipv6().map(IpAddr::V6));
        zone
    }

    fn sorted(&self, address: impl Fn(&Packed) -> Option<IpAddr>) -> Vec<u32> {
        let key = |at: &u32| self.hosts.get(*at as usize).and_then(&address);
        let mut places: Vec<u32> = (0..self.hosts.len() as u32).filter(|at| key(at).is_some()).collect();
        places.sort_unstable_by_key(key);
        places.shrink_to_fit();
        places
    }

    /// The answer to a question.
    pub fn look(&self, name: &LowerName, kind: RecordType) -> Found {
        let Some(apex) = self.suffix.iter().chain(&self.reverse).find(|apex| apex.zone_of(name)) else {
            return Found::Foreign;
        };
        let soa_of_zone = || Box::new(Record::from_rdata(apex.into(), TTL, soa()));
        let there = if name == apex {
            Some(vec![soa(), RData::NS(NS(localhost()))])
        } else if Some(apex) == self.suffix.as_ref() {
            self.forward(name, apex)
        } else {
            self.backward(name)
        };
        let Some(there) = there else { return Found::NoName(soa_of_zone()) };
        let wanted = |data: &RData| kind == RecordType::ANY || data.record_type() == kind;
        let record = |data| Record::from_rdata(name.into(), TTL, data);
        let records: Vec<Record> = there.into_iter().filter(wanted).map(record).collect();
        if records.is_empty() { Found::NoData(soa_of_zone()) } else { Found::Records(records) }
    }

    /// The addresses of `host` or `host.network`, as it stands before the suffix; IPv4 first.
    pub fn addresses(&self, host: &str) -> Option<impl Iterator<Item = IpAddr> + use<>> {
        let (label, network) = host.split_once('.').map_or((host, None), |(label, rest)| (label, Some(rest)));
        Some(both(self.host(label, network)?.1))
    }

    /// What a name below the suffix has; `None` where there is no such name.
    fn forward(&self, name: &LowerName, apex: &LowerName) -> Option<Vec<RData>> {
        let depth = usize::from(name.num_labels().checked_sub(apex.num_labels())?);
        let labels: Vec<&str> = name.iter().take(depth).map(str::from_utf8).collect::<Result<_, _>>().ok()?;
        let host = match *labels.as_slice() {
            [host] => self.host(host, None),
            [host, network] => self.host(host, Some(network)),
            _ => None,
        };
        let data = |address| match address {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        };
        match (host, labels.as_slice()) {
            (Some((at, host)), _) => Some(match self.near.get(&at) {
                Some(near) => vec![data(*near)],
                None => both(host).map(data).collect(),
            }),
            // There are names below it.
            (None, [label]) if self.networks.iter().any(|network| network == label) => Some(Vec::new()),
            (None, _) => None,
        }
    }

    /// What the name of an address has.
    fn backward(&self, name: &LowerName) -> Option<Vec<RData>> {
        let asked = name.parse_arpa_name().ok()?;
        let (places, whole) = match asked.addr() {
            IpAddr::V4(_) => (&self.by_ipv4, 32),
            IpAddr::V6(_) => (&self.by_ipv6, 128),
        };
        let address = |at: &u32| {
            let host = self.hosts.get(*at as usize)?;
            both(host).find(|address| address.is_ipv4() == asked.addr().is_ipv4())
        };
        let at = *places.get(places.partition_point(|at| address(at) < Some(asked.network())))?;
        if asked.prefix_len() < whole {
            return asked.contains(&address(&at)?).then(Vec::new);
        }
        // Numbers with leading zeros are no names of addresses.
        let is_it = address(&at) == Some(asked.addr()) && *name == LowerName::from(Name::from(asked.addr()));
        is_it
            .then(|| self.name(at as usize).map(|name| RData::PTR(PTR(name))))
            .map(|data| data.into_iter().collect())
    }

    /// The host of this label, with its place: in `network`, or in the oldest network that has one.
    fn host(&self, label: &str, network: Option<&str>) -> Option<(u32, &Packed)> {
        let network = match network {
            Some(network) => Some(self.networks.iter().position(|label| label == network)?),
            None => None,
        };
        let wanted = (label, network.unwrap_or_default());
        let key = |host: &Packed| (self.label(host), usize::from(host.network));
        let at = self.hosts.partition_point(|host| key(host) < wanted);
        let found = self.hosts.get(at)?;
        let (got, of) = key(found);
        (got == label && network.is_none_or(|network| network == of)).then_some((at as u32, found))
    }

    fn label(&self, host: &Packed) -> &str {
        let start = host.label_at as usize;
        self.labels.get(start..start + usize::from(host.label_len)).unwrap_or_default()
    }

    /// The shortest name of a host.
    fn name(&self, at: usize) -> Option<Name> {
        let host = self.hosts.get(at)?;
        let label = self.label(host);
        let before = at.checked_sub(1).and_then(|before| self.hosts.get(before));
        let name = Name::from_labels([label.as_bytes()]).ok()?;
        let suffix = self.suffix.as_ref()?;
        if before.is_some_and(|before| self.label(before) == label) {
            let network = self.networks.get(usize::from(host.network))?;
            return name.append_label(network.as_bytes()).ok()?.append_domain(suffix).ok();
        }
        name.append_domain(suffix).ok()
    }
}

impl Packed {
    fn ipv6(&self) -> Option<Ipv6Addr> {
        Some(self.ipv6).filter(|ip| !ip.is_unspecified())
    }
}

/// IPv4 first.
fn both(host: &Packed) -> impl Iterator<Item = IpAddr> + use<> {
    host.ipv4.map(IpAddr::V4).into_iter().chain(host.ipv6().map(IpAddr::V6))
}

fn soa() -> RData {
    let (refresh, retry, expire) = TIMES;
    RData::SOA(SOA::new(localhost(), Name::root(), 1, refresh, retry, expire, TTL))
}

/// The server is on this host, for this host.
fn localhost() -> Name {
    Name::from_ascii("localhost.").unwrap_or_else(|_| Name::root())
}

/// The reverse zones that hold the addresses of `base`/`prefix`, and for IPv4 prefixes that end inside an octet nothing else.
pub fn reverse_zones(base: IpAddr, prefix: u8) -> Vec<Name> {
    let whole = Name::from(base);
    match base {
        IpAddr::V6(_) => vec![whole.trim_to(usize::from(prefix / 4) + 2)],
        IpAddr::V4(ip) => {
            let octets = prefix.div_ceil(8).max(1);
            let step = 32 - u32::from(octets) * 8;
            let count = 1_u32 << (u32::from(octets) * 8 - u32::from(prefix));
            let zone = |number: u32| {
                let first = ip.to_bits().wrapping_add(number << step);
                Name::from(IpAddr::V4(first.into())).trim_to(usize::from(octets) + 2)
            };
            (0..count).map(zone).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn host(label: &str, network: usize, last: u8) -> Host {
        let ipv4 = (last != 2).then(|| [10, 77, 0, last].into());
        let ipv6 = (last != 5).then(|| [0xfd12, 0, 0, 0, 0, 0, 0, last.into()].into());
        Host { label: label.into(), network, ipv4, ipv6, near: (last == 3).then(|| [192, 168, 1, 40].into()) }
    }

    fn zone() -> Zone {
        let mut reverse = reverse_zones("10.77.0.0".parse().unwrap(), 16);
        reverse.extend(reverse_zones("fd12::".parse().unwrap(), 32));
        let hosts = vec![
            host("tv", 1, 3),
            host("nas", 1, 4),
            host("nas", 0, 1),
            host("six", 0, 2),
            host("four", 0, 5),
        ];
        Zone::new(name("mesh."), reverse, vec!["home".into(), "work".into()], hosts)
    }

    fn of(zone: &Zone, asked: &str, kind: RecordType) -> String {
        match zone.look(&LowerName::from(name(asked)), kind) {
            Found::Records(records) => {
                let data: Vec<String> = records.iter().map(|record| record.data.to_string()).collect();
                data.join(" ")
            }
            Found::NoData(soa) => {
                assert_eq!(soa.record_type(), RecordType::SOA);
                "no data".to_owned()
            }
            Found::NoName(_) => "no name".to_owned(),
            Found::Foreign => "foreign".to_owned(),
        }
    }

    #[test]
    fn conformance() {
        use RecordType as T;
        let zone = zone();
        for (asked, kind, want) in [
            ("nas.mesh.", T::A, "10.77.0.1"),
            ("NaS.MeSh.", T::AAAA, "fd12::1"),
            ("nas.mesh.", T::ANY, "10.77.0.1 fd12::1"),
            ("nas.mesh.", T::TXT, "no data"),
            ("nas.home.mesh.", T::A, "10.77.0.1"),
            ("nas.work.mesh.", T::A, "10.77.0.4"),
            ("tv.mesh.", T::A, "192.168.1.40"),
            ("tv.mesh.", T::AAAA, "no data"),
            ("3.0.77.10.in-addr.arpa.", T::PTR, "tv.mesh."),
            ("tv.home.mesh.", T::A, "no name"),
            ("six.home.mesh.", T::A, "no data"),
            ("six.home.mesh.", T::AAAA, "fd12::2"),
            ("four.mesh.", T::AAAA, "no data"),
            ("four.mesh.", T::ANY, "10.77.0.5"),
            ("home.mesh.", T::A, "no data"),
            ("nowhere.mesh.", T::A, "no name"),
            ("x.nas.mesh.", T::A, "no name"),
            ("x.nas.home.mesh.", T::A, "no name"),
            ("nas\\.home.mesh.", T::A, "no name"),
            ("mesh.", T::NS, "localhost."),
            ("mesh.", T::A, "no data"),
            ("1.0.77.10.in-addr.arpa.", T::PTR, "nas.mesh."),
            ("4.0.77.10.in-addr.arpa.", T::PTR, "nas.work.mesh."),
            ("4.0.77.10.in-addr.arpa.", T::A, "no data"),
            ("04.0.77.10.in-addr.arpa.", T::PTR, "no name"),
            ("2.0.77.10.in-addr.arpa.", T::PTR, "no name"),
            ("x.0.77.10.in-addr.arpa.", T::PTR, "no name"),
            ("0.77.10.in-addr.arpa.", T::PTR, "no data"),
            ("1.77.10.in-addr.arpa.", T::PTR, "no name"),
            ("77.10.in-addr.arpa.", T::NS, "localhost."),
            ("78.10.in-addr.arpa.", T::PTR, "foreign"),
            (
                "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.1.d.f.ip6.arpa.",
                T::PTR,
                "six.mesh.",
            ),
            ("5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.1.d.f.ip6.arpa.", T::PTR, "no name"),
            ("0.0.0.0.0.0.2.1.d.f.ip6.arpa.", T::PTR, "no data"),
            ("1.0.0.0.0.0.2.1.d.f.ip6.arpa.", T::PTR, "no name"),
            ("example.com.", T::A, "foreign"),
            ("meshx.", T::A, "foreign"),
            (".", T::NS, "foreign"),
        ] {
            assert_eq!(of(&zone, asked, kind), want, "{asked} {kind}");
        }
        assert!(of(&zone, "mesh.", T::SOA).starts_with("localhost."));
        assert_eq!(of(&Zone::default(), "nas.mesh.", T::A), "foreign");
    }

    #[test]
    fn names_are_found_without_a_question() {
        let zone = zone();
        let first = |host| zone.addresses(host).and_then(|mut addresses| addresses.next());
        assert_eq!(first("nas"), Some([10, 77, 0, 1].into()));
        assert_eq!(first("nas.work"), Some([10, 77, 0, 4].into()));
        assert_eq!(first("six"), Some("fd12::2".parse().unwrap()));
        assert_eq!((first("nas.x"), first("na"), first(""), first("nas.work.x")), (None, None, None, None));
    }

    /// There may be 10,000 of them, and a label and two places come on top.
    #[test]
    fn a_host_takes_little() {
        assert!(size_of::<Packed>() <= 28, "{}", size_of::<Packed>());
    }

    #[test]
    fn reverse_zones_hold_the_range_and_no_more() {
        let zones = |base: &str, prefix| {
            let zones = reverse_zones(base.parse().unwrap(), prefix);
            zones.iter().map(Name::to_ascii).collect::<Vec<_>>()
        };
        assert_eq!(zones("10.77.0.0", 16), ["77.10.in-addr.arpa."]);
        assert_eq!(zones("198.18.64.0", 18).len(), 64);
        assert_eq!(zones("198.18.64.0", 18)[63], "127.18.198.in-addr.arpa.");
        assert_eq!(zones("100.64.0.0", 10).len(), 64);
        assert_eq!(zones("192.168.1.0", 24), ["1.168.192.in-addr.arpa."]);
        assert_eq!(zones("fd12:3456::", 32), ["6.5.4.3.2.1.d.f.ip6.arpa."]);
    }
}
