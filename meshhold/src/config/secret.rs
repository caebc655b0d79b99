//! Secrets as text: on their way between the command line, the daemon and the disk.

use meshhold_core::session::Secret;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write};
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// Text that is a secret: never printed, zeroed on drop, passed on only by [`SecretText::reveal`].
#[derive(Clone, Serialize, Deserialize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// Wraps it.
    pub fn new(text: impl Into<Zeroizing<String>>) -> Self {
        Self(std::mem::take(&mut *text.into()))
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// 32 bytes from their hex. The error doesn't repeat the text.
pub(super) fn parse_hex(text: &str) -> Result<Secret, String> {
    let mut secret = Secret([0; 32]);
    let digits = text.as_bytes().chunks_exact(2);
    if text.len() != 64 {
        return Err(format!("a secret of {} hex digits instead of 64", text.len()));
    }
    for (slot, pair) in secret.0.iter_mut().zip(digits) {
        let digit = |byte: &u8| (*byte as char).to_digit(16);
        *slot = match pair {
            [high, low] => digit(high).zip(digit(low)).map(|(high, low)| (high << 4 | low) as u8),
            _ => None,
        }
        .ok_or("a secret that isn't hex")?;
    }
    Ok(secret)
}
