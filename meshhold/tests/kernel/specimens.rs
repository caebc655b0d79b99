//! The packet zoo: for every reason of the classifier one packet that triggers it and only it.

use meshhold::datapath::ebpf::Program::{self, Egress, Ingress};
use meshhold_common::Reason;

use crate::{
    packets::{
        ACK, ICMP, ICMP6, SYN, TCP, UDP, extension, fragment6, icmp, icmp_error, ipv4, ipv4_raw, ipv6, tcp,
        udp,
    },
    support::{CALLER4, LOCALHOST, NOBODY4, OTHER_OWN4, OTHER_PEER4, OWN4, OWN6, PEER4, PEER6},
};

/// What comes before, the packet, and its reason.
pub(crate) struct Specimen {
    pub(crate) what: &'static str,
    pub(crate) before: Vec<(Program, Vec<u8>)>,
    pub(crate) program: Program,
    pub(crate) packet: Vec<u8>,
    pub(crate) reason: Reason,
}

fn on(program: Program, what: &'static str, packet: Vec<u8>, reason: Reason) -> Specimen {
    Specimen { what, before: Vec::new(), program, packet, reason }
}

impl Specimen {
    fn after(mut self, program: Program, packet: Vec<u8>) -> Self {
        self.before.push((program, packet));
        self
    }

    /// Everything that runs, in order.
    pub(crate) fn packets(self) -> impl Iterator<Item = (Program, Vec<u8>)> {
        self.before.into_iter().chain([(self.program, self.packet)])
    }
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    ipv6(PEER6, OWN6, next, payload)
}

fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4(PEER4, OWN4, protocol, payload)
}

/// With bytes behind the packet's end: the test run wants 54 where it takes a packet for Ethernet and IPv6.
fn padded(mut packet: Vec<u8>) -> Vec<u8> {
    packet.resize(54, 0);
    packet
}

/// A UDP fragment towards an open port; later ones hold bytes that would read as another open port.
fn fragment4(field: u16) -> Vec<u8> {
    ipv4_raw(PEER4, OWN4, UDP, &[], field, &udp(40_000, 8000))
}

fn passes() -> Vec<Specimen> {
    let request = ipv4(OWN4, PEER4, TCP, &tcp(50_000, 443, SYN));
    let query = ipv6(OWN6, PEER6, UDP, &udp(50_000, 53));
    let ping = ipv4(OWN4, PEER4, ICMP, &icmp(8, 77));
    let lost = ipv4(OWN4, NOBODY4, TCP, &tcp(50_001, 443, SYN));
    vec![
        on(Ingress, "open tcp port", v4(TCP, &tcp(40_000, 22, SYN)), Reason::PassScope),
        on(Ingress, "open tcp port by ipv6", v6(TCP, &tcp(40_000, 22, SYN)), Reason::PassScope),
        on(
            Ingress,
            "open udp port behind options",
            ipv4_raw(PEER4, OWN4, UDP, &[1; 40], 0, &udp(1, 5353)),
            Reason::PassScope,
        ),
        on(
            Ingress,
            "open port behind extensions",
            v6(0, &extension(60, &extension(UDP, &udp(1, 5353)))),
            Reason::PassScope,
        ),
        on(
            Ingress,
            "atomic fragment",
            v6(44, &fragment6(UDP, 0, false, 3, &udp(1, 5353))),
            Reason::PassScope,
        ),
        on(Ingress, "first fragment", fragment4(0x2000), Reason::PassScope),
        on(Ingress, "answer", v4(TCP, &tcp(443, 50_000, SYN | ACK)), Reason::PassFlow)
            .after(Egress, request.clone()),
        on(Ingress, "answer by ipv6", v6(UDP, &udp(53, 50_000)), Reason::PassFlow).after(Egress, query),
        on(Ingress, "later fragment", fragment4(0x0002), Reason::PassFragment)
            .after(Ingress, fragment4(0x2000)),
        on(
            Ingress,
            "later fragment by ipv6",
            v6(44, &fragment6(UDP, 2, false, 5, &[0; 16])),
            Reason::PassFragment,
        )
        .after(Ingress, v6(44, &fragment6(UDP, 0, true, 5, &udp(1, 8000)))),
        on(Ingress, "ping", v4(ICMP, &icmp(8, 1)), Reason::PassIcmpEcho),
        on(Ingress, "ping by ipv6", v6(ICMP6, &icmp(128, 1)), Reason::PassIcmpEcho),
        on(Ingress, "pong", v4(ICMP, &icmp(0, 77)), Reason::PassIcmpReply).after(Egress, ping),
        on(
            Ingress,
            "host unreachable from the worker",
            ipv4(NOBODY4, OWN4, ICMP, &icmp_error(3, &lost)),
            Reason::PassIcmpError,
        )
        .after(Egress, lost.clone()),
        on(Ingress, "too big for a flow of ours", v4(ICMP, &icmp_error(3, &request)), Reason::PassIcmpError)
            .after(Egress, request),
        on(
            Ingress,
            "error about a service's answer",
            v6(ICMP6, &icmp_error(2, &ipv6(OWN6, PEER6, TCP, &tcp(22, 9, ACK)))),
            Reason::PassIcmpError,
        ),
        on(Egress, "request", ipv4(OWN4, PEER4, TCP, &tcp(50_002, 443, SYN)), Reason::PassEgress),
        on(
            Egress,
            "answer of a loopback service",
            ipv4(LOCALHOST, CALLER4, TCP, &tcp(22, 9, ACK)),
            Reason::PassEgress,
        ),
        on(
            Egress,
            "answer of a service on 0.0.0.0",
            ipv4(OWN4, CALLER4, UDP, &udp(5353, 9)),
            Reason::PassEgress,
        ),
        on(
            Egress,
            "answer of a native service",
            ipv6(OWN6, PEER6, TCP, &tcp(22, 9, ACK)),
            Reason::PassEgress,
        ),
    ]
}

fn malformed() -> Vec<Specimen> {
    let mut short_header = v4(TCP, &tcp(1, 22, SYN));
    short_header[0] = 0x44;
    let mut version = v4(TCP, &tcp(1, 22, SYN));
    version[0] = 0x55;
    let mut claims_more = v4(TCP, &tcp(1, 22, SYN));
    claims_more.truncate(40);
    let mapped: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 18, 0, 17];
    let chain =
        (0..7).fold(udp(1, 5353), |payload, step| extension(if step == 0 { UDP } else { 60 }, &payload));
    vec![
        on(Ingress, "header length below 20", short_header, Reason::Malformed),
        on(Ingress, "no ip version", version, Reason::Malformed),
        on(Ingress, "mapped address in ipv6", ipv6(mapped, OWN6, TCP, &tcp(1, 22, SYN)), Reason::Malformed),
        on(Ingress, "ends before its length", claims_more, Reason::Truncated),
        on(Ingress, "ends inside the ip header", v4(TCP, &[])[..16].to_vec(), Reason::Truncated),
        on(Ingress, "half a tcp header", v4(TCP, &tcp(1, 22, SYN)[..12]), Reason::Truncated),
        on(Ingress, "half a udp header by ipv6", padded(v6(UDP, &udp(1, 5353)[..4])), Reason::Truncated),
        on(
            Ingress,
            "tiny first fragment",
            ipv4_raw(PEER4, OWN4, TCP, &[], 0x2000, &tcp(1, 22, SYN)[..8]),
            Reason::FragmentShort,
        ),
        on(
            Ingress,
            "fragment over the tcp flags",
            ipv4_raw(PEER4, OWN4, TCP, &[], 1, &[0; 16]),
            Reason::FragmentShort,
        ),
        on(
            Ingress,
            "first fragment inside its headers",
            padded(v6(44, &fragment6(60, 0, true, 9, &[]))),
            Reason::FragmentShort,
        ),
        on(
            Ingress,
            "fragment without first",
            ipv4_raw(PEER4, OWN4, UDP, &[], 0x4, &udp(1, 5353)),
            Reason::FragmentNoFirst,
        ),
        on(
            Ingress,
            "fragment by ipv6 without first",
            v6(44, &fragment6(UDP, 3, false, 8, &udp(1, 5353))),
            Reason::FragmentNoFirst,
        ),
        on(
            Ingress,
            "fragment of a denied first",
            ipv4_raw(PEER4, OWN4, UDP, &[], 0x5, &udp(1, 5353)),
            Reason::FragmentNoFirst,
        )
        .after(Ingress, ipv4_raw(PEER4, OWN4, UDP, &[], 0x2000, &udp(1, 9999))),
        on(
            Egress,
            "fragment out without first",
            ipv4_raw(OWN4, PEER4, UDP, &[], 0x4, &[0; 8]),
            Reason::FragmentNoFirst,
        ),
        on(Ingress, "overlong chain", v6(60, &chain), Reason::ExtensionChain),
        on(
            Ingress,
            "authentication header",
            v6(51, &extension(TCP, &tcp(1, 22, SYN))),
            Reason::ExtensionUnknown,
        ),
        on(
            Ingress,
            "hop-by-hop out of place",
            v6(60, &extension(0, &extension(UDP, &udp(1, 5353)))),
            Reason::ExtensionUnknown,
        ),
        on(Ingress, "gre", v4(47, &[0; 32]), Reason::ProtocolUnknown),
        on(Ingress, "sctp by ipv6", v6(132, &[0; 32]), Reason::ProtocolUnknown),
        on(Ingress, "icmpv6 in ipv4", v4(ICMP6, &icmp(128, 1)), Reason::ProtocolUnknown),
    ]
}

fn misaddressed() -> Vec<Specimen> {
    let to = |source, destination| ipv4(source, destination, TCP, &tcp(1, 22, SYN));
    let loopback6 = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    vec![
        on(Ingress, "loopback source", to(LOCALHOST, OWN4), Reason::LoopbackAddress),
        on(Ingress, "caller source", to(CALLER4, OWN4), Reason::LoopbackAddress),
        on(Ingress, "loopback destination", to(PEER4, LOCALHOST), Reason::LoopbackAddress),
        on(
            Ingress,
            "loopback source by ipv6",
            ipv6(loopback6, OWN6, TCP, &tcp(1, 22, SYN)),
            Reason::LoopbackAddress,
        ),
        on(Egress, "peer's address to a caller address", to(PEER4, CALLER4), Reason::LoopbackAddress),
        on(Egress, "loopback destination out", to(OWN4, LOCALHOST), Reason::LoopbackAddress),
        on(Egress, "loopback source out", to(LOCALHOST, PEER4), Reason::LoopbackAddress),
        on(
            Egress,
            "loopback source out by ipv6, to nobody",
            ipv6(loopback6, OWN6, TCP, &tcp(22, 1, SYN | ACK)),
            Reason::LoopbackAddress,
        ),
        on(
            Egress,
            "service on ::1 whose port is closed",
            ipv6(loopback6, PEER6, TCP, &tcp(23, 1, SYN | ACK)),
            Reason::PortDenied,
        ),
        on(Egress, "service on ::1", ipv6(loopback6, PEER6, TCP, &tcp(22, 1, SYN | ACK)), Reason::PassEgress),
        on(Ingress, "multicast", to(PEER4, [224, 0, 0, 251]), Reason::Multicast),
        on(Ingress, "broadcast", to(PEER4, [255; 4]), Reason::Multicast),
        on(Ingress, "another node's address", to(PEER4, NOBODY4), Reason::NotForUs),
        on(Ingress, "stranger", to(NOBODY4, OWN4), Reason::UnknownSource),
        on(Ingress, "member of another network", to(OTHER_PEER4, OWN4), Reason::UnknownSource),
        on(Ingress, "our own address", to(OTHER_OWN4, OWN4), Reason::SpoofedSource),
        on(Egress, "source of another network", to(OTHER_OWN4, PEER4), Reason::SpoofedSource),
        on(Egress, "source outside the mesh", to([192, 0, 2, 1], PEER4), Reason::SpoofedSource),
        on(Egress, "unknown caller", to(LOCALHOST, [127, 64, 9, 9]), Reason::NoCaller),
        on(Egress, "destination outside the mesh", to(OWN4, [192, 0, 2, 1]), Reason::NotMesh),
    ]
}

fn denied() -> Vec<Specimen> {
    let request = ipv4(OWN4, PEER4, TCP, &tcp(51_000, 443, SYN));
    vec![
        on(Ingress, "closed port", v4(TCP, &tcp(1, 23, SYN)), Reason::PortDenied),
        on(Ingress, "port open for the other protocol", v6(UDP, &udp(1, 22)), Reason::PortDenied),
        on(
            Ingress,
            "new connection through an old flow",
            v4(TCP, &tcp(443, 51_000, SYN)),
            Reason::PortDenied,
        )
        .after(Egress, request),
        on(
            Ingress,
            "open in the other network",
            ipv4(OTHER_PEER4, OTHER_OWN4, TCP, &tcp(1, 22, SYN)),
            Reason::PortDenied,
        ),
        on(
            Egress,
            "answer of a closed loopback port",
            ipv4(LOCALHOST, CALLER4, TCP, &tcp(23, 1, ACK)),
            Reason::PortDenied,
        ),
        on(
            Egress,
            "answer of a closed native port",
            ipv4(OWN4, PEER4, TCP, &tcp(23, 1, ACK)),
            Reason::PortDenied,
        ),
        on(Ingress, "redirect", v4(ICMP, &icmp(5, 0)), Reason::IcmpType),
        on(Ingress, "router advertisement", v6(ICMP6, &icmp(134, 0)), Reason::IcmpType),
        on(Egress, "neighbour solicitation", ipv6(OWN6, PEER6, ICMP6, &icmp(135, 0)), Reason::IcmpType),
        on(Ingress, "pong never asked for", v4(ICMP, &icmp(0, 4242)), Reason::IcmpUnrelated),
        on(
            Ingress,
            "error about nothing",
            v4(ICMP, &icmp_error(3, &ipv4(OWN4, PEER4, TCP, &tcp(1, 2, ACK)))),
            Reason::IcmpUnrelated,
        ),
    ]
}

/// All of them, but for the reasons that only a kernel program can give.
pub(crate) fn zoo() -> Vec<Specimen> {
    [passes(), malformed(), misaddressed(), denied()].into_iter().flatten().collect()
}
