//! The management keys on disk: `keys.json` in the data folder.
//!
//! A damaged file is reported and never overwritten. Writers exclude each other by a lock and read the
//! file again under it, so the daemon and the command line can't undo each other's changes.
//! Must not know what the operations mean.

use super::keys::{Capability, ManagementKey};
use super::private::{self, PrivateError};
use super::secret::{SecretText, hex, parse_hex};
use meshhold_core::key::{MeshKey, NetworkKeys};
use meshhold_core::scope::Scope;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use zeroize::Zeroizing;

/// Version of the file's shape.
const VERSION: u32 = 1;

/// Why the store couldn't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file or its folder.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// The content makes no sense. Names no secret.
    #[error(
        "{path}{place}: the key store is damaged: {what}; restore it from a backup, or move it away to start without keys",
        path = .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// `:line:column` where known.
        place: String,
        /// What is wrong.
        what: String,
    },
}

/// All keys of this node, as last read or written.
#[derive(Debug)]
pub struct KeyStore {
    folder: PathBuf,
    keys: Vec<ManagementKey>,
}

impl KeyStore {
    /// Reads the store in the data folder `folder`; an absent one is empty.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        Ok(Self { folder: folder.to_owned(), keys: read(folder)? })
    }

    /// The keys, in the order in which they were added.
    pub fn keys(&self) -> &[ManagementKey] {
        &self.keys
    }

    /// Reads the file again.
    pub fn reload(&mut self) -> Result<(), StoreError> {
        self.keys = read(&self.folder)?;
        Ok(())
    }

    /// Applies `change` to the newest content; durable when it returns, untouched when `change` or the write fails.
    pub fn update<T, E: From<StoreError>>(
        &mut self,
        change: impl FnOnce(&mut Vec<ManagementKey>) -> Result<T, E>,
    ) -> Result<T, E> {
        let _lock = self.lock()?;
        let mut keys = read(&self.folder)?;
        let result = change(&mut keys)?;
        write(&self.folder, &keys)?;
        self.keys = keys;
        Ok(result)
    }

    fn lock(&self) -> Result<std::fs::File, StoreError> {
        private::folder(&self.folder)?;
        Ok(private::lock(&self.folder)?)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredFile<K> {
    version: u32,
    keys: Vec<K>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    id: String,
    name: String,
    caps: Vec<Capability>,
    allow: Scope,
    expires: Option<u64>,
    key: SecretText,
    owner_secret: Option<SecretText>,
}

fn path(folder: &Path) -> PathBuf {
    folder.join("keys.json")
}

fn read(folder: &Path) -> Result<Vec<ManagementKey>, StoreError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    private::folder(folder)?;
    let path = path(folder);
    let Some(content) = private::read(&path)? else { return Ok(Vec::new()) };
    let stored: StoredFile<StoredKey> =
        serde_json::from_slice(&content).map_err(|error| describe(&path, &error))?;
    if stored.version != VERSION {
        let what = format!("it has version {} and this program knows {VERSION}", stored.version);
        return Err(StoreError::Damaged { path, place: String::new(), what });
    }
    let mut keys: Vec<ManagementKey> = Vec::with_capacity(stored.keys.len());
    for (index, stored) in stored.keys.into_iter().enumerate() {
        let key = load(stored, &keys).map_err(|what| {
            let what = format!("key {}: {what}", index + 1);
            StoreError::Damaged { path: path.clone(), place: String::new(), what }
        })?;
        keys.push(key);
    }
    Ok(keys)
}

/// The parser's own words may quote a secret: only the place and the kind are passed on.
fn describe(path: &Path, error: &serde_json::Error) -> StoreError {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "it ends early",
        serde_json::error::Category::Data => "a field is missing, unknown or of the wrong kind",
        _ => "it isn't JSON here",
    };
    let place = format!(":{}:{}", error.line(), error.column());
    StoreError::Damaged { path: path.to_owned(), place, what: what.to_owned() }
}

fn load(stored: StoredKey, others: &[ManagementKey]) -> Result<ManagementKey, String> {
    let key = MeshKey::from_str(stored.key.reveal()).map_err(|e| e.to_string())?;
    let network = NetworkKeys::derive(&key).id;
    if stored.id.is_empty() || others.iter().any(|other| other.id == stored.id || other.network == network) {
        return Err("its id or its network is there twice, or the id is empty".to_owned());
    }
    let owner_secret = stored.owner_secret.as_ref().map(|text| parse_hex(text.reveal())).transpose()?;
    let StoredKey { id, name, caps, allow, expires, .. } = stored;
    Ok(ManagementKey { id, name, caps, allow, expires, key, network, owner_secret })
}

fn write(folder: &Path, keys: &[ManagementKey]) -> Result<(), StoreError> {
    let path = path(folder);
    let stored = StoredFile { version: VERSION, keys: keys.iter().map(store).collect() };
    // Roomy from the start, so that growing leaves no copy of a secret behind.
    let mut content = Zeroizing::new(Vec::with_capacity(4096 * (1 + keys.len())));
    serde_json::to_writer_pretty(&mut *content, &stored).map_err(|error| describe(&path, &error))?;
    content.push(b'\n');
    Ok(private::write(&path, &content)?)
}

fn store(key: &ManagementKey) -> StoredKey {
    StoredKey {
        id: key.id.clone(),
        name: key.name.clone(),
        caps: key.caps.clone(),
        allow: key.allow.clone(),
        expires: key.expires,
        key: SecretText::new(key.key.to_string_secret()),
        owner_secret: key.owner_secret.as_ref().map(|secret| SecretText::new(hex(&secret.0))),
    }
}
