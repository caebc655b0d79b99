//! Key strings, ranges and the frozen derivations.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::address::Block;
use crate::identity::{Identity, NodeId};

const DOCUMENT: &str = include_str!("../../../../docs/protocol.md");

fn key() -> MeshKey {
    let range = Ipv4Range::new([198, 18, 64, 0].into(), 18).unwrap();
    MeshKey { range, secret: Secret([7; 32]), owner: [9; 32] }
}

/// The value of a line `name = value` of the frozen vectors.
fn frozen(name: &str) -> &'static str {
    let (_, block) = DOCUMENT.split_once("```derivations\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let value = block.lines().find_map(|line| line.split_once(" = ").filter(|(left, _)| left.trim() == name));
    value.unwrap_or_else(|| panic!("no vector {name}")).1
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_document_s_derivations_hold() {
    let (key, identity) = (key(), Identity::from_seed([1; 32]));
    let (keys, node) = (NetworkKeys::derive(&key), identity.node_id());
    let block = |attempt| Block::derive(&keys, key.range, node, attempt);
    let rows = [
        ("key", key.to_string_secret().to_string()),
        ("network id", keys.id.to_string()),
        ("circuit psk", hex(&keys.psk.0)),
        ("record key", hex(&keys.record.0)),
        ("topic", hex(&keys.topic_id())),
        ("address key", hex(&keys.address.0)),
        ("discovery key", hex(&keys.discovery.0)),
        ("ipv6 prefix", keys.prefix6.to_string()),
        ("node id", node.to_string()),
        ("noise public", hex(&node.noise_public().unwrap())),
        ("attempt 0", format!("{} {}", block(0).node4(), block(0).node6())),
        ("attempt 1", format!("{} {}", block(1).node4(), block(1).node6())),
    ];
    for (name, value) in rows {
        assert_eq!(frozen(name), value, "{name}");
    }
}

#[test]
fn a_key_survives_its_string() {
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..100 {
        let minted = MeshKey::mint(key().range, [4; 32], &mut rng);
        let text = minted.to_string_secret();
        assert!(text.starts_with("meshkey1"));
        assert_eq!(text.parse::<MeshKey>(), Ok(minted.clone()));
        assert_eq!(text.to_uppercase().parse::<MeshKey>(), Ok(minted.clone()));
        assert_eq!(format!("  {}\n", *text).parse::<MeshKey>(), Ok(minted));
    }
}

/// As keys come out of mails, chats, notes and shells.
#[test]
fn what_people_copy_along_is_left_out() {
    let (key, text) = (key(), key().to_string_secret());
    let (one, two) = text.split_at(60);
    for copied in [
        format!("{one}\n{two}\n"),
        format!("{one}\r\n  {two}"),
        format!("> \u{201c}{one} {two}\u{201d}"),
        format!("'{}'", *text),
        format!("\u{feff}{}\u{200b}", *text),
        format!("{one}\u{200b}\u{ad}{two}"),
        format!("# Home network\n\n{}\n# until Monday\n", *text),
        format!("\u{feff}// Home\n\"{}\"", *text),
        format!("export MESH_KEY={}", *text),
        format!("\t{}\u{a0}", text.to_uppercase()),
    ] {
        assert_eq!(copied.parse::<MeshKey>(), Ok(key.clone()), "{copied}");
    }
    let other = MeshKey::mint(key.range, [4; 32], &mut StdRng::seed_from_u64(3)).to_string_secret();
    for several in [format!("{0}{0}", *text), format!("{0}\n{0}", *text), format!("{}\n{}", *text, *other)] {
        assert_eq!(several.parse::<MeshKey>(), Err(KeyError::Several));
    }
    let typo = format!("\u{feff}\"{one}\n{}", two.replacen('q', "p", 1));
    assert!(
        matches!(typo.parse::<MeshKey>(), Err(KeyError::Typo(61..))),
        "counted from the key's first character"
    );
    assert!(matches!(
        format!("{} thanks", *text).parse::<MeshKey>(),
        Err(KeyError::Character(_) | KeyError::Checksum(_))
    ));
}

#[test]
fn every_wrong_character_is_named() {
    let text = key().to_string_secret();
    for at in HRP.len() + 1..text.len() {
        for wrong in CHARSET.iter().chain(b"b1io") {
            let mut bytes = text.as_bytes().to_vec();
            if bytes[at] == *wrong {
                continue;
            }
            bytes[at] = *wrong;
            let expected =
                if CHARSET.contains(wrong) { KeyError::Typo(at + 1) } else { KeyError::Character(at + 1) };
            assert_eq!(String::from_utf8(bytes).unwrap().parse::<MeshKey>(), Err(expected));
        }
    }
}

#[test]
fn other_damage_is_refused() {
    let text = key().to_string_secret();
    let cut = &text[..text.len() - 1];
    assert_eq!(cut.parse::<MeshKey>(), Err(KeyError::Checksum(cut.len())));
    let mut mixed = text.to_string();
    mixed[20..].make_ascii_uppercase();
    assert!(matches!(mixed.parse::<MeshKey>(), Err(KeyError::Character(21..))));
    for foreign in ["", "meshkey", "meshkey2qqqq", "swarm1qqqq", "12D3KooW"] {
        assert_eq!(foreign.parse::<MeshKey>(), Err(KeyError::Foreign), "{foreign}");
    }
    let newer = bech32::encode::<Bech32m>(Hrp::parse_unchecked(HRP), &[2; PAYLOAD]).unwrap();
    assert_eq!(newer.parse::<MeshKey>(), Err(KeyError::Version(2)));
    for length in [0, 1, 37, PAYLOAD - 1, PAYLOAD + 1] {
        let wrong = bech32::encode::<Bech32m>(Hrp::parse_unchecked(HRP), &vec![VERSION; length]).unwrap();
        assert!(wrong.parse::<MeshKey>().is_err(), "{length} bytes");
    }
}

#[test]
fn secrets_are_never_printed() {
    let shown = format!("{:?} {:?}", key(), NetworkKeys::derive(&key()));
    assert!(!shown.contains("7, 7") && !shown.contains("0707"), "{shown}");
}

#[test]
fn ranges_are_normal_and_usable() {
    let good = ["10.77.0.0/16", "198.18.64.0/18", "10.0.0.0/8", "192.168.7.0/24"];
    for text in good {
        assert_eq!(text.parse::<Ipv4Range>().unwrap().to_string(), text);
    }
    let bad = [
        ("10.77.0.0", "the '/' is missing"),
        ("10.77.0/16", "no IPv4 address"),
        ("10.77.0.0/x", "no number"),
        ("10.77.0.0/7", "between 8 and 24"),
        ("10.77.0.0/25", "between 8 and 24"),
        ("10.77.1.0/16", "below the prefix"),
        ("127.0.0.0/8", "can't have addresses"),
        ("224.0.0.0/8", "can't have addresses"),
        ("0.0.0.0/8", "can't have addresses"),
    ];
    for (text, why) in bad {
        let error = text.parse::<Ipv4Range>().unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn the_default_space_holds_eight_networks_apart() {
    let space = Ipv4Range::new([198, 18, 0, 0].into(), 15).unwrap();
    let networks: Vec<_> = Ipv4Range::networks(space).collect();
    assert_eq!(networks.len(), 8);
    for (at, range) in networks.iter().enumerate() {
        assert!(space.overlaps(range) && networks.iter().skip(at + 1).all(|other| !range.overlaps(other)));
    }
}

#[test]
fn blocks_lie_inside_their_range() {
    let keys = NetworkKeys::derive(&key());
    for range in
        ["198.18.64.0/18", "10.77.0.0/24", "10.0.0.0/8"].map(|text| text.parse::<Ipv4Range>().unwrap())
    {
        let last = u32::from(range.base) + (range.size() - 1);
        for n in 0..2_000u32 {
            let block = Block::derive(&keys, range, NodeId([n as u8; 32]), n);
            assert!(range.contains(block.base4) && u32::from(block.base4) + 15 <= last);
            assert!(block.node4() != range.base && u32::from(block.node4()) + 13 < last);
            assert_eq!(block.node6().segments()[..2], keys.prefix6.segments()[..2]);
        }
    }
}
