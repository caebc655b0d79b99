//! What the daemon remembers over restarts: memberships, caller numbers, envelopes and link addresses.
//!
//! Owns the file `state.json` in the data folder. Must not know what the parts mean.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use meshhold_core::membership::MembershipState;
use serde::{Deserialize, Serialize};

use super::callers::Callers;
use super::place::View;
use super::resume::LiveCircuit;
use crate::config::private::{self, PrivateError};
use crate::link::Snapshot;
use crate::platform::linux::memory;

/// How often the log says again that nothing can be written.
const REPEATED: Duration = Duration::from_secs(3600);

/// The file's content.
#[derive(Debug, Default, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State<'a> {
    /// By network id (hex): our claim and the records of the others.
    pub(super) networks: BTreeMap<String, MembershipState>,
    /// By network id (hex): where this host sees its range, if not where members do.
    pub(super) views: BTreeMap<String, View>,
    /// Who has which caller addresses.
    pub(super) callers: Cow<'a, Callers>,
    /// Circuits that there were lately: set up again at once.
    pub(super) circuits: Vec<LiveCircuit>,
    /// The time told in handshakes is before this (Unix seconds).
    pub(super) told_before: u64,
    /// What the links remember: envelopes and addresses.
    pub(super) links: Snapshot,
}

/// Where networks were shown on this host, by id; nothing where that can't be read.
pub(super) fn views(data_dir: &Path) -> BTreeMap<String, View> {
    let content = private::read(&data_dir.join("state.json")).ok().flatten();
    let state = content.and_then(|content| serde_json::from_slice::<State>(&content).ok());
    state.map(|state| state.views).unwrap_or_default()
}

/// Where the state is kept, and a digest of what the file holds: with thousands of peers the content itself would be
/// most of the daemon's memory.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    written: Option<u64>,
    trouble: Option<Trouble>,
}

/// Why the file can't be written, and when the log last said so.
#[derive(Debug)]
struct Trouble {
    text: String,
    logged: Instant,
}

impl StateFile {
    /// Reads the state of `data_dir`. A damaged file is set aside, never overwritten: the addresses are
    /// derived again and the peers are found again.
    pub(super) fn open(data_dir: &Path) -> anyhow::Result<(Self, State<'static>)> {
        let path = data_dir.join("state.json");
        let content = private::read(&path)?.filter(|content| !content.is_empty());
        let Some(content) = content else {
            return Ok((Self { path, written: None, trouble: None }, State::default()));
        };
        match serde_json::from_slice::<State>(&content) {
            Ok(state) => Ok((Self { path, written: Some(digest(&state)), trouble: None }, state)),
            Err(error) => {
                set_aside(&path, &error)?;
                Ok((Self { path, written: None, trouble: None }, State::default()))
            }
        }
    }

    /// Writes `state` if it differs from what the file holds. Where that fails the log says so, once an hour at most.
    pub(super) fn keep(&mut self, state: &State<'_>) {
        let Err(error) = self.save(state) else {
            if self.trouble.take().is_some() {
                tracing::info!("{} is written again", self.path.display());
            }
            return;
        };
        let text = format!("what this node learns is forgotten at a restart: {error}; {}", remedy(&error));
        let logged = self.trouble.as_ref().map(|trouble| trouble.logged);
        let logged = logged.filter(|logged| logged.elapsed() < REPEATED).unwrap_or_else(|| {
            tracing::warn!("{text}");
            Instant::now()
        });
        self.trouble = Some(Trouble { text, logged });
    }

    /// A sentence while the file can't be written.
    pub(super) fn warning(&self) -> Option<String> {
        self.trouble.as_ref().map(|trouble| trouble.text.clone())
    }

    /// As [`StateFile::keep`], and tells what failed.
    fn save(&mut self, state: &State<'_>) -> anyhow::Result<()> {
        let digest = Some(digest(state));
        if digest == self.written {
            return Ok(());
        }
        private::write_with(&self.path, |file| {
            let mut file = BufWriter::new(file);
            serde_json::to_writer(&mut file, state)?;
            file.flush()
        })?;
        self.written = digest;
        // What brought the news, thousands of records at a start, was larger than what is kept of it.
        memory::return_holes();
        Ok(())
    }
}

fn remedy(error: &anyhow::Error) -> &'static str {
    match error.downcast_ref().and_then(PrivateError::code) {
        Some(libc::ENOSPC | libc::EDQUOT) => "free space on that disk",
        Some(libc::EROFS) => "mount it writable",
        _ => "give the daemon's user that folder, mode 0700",
    }
}

fn digest(state: &State<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

fn set_aside(path: &Path, error: &serde_json::Error) -> anyhow::Result<()> {
    let aside = path.with_extension("json.damaged");
    tracing::warn!("{} is damaged ({error}); moved to {}, starting afresh", path.display(), aside.display());
    std::fs::rename(path, &aside).with_context(|| format!("cannot move {} aside", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(attempt: u32) -> State<'static> {
        let claim = MembershipState { attempt, ..MembershipState::default() };
        State { networks: BTreeMap::from([("07".to_owned(), claim)]), ..State::default() }
    }

    #[test]
    fn only_what_changed_is_written_and_a_restart_knows_what_the_file_holds() {
        let folder = tempfile::tempdir().unwrap();
        let (mut file, empty) = StateFile::open(folder.path()).unwrap();
        assert!(empty.networks.is_empty());
        file.save(&state(1)).unwrap();
        let (mut file, found) = StateFile::open(folder.path()).unwrap();
        assert_eq!(found.networks, state(1).networks);
        std::fs::remove_file(&file.path).unwrap();
        file.save(&state(1)).unwrap();
        assert!(!file.path.exists(), "nothing has changed");
        file.save(&state(2)).unwrap();
        assert!(file.path.exists());
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        private::write(&folder.path().join("state.json"), b"{\"networks\": 1}").unwrap();
        let (_, state) = StateFile::open(folder.path()).unwrap();
        assert!(state.networks.is_empty());
        assert!(folder.path().join("state.json.damaged").exists());
    }
}
