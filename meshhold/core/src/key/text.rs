//! What surrounds a key where people copy it from: mail, chats, notes, shells.
//!
//! Owns what is left out. That is safe: the checksum decides about what remains. Must not know what a key holds.

use zeroize::Zeroizing;

use super::{HRP, KeyError};

/// The key in `text`: without comment lines, a label before it, white space, quotes, and what can't be seen.
///
/// # Errors
/// [`KeyError::Foreign`] where there is none, [`KeyError::Several`] where there is more than one.
pub(super) fn key_in(text: &str) -> Result<Zeroizing<String>, KeyError> {
    let mut bare = Zeroizing::new(String::with_capacity(text.len()));
    for line in text.lines().filter(|line| !is_comment(line)) {
        bare.extend(line.chars().filter(|character| !is_dropped(*character)));
    }
    let begins = |at: &usize| {
        let rest = bare.as_bytes().get(*at..).and_then(|rest| rest.split_at_checked(HRP.len() + 1));
        rest.is_some_and(|(head, _)| head.eq_ignore_ascii_case(format!("{HRP}1").as_bytes()))
    };
    let mut found = (0..bare.len()).filter(begins);
    let start = found.next().ok_or(KeyError::Foreign)?;
    if found.next().is_some() {
        return Err(KeyError::Several);
    }
    Ok(Zeroizing::new(bare.get(start..).unwrap_or_default().to_owned()))
}

fn is_comment(line: &str) -> bool {
    let line = line.trim_start_matches(|character: char| character.is_whitespace() || is_dropped(character));
    ["#", "//", ";"].iter().any(|mark| line.starts_with(mark))
}

fn is_dropped(character: char) -> bool {
    match character {
        '"' | '\'' | '`' | '\u{ab}' | '\u{bb}' | '\u{2018}'..='\u{201f}' => true,
        // A soft hyphen, zero-width characters, marks of direction, a byte order mark.
        '\u{ad}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}'
        | '\u{feff}' => true,
        other => other.is_whitespace() || other.is_control(),
    }
}
