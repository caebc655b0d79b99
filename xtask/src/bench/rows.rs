//! Everything that can be measured: names, what each row stands for, and how the table compares it.

use anyhow::Result;

use super::install::Source;
use super::own::{Copier, Meshhold, Raw};
use super::peers::{Nebula, Tinc, VpnCloud, WireGuard};
use super::site::{Site, Tunnel};

/// What a row is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No tunnel.
    Raw,
    /// MeshHold.
    Own,
    /// What a tunnel could reach at most whose datagrams are packets.
    Bound,
    /// What one could reach that never looks at packets.
    Slice,
    /// Another program.
    Peer,
}

/// The family that decides which bound a row is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cipher {
    None,
    AesGcm,
    ChaCha,
    Other,
}

/// One line of the table.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) cipher: Cipher,
    pub(super) peer: Box<dyn Peer>,
}

/// A program that connects two hosts.
pub(super) trait Peer {
    /// Version and cipher in words; `None` where the program isn't installed.
    fn version(&self) -> Option<String>;

    /// What to install for it.
    fn sources(&self) -> Vec<Source> {
        Vec::new()
    }

    /// Starts it on both hosts.
    fn start(&self, site: &Site) -> Result<Tunnel>;
}

impl Row {
    fn new(name: &'static str, kind: Kind, cipher: Cipher, peer: impl Peer + 'static) -> Self {
        Self { name, kind, cipher, peer: Box::new(peer) }
    }

    /// Whether its program is installed.
    pub(super) fn is_here(&self) -> bool {
        self.peer.version().is_some()
    }
}

/// In the order of the first round.
pub(super) fn all() -> Vec<Row> {
    use Cipher::{AesGcm, ChaCha, None, Other};
    use Kind::{Bound, Own, Peer, Slice};
    let (aes, chacha) = ("aes-128-gcm", "chacha20-poly1305");
    vec![
        Row::new("raw", Kind::Raw, None, Raw),
        Row::new("meshhold", Own, AesGcm, Meshhold { cipher: "AES-256-GCM", forced: false }),
        Row::new("meshhold-chacha", Own, ChaCha, Meshhold { cipher: "ChaCha20-Poly1305", forced: true }),
        Row::new("copy-aes", Bound, AesGcm, Copier { mode: "split", cipher: aes }),
        Row::new("copy-chacha", Bound, ChaCha, Copier { mode: "split", cipher: chacha }),
        Row::new("slice-aes", Slice, AesGcm, Copier { mode: "slice", cipher: aes }),
        Row::new("slice-chacha", Slice, ChaCha, Copier { mode: "slice", cipher: chacha }),
        Row::new("wireguard-go", Peer, ChaCha, WIREGUARD_GO),
        Row::new("boringtun", Peer, ChaCha, BORINGTUN),
        Row::new("gotatun", Peer, ChaCha, GOTATUN),
        Row::new("nebula", Peer, AesGcm, Nebula),
        Row::new("tinc", Peer, Other, Tinc),
        Row::new("vpncloud", Peer, Other, VpnCloud),
    ]
}

const WIREGUARD_GO: WireGuard =
    WireGuard { program: "wireguard-go", arguments: &["-f"], source: Source::Debian("wireguard-go") };
const BORINGTUN: WireGuard = WireGuard {
    program: "boringtun-cli",
    arguments: &["-f", "--disable-drop-privileges"],
    source: Source::Crate("boringtun-cli"),
};
const GOTATUN: WireGuard = WireGuard {
    program: "gotatun",
    arguments: &["-f", "-v", "error", "--disable-drop-privileges"],
    source: Source::Crate("gotatun-cli"),
};
