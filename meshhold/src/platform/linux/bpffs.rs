//! The private directory in which an interface's programs and maps are pinned.
//!
//! Owns mount, path and modes. Must not know what is pinned in it: the loader replaces leftovers of a
//! killed daemon, and a daemon that finishes cleanly unpins and calls [`remove`].

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::sys;

/// Where the BPF file system is mounted by convention.
pub const MOUNT_POINT: &str = "/sys/fs/bpf";
/// Version of the pinned layout: a daemon with other map types uses another directory.
const LAYOUT: &str = "v1";

/// Why there is no directory for pins. The data path then works without eBPF.
#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    /// No BPF file system, and mounting one failed.
    #[error(
        "no BPF file system at {MOUNT_POINT} and mounting it failed ({0}): as root, `mount -t bpf bpf {MOUNT_POINT}` (systemd does so at boot)"
    )]
    Mount(io::Error),
    /// A directory on the way belongs to somebody else.
    #[error(
        "{path} is not a directory of user {expected} (owner {owner}): remove it, pins there can't be trusted"
    )]
    Foreign {
        /// The path.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// Our user id.
        expected: u32,
    },
    /// Anything else, with the path.
    #[error("prepare {path} for pins: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Mounts the file system if need be and makes the interface's private directory (0700), which it returns.
pub fn prepare(interface: &str) -> Result<PathBuf, BpffsError> {
    let mount_point = Path::new(MOUNT_POINT);
    if !sys::is_bpffs(mount_point).unwrap_or(false) {
        sys::mount_bpffs(mount_point).map_err(BpffsError::Mount)?;
    }
    let path = directory(interface);
    for level in levels(&path) {
        make_private(level)?;
    }
    Ok(path)
}

/// The directory of an interface: `/sys/fs/bpf/meshhold/<interface>/v1`, in another network namespace than
/// the host's `<interface>@<inode of the namespace>`, since namespaces may share the file system.
pub fn directory(interface: &str) -> PathBuf {
    let name = match foreign_namespace() {
        Some(inode) => format!("{interface}@{inode}"),
        None => interface.to_owned(),
    };
    [MOUNT_POINT, "meshhold", &name, LAYOUT].iter().collect()
}

/// Removes all pins of an interface. Programs end with their pins where nothing else holds them.
pub fn discard(interface: &str) {
    let entries = fs::read_dir(directory(interface)).into_iter().flatten().flatten();
    let mut pins: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    // Links first: a program must not run on while its tables change hands.
    pins.sort_by_key(|pin| !is_link(pin));
    pins.iter().for_each(|pin| unpin(pin));
    remove(interface);
}

fn is_link(pin: &Path) -> bool {
    pin.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"link_"))
}

fn unpin(pin: &Path) {
    if let Err(error) = fs::remove_file(pin)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("a former daemon's pin stays: {}: {error}", pin.display());
    }
}

/// Names of the interfaces of this network namespace that have pins.
pub fn interfaces() -> Vec<String> {
    let entries = fs::read_dir(Path::new(MOUNT_POINT).join("meshhold")).into_iter().flatten().flatten();
    let own = foreign_namespace().map(|inode| format!("@{inode}"));
    let name = |folder: String| match &own {
        Some(mark) => folder.strip_suffix(mark).map(str::to_owned),
        None => Some(folder).filter(|folder| !folder.contains('@')),
    };
    entries.filter_map(|entry| name(entry.file_name().into_string().ok()?)).collect()
}

/// Removes the interface's directories, as far as they are empty.
pub fn remove(interface: &str) {
    let path = directory(interface);
    for level in levels(&path).into_iter().rev() {
        // The maps' owner has already removed the innermost one.
        if let Err(error) = fs::remove_dir(level)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(path = %level.display(), %error, "pin directory stays");
            return;
        }
    }
}

/// Inode of the process's network namespace when it isn't the host's initial one.
///
/// The initial one is known by a setting that exists only there: comparing with process 1 needs
/// `CAP_SYS_PTRACE`, and inside a container process 1 is the container's.
fn foreign_namespace() -> Option<u64> {
    if Path::new("/proc/sys/net/core/netdev_max_backlog").exists() {
        return None;
    }
    // Without /proc no namespace can be told from another; 0 keeps clear of the host's name at least.
    Some(fs::metadata("/proc/self/ns/net").map_or(0, |metadata| metadata.ino()))
}

/// `meshhold`, `meshhold/<interface>`, `meshhold/<interface>/v1`, in this order.
fn levels(path: &Path) -> Vec<&Path> {
    let mut levels: Vec<&Path> = path.ancestors().take(3).collect();
    levels.reverse();
    levels
}

fn make_private(path: &Path) -> Result<(), BpffsError> {
    let failed = |source| BpffsError::Io { path: path.to_owned(), source };
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    let expected = sys::effective_uid();
    if !metadata.is_dir() || metadata.uid() != expected {
        return Err(BpffsError::Foreign { path: path.to_owned(), owner: metadata.uid(), expected });
    }
    if metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    tracing::warn!(path = %path.display(), "pin directory was open to other users; closing it");
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)
}
