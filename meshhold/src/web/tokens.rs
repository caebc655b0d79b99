//! Management keys for programs: bearer tokens that permit `admin` or `view`.
//!
//! Owns the file `tokens.json` in the data folder, which holds digests only. Must not know requests.

use super::sessions::digest;
use crate::config::keys::Capability;
use crate::config::private::{self, PrivateError};
use crate::config::secret::{SecretText, hex};
use bech32::{Bech32m, Hrp};
use rand_core::{OsRng, RngCore};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use utoipa::ToSchema;
use zeroize::Zeroizing;

/// The last second that dates are written for.
const YEAR_9999: u64 = 253_402_300_799;
const HRP: Hrp = Hrp::parse_unchecked("meshtoken");

/// What may be shown of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenEntry {
    /// Its id, hex.
    pub id: String,
    /// Display name.
    pub name: String,
    /// What it permits.
    pub capability: Capability,
    /// When it ends (Unix seconds); null is never.
    pub expires: Option<u64>,
}

/// A token to be kept.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Display name.
    #[schema(min_length = 1, max_length = 64)]
    pub name: String,
    /// `admin` or `view`.
    pub capability: Capability,
    /// When it ends (Unix seconds); null is never.
    #[schema(maximum = 253_402_300_799_u64)]
    pub expires: Option<u64>,
    /// BLAKE3 digest of the token's text, hex: the token itself stays with its owner.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub digest: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    entry: TokenEntry,
    digest: String,
}

/// Why a token isn't kept.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A value is no good.
    #[error("{0}")]
    Invalid(String),
    /// There is none of this id.
    #[error("no token has the id '{0}'; `meshhold mgmt-keys list` shows them")]
    NotFound(String),
    /// The file is damaged.
    #[error("{path} is damaged; restore it from a backup, or move it away to start without tokens", path = .0.display())]
    Damaged(PathBuf),
    /// The file can't be used.
    #[error(transparent)]
    File(#[from] PrivateError),
}

/// All tokens.
#[derive(Debug)]
pub struct Tokens {
    folder: PathBuf,
    kept: Vec<Kept>,
}

impl Tokens {
    /// Reads the file of `data_dir`; an absent one is empty.
    ///
    /// # Errors
    /// It can't be read, or makes no sense.
    pub fn open(data_dir: &Path) -> Result<Self, TokenError> {
        Ok(Self { folder: data_dir.to_owned(), kept: read(data_dir)? })
    }

    /// All of them, in the order in which they were added.
    pub fn list(&self) -> Vec<TokenEntry> {
        self.kept.iter().map(|kept| kept.entry.clone()).collect()
    }

    /// The token with this text, if it is valid at `now` (Unix seconds).
    pub fn find(&self, text: &str, now: u64) -> Option<TokenEntry> {
        let wanted = digest(text);
        let fits = |kept: &&Kept| blake3::Hash::from_hex(&kept.digest).is_ok_and(|digest| digest == wanted);
        let entry = self.kept.iter().find(fits)?.entry.clone();
        entry.expires.is_none_or(|end| now < end).then_some(entry)
    }

    /// Keeps one more; durable when it returns.
    ///
    /// # Errors
    /// A value is no good, or the file can't be written.
    pub fn add(&mut self, new: NewToken) -> Result<TokenEntry, TokenError> {
        crate::config::check_name(&new.name).map_err(TokenError::Invalid)?;
        if new.expires.is_some_and(|end| end > YEAR_9999) {
            return Err(TokenError::Invalid(
                "`expires` is in Unix seconds, up to the year 9999; null is never".to_owned(),
            ));
        }
        if new.capability == Capability::MeshRoute {
            return Err(TokenError::Invalid(
                "a token permits 'admin' or 'view'; 'mesh-route' needs a network's key".to_owned(),
            ));
        }
        let digest = blake3::Hash::from_hex(&new.digest)
            .map_err(|_| TokenError::Invalid("the digest isn't 64 hex digits".to_owned()))?;
        let mut id = [0; 8];
        OsRng.fill_bytes(&mut id);
        let NewToken { name, capability, expires, .. } = new;
        let entry = TokenEntry { id: hex(&id).to_string(), name, capability, expires };
        let kept = Kept { entry: entry.clone(), digest: digest.to_string() };
        self.update(|all| {
            all.push(kept);
            Ok(entry)
        })
    }

    /// Forgets one; durable when it returns.
    ///
    /// # Errors
    /// There is none of this id, or the file can't be written.
    pub fn remove(&mut self, id: &str) -> Result<TokenEntry, TokenError> {
        self.update(|all| {
            let index = all.iter().position(|kept| kept.entry.id == id);
            let index = index.ok_or_else(|| TokenError::NotFound(id.to_owned()))?;
            Ok(all.remove(index).entry)
        })
    }

    fn update<T>(
        &mut self,
        change: impl FnOnce(&mut Vec<Kept>) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        private::folder(&self.folder)?;
        let _lock = private::lock(&self.folder)?;
        let mut kept = read(&self.folder)?;
        let result = change(&mut kept)?;
        private::write_with(&path(&self.folder), |file| Ok(serde_json::to_writer_pretty(file, &kept)?))?;
        self.kept = kept;
        Ok(result)
    }
}

/// A new token's text.
pub fn mint() -> SecretText {
    let mut bytes = Zeroizing::new([0; 32]);
    OsRng.fill_bytes(&mut *bytes);
    SecretText::new(bech32::encode::<Bech32m>(HRP, &*bytes).unwrap_or_default())
}

/// Whether the text has a token's form and checksum.
pub(super) fn is_token(text: &str) -> bool {
    bech32::primitives::decode::CheckedHrpstring::new::<Bech32m>(text)
        .is_ok_and(|checked| checked.hrp() == HRP && checked.byte_iter().len() == 32)
}

/// What is kept of a token's text, hex.
pub fn digest_of(token: &SecretText) -> String {
    digest(token.reveal()).to_string()
}

fn path(folder: &Path) -> PathBuf {
    folder.join("tokens.json")
}

fn read(folder: &Path) -> Result<Vec<Kept>, TokenError> {
    let path = path(folder);
    let Some(content) = private::read(&path)? else { return Ok(Vec::new()) };
    serde_json::from_slice(&content).map_err(|_| TokenError::Damaged(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str, capability: Capability, token: &SecretText) -> NewToken {
        NewToken { name: name.to_owned(), capability, expires: Some(100), digest: digest_of(token) }
    }

    #[test]
    fn a_token_is_known_by_its_digest_until_it_ends_or_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let mut tokens = Tokens::open(&data).unwrap();
        let token = mint();
        assert!(token.reveal().starts_with("meshtoken1"));
        let entry = tokens.add(new("prometheus", Capability::View, &token)).unwrap();
        assert!(!std::fs::read_to_string(path(&data)).unwrap().contains(token.reveal()));
        let mut again = Tokens::open(&data).unwrap();
        assert_eq!(again.find(token.reveal(), 99), Some(entry.clone()));
        assert_eq!((again.find(token.reveal(), 100), again.find("meshtoken1", 1)), (None, None));
        assert!(again.add(new("x", Capability::MeshRoute, &token)).is_err());
        assert!(again.add(new("", Capability::View, &token)).is_err());
        assert!(is_token(token.reveal()) && !is_token("meshtoken1x") && !is_token(""));
        again.remove(&entry.id).unwrap();
        assert!(matches!(again.remove(&entry.id), Err(TokenError::NotFound(_))));
        assert_eq!(again.find(token.reveal(), 1), None);
    }
}
