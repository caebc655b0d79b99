//! What becomes of a packet in the rules of a firewall, as far as rules alone can tell.
//!
//! Owns the walk through chains, with three answers: yes, no, and not known. Must not know who wrote the rules, nor how
//! they were read.

use std::net::IpAddr;

/// Most jumps into each other.
const DEPTH: usize = 16;

/// What a test looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Protocol,
    SourcePort,
    DestinationPort,
    Source,
    Destination,
    Input,
    Output,
    State,
    /// `ipv4` or `ipv6`.
    Family,
    /// Whether the destination is this host.
    DestinationType,
    /// Anything else.
    Other,
}

/// What it is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A word; of interfaces also the beginning of one, with `*` or `+` at its end.
    Text(String),
    /// Ports.
    Range(u16, u16),
    /// Addresses: with so many first bits.
    Net(IpAddr, u8),
}

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) field: Field,
    pub(super) values: Vec<Value>,
    pub(super) negated: bool,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// Sends it elsewhere: where to.
    Translate(String),
    /// Counts, logs or marks it.
    Nothing,
}

/// One rule. Where a rule has several verdicts by value, there is one of these for each.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) tests: Vec<Test>,
    pub(super) verdict: Verdict,
    /// The command that takes it out.
    pub(super) removal: String,
}

/// Where the kernel asks a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Prerouting,
    Input,
    Output,
    /// Where nothing of this node comes by.
    Elsewhere,
}

/// A chain of rules.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    /// Where chains that it jumps to are.
    pub(super) table: String,
    pub(super) name: String,
    /// As the user knows it.
    pub(super) place: String,
    /// Only packets of this family come by; both where none is named.
    pub(super) family: Option<&'static str>,
    pub(super) hook: Option<Hook>,
    /// It translates addresses.
    pub(super) is_nat: bool,
    /// Its table has an owner, which lets nobody else change it.
    pub(super) is_owned: bool,
    /// What no rule decides is dropped.
    pub(super) drops: bool,
    /// The command that lets in what these words describe.
    pub(super) opening: Opening,
    pub(super) rules: Vec<Rule>,
}

/// How a rule at the top of a chain is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// `nft insert rule …`
    Nft,
    /// `iptables -t … -I …`, by this program.
    Iptables(String),
}

/// A packet that isn't there yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) family: &'static str,
    pub(super) protocol: &'static str,
    pub(super) ports: (Option<u16>, Option<u16>),
    /// Source and destination, where they are known.
    pub(super) ends: Option<(IpAddr, IpAddr)>,
    /// `new` for the first of its flow, else `established`.
    pub(super) state: &'static str,
    /// None: by any but the mesh interface and loopback.
    pub(super) interface: Option<&'a str>,
    pub(super) mesh: &'a str,
    pub(super) hook: Hook,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(super) enum End<'a> {
    /// No rule of this chain stops it.
    Through,
    Accepted,
    /// By a rule, or by the policy of the chain; `surely` unless a rule before may have let it pass.
    Dropped {
        chain: &'a Chain,
        rule: Option<&'a Rule>,
        surely: bool,
    },
    Translated {
        chain: &'a Chain,
        to: &'a str,
    },
}

/// Sends `packet` through the base chain `at`.
pub(super) fn walk<'a>(chains: &'a [Chain], at: &'a Chain, packet: Packet<'_>) -> End<'a> {
    if at.family.is_some_and(|family| family != packet.family) {
        return End::Through;
    }
    let mut doubt = false;
    match visit(chains, at, packet, &mut doubt, DEPTH) {
        End::Through if at.drops => End::Dropped { chain: at, rule: None, surely: !doubt },
        end => end,
    }
}

fn visit<'a>(
    chains: &'a [Chain],
    at: &'a Chain,
    packet: Packet<'_>,
    doubt: &mut bool,
    depth: usize,
) -> End<'a> {
    // It may have gone back to the caller.
    let mut left = false;
    for rule in &at.rules {
        let fits = rule.fits(packet);
        if fits == Some(false) {
            continue;
        }
        let sure = fits.is_some() && !left;
        let end = match &rule.verdict {
            Verdict::Nothing => continue,
            Verdict::Return if sure => return End::Through,
            Verdict::Return => {
                left = true;
                continue;
            }
            Verdict::Accept => End::Accepted,
            Verdict::Drop => End::Dropped { chain: at, rule: Some(rule), surely: !*doubt },
            Verdict::Translate(to) => End::Translated { chain: at, to },
            Verdict::Jump(name) | Verdict::Goto(name) => {
                let next = chains.iter().find(|chain| chain.table == at.table && chain.name == *name);
                match next.filter(|_| depth > 0) {
                    Some(next) => visit(chains, next, packet, doubt, depth - 1),
                    None => End::Through,
                }
            }
        };
        match end {
            End::Through if sure && matches!(rule.verdict, Verdict::Goto(_)) => return End::Through,
            End::Through => {}
            end if sure => return end,
            // Perhaps: what may be accepted makes a later drop doubtful, what may be dropped proves nothing.
            End::Accepted => *doubt = true,
            End::Dropped { .. } | End::Translated { .. } => {}
        }
    }
    End::Through
}

impl Rule {
    /// None where it can't be told.
    fn fits(&self, packet: Packet<'_>) -> Option<bool> {
        let answers = || self.tests.iter().map(|test| test.fits(packet));
        if answers().any(|answer| answer == Some(false)) {
            return Some(false);
        }
        answers().all(|answer| answer.is_some()).then_some(true)
    }

    /// Whether one of its conditions names the packet's port.
    pub(super) fn is_about_port(&self) -> bool {
        self.tests.iter().any(|test| matches!(test.field, Field::DestinationPort | Field::SourcePort))
    }
}

impl Test {
    fn fits(&self, packet: Packet<'_>) -> Option<bool> {
        let found = match self.field {
            Field::Protocol => Some(self.has(|text| is_protocol(text, packet.protocol))),
            // What has no ports fits no condition on them.
            Field::SourcePort | Field::DestinationPort if !matches!(packet.protocol, "tcp" | "udp") => {
                Some(false)
            }
            Field::SourcePort => packet.ports.0.and_then(|port| self.known(self.has_port(port))),
            Field::DestinationPort => packet.ports.1.and_then(|port| self.known(self.has_port(port))),
            Field::Source => packet.ends.and_then(|(source, _)| self.known(self.has_address(source))),
            Field::Destination => packet.ends.and_then(|(_, to)| self.known(self.has_address(to))),
            Field::Input if packet.hook != Hook::Output => self.is_by(packet),
            Field::Output if packet.hook == Hook::Output => self.is_by(packet),
            Field::Input | Field::Output => Some(false),
            Field::State => Some(self.has(|text| text.eq_ignore_ascii_case(packet.state))),
            Field::Family => Some(self.has(|text| text == packet.family)),
            Field::DestinationType => {
                (packet.hook != Hook::Output).then(|| self.has(|text| text.eq_ignore_ascii_case("local")))
            }
            Field::Other => None,
        };
        found.map(|found| found != self.negated)
    }

    fn has(&self, is: impl Fn(&str) -> bool) -> bool {
        self.values.iter().any(|value| matches!(value, Value::Text(text) if is(text)))
    }

    fn has_port(&self, port: u16) -> bool {
        self.values
            .iter()
            .any(|value| matches!(value, Value::Range(first, last) if (*first..=*last).contains(&port)))
    }

    fn has_address(&self, address: IpAddr) -> bool {
        self.values
            .iter()
            .any(|value| matches!(value, Value::Net(base, bits) if holds(*base, *bits, address)))
    }

    /// Beside a set by name, or what isn't understood, only a hit is certain.
    fn known(&self, hit: bool) -> Option<bool> {
        let is_plain = |value: &Value| !matches!(value, Value::Text(text) if text.parse::<IpAddr>().is_err() && text.parse::<u16>().is_err());
        (hit || self.values.iter().all(is_plain)).then_some(hit)
    }

    fn is_by(&self, packet: Packet<'_>) -> Option<bool> {
        let is = |name: &str| {
            self.has(|text| match text.strip_suffix(['*', '+']) {
                Some(start) => name.starts_with(start),
                None => name == text,
            })
        };
        match packet.interface {
            Some(name) => Some(is(name)),
            // Some other interface: whether it's this one, nobody knows.
            None => {
                let others = self.values.len()
                    - self.values.iter().filter(|value| **value == Value::Text("lo".to_owned())).count()
                    - self
                        .values
                        .iter()
                        .filter(|value| matches!(value, Value::Text(text) if text == packet.mesh))
                        .count();
                (others == 0).then_some(false)
            }
        }
    }
}

fn holds(base: IpAddr, bits: u8, address: IpAddr) -> bool {
    let bits = u32::from(bits);
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            (base.to_bits() ^ address.to_bits()).checked_shr(32 - bits.min(32)).unwrap_or(0) == 0
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            (base.to_bits() ^ address.to_bits()).checked_shr(128 - bits.min(128)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

fn is_protocol(text: &str, protocol: &str) -> bool {
    let (number, other) = match protocol {
        "udp" => ("17", "udp"),
        "icmp" => ("1", "icmp"),
        "icmpv6" => ("58", "ipv6-icmp"),
        _ => ("6", "tcp"),
    };
    text.eq_ignore_ascii_case(protocol) || text == number || text == other || text == "all"
}
