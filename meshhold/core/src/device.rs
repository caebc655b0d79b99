//! LAN devices that a node fronts: what the other members are told of them.
//!
//! Owns the bounds. Must not know where a device really is: its target stays with the node that forwards it.

use serde::{Deserialize, Serialize};

use crate::record::MAX_NAME;

/// Most devices of one node in one network: what a block has besides the node's own address.
pub const MAX_DEVICES: u8 = 13;

/// A device, as its node announces it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Device {
    /// Its place in the node's block, from 0: see [`crate::address::Block::device4`].
    pub slot: u8,
    /// Display name.
    pub name: String,
}

impl Device {
    /// Whether a list of devices is one that a node may announce: each place once, and names that can be shown.
    pub fn are_sound(devices: &[Self]) -> bool {
        let mut taken = 0_u32;
        devices.iter().all(|device| {
            let bit = 1_u32.checked_shl(device.slot.into()).unwrap_or(0);
            let free = taken & bit == 0;
            taken |= bit;
            free && device.slot < MAX_DEVICES
                && device.name.len() <= MAX_NAME
                && !device.name.chars().any(char::is_control)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(slot: u8, name: &str) -> Device {
        Device { slot, name: name.to_owned() }
    }

    #[test]
    fn a_place_is_taken_once_and_lies_in_the_block() {
        assert!(Device::are_sound(&[]));
        assert!(Device::are_sound(&[device(12, "printer"), device(0, "camera")]));
        for bad in [
            vec![device(13, "x")],
            vec![device(255, "x")],
            vec![device(3, "x"), device(3, "y")],
            vec![device(0, "a\nb")],
            vec![device(0, &"n".repeat(MAX_NAME + 1))],
        ] {
            assert!(!Device::are_sound(&bad), "{bad:?}");
        }
    }
}
