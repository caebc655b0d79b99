//! The node's identity on disk: `identity` in the data folder, made at the first start.
//!
//! 64 bytes: the Ed25519 seed and its public key, which tells a damaged file from a good one.

use super::private::{self, PrivateError};
use meshhold_core::identity::Identity;
use rand_core::OsRng;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Why the identity couldn't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file or its folder.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// The content makes no sense.
    #[error(
        "{path}: the node's identity is damaged; restore it from a backup, or move it away to start as a new node (its addresses change)",
        path = .0.display()
    )]
    Damaged(PathBuf),
}

/// Reads the identity in the data folder `folder`; `None` before the first start.
pub fn load(folder: &Path) -> Result<Option<Identity>, IdentityError> {
    if !folder.exists() {
        return Ok(None);
    }
    private::folder(folder)?;
    let path = folder.join("identity");
    let Some(content) = private::read(&path)? else { return Ok(None) };
    let Some((seed, public)) = content.split_first_chunk::<32>() else {
        return Err(IdentityError::Damaged(path));
    };
    let identity = Identity::from_seed(*seed);
    if identity.node_id().0.as_slice() != public {
        return Err(IdentityError::Damaged(path));
    }
    Ok(Some(identity))
}

/// Reads the identity, or makes a new one that is durable when this returns.
pub fn load_or_create(folder: &Path) -> Result<Identity, IdentityError> {
    // Where there is one, a read-only folder is good enough.
    if let Some(identity) = load(folder)? {
        return Ok(identity);
    }
    private::folder(folder)?;
    let _lock = private::lock(folder)?;
    if let Some(identity) = load(folder)? {
        return Ok(identity);
    }
    let identity = Identity::generate(&mut OsRng);
    let mut content = Zeroizing::new(Vec::with_capacity(64));
    content.extend_from_slice(&identity.seed().0);
    content.extend_from_slice(&identity.node_id().0);
    private::write(&folder.join("identity"), &content)?;
    Ok(identity)
}
