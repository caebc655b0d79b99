//! The port scope: which ports a node opens to a network.
//!
//! Owns parsing and normal form. Must not know how it is enforced.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Transport protocol of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl Protocol {
    /// IP protocol number (IANA).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// Inclusive range of open ports of one protocol: `tcp:22`, `udp:5000-5010`. Read in any case, and as `22/tcp` too; written in
/// this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRule {
    /// The protocol.
    pub protocol: Protocol,
    /// First open port, not 0.
    pub first: u16,
    /// Last open port.
    pub last: u16,
}

/// A text is no port rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no port rule: {why}; write tcp:22, tcp:8000-8100 or udp:5353")]
pub struct ScopeError {
    text: String,
    why: &'static str,
}

impl FromStr for PortRule {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let error = |why| ScopeError { text: text.chars().take(40).collect(), why };
        if text.contains(',') {
            return Err(error("each rule has one port or range"));
        }
        let turned = text.split_once('/').map(|(ports, protocol)| (protocol, ports));
        let (protocol, ports) =
            text.split_once(':').or(turned).ok_or_else(|| error("the protocol is missing"))?;
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(error("the protocol is neither tcp nor udp")),
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let port = |text: &str| match (text.bytes().all(|b| b.is_ascii_digit()), text.parse()) {
            (true, Ok(port @ 1u16..)) => Ok(port),
            _ => Err(error("a port is a number from 1 to 65535")),
        };
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(error("the first port is above the last"));
        }
        Ok(Self { protocol, first, last })
    }
}

impl fmt::Display for PortRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        match self.first == self.last {
            true => write!(f, "{protocol}:{}", self.first),
            false => write!(f, "{protocol}:{}-{}", self.first, self.last),
        }
    }
}

impl Serialize for PortRule {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortRule {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Open ports, sorted and without overlaps. Empty denies everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<PortRule>")]
pub struct Scope(Vec<PortRule>);

impl Scope {
    /// The rules, sorted and without overlaps.
    pub fn rules(&self) -> &[PortRule] {
        &self.0
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<PortRule>> for Scope {
    fn from(rules: Vec<PortRule>) -> Self {
        rules.into_iter().collect()
    }
}

impl FromIterator<PortRule> for Scope {
    fn from_iter<I: IntoIterator<Item = PortRule>>(rules: I) -> Self {
        let mut sorted: Vec<PortRule> = rules.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<PortRule> = Vec::with_capacity(sorted.len());
        for rule in sorted {
            match merged.last_mut() {
                Some(last) if last.protocol == rule.protocol && rule.first <= last.last.saturating_add(1) => {
                    last.last = last.last.max(rule.last);
                }
                _ => merged.push(rule),
            }
        }
        Self(merged)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, rule) in self.0.iter().enumerate() {
            let gap = if i == 0 { "" } else { " " };
            write!(f, "{gap}{rule}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(rules: &[&str]) -> Scope {
        rules.iter().map(|rule| rule.parse::<PortRule>().unwrap()).collect()
    }

    #[test]
    fn rules_read_as_they_print() {
        for text in ["tcp:22", "tcp:8000-8100", "udp:5353", "udp:1-65535"] {
            assert_eq!(text.parse::<PortRule>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn rules_are_read_as_people_write_them() {
        for (text, rule) in [("TCP:22", "tcp:22"), ("22/tcp", "tcp:22"), ("5000-5010/UDP", "udp:5000-5010")] {
            assert_eq!(text.parse::<PortRule>().unwrap().to_string(), rule);
        }
    }

    #[test]
    fn wrong_rules_say_what_is_wrong() {
        let bad = [
            ("22", "protocol is missing"),
            ("icmp:1", "neither tcp nor udp"),
            ("22/icmp", "neither tcp nor udp"),
            ("tcp:22,80", "each rule has one port or range; write tcp:22"),
            ("tcp:22/tcp", "1 to 65535"),
            ("tcp:", "1 to 65535"),
            ("tcp:0", "1 to 65535"),
            ("tcp:65536", "1 to 65535"),
            ("tcp:+22", "1 to 65535"),
            ("tcp: 22", "1 to 65535"),
            ("tcp:1-2-3", "1 to 65535"),
            ("tcp:-5", "1 to 65535"),
            ("tcp:90-80", "above the last"),
        ];
        for (text, why) in bad {
            let error = text.parse::<PortRule>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn overlapping_and_adjacent_rules_become_one() {
        let merged = scope(&["udp:53", "tcp:90-100", "tcp:22", "tcp:95-120", "tcp:23", "tcp:22"]);
        assert_eq!(merged.to_string(), "tcp:22-23 tcp:90-120 udp:53");
        assert_eq!(scope(&["tcp:1-65535", "tcp:65535"]).to_string(), "tcp:1-65535");
    }

    #[test]
    fn a_scope_is_a_list_of_strings_on_disk() {
        let open = scope(&["tcp:22", "udp:100-200"]);
        let text = serde_json::to_string(&open).unwrap();
        assert_eq!(text, r#"["tcp:22","udp:100-200"]"#);
        assert_eq!(serde_json::from_str::<Scope>(&text).unwrap(), open);
    }
}
