//! Management keys and the operations on them.
//!
//! Owns the one implementation of `mgmt-keys`: the daemon runs it on a request, the command line runs it
//! where no daemon answers. One reply carries a secret, and nothing else: that to [`KeyRequest::Share`]. Must not know
//! sockets or terminals.

use super::range::{self, Used};
use super::secret::{SecretText, hex, parse_hex};
use super::store::{KeyStore, StoreError};
use meshhold_core::identity::Identity;
use meshhold_core::key::{Ipv4Range, MeshKey, NetworkId, NetworkKeys};
use meshhold_core::scope::Scope;
use meshhold_core::session::Secret;
use rand_core::{OsRng, RngCore};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// What a management key permits.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum, ToSchema,
)]
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
            revision: self.revision(),
        }
    }

    /// Changes with everything that can be edited.
    fn revision(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.name.as_bytes()).update(b"\0").update(self.allow.to_string().as_bytes());
        hex(hasher.finalize().as_bytes().get(..8).unwrap_or_default()).to_string()
    }

    fn details(&self) -> KeyDetails {
        let (range, minted_here) = (self.key.range.to_string(), self.owner_secret.is_some());
        KeyDetails { entry: self.entry(), range, minted_here }
    }
}

/// An operation on the key store. Ids may be shortened to a unique prefix.
#[derive(Debug)]
pub enum KeyRequest {
    /// Join the network of a key.
    Add(NewKey),
    /// Make a new network and its key, and join it.
    Mint(NewNetwork),
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
        /// Only if the key's [`KeyEntry::revision`] still is this one.
        revision: Option<String>,
    },
    /// Leave the network and forget the key.
    Remove {
        /// Id or prefix.
        id: String,
        /// Only if the key's [`KeyEntry::revision`] still is this one.
        revision: Option<String>,
    },
    /// The secret, for another node to join with.
    Share {
        /// Id or prefix.
        id: String,
    },
}

/// A network to be made.
#[derive(Debug)]
pub struct NewNetwork {
    /// Display name of the key.
    pub name: String,
    /// Ports to open.
    pub allow: Scope,
    /// When the key ends (Unix seconds).
    pub expires: Option<u64>,
    /// Its IPv4 range; a free one of `space` if absent.
    pub range: Option<Ipv4Range>,
    /// What the range is taken from.
    pub space: Ipv4Range,
}

/// A key to be stored.
#[derive(Debug)]
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
#[derive(Debug)]
pub enum KeyReply {
    /// To [`KeyRequest::List`].
    Keys(Vec<KeyEntry>),
    /// To [`KeyRequest::Share`].
    Secret(SecretText),
    /// To all others: the key as it is now, or was before it was removed.
    Key(Box<KeyDetails>),
}

/// One key in `mgmt-keys list --json`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyEntry {
    /// Own id, hex.
    pub id: String,
    /// Display name.
    pub name: String,
    /// What it permits.
    pub caps: Vec<Capability>,
    /// Open ports; empty denies everything.
    #[schema(value_type = Vec<String>)]
    pub allow: Scope,
    /// When it ends (Unix seconds); null is never.
    pub expires: Option<u64>,
    /// Id of its network, hex.
    pub network: String,
    /// Another one after each edit; an edit may name the one that it is meant for.
    pub revision: String,
}

/// One key in `mgmt-keys show --json`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
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
    /// Somebody else edited it meanwhile.
    #[error("key '{0}' was changed meanwhile; look at it again, then repeat your change")]
    Changed(String),
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
        KeyRequest::Edit { id, allow, name, revision } => edit(store, &id, allow, name, revision.as_deref()),
        KeyRequest::Remove { id, revision } => store.update(|keys| {
            let index = find(keys, &id)?;
            unchanged(keys, index, revision.as_deref())?;
            reply(&keys.remove(index))
        }),
        KeyRequest::Mint(new) => mint(store, new),
        KeyRequest::Share { id } => {
            let index = find(store.keys(), &id)?;
            let secret = |key: &ManagementKey| KeyReply::Secret(SecretText::new(key.key.to_string_secret()));
            store.keys().get(index).map(secret).ok_or(KeyError::NotFound(id))
        }
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
            "a network's key permits 'mesh-route'; keys for programs ('admin', 'view') have no network"
                .into(),
        ));
    }
    let key = MeshKey::from_str(new.key.reveal())
        .map_err(|e| KeyError::Invalid(format!("{e}; copy the whole key string again")))?;
    let owner_secret = new.owner_secret.as_ref().map(|text| parse_hex(text.reveal())).transpose();
    let owner_secret = owner_secret.map_err(KeyError::Invalid)?;
    let network = NetworkKeys::derive(&key).id;
    if new.caps.iter().any(|capability| *capability != Capability::MeshRoute) {
        return Err(KeyError::Invalid(
            "every member holds a network's key: make an own key for 'admin' or 'view'".into(),
        ));
    }
    let caps = vec![Capability::MeshRoute];
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

fn unchanged(keys: &[ManagementKey], index: usize, revision: Option<&str>) -> Result<(), KeyError> {
    match (keys.get(index), revision) {
        (Some(key), Some(revision)) if key.revision() != revision => Err(KeyError::Changed(key.name.clone())),
        _ => Ok(()),
    }
}

fn mint(store: &mut KeyStore, new: NewNetwork) -> Result<KeyReply, KeyError> {
    let networks: Vec<Used> =
        store.keys().iter().map(|key| (key.key.range.base, key.key.range.prefix)).collect();
    let range = match new.range {
        Some(range) => check_range(range, &networks),
        None => {
            let used = [networks, range::host_routes()].concat();
            range::pick(new.space, &used, &mut OsRng).ok_or_else(|| {
                format!("every range of {} is in use by this node's networks or routes; give a free one with --ipv4-range", new.space)
            })
        }
    };
    let range = range.map_err(KeyError::Invalid)?;
    let owner = Identity::generate(&mut OsRng);
    let key = MeshKey::mint(range, owner.node_id().0, &mut OsRng);
    let (key, owner_secret) =
        (SecretText::new(key.to_string_secret()), Some(SecretText::new(hex(&owner.seed().0))));
    let NewNetwork { name, allow, expires, .. } = new;
    add(store, NewKey { name, caps: vec![Capability::MeshRoute], allow, expires, key, owner_secret })
}

fn check_range(range: Ipv4Range, networks: &[Used]) -> Result<Ipv4Range, String> {
    if let Some((base, prefix)) = range::conflict(range, networks) {
        return Err(format!(
            "{range} overlaps {base}/{prefix}, the range of another network of this node; give another one"
        ));
    }
    if let Some((base, prefix)) = range::conflict(range, &range::host_routes()) {
        return Err(format!(
            "{range} overlaps {base}/{prefix}, which this host routes elsewhere; give another one"
        ));
    }
    Ok(range)
}

fn edit(
    store: &mut KeyStore,
    id: &str,
    allow: Option<Scope>,
    name: Option<String>,
    revision: Option<&str>,
) -> Result<KeyReply, KeyError> {
    if let Some(name) = &name {
        super::value::check_name(name).map_err(KeyError::Invalid)?;
    }
    store.update(|keys| {
        let index = find(keys, id)?;
        unchanged(keys, index, revision)?;
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
