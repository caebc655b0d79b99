//! The checks of single configuration values, made while reading so that each error knows its line.
//!
//! Each message says what is wrong; what to do. Must not know files' places or sections.

use crate::forward::{self, Forward};
use bech32::{Bech32m, Hrp};
use meshhold_core::device::MAX_DEVICES;
use meshhold_core::key::Ipv4Range;
use meshhold_core::multiaddr::Multiaddr;
use meshhold_core::session::{Cipher, Secret};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use zeroize::Zeroizing;

const SWARM_HRP: Hrp = Hrp::parse_unchecked("swarm");

/// The shared secret that closes the underlay; printed as `swarm1…` with a checksum.
#[derive(Clone, Debug)]
pub struct SwarmKey(Secret);

impl SwarmKey {
    /// Wraps 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Secret(bytes))
    }

    /// The key itself.
    pub fn secret(&self) -> &Secret {
        &self.0
    }

    /// The text for a configuration. Secret.
    pub fn to_string_secret(&self) -> Zeroizing<String> {
        Zeroizing::new(bech32::encode::<Bech32m>(SWARM_HRP, &self.0.0).unwrap_or_default())
    }
}

impl FromStr for SwarmKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const ADVICE: &str = "copy it again, or make a new one with `meshhold keygen`";
        let bad = || format!("not a swarm key (damaged or mistyped); {ADVICE}");
        let checked =
            bech32::primitives::decode::CheckedHrpstring::new::<Bech32m>(text.trim()).map_err(|_| bad())?;
        if checked.hrp() != SWARM_HRP {
            return Err(format!("a swarm key starts with 'swarm1'; {ADVICE}"));
        }
        let mut key = Secret([0; 32]);
        let mut bytes = checked.byte_iter();
        for slot in &mut key.0 {
            *slot = bytes.next().ok_or_else(bad)?;
        }
        if bytes.next().is_some() { Err(bad()) } else { Ok(Self(key)) }
    }
}

/// Reads a scalar by the visitor, so that a refusal carries the scalar's own line.
fn check<'de, D: Deserializer<'de>, T>(
    input: D,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    struct Check<F, T>(F, PhantomData<T>);
    impl<T, F: FnOnce(&str) -> Result<T, String>> Visitor<'_> for Check<F, T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a single value")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            (self.0)(text).map_err(E::custom)
        }
    }
    input.deserialize_str(Check(parse, PhantomData))
}

/// Any value that reads itself from text.
pub(super) fn scalar<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    check(input, |text| text.parse().map_err(|e: T::Err| e.to_string()))
}

/// As [`scalar`], for a key that may be absent.
pub(super) fn optional<'de, D, T>(input: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    scalar(input).map(Some)
}

/// A section; one without content (`api:`) means its defaults.
pub(super) fn section<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    input: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

pub(super) fn dns_upstream<'de, D: Deserializer<'de>>(input: D) -> Result<(), D::Error> {
    check(input, |_| {
        Err("the resolver of this system asks MeshHold for its own names only, so nothing is passed on; remove the key".to_owned())
    })
}

pub(super) fn source<'de, D: Deserializer<'de>>(input: D) -> Result<(), D::Error> {
    check(input, |text| match text {
        "loopback" => Ok(()),
        "mesh" => Err("'mesh' is not supported by this version; use 'loopback' or remove the key".to_owned()),
        _ => Err(format!("'{text}' is no source; use 'loopback' or remove the key")),
    })
}

pub(super) fn name<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    check(input, |text| check_name(text).map(|()| text.to_owned()))
}

/// A display name: 1 to 64 bytes without control characters.
pub(crate) fn check_name(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("the name is empty; write at least one character".to_owned());
    }
    if text.len() > 64 {
        return Err(format!("a name of {} bytes is too long; use at most 64", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("the name holds a control character; use printable text".to_owned());
    }
    Ok(())
}

pub(super) fn absolute_path<'de, D: Deserializer<'de>>(input: D) -> Result<PathBuf, D::Error> {
    check(input, check_path)
}

pub(super) fn optional_path<'de, D: Deserializer<'de>>(input: D) -> Result<Option<PathBuf>, D::Error> {
    check(input, check_path).map(Some)
}

pub(super) fn listen_addr<'de, D: Deserializer<'de>>(input: D) -> Result<Option<SocketAddr>, D::Error> {
    check(input, |text| {
        let advice = "write an address and a port, e.g. '127.0.0.1:8080', or 'off'";
        match text.parse::<SocketAddr>() {
            _ if text == "off" => Ok(None),
            Ok(address) if address.port() != 0 => Ok(Some(address)),
            Ok(_) => Err(format!("port 0 can't be listened on; {advice}")),
            Err(_) => Err(format!("'{text}' isn't an address and a port; {advice}")),
        }
    })
}

/// Longest path that fits a Unix socket address (`sun_path`, unix(7)), without its closing NUL.
const MAX_SOCKET_PATH: usize = 107;

pub(super) fn socket_path<'de, D: Deserializer<'de>>(input: D) -> Result<Option<PathBuf>, D::Error> {
    check(input, |text| match check_path(text)? {
        _ if text.len() > MAX_SOCKET_PATH => {
            Err(format!("a socket path of {} bytes is too long; use at most {MAX_SOCKET_PATH}", text.len()))
        }
        path => Ok(Some(path)),
    })
}

fn check_path(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if path.is_absolute() && !text.contains('\0') {
        return Ok(path.to_owned());
    }
    Err(format!("'{text}' isn't an absolute path; write one that starts with '/'"))
}

pub(super) fn listen<'de, D: Deserializer<'de>>(input: D) -> Result<SocketAddr, D::Error> {
    check(input, |text| {
        let advice = "write an address and a port, e.g. '[::]:7777'";
        let address: SocketAddr =
            text.parse().map_err(|_| format!("'{text}' isn't an address and a port; {advice}"))?;
        if address.port() == 0 { Err(format!("port 0 can't be listened on; {advice}")) } else { Ok(address) }
    })
}

pub(super) fn cipher<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Cipher>, D::Error> {
    check(input, |text| match text {
        "auto" => Ok(None),
        "aes-256-gcm" => Ok(Some(Cipher::Aes256Gcm)),
        "chacha20-poly1305" => Ok(Some(Cipher::ChaCha20Poly1305)),
        _ => Err(format!("'{text}' is no cipher; use 'auto', 'aes-256-gcm' or 'chacha20-poly1305'")),
    })
}

pub(super) fn interface<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    check(input, |text| {
        let fits = (1..=15).contains(&text.len()) && text != "." && text != ".." && text != "lo";
        if fits && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return Ok(text.to_owned());
        }
        Err(format!(
            "'{text}' can't name an interface; use 1 to 15 letters, digits, '.', '_' or '-', e.g. 'mesh0'"
        ))
    })
}

pub(super) fn mtu<'de, D: Deserializer<'de>>(input: D) -> Result<u16, D::Error> {
    check(input, |text| match text.parse() {
        Ok(mtu @ 1280..) => Ok(mtu),
        _ => Err(format!("'{text}' isn't an MTU; use 1280 to 65535, or remove the key for 1420")),
    })
}

pub(super) fn dns_suffix<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    check(input, |text| {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() <= 100 && text.split('.').all(is_label) {
            return Ok(text.to_owned());
        }
        Err(format!("'{text}' isn't a DNS suffix; use lowercase labels, e.g. 'mesh' or 'home.arpa'"))
    })
}

pub(super) fn swarm_key_file<'de, D: Deserializer<'de>>(input: D) -> Result<Option<SwarmKey>, D::Error> {
    check(input, |text| {
        let path = check_path(text)?;
        let content = super::private::read(&path).map_err(|e| e.to_string())?;
        let content = content
            .ok_or_else(|| format!("there is no file '{text}'; make one with `meshhold keygen > {text}`"))?;
        let text = std::str::from_utf8(&content).map_err(|_| "the file holds no swarm key".to_owned())?;
        text.parse().map(Some)
    })
}

/// 198.18.0.0/15, the benchmarking range (RFC 2544), which nobody routes.
pub(super) fn default_space() -> Ipv4Range {
    Ipv4Range { base: Ipv4Addr::new(198, 18, 0, 0), prefix: 15 }
}

/// LAN devices; each name once, and no more than a block holds.
pub(super) fn forwards<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<Forward>, D::Error> {
    let entries: Vec<Entry> = Option::deserialize(input)?.unwrap_or_default();
    let forwards: Vec<Forward> =
        entries.into_iter().map(|Entry { name, target }| Forward { name, target }).collect();
    if forwards.len() > usize::from(MAX_DEVICES) {
        let count = forwards.len();
        return Err(D::Error::custom(format!(
            "{count} devices are too many, a block holds {MAX_DEVICES}; move some to another gateway"
        )));
    }
    for (at, forward) in forwards.iter().enumerate() {
        if forwards.iter().take(at).any(|other| other.name.to_lowercase() == forward.name.to_lowercase()) {
            return Err(D::Error::custom(format!(
                "'{}' is there twice; give each device an own name",
                forward.name
            )));
        }
    }
    return Ok(forwards);

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        #[serde(deserialize_with = "device_name")]
        name: String,
        #[serde(deserialize_with = "target")]
        target: IpAddr,
    }
}

fn device_name<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    check(input, |text| forward::check_name(text).map(|()| text.to_owned()))
}

fn target<'de, D: Deserializer<'de>>(input: D) -> Result<IpAddr, D::Error> {
    check(input, |text| {
        let target = text.parse().map_err(|_| {
            format!(
                "'{}' is no IP address; give the device's address in the LAN, e.g. 192.168.1.40",
                text.escape_debug()
            )
        });
        target.and_then(|target| forward::check_target(target).map(|()| target))
    })
}

/// DHT nodes, each a name or an IPv4 address with a port: the DHT has no IPv6.
pub(super) fn dht_bootstrap<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    /// One entry, read so that a refusal carries its own line.
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Entry(#[serde(deserialize_with = "host_and_port")] String);

    let entries: Option<Vec<Entry>> = Option::deserialize(input)?;
    Ok(entries.unwrap_or_default().into_iter().map(|entry| entry.0).collect())
}

fn host_and_port<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    check(input, |text| {
        let bad = || {
            format!("'{text}' isn't a host and a port; write it like 192.0.2.1:6881 or dht.example.org:6881")
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let good = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        let port = port.parse().unwrap_or(0_u16);
        if host.is_empty() || !host.chars().all(good) || port == 0 { Err(bad()) } else { Ok(text.to_owned()) }
    })
}

pub(super) fn bootstrap_peers<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<Multiaddr>, D::Error> {
    /// One entry, read so that a refusal carries its own line.
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Entry(#[serde(deserialize_with = "scalar")] Multiaddr);

    let entries: Option<Vec<Entry>> = Option::deserialize(input)?;
    Ok(entries.unwrap_or_default().into_iter().map(|entry| entry.0).collect())
}
