//! What members of a network leave for each other in the DHT: keys of a day, and sealed values of one size.
//!
//! Owns the keys, the bytes and what is too old. Must not know the DHT's protocol, nor when it is asked.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use meshhold_core::identity::NodeId;
use meshhold_core::session::Secret;
use rand_core::{OsRng, RngCore as _};

/// Slots of a network and day.
pub(super) const SLOTS: u8 = 4;
/// Bytes of each value; BEP 44 allows 1,000 with their length.
const VALUE: usize = NONCE + ENTRIES * ENTRY + TAG;
/// Endpoints of an entry at most.
pub(super) const ENDPOINTS: usize = 4;
const ENTRIES: usize = 8;
/// Node 32, time 8, and of each endpoint address 16 and port 2.
const ENTRY: usize = 40 + ENDPOINTS * ENDPOINT;
const ENDPOINT: usize = 18;
const NONCE: usize = 24;
const TAG: usize = 16;
const DAY: u64 = 86_400;
/// Seconds after which an entry says nothing any more.
const AGE: u64 = 7_200;
/// Seconds by which its writer's clock may be ahead of ours.
const SKEW: u64 = 600;
const SIGN_CONTEXT: &str = "meshhold v1 dht slot signature";
const SEAL_CONTEXT: &str = "meshhold v1 dht slot seal";

/// A place in the DHT, for one day, that all members may write to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Seed of the key pair whose public half is the place.
    pub(super) signer: Secret,
    seal: Secret,
}

/// Where a member was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Who.
    pub(super) node: NodeId,
    /// When, in seconds since the Unix epoch.
    pub(super) at: u64,
    /// Its UDP addresses for links, at least one.
    pub(super) endpoints: Vec<SocketAddr>,
}

impl Slot {
    /// The slot `node` writes to.
    pub(super) fn of(network: &Secret, node: &NodeId, unix: u64) -> Self {
        let [first, ..] = node.0;
        Self::new(network, unix / DAY, first % SLOTS)
    }

    /// All slots that may hold something new: around midnight also yesterday's.
    pub(super) fn all(network: &Secret, unix: u64) -> Vec<Self> {
        let today = unix / DAY;
        let first = unix.saturating_sub(AGE) / DAY;
        (first..=today)
            .rev()
            .flat_map(|day| (0..SLOTS).map(move |slot| Self::new(network, day, slot)))
            .collect()
    }

    fn new(network: &Secret, day: u64, slot: u8) -> Self {
        let mut material = [0; 41];
        let place = network.0.into_iter().chain(day.to_be_bytes()).chain([slot]);
        material.iter_mut().zip(place).for_each(|(to, from)| *to = from);
        let derive = |context| Secret(blake3::derive_key(context, &material));
        Self { signer: derive(SIGN_CONTEXT), seal: derive(SEAL_CONTEXT) }
    }

    /// The value for these entries, of which the first few are kept.
    pub(super) fn seal(&self, entries: &[Entry]) -> Vec<u8> {
        let mut content: Vec<u8> = entries.iter().take(ENTRIES).flat_map(Entry::bytes).collect();
        content.resize(ENTRIES * ENTRY, 0);
        let mut nonce = [0; NONCE];
        OsRng.fill_bytes(&mut nonce);
        let cipher = XChaCha20Poly1305::new((&self.seal.0).into());
        // Fails only for contents of 256 GiB and more.
        let sealed = cipher.encrypt(XNonce::from_slice(&nonce), content.as_slice()).unwrap_or_default();
        [nonce.as_slice(), &sealed].concat()
    }

    /// What of `value` is from a member, for this slot, and not too old.
    pub(super) fn open(&self, value: &[u8], unix: u64) -> Vec<Entry> {
        self.content(value)
            .unwrap_or_default()
            .chunks_exact(ENTRY)
            .filter_map(Entry::parse)
            .filter(|entry| entry.at <= unix.saturating_add(SKEW) && entry.at.saturating_add(AGE) >= unix)
            .collect()
    }

    fn content(&self, value: &[u8]) -> Option<Vec<u8>> {
        if value.len() != VALUE {
            return None;
        }
        let (nonce, sealed) = value.split_first_chunk::<NONCE>()?;
        let cipher = XChaCha20Poly1305::new((&self.seal.0).into());
        cipher.decrypt(XNonce::from_slice(nonce), sealed).ok()
    }
}

impl Entry {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENTRY);
        bytes.extend(self.node.0);
        bytes.extend(self.at.to_be_bytes());
        for endpoint in self.endpoints.iter().take(ENDPOINTS) {
            let ip = match endpoint.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            bytes.extend(ip.octets());
            bytes.extend(endpoint.port().to_be_bytes());
        }
        bytes.resize(ENTRY, 0);
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (node, rest) = bytes.split_first_chunk::<32>()?;
        let (at, rest) = rest.split_first_chunk::<8>()?;
        let endpoints: Vec<_> = rest.chunks_exact(ENDPOINT).filter_map(endpoint).collect();
        let at = u64::from_be_bytes(*at);
        (!endpoints.is_empty()).then_some(Self { node: NodeId(*node), at, endpoints })
    }
}

fn endpoint(bytes: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_first_chunk::<16>()?;
    let port = u16::from_be_bytes(*port.first_chunk()?);
    let ip = IpAddr::from(*ip).to_canonical();
    let nobody = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    (port != 0 && !nobody && ip != IpAddr::V4(Ipv4Addr::BROADCAST)).then_some(SocketAddr::new(ip, port))
}

/// The newest entry of each node, the newest first.
pub(super) fn newest(entries: Vec<Entry>) -> Vec<Entry> {
    let mut by_node: BTreeMap<NodeId, Entry> = BTreeMap::new();
    for entry in entries {
        if by_node.get(&entry.node).is_none_or(|known| known.at < entry.at) {
            by_node.insert(entry.node, entry);
        }
    }
    let mut newest: Vec<_> = by_node.into_values().collect();
    newest.sort_by_key(|entry| std::cmp::Reverse(entry.at));
    newest
}

/// The few endpoints to publish: those that others can reach from far away come first.
pub(super) fn choose(mut endpoints: Vec<SocketAddr>) -> Vec<SocketAddr> {
    endpoints.sort_by_key(|endpoint| is_local(endpoint.ip()));
    endpoints.truncate(ENDPOINTS);
    endpoints
}

fn is_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip == Ipv6Addr::LOCALHOST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noon.
    const UNIX: u64 = 20_000 * DAY + DAY / 2;
    const NETWORK: Secret = Secret([1; 32]);

    fn entry(node: u8, at: u64) -> Entry {
        let endpoints = vec!["192.0.2.7:7777".parse().unwrap(), "[2001:db8::7]:7777".parse().unwrap()];
        Entry { node: NodeId([node; 32]), at, endpoints }
    }

    fn slot(network: &Secret, unix: u64) -> Slot {
        Slot::of(network, &NodeId([0; 32]), unix)
    }

    #[test]
    fn members_read_what_others_wrote_that_day() {
        let entries = [entry(1, UNIX), entry(2, UNIX - 5)];
        let value = slot(&NETWORK, UNIX).seal(&entries);
        assert_eq!(value.len(), VALUE);
        const { assert!(VALUE <= 996, "four bytes are for its length") };
        assert_eq!(slot(&NETWORK, UNIX).open(&value, UNIX), entries);
        let many: Vec<_> = (0..20).map(|node| entry(node, UNIX)).collect();
        let full = slot(&NETWORK, UNIX).seal(&many);
        assert_eq!((full.len(), slot(&NETWORK, UNIX).open(&full, UNIX).len()), (VALUE, ENTRIES));
        assert_eq!(slot(&NETWORK, UNIX).seal(&[]).len(), VALUE, "its size says nothing");
    }

    #[test]
    fn of_another_day_slot_or_network_it_is_nothing() {
        let ours = slot(&NETWORK, UNIX);
        let value = ours.seal(&[entry(1, UNIX)]);
        let others = [
            slot(&NETWORK, UNIX + DAY),
            slot(&NETWORK, UNIX - DAY),
            slot(&Secret([2; 32]), UNIX),
            Slot::of(&NETWORK, &NodeId([1; 32]), UNIX),
        ];
        for other in others {
            assert_eq!(other.open(&value, UNIX), []);
            assert_ne!(other.signer, ours.signer, "nor is it at the same place");
        }
        assert_eq!(ours.open(&value, UNIX).len(), 1);
    }

    #[test]
    fn damaged_values_are_nothing() {
        let ours = slot(&NETWORK, UNIX);
        let value = ours.seal(&[entry(1, UNIX)]);
        for length in 0..value.len() {
            assert_eq!(ours.open(&value[..length], UNIX), [], "cut to {length}");
        }
        assert_eq!(ours.open(&[value.as_slice(), &[0]].concat(), UNIX), []);
        for position in 0..value.len() {
            let mut damaged = value.clone();
            damaged[position] ^= 1;
            assert_eq!(ours.open(&damaged, UNIX), [], "byte {position}");
        }
    }

    #[test]
    fn replays_end_with_their_time() {
        let ours = slot(&NETWORK, UNIX);
        let value = ours.seal(&[entry(1, UNIX)]);
        for (unix, expected) in [
            (UNIX + AGE, 1),
            (UNIX + AGE + 1, 0),
            (UNIX - SKEW, 1),
            (UNIX - SKEW - 1, 0),
            (u64::MAX, 0),
            (0, 0),
        ] {
            assert_eq!(ours.open(&value, unix).len(), expected, "at {unix}");
        }
        let forever = ours.seal(&[entry(1, u64::MAX)]);
        assert_eq!(ours.open(&forever, UNIX), []);
        let seen = newest(vec![entry(1, UNIX - 9), entry(2, UNIX - 7), entry(1, UNIX), entry(1, UNIX - 3)]);
        assert_eq!(seen, [entry(1, UNIX), entry(2, UNIX - 7)], "an older one doesn't replace a newer one");
    }

    #[test]
    fn yesterday_counts_for_a_while() {
        let midnight = 20_000 * DAY;
        let late = slot(&NETWORK, midnight - 1);
        assert!(Slot::all(&NETWORK, midnight + AGE - 1).contains(&late));
        assert!(!Slot::all(&NETWORK, midnight + AGE).contains(&late));
        assert_eq!(Slot::all(&NETWORK, midnight).len(), 2 * usize::from(SLOTS));
        assert_eq!(Slot::all(&NETWORK, UNIX).len(), usize::from(SLOTS));
        assert_eq!(Slot::all(&NETWORK, 0).len(), usize::from(SLOTS));
        assert!(Slot::all(&NETWORK, UNIX).contains(&slot(&NETWORK, UNIX)));
    }

    #[test]
    fn addresses_of_nobody_are_left_out() {
        let nobody = ["0.0.0.0:1", "127.0.0.1:1", "224.0.0.1:1", "255.255.255.255:1"];
        let ours = slot(&NETWORK, UNIX);
        let mut said = entry(1, UNIX);
        said.endpoints = nobody.iter().map(|addr| addr.parse().unwrap()).collect();
        assert_eq!(ours.open(&ours.seal(&[said.clone()]), UNIX), []);
        said.endpoints =
            ["192.0.2.7:0", "[::1]:5", "[ff02::1]:5", "192.0.2.7:9"].map(|a| a.parse().unwrap()).into();
        let opened = ours.open(&ours.seal(&[said]), UNIX);
        assert_eq!(opened[0].endpoints, ["192.0.2.7:9".parse().unwrap()]);
    }

    #[test]
    fn reachable_endpoints_come_first() {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        let all = ["10.0.0.1:1", "192.168.0.1:1", "fe80::1", "fd00::1", "192.0.2.1:1", "2001:db8::1"];
        let all =
            all.map(|text| if text.contains("::") { parse(&format!("[{text}]:1")) } else { parse(text) });
        let chosen = choose(all.to_vec());
        assert_eq!(chosen, [all[4], all[5], all[0], all[1]]);
    }
}
