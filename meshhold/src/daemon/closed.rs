//! Which ranges must be closed before the daemon runs: those of the keys, where the last run showed them.
//!
//! Reads the node's files and changes nothing. Must not know how a range is closed.

use anyhow::Context as _;
use meshhold_core::key::NetworkKeys;

use super::state;
use crate::config::Config;
use crate::config::store::KeyStore;
use crate::platform::linux::NetworkAddresses;

/// The ranges of all keys, for [`crate::platform::linux::Net::close`]; the addresses in them are of no meaning.
pub fn ranges(config: &Config) -> anyhow::Result<Vec<NetworkAddresses>> {
    let folder = &config.node.data_dir;
    let store = KeyStore::open(folder).context("the ranges of this node's networks are not known")?;
    let views = state::views(folder);
    let ranges = store.keys().iter().map(|key| {
        let (range, prefix6) = (key.key.range, NetworkKeys::derive(&key.key).prefix6);
        let base = views.get(&key.network.to_string()).map_or(range.base, |view| view.base);
        NetworkAddresses {
            own4: Some(base),
            range: (base, range.prefix),
            own6: prefix6,
            prefix6: (prefix6, 32),
        }
    });
    Ok(ranges.collect())
}
