//! The password of the Web UI, at rest as Argon2id (RFC 9106).
//!
//! Owns the file `web-password` in the data folder. Must not know who asks, or how often.

use crate::config::private;
use anyhow::{Context, ensure};
use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use std::path::{Path, PathBuf};

/// Shorter ones are guessed (characters).
const MIN: usize = 10;
/// Longer ones only cost time (bytes).
const MAX: usize = 1024;

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("web-password")
}

/// Whether there is one.
pub(crate) fn is_set(data_dir: &Path) -> bool {
    path(data_dir).exists()
}

/// Replaces it; durable when this returns. Takes a while.
///
/// # Errors
/// It is too short or too long, or the file can't be written.
pub(crate) fn set(data_dir: &Path, password: &str) -> anyhow::Result<()> {
    ensure!(password.chars().count() >= MIN, "a password has at least {MIN} characters; use a longer one");
    ensure!(password.len() <= MAX, "a password has at most {MAX} bytes; use a shorter one");
    let salt = SaltString::generate(&mut OsRng);
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt);
    let hash = hash.map_err(|error| anyhow::anyhow!("can't hash the password: {error}"))?;
    private::folder(data_dir)?;
    let _lock = private::lock(data_dir)?;
    private::write(&path(data_dir), hash.to_string().as_bytes()).context("can't keep the password")
}

/// Whether it is this one. Takes a while. False where none is set.
pub(crate) fn verify(data_dir: &Path, password: &str) -> bool {
    let Ok(Some(content)) = private::read(&path(data_dir)) else { return false };
    let Ok(text) = std::str::from_utf8(&content) else { return false };
    let Ok(hash) = PasswordHash::new(text.trim()) else { return false };
    password.len() <= MAX && Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_that_was_set_last_fits() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        assert!(!is_set(&data) && !verify(&data, ""));
        assert!(set(&data, "short").is_err() && set(&data, &"x".repeat(MAX + 1)).is_err());
        set(&data, "correct horse").unwrap();
        set(&data, "battery staple").unwrap();
        assert!(is_set(&data) && verify(&data, "battery staple") && !verify(&data, "correct horse"));
        let stored = std::fs::read_to_string(path(&data)).unwrap();
        assert!(stored.starts_with("$argon2id$") && !stored.contains("staple"));
        private::write(&path(&data), b"damaged").unwrap();
        assert!(!verify(&data, "battery staple"));
    }
}
