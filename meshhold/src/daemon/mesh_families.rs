//! Whether the mesh interface has IPv6 on this host, and what people are told where it hasn't.
//!
//! Owns that one fact, looked at again and again: others switch it at any time. Must not know records or packets.

use crate::platform::linux::net::has_ipv6;

/// The families of the mesh interface.
pub(super) struct Families {
    interface: String,
    without_ipv6: bool,
}

impl Families {
    pub(super) fn new(interface: &str) -> Self {
        Self { interface: interface.to_owned(), without_ipv6: false }
    }

    /// Looks, where there `is` an interface. True if something changed.
    pub(super) fn look(&mut self, is: bool) -> bool {
        let without = is && !has_ipv6(&self.interface);
        without != std::mem::replace(&mut self.without_ipv6, without)
    }

    /// There is IPv4 alone.
    pub(super) fn without_ipv6(&self) -> bool {
        self.without_ipv6
    }

    pub(super) fn warning(&self) -> Option<String> {
        let Self { interface, without_ipv6 } = self;
        without_ipv6.then(|| {
            format!(
                "no IPv6 on {interface} (switched off in the kernel or by disable_ipv6, or an MTU below 1280): this node has \
                 no IPv6 name, members' IPv6 connections reach its services as IPv4 ones, and pings by IPv6 are refused; \
                 `sysctl -w net.ipv6.conf.{interface}.disable_ipv6=0` where it may be on"
            )
        })
    }
}
