//! The mesh interface that a former daemon left: how it is told from others' interfaces, and when it is in the way.
//!
//! Owns the mark, which is the interface's alias (`ip link show`). Must not know what hangs on the interface.

use rtnetlink::{LinkUnspec, packet_route::link::LinkAttribute};

use super::{bpffs, error::NetError, list::Interface, net::Net};

/// How the mark begins; the node id follows.
pub(super) const MARK: &str = "MeshHold ";

impl Interface {
    /// Whether a daemon that has ended left it. Its queues are gone with the process, and the carrier with them.
    pub(super) fn is_left_over(&self) -> bool {
        self.is_ours("") && !self.carrier
    }

    /// Whether a daemon of this node made it; of any node where that is empty.
    fn is_ours(&self, node: &str) -> bool {
        let mark = self.alias.as_deref().and_then(|alias| alias.strip_prefix(MARK));
        self.kind.as_deref() == Some("tun") && mark.is_some_and(|of| node.is_empty() || of == node)
    }
}

impl Net {
    /// Writes on an interface that `node` made it. To be done before it is kept: what bears no mark is a stranger's.
    pub async fn mark(&self, interface: &str, node: &str) -> Result<(), NetError> {
        let index = self.index_of(interface).await?;
        let index = index.ok_or_else(|| NetError::NoInterface(interface.to_owned()))?;
        let mut message = LinkUnspec::new_with_index(index).build();
        message.attributes.push(LinkAttribute::IfAlias(format!("{MARK}{node}")));
        let what = format!("mark {interface} as this node's");
        self.handle.link().set(message).execute().await.map_err(|error| NetError::new(what, error))
    }

    /// Deletes what `node` left under names other than `interface`, pins too: the name was changed since. Returns the names.
    /// Their ranges stay closed until [`Net::forget_routes`] is called for each, once those of `interface` are.
    pub async fn forget_renamed(&self, interface: &str, node: &str) -> Result<Vec<String>, NetError> {
        let mut gone = Vec::new();
        for found in self.interfaces().await? {
            if found.name != interface && found.is_ours(node) && !found.carrier {
                self.delete_index(found.index).await?;
                bpffs::discard(&found.name);
                gone.push(found.name);
            }
        }
        Ok(gone)
    }
}
