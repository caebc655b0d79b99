//! Management keys and the operations on them.
//!
//! Owns the one implementation of `mgmt-keys`: the daemon runs it on a request, the command line runs it
//! where no daemon answers. Replies never carry a secret. Must not know sockets or terminals.

use super::secret::{SecretText, hex, parse_hex};
use super::store::{KeyStore, StoreError};
use meshhold_core::key::{MeshKey, NetworkId, NetworkKeys};
use meshhold_core::scope::Scope;
use meshhold_core::session::Secret;
use rand_core::{OsRng, RngCore};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a management key permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// Membership in the network that the key defines.
    MeshRoute,
    /// Change this node.
    Admin,
    /// See this node.
    View,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MeshRoute => "mesh-route",
            Self::Admin => "admin",
            Self::View => "view",
        })
    }
}

/// A credential of this node. Holding it is membership in its network.
#[derive(Debug)]
pub struct ManagementKey {
    /// Own id, hex; local to this node.
    pub id: String,
    /// Display name.
    pub name: String,
    /// What it permits; always holds [`Capability::MeshRoute`].
    pub caps: Vec<Capability>,
    /// Ports that this node opens to the network.
    pub allow: Scope,
    /// When it ends (Unix seconds); never if absent.
    pub expires: Option<u64>,
    /// The network's key.
    pub key: MeshKey,
    /// Id of the network that `key` defines.
    pub network: NetworkId,
    /// Private half of the key's owner, on the node that minted it.
    pub owner_secret: Option<Secret>,
}

impl ManagementKey {
    /// Whether it is valid at `now` (Unix seconds).
    pub fn is_active(&self, now: u64) -> bool {
        self.expires.is_none_or(|end| now < end)
    }

    /// What may be shown of it.
    pub fn entry(&self) -> KeyEntry {
        KeyEntry {
            id: self.id.clone(),
            name: self.name.clone(),
            caps: self.caps.clone(),
            allow: self.allow.clone(),
            expires: self.expires,
            network: self.network.to_string(),
        }
    }

    fn details(&self) -> KeyDetails {
        let (range, minted_here) = (self.key.range.to_string(), self.owner_secret.is_some());
        KeyDetails { entry: self.entry(), range, minted_here }
    }
}

/// An operation on the key store. Ids may be shortened to a unique prefix.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyRequest {
    /// Join the network of a key.
    Add(NewKey),
    /// All keys.
    List,
    /// One key.
    Show {
        /// Id or prefix.
        id: String,
    },
    /// Replace the scope or the name.
    Edit {
        /// Id or prefix.
        id: String,
        /// The new scope, if it changes.
        allow: Option<Scope>,
        /// The new name, if it changes.
        name: Option<String>,
    },
    /// Leave the network and forget the key.
    Remove {
        /// Id or prefix.
        id: String,
    },
}

/// A key to be stored.
#[derive(Debug, Serialize, Deserialize)]
pub struct NewKey {
    /// Display name.
    pub name: String,
    /// What it permits.
    pub caps: Vec<Capability>,
    /// Ports to open.
    pub allow: Scope,
    /// When it ends (Unix seconds).
    pub expires: Option<u64>,
    /// The `meshkey1…` string.
    pub key: SecretText,
    /// Hex of the owner's private half, when it was minted here.
    pub owner_secret: Option<SecretText>,
}

/// What an operation answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyReply {
    /// To [`KeyRequest::List`].
    Keys(Vec<KeyEntry>),
    /// To all others: the key as it is now, or was before it was removed.
    Key(Box<KeyDetails>),
}

/// One key in `mgmt-keys list --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyEntry {
    /// Own id, hex.
    pub id: String,
    /// Display name.
    pub name: String,
    /// What it permits.
    pub caps: Vec<Capability>,
    /// Open ports; empty denies everything.
    pub allow: Scope,
    /// When it ends (Unix seconds); null is never.
    pub expires: Option<u64>,
    /// Id of its network, hex.
    pub network: String,
}

/// One key in `mgmt-keys show --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyDetails {
    /// What `list` shows.
    #[serde(flatten)]
    pub entry: KeyEntry,
    /// The network's IPv4 range, `base/prefix`.
    pub range: String,
    /// Whether this node minted the key.
    pub minted_here: bool,
}

/// Why an operation was refused.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No such key.
    #[error("no key has an id that starts with '{0}'; `meshhold mgmt-keys list` shows them")]
    NotFound(String),
    /// More than one such key.
    #[error("'{0}' fits several keys ({1}); write more of the id")]
    Ambiguous(String, String),
    /// The network is joined already.
    #[error("this key is here already as {id} '{name}'; change it with `meshhold mgmt-keys edit {id}`")]
    Known {
        /// The existing key's id.
        id: String,
        /// The existing key's name.
        name: String,
    },
    /// A value is no good.
    #[error("{0}")]
    Invalid(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Runs one operation. Changes are durable when it returns.
pub fn execute(store: &mut KeyStore, request: KeyRequest) -> Result<KeyReply, KeyError> {
    match request {
        KeyRequest::Add(new) => add(store, new),
        KeyRequest::List => Ok(KeyReply::Keys(store.keys().iter().map(ManagementKey::entry).collect())),
        KeyRequest::Show { id } => {
            store.keys().get(find(store.keys(), &id)?).map_or(Err(KeyError::NotFound(id)), reply)
        }
        KeyRequest::Edit { id, allow, name } => edit(store, &id, allow, name),
        KeyRequest::Remove { id } => store.update(|keys| {
            let index = find(keys, &id)?;
            reply(&keys.remove(index))
        }),
    }
}

/// Index of the key whose id is `prefix`, or starts with it as the only one.
pub fn find(keys: &[ManagementKey], prefix: &str) -> Result<usize, KeyError> {
    let fits = |key: &ManagementKey| !prefix.is_empty() && key.id.starts_with(prefix);
    let mut found = keys.iter().enumerate().filter(|(_, key)| fits(key)).map(|(index, _)| index);
    match (found.next(), found.next()) {
        (None, _) => Err(KeyError::NotFound(prefix.to_owned())),
        (Some(index), None) => Ok(index),
        _ => {
            let ids: Vec<&str> = keys.iter().filter(|key| fits(key)).map(|key| key.id.as_str()).collect();
            Err(KeyError::Ambiguous(prefix.to_owned(), ids.join(", ")))
        }
    }
}

fn add(store: &mut KeyStore, new: NewKey) -> Result<KeyReply, KeyError> {
    super::value::check_name(&new.name).map_err(KeyError::Invalid)?;
    if !new.caps.contains(&Capability::MeshRoute) {
        return Err(KeyError::Invalid(
            "a key without 'mesh-route' opens nothing in this version; add it to --caps".into(),
        ));
    }
    let key = MeshKey::from_str(new.key.reveal())
        .map_err(|e| KeyError::Invalid(format!("{e}; copy the whole key string again")))?;
    let owner_secret = new.owner_secret.as_ref().map(|text| parse_hex(text.reveal())).transpose();
    let owner_secret = owner_secret.map_err(KeyError::Invalid)?;
    let network = NetworkKeys::derive(&key).id;
    let mut caps = new.caps;
    caps.sort();
    caps.dedup();
    store.update(|keys| {
        if let Some(known) = keys.iter().find(|known| known.network == network) {
            return Err(KeyError::Known { id: known.id.clone(), name: known.name.clone() });
        }
        let added = ManagementKey {
            id: new_id(keys),
            name: new.name,
            caps,
            allow: new.allow,
            expires: new.expires,
            key,
            network,
            owner_secret,
        };
        let answer = reply(&added);
        keys.push(added);
        answer
    })
}

fn edit(
    store: &mut KeyStore,
    id: &str,
    allow: Option<Scope>,
    name: Option<String>,
) -> Result<KeyReply, KeyError> {
    if let Some(name) = &name {
        super::value::check_name(name).map_err(KeyError::Invalid)?;
    }
    store.update(|keys| {
        let index = find(keys, id)?;
        let key = keys.get_mut(index).ok_or_else(|| KeyError::NotFound(id.to_owned()))?;
        if let Some(allow) = allow {
            key.allow = allow;
        }
        if let Some(name) = name {
            key.name = name;
        }
        reply(key)
    })
}

fn reply(key: &ManagementKey) -> Result<KeyReply, KeyError> {
    Ok(KeyReply::Key(Box::new(key.details())))
}

fn new_id(keys: &[ManagementKey]) -> String {
    loop {
        let mut bytes = [0; 8];
        OsRng.fill_bytes(&mut bytes);
        let id = hex(&bytes);
        if keys.iter().all(|key| key.id != *id) {
            return id.to_string();
        }
    }
}
