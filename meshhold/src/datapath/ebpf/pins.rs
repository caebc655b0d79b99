//! The folder of pins on the BPF file system: made private, cleared of what no longer fits, removed at a clean exit.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use aya::{
    maps::MapInfo,
    programs::{SchedClassifier, links::FdLink},
};
use meshhold_common::{
    Address, Reason,
    maps::{
        Barred, BarrierHint, CallerEntry, CallerKey, Counter, EVENT_BYTES, Epoch, FLOW_RATES, Flow, FlowKey,
        FlowRate, Fragment, FragmentKey, Generation, MAX_FLOWS, MAX_FRAGMENTS, MAX_NETWORKS, MAX_PEERS,
        OPENED_SLOTS, Opened, Own, PeerEntry, PortBits, Range, Steering, Tokens,
    },
    nat::{DeviceEntry, Inward, LanEntry, MAX_DEVICES, MAX_TRANSLATIONS, Outward},
};

use super::EbpfError;

/// Name, key size, value size and entries of a map, as this daemon's programs expect them.
type Layout = (&'static str, usize, usize, u32);

const REASONS: u32 = Reason::COUNT as u32;
const INDEX: usize = size_of::<u32>();

/// A flow without the mark of its port would not be found, a translation works in both directions or not at all: none is
/// kept without the other.
const TOGETHER: [[&str; 2]; 2] = [["FLOWS", "OPENED"], ["NAT_OUT", "NAT_IN"]];

const LAYOUTS: [Layout; 23] = [
    ("OWN", size_of::<Address>(), size_of::<Own>(), 2 * MAX_NETWORKS),
    ("RANGES", INDEX + size_of::<Address>(), size_of::<Range>(), 4 * MAX_NETWORKS),
    ("BARRIER", INDEX + size_of::<Address>(), size_of::<Barred>(), 4 * MAX_NETWORKS),
    ("BARRIER_HINT", INDEX, size_of::<BarrierHint>(), 1),
    ("PEERS", size_of::<Address>(), size_of::<PeerEntry>(), 2 * MAX_PEERS),
    ("CALLERS", size_of::<CallerKey>(), size_of::<CallerEntry>(), 2 * MAX_PEERS),
    ("PORTS", INDEX, size_of::<PortBits>(), 4 * MAX_NETWORKS),
    ("GENERATIONS", INDEX, size_of::<Generation>(), MAX_NETWORKS),
    ("EPOCH", INDEX, size_of::<Epoch>(), 1),
    ("FLOWS", size_of::<FlowKey>(), size_of::<Flow>(), MAX_FLOWS),
    ("OPENED", INDEX, size_of::<Opened>(), OPENED_SLOTS),
    ("FRAGMENTS", size_of::<FragmentKey>(), size_of::<Fragment>(), MAX_FRAGMENTS),
    ("COUNTERS", INDEX, size_of::<Counter>(), REASONS + 1),
    ("TOKENS", INDEX, size_of::<Tokens>(), REASONS),
    ("RATES", INDEX, size_of::<FlowRate>(), FLOW_RATES),
    ("WORKERS", INDEX, size_of::<Steering>(), 1),
    ("PROMOTED", INDEX, size_of::<u64>(), 1),
    ("EVENTS", 0, 0, EVENT_BYTES),
    ("DEVICES", size_of::<Address>(), size_of::<DeviceEntry>(), MAX_DEVICES),
    ("LANS", INDEX, size_of::<LanEntry>(), MAX_DEVICES),
    ("NAT_OUT", size_of::<FlowKey>(), size_of::<Outward>(), MAX_TRANSLATIONS),
    ("NAT_IN", size_of::<FlowKey>(), size_of::<Inward>(), MAX_TRANSLATIONS),
    ("NAT_PIECES", size_of::<FragmentKey>(), size_of::<Inward>(), MAX_FRAGMENTS),
];

/// The folder.
pub(super) struct PinRoot(PathBuf);

impl PinRoot {
    /// Makes the folder and those above it where they are missing, for the owner only.
    pub(super) fn create(path: &Path) -> Result<Self, EbpfError> {
        let failed = |source| EbpfError::PinRoot { path: path.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        Ok(Self(path.to_owned()))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Where each map is pinned, after pins of another layout have been removed: such a map is made anew.
    pub(super) fn map_paths(&self) -> Result<Vec<(&'static str, PathBuf)>, EbpfError> {
        let mut paths = Vec::with_capacity(LAYOUTS.len());
        for layout in &LAYOUTS {
            let path = self.path(layout.0);
            if path.exists() && !fits(&path, layout) {
                self.remove(layout.0)?;
            }
            paths.push((layout.0, path));
        }
        for pair in TOGETHER {
            if pair.iter().any(|name| !self.path(name).exists()) {
                pair.iter().try_for_each(|name| self.remove(name))?;
            }
        }
        Ok(paths)
    }

    /// Pins a link in the place of an older one, which ends with that.
    pub(super) fn pin_link(&self, link: FdLink, name: &str) -> Result<(), EbpfError> {
        let fresh = self.path(&format!("{name}_new"));
        let path = self.path(name);
        self.remove(&format!("{name}_new"))?;
        link.pin(&fresh).map_err(|source| EbpfError::Pin { path: fresh.clone(), source })?;
        fs::rename(&fresh, &path).map_err(|source| EbpfError::PinRoot { path, source })
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), EbpfError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(EbpfError::PinRoot { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Pins a program in the place of an older one.
    pub(super) fn pin_program(&self, program: &mut SchedClassifier, name: &str) -> Result<(), EbpfError> {
        let fresh = self.path(&format!("{name}_new"));
        let path = self.path(name);
        self.remove(&format!("{name}_new"))?;
        program.pin(&fresh).map_err(|source| EbpfError::Pin { path: fresh.clone(), source })?;
        fs::rename(&fresh, &path).map_err(|source| EbpfError::PinRoot { path, source })
    }

    /// Names of the pins that start so.
    pub(super) fn names(&self, start: &str) -> Result<Vec<String>, EbpfError> {
        let failed = |source| EbpfError::PinRoot { path: self.0.clone(), source };
        let entries =
            fs::read_dir(&self.0).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let names = entries.iter().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter(|name| name.starts_with(start)).collect())
    }

    /// Removes all pins and the folder.
    pub(super) fn remove_all(self) -> Result<(), EbpfError> {
        self.names("")?.iter().try_for_each(|name| self.remove(name))?;
        fs::remove_dir(&self.0).map_err(|source| EbpfError::PinRoot { path: self.0.clone(), source })
    }
}

fn fits(path: &Path, (_, key, value, entries): &Layout) -> bool {
    MapInfo::from_pin(path).is_ok_and(|info| {
        (info.key_size() as usize, info.value_size() as usize, info.max_entries()) == (*key, *value, *entries)
    })
}
