//! From display names to host names (RFC 1123), and who has one that several want.
//!
//! Owns both rules: they need nothing but the records, so all members give the same answers. Must not know addresses or DNS.

use std::collections::BTreeSet;

use crate::identity::NodeId;

/// Longest label, in bytes (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;
/// Characters of a node id that tell nodes of one name apart.
const MARK: usize = 4;

/// Who wants a name: a node, or a device that it fronts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim<'a> {
    /// The node.
    pub node: NodeId,
    /// The device's place in the node's block; `None` for the node itself.
    pub slot: Option<u8>,
    /// Display name.
    pub name: &'a str,
}

/// The host name of a display name: lower case, letters of other alphabets as Latin ones that come near, and a hyphen for
/// whatever has no place in a host name. `None` where nothing is left of it.
pub fn label(display: &str) -> Option<String> {
    let mut label = String::new();
    for character in display.chars().filter(|character| !is_accent(*character)).flat_map(in_ascii) {
        match character {
            'a'..='z' | '0'..='9' => label.push(character),
            _ if label.is_empty() || label.ends_with('-') => {}
            _ => label.push('-'),
        }
    }
    label.truncate(MAX_LABEL);
    let label = label.trim_end_matches('-');
    (!label.is_empty()).then(|| label.to_owned())
}

/// Letters only: how symbols are called is no name for a host.
fn in_ascii(character: char) -> impl Iterator<Item = char> {
    let spelled = if character.is_alphabetic() { deunicode::deunicode_char(character) } else { None };
    let itself = spelled.is_none().then_some(character);
    spelled.unwrap_or_default().chars().chain(itself).flat_map(char::to_lowercase)
}

/// Combining diacritical marks: a letter with one is spelled without, in either normal form.
fn is_accent(character: char) -> bool {
    ('\u{300}'..='\u{36f}').contains(&character)
}

/// The label of each claim in one network, in the order of the claims. Of several that want one the lowest node id gets it,
/// a node before its devices; the others get it with a mark of their node id.
pub fn assign(claims: &[Claim<'_>]) -> Vec<String> {
    let mut order: Vec<usize> = (0..claims.len()).collect();
    order.sort_by_key(|at| claims.get(*at).map(|claim| (claim.node, claim.slot)));
    let mut taken = BTreeSet::new();
    let mut labels = vec![String::new(); claims.len()];
    for at in order {
        let (Some(claim), Some(place)) = (claims.get(at), labels.get_mut(at)) else { continue };
        let free = wishes(claim).find(|wish| !taken.contains(wish)).unwrap_or_default();
        taken.insert(free.clone());
        *place = free;
    }
    labels
}

/// The names that would do for a claim, best first; there is no end of them.
fn wishes(claim: &Claim<'_>) -> impl Iterator<Item = String> {
    let (mark, bare) = (mark(claim.node), label(claim.name));
    let stem = bare.clone().unwrap_or_else(|| "node".to_owned());
    let marked = with(&stem, &mark);
    let numbered = (1_u32..).map({
        let marked = marked.clone();
        move |number| with(&marked, &number.to_string())
    });
    bare.into_iter().chain([marked]).chain(numbered)
}

/// `stem-mark`, no longer than a label may be.
fn with(stem: &str, mark: &str) -> String {
    let room = MAX_LABEL - mark.len() - 1;
    let stem: String = stem.chars().take(room).collect();
    format!("{}-{mark}", stem.trim_end_matches('-'))
}

/// The end of the printed id: its beginning is the same for all nodes.
fn mark(node: NodeId) -> String {
    let printed = node.to_string();
    let start = printed.len().saturating_sub(MARK);
    printed.get(start..).unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn claim(node: u8, slot: Option<u8>, name: &str) -> Claim<'_> {
        Claim { node: NodeId([node; 32]), slot, name }
    }

    #[test]
    fn display_names_become_host_names() {
        for (display, want) in [
            ("NAS", Some("nas")),
            ("Lobby Camera", Some("lobby-camera")),
            ("my_laptop.local", Some("my-laptop-local")),
            ("  --Büro  3--  ", Some("buro-3")),
            ("Bu\u{308}ro-Drucker Ku\u{308}che", Some("buro-drucker-kuche")),
            ("Ärger", Some("arger")),
            ("Straße", Some("strasse")),
            ("İzmir Łódź Þór", Some("izmir-lodz-thor")),
            ("Сервер", Some("server")),
            ("カメラ", Some("kamera")),
            ("Ähm…🏠", Some("ahm")),
            ("🏠", None),
            ("", None),
        ] {
            assert_eq!(label(display).as_deref(), want, "{display:?}");
        }
        assert_eq!(label(&"x".repeat(80)).map(|label| label.len()), Some(63));
        assert_eq!(label(&format!("{}-y", "x".repeat(62))), Some("x".repeat(62)), "no hyphen at the end");
    }

    #[test]
    fn the_lower_node_id_keeps_the_bare_name() {
        let claims =
            [claim(9, None, "nas"), claim(2, None, "NAS"), claim(2, Some(0), "nas"), claim(5, None, "🏠")];
        let labels = assign(&claims);
        assert_eq!(labels[1], "nas");
        for at in [0, 2] {
            let mark = &claims[at].node.to_string()[48..];
            assert_eq!(labels[at], format!("nas-{}", mark.to_lowercase()));
        }
        assert!(labels[3].starts_with("node-"));
    }

    /// Whatever the names are: each gets one, all differ, all are labels, and the order of what is known doesn't matter.
    #[test]
    fn everybody_has_a_name_of_its_own() {
        let mut rng = StdRng::seed_from_u64(5);
        let names = ["nas", "NAS", "nas-aaaa", "", "日", "🏠", &"n".repeat(70), "a b", "a-b"];
        for _ in 0..300 {
            let mut claims: Vec<Claim<'_>> = (0..rng.gen_range(1..12))
                .map(|at| {
                    let slot = rng.gen_bool(0.5).then_some(at);
                    claim(rng.gen_range(0..4), slot, names[rng.gen_range(0..names.len())])
                })
                .collect();
            claims.dedup_by_key(|claim| (claim.node, claim.slot));
            let labels = assign(&claims);
            let distinct: BTreeSet<_> = labels.iter().collect();
            assert_eq!(distinct.len(), claims.len(), "{labels:?}");
            assert!(labels.iter().all(|name| label(name).as_ref() == Some(name)), "{labels:?}");
            let mut pairs: Vec<_> = claims.clone().into_iter().zip(labels).collect();
            pairs.shuffle(&mut rng);
            let (claims, labels): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let unique =
                claims.iter().map(|c| (c.node, c.slot)).collect::<BTreeSet<_>>().len() == claims.len();
            assert!(!unique || assign(&claims) == labels);
        }
    }
}
