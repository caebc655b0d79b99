//! Files that hold secrets: 0600 in a 0700 folder, replaced atomically, never half written.
//!
//! Must not know what the files mean.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Larger files are none of ours (bytes). A node that knows 10,000 peers remembers less than a tenth of it.
const MAX_BYTES: u64 = 64 << 20;

/// Why a private file couldn't be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// Others can get at it.
    #[error("{path}: other users can get at it (mode {mode:04o}); run `chmod {wanted:o} {path}`", path = .path.display())]
    Loose {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// It isn't a regular file, not a folder, or too large.
    #[error("{path}: {what}; move it away", path = .path.display())]
    Foreign {
        /// The file or folder.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The system refused.
    #[error("{path}: {action}: {source}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl PrivateError {
    /// What the system said.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Makes the folder (mode 0700) or checks that an existing one is closed to others.
pub fn folder(path: &Path) -> Result<(), PrivateError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| io_error(path, "can't create the folder", e))?;
    let meta = std::fs::metadata(path).map_err(|e| io_error(path, "can't look at the folder", e))?;
    if !meta.is_dir() {
        return Err(PrivateError::Foreign { path: path.to_owned(), what: "this isn't a folder" });
    }
    closed(path, &meta.permissions(), 0o700)
}

/// Reads a file that only its owner may read; `None` when there is none.
pub fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, PrivateError> {
    // O_NONBLOCK: a FIFO in the file's place must not hang the start.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(path, "can't read it", error)),
    };
    let meta = file.metadata().map_err(|e| io_error(path, "can't look at it", e))?;
    if !meta.is_file() {
        return Err(PrivateError::Foreign { path: path.to_owned(), what: "this isn't a regular file" });
    }
    if meta.len() > MAX_BYTES {
        return Err(PrivateError::Foreign { path: path.to_owned(), what: "this file is far too large" });
    }
    closed(path, &meta.permissions(), 0o600)?;
    // Reserved whole, so that growing leaves no copy of a secret behind.
    let mut content = Zeroizing::new(Vec::with_capacity(meta.len() as usize + 1));
    file.read_to_end(&mut content).map_err(|e| io_error(path, "can't read it", e))?;
    Ok(Some(content))
}

/// Replaces the file (mode 0600): survives a power loss at any point with the old or the new content.
///
/// The caller keeps other writers away. The file gets its folder's owner, so that root may write for the daemon.
pub fn write(path: &Path, content: &[u8]) -> Result<(), PrivateError> {
    write_with(path, |file| file.write_all(content))
}

/// As [`write()`], with content that is made on the way: it never stands in memory as a whole.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), PrivateError> {
    let fail = |action| move |e| io_error(path, action, e);
    let folder = path.parent().unwrap_or(Path::new("/"));
    let temporary = path.with_extension("tmp");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(fail("can't remove an old temporary file")(error));
        }
        _ => {}
    }
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
    let mut file = created.map_err(fail("can't write beside it"))?;
    adopt(&file, folder).map_err(fail("can't give it to its folder's owner"))?;
    fill(&mut file).and_then(|()| file.sync_all()).map_err(fail("can't write it"))?;
    std::fs::rename(&temporary, path).map_err(fail("can't replace it"))?;
    File::open(folder).and_then(|dir| dir.sync_all()).map_err(fail("can't make it durable"))
}

/// Waits for the folder's lock, which is held until the returned file is dropped.
pub fn lock(folder: &Path) -> Result<File, PrivateError> {
    let path = folder.join("lock");
    let fail = |action| {
        let path = path.clone();
        move |e| io_error(&path, action, e)
    };
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = opened.map_err(fail("can't open the lock"))?;
    adopt(&file, folder).map_err(fail("can't give it to its folder's owner"))?;
    file.lock().map_err(fail("can't take the lock"))?;
    Ok(file)
}

fn adopt(file: &File, folder: &Path) -> io::Result<()> {
    let (folder, own) = (std::fs::metadata(folder)?, file.metadata()?);
    if folder.uid() == own.uid() {
        return Ok(());
    }
    fchown(file, Some(folder.uid()), Some(folder.gid()))
}

fn closed(path: &Path, permissions: &Permissions, wanted: u32) -> Result<(), PrivateError> {
    let mode = permissions.mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(PrivateError::Loose { path: path.to_owned(), mode, wanted })
}

fn io_error(path: &Path, action: &'static str, source: io::Error) -> PrivateError {
    PrivateError::Io { path: path.to_owned(), action, source }
}
