//! From a display name to a label of the mesh's DNS zone (RFC 1123).
//!
//! Owns the rule. Must not know DNS.

/// Longest label, in bytes (RFC 1035).
pub const MAX_LABEL: usize = 63;

/// Lower-case label of a display name: spaces become hyphens, what no host name may hold is left out. `None`
/// where nothing remains.
pub fn label(name: &str) -> Option<String> {
    let mut label = String::new();
    for character in name.chars().flat_map(char::to_lowercase) {
        match character {
            'a'..='z' | '0'..='9' => label.push(character),
            ' ' | '-' | '_' | '.' if !label.is_empty() && !label.ends_with('-') => label.push('-'),
            _ => {}
        }
    }
    label.truncate(MAX_LABEL);
    let label = label.trim_end_matches('-');
    (!label.is_empty()).then(|| label.to_owned())
}
