//! What there is to say about names: a picture that is replaced whole.
//!
//! Owns the difference between "no such name" and "nothing of that type" (RFC 2308, RFC 8020). Must not know sockets or
//! messages.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use hickory_server::proto::rr::rdata::{A, AAAA, NS, PTR, SOA};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordType};

/// How long an answer may be kept, in seconds: as long as an address that moved may be wrong.
const TTL: u32 = 10;
/// Refresh, retry and expiry of a zone that nobody copies.
const TIMES: (i32, i32, i32) = (3600, 600, 86_400);

/// All names of this node's networks.
#[derive(Debug, Default)]
pub struct Zone {
    apexes: Vec<LowerName>,
    records: HashMap<LowerName, Vec<RData>>,
    /// Those with records, and those above them.
    names: HashSet<LowerName>,
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
    /// A zone without names; `apexes` are what it answers for, the suffix and the reverse zones.
    pub fn new(apexes: impl IntoIterator<Item = Name>) -> Self {
        let mut zone = Self::default();
        for apex in apexes {
            let apex = LowerName::from(apex);
            zone.names.insert(apex.clone());
            zone.records.insert(apex.clone(), vec![soa(), RData::NS(NS(localhost()))]);
            zone.apexes.push(apex);
        }
        zone
    }

    /// Gives `name` an address.
    pub fn add(&mut self, name: &Name, address: IpAddr) {
        let data = match address {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        };
        self.put(name, data);
    }

    /// Says which name an address has.
    pub fn add_reverse(&mut self, address: IpAddr, name: Name) {
        self.put(&Name::from(address), RData::PTR(PTR(name)));
    }

    fn put(&mut self, name: &Name, data: RData) {
        let name = LowerName::from(name.clone());
        let Some(apex) = self.apex(&name).cloned() else { return };
        let mut above = name.clone();
        while above != apex && self.names.insert(above.clone()) {
            above = above.base_name();
        }
        self.records.entry(name).or_default().push(data);
    }

    /// The answer to a question.
    pub fn look(&self, name: &LowerName, kind: RecordType) -> Found {
        let Some(apex) = self.apex(name) else { return Found::Foreign };
        let soa = || Box::new(Record::from_rdata(apex.into(), TTL, soa()));
        let Some(there) = self.records.get(name) else {
            return if self.names.contains(name) { Found::NoData(soa()) } else { Found::NoName(soa()) };
        };
        let wanted = |data: &&RData| kind == RecordType::ANY || data.record_type() == kind;
        let record = |data: &RData| Record::from_rdata(name.into(), TTL, data.clone());
        let records: Vec<Record> = there.iter().filter(wanted).map(record).collect();
        if records.is_empty() { Found::NoData(soa()) } else { Found::Records(records) }
    }

    fn apex(&self, name: &LowerName) -> Option<&LowerName> {
        self.apexes.iter().find(|apex| apex.zone_of(name))
    }
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

    fn zone() -> Zone {
        let reverse = reverse_zones("10.77.0.0".parse().unwrap(), 16);
        let mut zone = Zone::new([name("mesh.")].into_iter().chain(reverse));
        zone.add(&name("nas.mesh."), "10.77.0.1".parse().unwrap());
        zone.add(&name("nas.mesh."), "fd12::1".parse().unwrap());
        zone.add(&name("six.home.mesh."), "fd12::2".parse().unwrap());
        zone.add_reverse("10.77.0.1".parse().unwrap(), name("nas.mesh."));
        zone
    }

    #[test]
    fn conformance() {
        use RecordType as T;
        let zone = zone();
        for (asked, kind, want) in [
            ("nas.mesh.", T::A, "1"),
            ("NaS.MeSh.", T::AAAA, "1"),
            ("nas.mesh.", T::ANY, "2"),
            ("nas.mesh.", T::TXT, "no data"),
            ("six.home.mesh.", T::A, "no data"),
            ("six.home.mesh.", T::AAAA, "1"),
            ("home.mesh.", T::A, "no data"),
            ("nowhere.mesh.", T::A, "no name"),
            ("x.nas.mesh.", T::A, "no name"),
            ("mesh.", T::SOA, "1"),
            ("mesh.", T::NS, "1"),
            ("mesh.", T::A, "no data"),
            ("1.0.77.10.in-addr.arpa.", T::PTR, "1"),
            ("2.0.77.10.in-addr.arpa.", T::PTR, "no name"),
            ("0.77.10.in-addr.arpa.", T::PTR, "no data"),
            ("77.10.in-addr.arpa.", T::SOA, "1"),
            ("78.10.in-addr.arpa.", T::PTR, "foreign"),
            ("example.com.", T::A, "foreign"),
            ("meshx.", T::A, "foreign"),
            (".", T::NS, "foreign"),
        ] {
            let found = match zone.look(&LowerName::from(name(asked)), kind) {
                Found::Records(records) => records.len().to_string(),
                Found::NoData(soa) => {
                    assert_eq!(soa.record_type(), T::SOA);
                    "no data".to_owned()
                }
                Found::NoName(_) => "no name".to_owned(),
                Found::Foreign => "foreign".to_owned(),
            };
            assert_eq!(found, want, "{asked} {kind}");
        }
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
