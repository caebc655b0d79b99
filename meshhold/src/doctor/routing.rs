//! Addresses, routes and rules of the mesh as the kernel has them now, asked without the daemon.
//!
//! The daemon puts back what goes; what is found here is what it can't, or hasn't yet. Must not know how.

use super::Finding;
use super::onward::words;
use crate::control::api::{DatapathMode, NetworkStatus, Status};
use crate::platform::linux::route_word::Onward;
use crate::platform::linux::{Net, NetError};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const CHECK: &str = "routes";
/// Of an IPv6 range, in bits.
const PREFIX6: u8 = 32;
const REMEDY: &str = "systemctl restart meshhold";

/// What isn't there, or leads elsewhere.
pub(super) fn astray(status: &Status) -> Vec<Finding> {
    if !status.running || status.datapath.mode == DatapathMode::Off {
        return Vec::new();
    }
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let found = runtime.block_on(look(status));
    found.into_iter().flatten().map(|summary| Finding::error(CHECK, summary, REMEDY)).collect()
}

async fn look(status: &Status) -> Result<Vec<String>, NetError> {
    let net = Net::new()?;
    let mesh = &status.interface;
    let mut found = Vec::new();
    for (own, range) in status.networks.iter().flat_map(ends) {
        if net.leaving(None, own).await? != Onward::Here {
            found.push(format!("{own}, this node's address, isn't on {mesh}"));
        }
        let onward = net.leaving(None, inside(range, own)).await?;
        if !matches!(&onward, Onward::By(name) if name == mesh) {
            found.push(format!(
                "what is for {}/{} doesn't leave by {mesh}: {}",
                range.0,
                range.1,
                words(&onward)
            ));
        }
        let missing = net.missing_rules(mesh, range).await?;
        found.extend(missing.into_iter().map(|rule| format!("the {rule} is gone")));
    }
    Ok(found)
}

/// Our own address and the range, by family.
fn ends(network: &NetworkStatus) -> Vec<(IpAddr, (IpAddr, u8))> {
    let four = network.ipv4.and_then(|own4| {
        let (base, prefix) = network.range.split_once('/')?;
        Some((own4.into(), (base.parse::<Ipv4Addr>().ok()?.into(), prefix.parse().ok()?)))
    });
    let six = network.ipv6.map(|own6| {
        let base6 = Ipv6Addr::from_bits(own6.to_bits() & (u128::MAX << (128 - PREFIX6)));
        (own6.into(), (base6.into(), PREFIX6))
    });
    four.into_iter().chain(six).collect()
}

/// An address of the range that isn't our own.
fn inside(range: (IpAddr, u8), own: IpAddr) -> IpAddr {
    match (range.0, own) {
        (IpAddr::V4(base), IpAddr::V4(own)) => {
            let other = base.to_bits() | 1;
            Ipv4Addr::from_bits(if other == own.to_bits() { other + 1 } else { other }).into()
        }
        (IpAddr::V6(base), _) => Ipv6Addr::from_bits(base.to_bits() | 1).into(),
        (base, _) => base,
    }
}
