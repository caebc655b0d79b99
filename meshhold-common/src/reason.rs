//! Why a packet was passed or dropped: one list for kernel counters, status texts and metric labels.
//!
//! The number of a reason is its index in the kernel's counter map, so the order is part of the map layout.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// The single outcome of one packet.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $name,)+
        }

        impl Reason {
            /// Every reason, by ascending number.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// Stable lower-case label, as `status` and metrics print it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Reason::$name => $text,)+
                }
            }
        }
    };
}

reasons! {
    /// Ingress, passed: the destination port is in the port scope.
    PassScope = "pass-scope",
    /// Ingress, passed: answers a flow that this node opened.
    PassFlow = "pass-flow",
    /// Passed: later fragment of a datagram whose first fragment was passed.
    PassFragment = "pass-fragment",
    /// Ingress, passed: a member's echo request to our own address.
    PassIcmpEcho = "pass-icmp-echo",
    /// Ingress, passed: the answer to an echo request of ours.
    PassIcmpReply = "pass-icmp-reply",
    /// Ingress, passed: an ICMP error about a flow that this node opened or serves.
    PassIcmpError = "pass-icmp-error",
    /// Ingress, passed on to a LAN device that this node forwards.
    PassForward = "pass-forward",
    /// Egress, passed towards the circuit.
    PassEgress = "pass-egress",
    /// Passed on to the next hop of a relayed path.
    PassRelay = "pass-relay",
    /// Dropped: a header field contradicts the packet (version, header length, total length).
    Malformed = "malformed",
    /// Dropped: the packet ends inside a header, or before the length it claims.
    Truncated = "truncated",
    /// Dropped: a first fragment without the whole transport header, or a later one overlapping it (RFC 1858, RFC 7112).
    FragmentShort = "fragment-short",
    /// Dropped: a later fragment whose first fragment was not passed.
    FragmentNoFirst = "fragment-no-first",
    /// Dropped: more IPv6 extension headers than are followed.
    ExtensionChain = "extension-chain",
    /// Dropped: an IPv6 extension header that is not followed, or one out of place (RFC 8200 section 4.1).
    ExtensionUnknown = "extension-unknown",
    /// Dropped: neither TCP, UDP nor the family's ICMP.
    ProtocolUnknown = "protocol-unknown",
    /// Dropped: a loopback address where none may be.
    LoopbackAddress = "loopback-address",
    /// Dropped: multicast or limited broadcast.
    Multicast = "multicast",
    /// Ingress, dropped: the destination is not an address of this node.
    NotForUs = "not-for-us",
    /// Ingress, dropped: the source is no member of the destination's network.
    UnknownSource = "unknown-source",
    /// Dropped: the source can't be the sender's (ours on ingress, not ours on egress, outside the sender's blocks).
    SpoofedSource = "spoofed-source",
    /// Dropped: the port is not in the port scope and the packet answers no flow of ours.
    PortDenied = "port-denied",
    /// Dropped: an ICMP type that does not cross the mesh.
    IcmpType = "icmp-type",
    /// Ingress, dropped: an ICMP error or echo reply about nothing that this node sent.
    IcmpUnrelated = "icmp-unrelated",
    /// Egress, dropped: a caller address that stands for no peer.
    NoCaller = "no-caller",
    /// Egress, dropped: the destination is in no mesh range.
    NotMesh = "not-mesh",
    /// Dropped: the kernel refused to rewrite the packet (never seen in normal operation).
    RewriteFailed = "rewrite-failed",
    /// Dropped at a gateway: there is no way to the LAN device now.
    DeviceUnreachable = "device-unreachable",
    /// Dropped at a gateway: no port is free to translate another flow to the LAN device.
    NoTranslation = "no-translation",
    /// Dropped at a gateway or a relay: the hop limit is used up (RFC 1812 section 5.3.1).
    HopLimit = "hop-limit",
    /// Dropped on another interface: a mesh or caller address that must only appear on the mesh interface.
    LanGuard = "lan-guard",
    /// Dropped on another interface: a mesh or caller address was about to leave there, in the clear.
    Barrier = "barrier",
    /// Worker, dropped: no member owns the destination.
    NoOwner = "no-owner",
    /// Worker, dropped: no session for the peer or the receiver index.
    NoSession = "no-session",
    /// Worker, dropped: counter already seen or too old.
    Replay = "replay",
    /// Worker, dropped: authentication failed.
    BadTag = "bad-tag",
    /// Worker, dropped: larger than the path or the interface carries.
    TooBig = "too-big",
    /// Worker, dropped: no room in a queue or socket buffer.
    QueueFull = "queue-full",
    /// Worker, dropped: the underlay refuses the remote address (no route, forbidden).
    NoPath = "no-path",
    /// Worker, dropped: a label that this node knows nothing of, or not from that address.
    UnknownLabel = "unknown-label",
    /// Dropped at a relay: beyond the rate of the circuit or of who asked for it.
    OverRate = "over-rate",
}

impl Reason {
    /// How many reasons there are; the kernel's counter map has one more slot, [`crate::maps::SEEN`].
    pub const COUNT: usize = Self::ALL.len();

    /// The reason with this number.
    pub fn from_u32(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }

    /// True where the packet went on.
    pub const fn is_pass(self) -> bool {
        (self as u32) <= Reason::PassRelay as u32
    }

    /// True where the classifier (and not a worker) gives this reason.
    pub const fn is_classifier(self) -> bool {
        (self as u32) <= Reason::Barrier as u32 && !matches!(self, Reason::PassRelay)
    }
}
