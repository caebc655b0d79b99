//! What becomes of a packet: by the rules of the mesh, and then by the host.
//!
//! Owns its shape and how the two parts become one verdict. Must not know how either is found.

use super::api::{PathStatus, PeerName};
use crate::doctor::onward::{Passing, obstacles};
use crate::doctor::{Finding, Severity};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use utoipa::ToSchema;

/// What `meshlan explain --json` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// The Reason, as in status and counters.
    pub reason: String,
    /// The entry of the port scope that opens the port.
    pub scope_entry: Option<String>,
    /// The local socket that waits on the port.
    pub listener: Option<String>,
    /// The other end.
    pub peer: Option<PeerName>,
    /// How datagrams travel to or from it now; none while there is no circuit.
    pub path: Option<PathStatus>,
    /// A circuit is wanted, and nothing says where the peer is: no handshake is sent.
    #[serde(default)]
    pub nowhere: bool,
    /// What of this host's own stands in the packet's way: routes, firewall, services. With an error among them the verdict
    /// is `drop` and the reason `host-route` or `host-firewall`, though the mesh's rules let it pass.
    #[serde(default)]
    pub host: Vec<Finding>,
    /// LAN address of the device of this node itself that it is for: the rest is said of members, its own programs go there.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub own_device: Option<IpAddr>,
    /// What is yet to be asked of the host.
    #[serde(skip)]
    pub(crate) passing: Option<Passing>,
}

impl Explanation {
    /// A packet that gets nowhere.
    pub fn dropped(reason: &str) -> Self {
        Self { reason: reason.to_owned(), ..Self::default() }
    }

    /// With what the host says to a packet that the mesh's rules let pass. Runs programs: not for the daemon's loop.
    pub(crate) async fn asked_of_host(mut self) -> Self {
        let Some(passing) = self.passing.take() else { return self };
        self.host = obstacles(passing).await;
        if let Some(worst) = self.host.iter().find(|found| found.severity == Severity::Error) {
            self.verdict = Verdict::Drop;
            self.reason = format!("host-{}", worst.check);
        }
        self
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It ends here.
    #[default]
    Drop,
}
