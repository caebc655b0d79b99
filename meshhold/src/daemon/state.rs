//! What the daemon remembers over restarts: memberships, caller numbers, envelopes and link addresses.
//!
//! Owns the file `state.json` in the data folder. Must not know what the parts mean.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use meshhold_core::membership::MembershipState;
use serde::{Deserialize, Serialize};

use super::callers::Callers;
use crate::config::private;
use crate::link::Snapshot;

/// The file's content.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    /// By network id (hex): our claim and the records of the others.
    pub(super) networks: BTreeMap<String, MembershipState>,
    /// Who has which caller addresses.
    pub(super) callers: Callers,
    /// What the links remember: envelopes and addresses.
    pub(super) links: Snapshot,
}

/// Where the state is kept, and what was written last.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    written: Vec<u8>,
}

impl StateFile {
    /// Reads the state of `data_dir`. A damaged file is set aside, never overwritten: the addresses are
    /// derived again and the peers are found again.
    pub(super) fn open(data_dir: &Path) -> anyhow::Result<(Self, State)> {
        let path = data_dir.join("state.json");
        let written = private::read(&path)?.map(|bytes| bytes.to_vec()).unwrap_or_default();
        if written.is_empty() {
            return Ok((Self { path, written }, State::default()));
        }
        let state = serde_json::from_slice(&written).or_else(|error| set_aside(&path, &error))?;
        Ok((Self { path, written }, state))
    }

    /// Writes `state` if it differs from what the file holds.
    pub(super) fn save(&mut self, state: &State) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec(state).context("cannot encode the state")?;
        if bytes == self.written {
            return Ok(());
        }
        private::write(&self.path, &bytes)?;
        self.written = bytes;
        Ok(())
    }
}

fn set_aside(path: &Path, error: &serde_json::Error) -> anyhow::Result<State> {
    let aside = path.with_extension("json.damaged");
    tracing::warn!("{} is damaged ({error}); moved to {}, starting afresh", path.display(), aside.display());
    std::fs::rename(path, &aside).with_context(|| format!("cannot move {} aside", path.display()))?;
    Ok(State::default())
}
