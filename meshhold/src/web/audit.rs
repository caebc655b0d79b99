//! Who did what through the control API: logins, refusals and changes.
//!
//! Owns the file `audit.log` in the data folder, a JSON line an entry, and its size. Holds no secret. Must not know what
//! actions mean.

use serde::Serialize;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use utoipa::ToSchema;

/// A larger file becomes `audit.log.1` (bytes).
const MAX_BYTES: u64 = 1 << 20;
/// Entries that are kept to be shown.
const SHOWN: usize = 200;

/// Something that somebody did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Entry {
    /// When (Unix seconds).
    pub(crate) at: u64,
    /// From where: an IP address, or `socket`.
    pub(crate) source: String,
    /// Who: a session, a token, a user id; `-` where nobody was known.
    pub(crate) who: String,
    /// What: method and path, or `login`.
    pub(crate) action: String,
    /// `ok`, or the HTTP status.
    pub(crate) outcome: String,
}

/// The log.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
    file: Option<(File, u64)>,
    recent: VecDeque<Entry>,
}

impl Audit {
    /// Opens the log of `data_dir`; it is written as soon as there is something to write.
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join("audit.log"), file: None, recent: VecDeque::new() }
    }

    /// Writes an entry down.
    pub(crate) fn note(&mut self, source: &str, who: &str, action: &str, outcome: &str) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let [source, who, action, outcome] = [source, who, action, outcome].map(str::to_owned);
        let entry = Entry { at, source, who, action, outcome };
        tracing::info!(source = entry.source, who = entry.who, outcome = entry.outcome, "{}", entry.action);
        if let Err(error) = self.write(&entry) {
            tracing::warn!("can't write {}: {error}", self.path.display());
            self.file = None;
        }
        if self.recent.len() == SHOWN {
            self.recent.pop_back();
        }
        self.recent.push_front(entry);
    }

    /// The last entries since the start, newest first.
    pub(crate) fn recent(&self) -> Vec<Entry> {
        self.recent.iter().cloned().collect()
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if self.file.as_ref().is_some_and(|(_, size)| *size > MAX_BYTES) {
            self.file = None;
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
        }
        let (file, size) = match &mut self.file {
            Some(open) => open,
            closed => closed.insert(open(&self.path)?),
        };
        file.write_all(&line)?;
        *size += line.len() as u64;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_kept_and_the_file_stays_small() {
        let folder = tempfile::tempdir().unwrap();
        let mut audit = Audit::new(folder.path());
        for n in 0..=SHOWN {
            audit.note("127.0.0.1", "-", &format!("login {n}"), "401");
        }
        let recent = audit.recent();
        assert_eq!((recent.len(), recent[0].action.as_str()), (SHOWN, "login 200"));
        let path = folder.path().join("audit.log");
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), SHOWN + 1);
        let long = "x".repeat(MAX_BYTES as usize);
        audit.note("127.0.0.1", "-", &long, "ok");
        audit.note("127.0.0.1", "-", "after", "ok");
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        assert!(folder.path().join("audit.log.1").exists());
    }
}
