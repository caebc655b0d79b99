//! What can go wrong while the host's network is read or changed.
//!
//! Owns the wording and the cases that callers branch on. Must not know who asks.

use std::io;

/// A failed request about interfaces, addresses or routes.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The interface isn't there (any more).
    #[error("interface {0} does not exist: create it first, or look whether something removed it")]
    NoInterface(String),
    /// The name of the mesh interface belongs to something else.
    #[error("interface name {name} is taken by {owner}: stop it, or set another name as meshlan.interface")]
    NameTaken {
        /// The wanted name.
        name: String,
        /// What has it: kind of device and, where it can be seen, the process.
        owner: String,
    },
    /// The kernel refuses the change to this process.
    #[error("{0}: not permitted; the daemon needs CAP_NET_ADMIN in its network namespace")]
    Permission(String),
    /// The kernel answered with any other error.
    #[error("{what}: {source}")]
    Kernel {
        /// What was tried, on what.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The netlink socket itself failed.
    #[error("{what}: {detail}")]
    Netlink {
        /// What was tried, on what.
        what: String,
        /// What the netlink library says.
        detail: String,
    },
}

impl NetError {
    /// Names what was tried in an error of the netlink library.
    pub(super) fn new(what: impl Into<String>, error: rtnetlink::Error) -> Self {
        let what = what.into();
        match errno(&error) {
            Some(libc::EPERM | libc::EACCES) => Self::Permission(what),
            Some(code) => Self::Kernel { what, source: io::Error::from_raw_os_error(code) },
            None => Self::Netlink { what, detail: error.to_string() },
        }
    }

    /// Names what was tried in an error of a socket.
    pub(super) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Kernel { what: what.into(), source }
    }
}

/// The positive errno of a kernel's answer, when it is one.
pub(super) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    let rtnetlink::Error::NetlinkError(message) = error else { return None };
    message.code.map(|code| code.get().saturating_neg())
}
