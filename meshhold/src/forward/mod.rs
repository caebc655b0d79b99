//! LAN devices without MeshHold that this node fronts: which there are, and the place of each in the node's block.
//!
//! Owns the list, made of the configuration's and of those added while running, and its file `forwards.json` in the
//! data folder. Must not know how packets get to a device.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use meshhold_core::device::{Device, MAX_DEVICES};
use meshhold_core::record::MAX_NAME;
use serde::{Deserialize, Serialize};

use crate::config::private::{self, PrivateError};

/// One device, as an operator names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Display name.
    pub name: String,
    /// Its address in the LAN.
    pub target: IpAddr,
}

/// Where a device was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// In the configuration: only an edit there removes it.
    Config,
    /// By a command.
    Runtime,
}

/// A device with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// What it is.
    pub forward: Forward,
    /// Its place in the node's block, the same over restarts.
    pub slot: u8,
    /// Where it was added.
    pub origin: Origin,
}

/// Why the list stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The name or the target is no good.
    #[error("{0}")]
    Invalid(String),
    /// The name is in use.
    #[error("a device '{0}' is there already; remove it first, or choose another name")]
    Taken(String),
    /// A block holds no more.
    #[error(
        "this node fronts {MAX_DEVICES} devices already, and a block has no room for more; use another gateway for this one"
    )]
    Full,
    /// There is none of that name.
    #[error("no device '{0}' here; `meshhold meshlan forwards list` shows them")]
    Unknown(String),
    /// It stands in the configuration.
    #[error(
        "device '{0}' stands in the configuration (meshlan.forwards): remove it there and restart the daemon"
    )]
    Configured(String),
    /// The file can't be written.
    #[error(transparent)]
    File(#[from] PrivateError),
}

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Stored {
    /// Added by commands.
    runtime: Vec<Forward>,
    /// By name, for all that ever had one and whose place nobody else needed.
    slots: BTreeMap<String, u8>,
}

/// All devices of this node.
#[derive(Debug)]
pub struct Forwards {
    path: PathBuf,
    config: Vec<Forward>,
    stored: Stored,
}

impl Forwards {
    /// Reads the file of `data_dir` and joins it with the configuration's list.
    ///
    /// # Errors
    /// The file can't be read or makes no sense.
    pub fn open(data_dir: &Path, config: &[Forward]) -> anyhow::Result<Self> {
        let path = data_dir.join("forwards.json");
        let content = private::read(&path)?.filter(|content| !content.is_empty());
        let stored = content.map(|content| serde_json::from_slice(&content)).transpose();
        let stored = stored.with_context(|| {
            format!(
                "{} is damaged; move it away to start without the devices added by commands",
                path.display()
            )
        })?;
        let mut forwards = Self { path, config: config.to_vec(), stored: stored.unwrap_or_default() };
        // Of one name in both, the configuration's counts.
        let taken = |name: &str| config.iter().any(|forward| same(&forward.name, name));
        forwards.stored.runtime.retain(|forward| !taken(&forward.name));
        forwards.place();
        Ok(forwards)
    }

    /// All of them, by their places.
    pub fn list(&self) -> Vec<Placed> {
        let with = |origin| move |forward: &Forward| (forward.clone(), origin);
        let all = self.config.iter().map(with(Origin::Config));
        let all = all.chain(self.stored.runtime.iter().map(with(Origin::Runtime)));
        let mut list: Vec<Placed> = all
            .filter_map(|(forward, origin)| Some(Placed { slot: self.slot(&forward.name)?, forward, origin }))
            .collect();
        list.sort_by_key(|placed| placed.slot);
        list
    }

    /// What other members are told.
    pub fn devices(&self) -> Vec<Device> {
        self.list()
            .into_iter()
            .map(|placed| Device { slot: placed.slot, name: placed.forward.name })
            .collect()
    }

    /// Adds a device, durable when it returns.
    ///
    /// # Errors
    /// The name or target is taken or none, the block is full, or the file can't be written.
    pub fn add(&mut self, forward: Forward) -> Result<(), ForwardError> {
        let checked = check_name(&forward.name).and_then(|()| check_target(forward.target));
        checked.map_err(ForwardError::Invalid)?;
        let list = self.list();
        if list.iter().any(|placed| same(&placed.forward.name, &forward.name)) {
            return Err(ForwardError::Taken(forward.name));
        }
        if list.len() >= usize::from(MAX_DEVICES) {
            return Err(ForwardError::Full);
        }
        self.stored.runtime.push(forward);
        self.place();
        self.save()
    }

    /// Removes a device that was added by a command, durable when it returns.
    ///
    /// # Errors
    /// There is none of that name, it stands in the configuration, or the file can't be written.
    pub fn remove(&mut self, name: &str) -> Result<(), ForwardError> {
        match self.list().into_iter().find(|placed| same(&placed.forward.name, name)) {
            None => return Err(ForwardError::Unknown(name.to_owned())),
            Some(placed) if placed.origin == Origin::Config => {
                return Err(ForwardError::Configured(name.to_owned()));
            }
            Some(_) => {}
        }
        self.stored.runtime.retain(|forward| !same(&forward.name, name));
        self.save()
    }

    fn slot(&self, name: &str) -> Option<u8> {
        self.stored.slots.get(&name.to_lowercase()).copied()
    }

    /// Gives a place to each that has none: a free one, else the one of a device that is gone.
    fn place(&mut self) {
        let names: Vec<String> = self
            .config
            .iter()
            .chain(&self.stored.runtime)
            .map(|forward| forward.name.to_lowercase())
            .collect();
        for name in &names {
            if self.stored.slots.contains_key(name) {
                continue;
            }
            let used = |slot: &u8| self.stored.slots.values().any(|taken| taken == slot);
            let slot = (0..MAX_DEVICES).find(|slot| !used(slot)).or_else(|| {
                let gone = self.stored.slots.keys().find(|name| !names.contains(name))?.clone();
                self.stored.slots.remove(&gone)
            });
            if let Some(slot) = slot {
                self.stored.slots.insert(name.clone(), slot);
            }
        }
    }

    fn save(&self) -> Result<(), ForwardError> {
        Ok(private::write_with(&self.path, |file| Ok(serde_json::to_writer_pretty(file, &self.stored)?))?)
    }
}

/// Whether this can be the name of a device.
///
/// # Errors
/// A sentence: what is wrong; what to do.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = !name.is_empty() && name.len() <= MAX_NAME && name.trim() == name;
    if fits && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(format!(
        "'{}' is no device name; use 1 to {MAX_NAME} bytes of visible characters, without spaces around them",
        name.escape_debug()
    ))
}

/// Whether a device can have this address at all; whether it can be reached shows later.
///
/// # Errors
/// A sentence: what is wrong; what to do.
pub fn check_target(target: IpAddr) -> Result<(), String> {
    let link_local = matches!(target, IpAddr::V6(ip) if ip.is_unicast_link_local());
    if target.is_unspecified() || target.is_loopback() || target.is_multicast() || link_local {
        return Err(format!(
            "{target} can't be the target of a device; give the device's own unicast address in the LAN"
        ));
    }
    Ok(())
}

fn same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(name: &str, last: u8) -> Forward {
        Forward { name: name.to_owned(), target: IpAddr::from([192, 168, 7, last]) }
    }

    #[test]
    fn places_survive_a_restart_and_runtime_devices_too() {
        let folder = tempfile::tempdir().unwrap();
        let config = [forward("Camera", 1)];
        let mut forwards = Forwards::open(folder.path(), &config).unwrap();
        forwards.add(forward("printer", 2)).unwrap();
        forwards.add(forward("plug", 3)).unwrap();
        forwards.remove("Printer").unwrap();
        let list = forwards.list();
        let places: Vec<_> = list.iter().map(|placed| (placed.forward.name.as_str(), placed.slot)).collect();
        assert_eq!(places, [("Camera", 0), ("plug", 2)]);
        let mut again = Forwards::open(folder.path(), &config).unwrap();
        assert_eq!(again.list(), list);
        again.add(forward("printer", 4)).unwrap();
        assert_eq!(again.list()[1].slot, 1, "the place it had");
    }

    #[test]
    fn the_configuration_s_devices_and_full_blocks_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config: Vec<Forward> = (0..MAX_DEVICES - 1).map(|n| forward(&format!("d{n}"), n)).collect();
        let mut forwards = Forwards::open(folder.path(), &config).unwrap();
        assert!(forwards.remove("d0").unwrap_err().to_string().contains("configuration"));
        assert!(forwards.remove("x").unwrap_err().to_string().contains("no device"));
        assert!(forwards.add(forward("D0", 99)).unwrap_err().to_string().contains("already"));
        forwards.add(forward("last", 100)).unwrap();
        assert!(forwards.add(forward("more", 101)).unwrap_err().to_string().contains("no room"));
        forwards.remove("last").unwrap();
        forwards.add(forward("more", 101)).unwrap();
        assert_eq!(forwards.list().len(), usize::from(MAX_DEVICES));
    }

    #[test]
    fn what_no_device_can_be_is_refused() {
        for target in ["0.0.0.0", "127.0.0.1", "::1", "224.0.0.1", "ff02::1", "fe80::1", "::"] {
            assert!(check_target(target.parse().unwrap()).is_err(), "{target}");
        }
        assert_eq!(check_target("192.168.7.2".parse().unwrap()), Ok(()));
        for name in ["", " x", "a\nb", &"n".repeat(64)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert_eq!(check_name("Büro printer"), Ok(()));
    }
}
