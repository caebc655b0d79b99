//! Which way lookups take on this host, and what would bring them to our name server.
//!
//! Owns the reading of `/etc/resolv.conf` and `/etc/nsswitch.conf`, and the remedies. Must not know what was told to whom.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::resolved::{STUB_FILE, STUBS, Whose};

/// The C library looks at so many and no more.
const NAMESERVERS: usize = 3;

/// Why programs on this host don't get our answers, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hindrance {
    /// A sentence without its full stop.
    pub why: String,
    /// A command or a step.
    pub remedy: String,
}

/// The way of lookups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Of `/etc/resolv.conf`.
    nameservers: Vec<IpAddr>,
    /// `/etc/nsswitch.conf` has `resolve` for hosts: libnss-resolve, which asks systemd-resolved, where it is installed.
    module: bool,
}

impl Way {
    /// Reads it.
    pub fn read() -> Self {
        let text = |file| fs::read_to_string(file).unwrap_or_default();
        Self::parse(&text("/etc/resolv.conf"), &text("/etc/nsswitch.conf"))
    }

    fn parse(resolv: &str, nsswitch: &str) -> Self {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let nameserver = |line: &str| match words(line).as_slice() {
            [key, address, ..] if key == "nameserver" => address.split('%').next()?.parse().ok(),
            _ => None,
        };
        let hosts = nsswitch.lines().map(words).find(|line| line.first().is_some_and(|key| key == "hosts:"));
        Self {
            nameservers: resolv.lines().filter_map(nameserver).take(NAMESERVERS).collect(),
            module: hosts.is_some_and(|line| line.iter().any(|word| word == "resolve")),
        }
    }

    /// Whether a lookup could end at our name server at all: no mesh name is asked of a server elsewhere just to find out.
    pub fn stays_here(&self, resolved: Whose) -> bool {
        let local = |ip: &IpAddr| ip.is_loopback() || UdpSocket::bind((*ip, 0)).is_ok();
        (self.module && resolved == Whose::Ours) || self.nameservers.iter().any(local)
    }

    /// What stands between programs and our name server at `server`, which answers for `suffix`.
    pub fn hindrance(&self, resolved: Whose, server: SocketAddr, suffix: &str) -> Hindrance {
        let by_hand = format!(
            "have this host's resolver ask {server} for .{suffix} ({})",
            self.example(server, suffix)
        );
        match resolved {
            Whose::Ours => self.past_resolved(suffix, &by_hand),
            Whose::Elsewhere => Hindrance {
                why: "the systemd-resolved that can be called from here lives in another network namespace, and isn't told"
                    .to_owned(),
                remedy: by_hand,
            },
            Whose::Nobody if self.names_stub() => Hindrance {
                why: "/etc/resolv.conf leads to systemd-resolved, which isn't running".to_owned(),
                remedy: "systemctl enable --now systemd-resolved".to_owned(),
            },
            Whose::Nobody => Hindrance {
                why: format!("no systemd-resolved runs here, and {} doesn't know .{suffix}", self.asked()),
                remedy: format!("{by_hand}; or install systemd-resolved"),
            },
        }
    }

    fn past_resolved(&self, suffix: &str, by_hand: &str) -> Hindrance {
        if self.names_stub() {
            return Hindrance {
                why: format!("systemd-resolved was told, and gives other answers for .{suffix}"),
                remedy: format!("`resolvectl domain` shows which other interface has ~{suffix}"),
            };
        }
        let module = "apt install libnss-resolve, with `resolve [!UNAVAIL=return]` before `dns` in the line hosts: of /etc/nsswitch.conf";
        let remedy = if STUBS.iter().any(|stub| super::resolved::listens(*stub)) {
            format!("ln -sf {STUB_FILE} /etc/resolv.conf; or {module}; or {by_hand}")
        } else {
            format!("{module}; or {by_hand}")
        };
        Hindrance {
            why: format!("/etc/resolv.conf doesn't lead to systemd-resolved: programs ask {}", self.asked()),
            remedy,
        }
    }

    fn names_stub(&self) -> bool {
        self.nameservers.first().is_some_and(|first| STUBS.iter().any(|stub| stub == first))
    }

    /// Who is asked.
    fn asked(&self) -> String {
        match self.nameservers.as_slice() {
            [] => "the resolver of this host".to_owned(),
            servers => servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        }
    }

    /// The line for the resolver that is most likely there.
    fn example(&self, server: SocketAddr, suffix: &str) -> String {
        let (ip, port) = (server.ip(), server.port());
        let dnsmasq = format!("server=/{suffix}/{ip}#{port}");
        if fs::exists("/etc/NetworkManager/dnsmasq.d").unwrap_or_default() {
            return format!(
                "for NetworkManager's dnsmasq `{dnsmasq}` in /etc/NetworkManager/dnsmasq.d/{suffix}.conf"
            );
        }
        format!("for dnsmasq `{dnsmasq}`, for unbound a forward-zone `{suffix}` to {ip}@{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUB: &str = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n";
    const SERVER: &str = "127.53.77.53:5399";

    fn way(resolv: &str, nsswitch: &str) -> Way {
        Way::parse(resolv, nsswitch)
    }

    #[test]
    fn files_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 192.0.2.9\n\tnameserver  192.0.2.1 \nnameserver fe80::1%eth0\nnameserver x\nsearch lan\nnameserver 1.1.1.1\nnameserver 8.8.8.8\n";
        let found =
            way(text, "passwd: files resolve\nhosts:  files mymachines resolve [!UNAVAIL=return] dns\n");
        assert_eq!(
            found.nameservers,
            ["192.0.2.1", "fe80::1", "1.1.1.1"].map(|ip| ip.parse::<IpAddr>().unwrap())
        );
        assert!(found.module && !way("", "hosts: files dns\n").module && !way("", "").module);
    }

    #[test]
    fn each_hindrance_has_its_remedy() {
        let server = SERVER.parse().unwrap();
        let foreign = way("nameserver 192.0.2.1\n", "hosts: files dns");
        let of = |way: &Way, whose| way.hindrance(whose, server, "mesh");
        let found = of(&foreign, Whose::Ours);
        assert!(found.why.contains("192.0.2.1") && found.remedy.contains("libnss-resolve"), "{found:?}");
        assert!(of(&foreign, Whose::Nobody).remedy.contains("server=/mesh/127.53.77.53#5399"));
        assert!(of(&foreign, Whose::Elsewhere).why.contains("another network namespace"));
        let stub = way(STUB, "");
        assert!(of(&stub, Whose::Nobody).remedy.starts_with("systemctl enable --now"));
        assert!(of(&stub, Whose::Ours).remedy.contains("resolvectl domain"));
    }

    #[test]
    fn servers_elsewhere_are_not_asked() {
        let foreign = "nameserver 192.0.2.1\n";
        assert!(!way(foreign, "hosts: files dns").stays_here(Whose::Ours));
        assert!(!way(foreign, "hosts: files resolve dns").stays_here(Whose::Nobody));
        assert!(way(foreign, "hosts: files resolve dns").stays_here(Whose::Ours));
        assert!(way("nameserver 192.0.2.1\nnameserver 127.0.0.1\n", "").stays_here(Whose::Nobody));
    }
}
