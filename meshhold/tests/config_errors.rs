//! Bad configurations: each is refused with file, line and key, or means something valid; none panics.

use meshhold::config::{Config, ConfigError, file};
use meshhold_core::session::Cipher;
use std::path::Path;

const GOOD: &str = "\
node:
  name: laptop
  data_dir: /var/lib/meshhold
  listen: '[::]:7777'
bootstrap_peers: []
api:
  socket: /run/meshhold/control.sock
meshlan:
  enabled: true
  interface: mesh0
  ipv4_range: 198.18.0.0/15
  mtu: 1420
  source: loopback
  dns_suffix: mesh
";

fn parse(text: &str) -> Result<Config, ConfigError> {
    file::parse(Path::new("/etc/x.yaml"), text)
}

#[test]
fn good_and_empty_ones_pass() {
    let config = parse(GOOD).unwrap();
    assert_eq!((config.node.name.as_str(), config.meshlan.mtu), ("laptop", 1420));
    for text in ["", "# nothing\n", "---\n", "{}", "meshlan:\nnode:\n"] {
        let config = parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(config.node.listen.to_string(), "[::]:7777");
        assert_eq!(config.socket(), Path::new("/var/lib/meshhold/control.sock"));
    }
}

#[test]
fn a_cipher_can_be_named() {
    for (text, cipher) in [
        ("auto", None),
        ("aes-256-gcm", Some(Cipher::Aes256Gcm)),
        ("chacha20-poly1305", Some(Cipher::ChaCha20Poly1305)),
    ] {
        assert_eq!(parse(&format!("node: {{cipher: {text}}}")).unwrap().node.cipher, cipher);
    }
    assert_eq!(parse(GOOD).unwrap().node.cipher, None);
}

#[test]
fn offloads_can_be_switched_off() {
    for (text, offload) in [("node: {offload: false}", false), ("node: {offload: true}", true), (GOOD, true)]
    {
        assert_eq!(parse(text).unwrap().node.offload, offload);
    }
}

#[test]
fn discovery_on_the_lan_can_be_switched_off() {
    for (text, lan) in [("discovery: {lan: false}", false), ("discovery:", true), (GOOD, true)] {
        assert_eq!(parse(text).unwrap().discovery.lan, lan);
    }
}

#[test]
fn port_mapping_can_be_switched_off() {
    for (text, mapping) in [("discovery: {port_mapping: false}", false), ("discovery:", true), (GOOD, true)] {
        assert_eq!(parse(text).unwrap().discovery.port_mapping, mapping);
    }
}

#[test]
fn the_dht_is_used_only_when_asked_for() {
    for (text, dht) in [("discovery: {dht: true}", true), ("discovery: {lan: true}", false), (GOOD, false)] {
        assert_eq!(parse(text).unwrap().discovery.dht, dht);
    }
    let text = "discovery: {dht_bootstrap: [192.0.2.1:6881, dht.example.org:1]}";
    assert_eq!(parse(text).unwrap().discovery.dht_bootstrap, ["192.0.2.1:6881", "dht.example.org:1"]);
}

#[test]
fn each_bad_value_is_refused_at_its_place() {
    let long = format!("/{}", "s".repeat(200));
    let cases: &[(&str, &str, usize, &str)] = &[
        ("name: laptop", "name: ''", 2, "node.name"),
        ("name: laptop", "name: [a]", 2, "node.name"),
        ("name: laptop", "nam: laptop", 2, "node.nam"),
        ("data_dir: /var", "data_dir: var", 3, "node.data_dir"),
        ("'[::]:7777'", "'[::]:0'", 4, "node.listen"),
        ("'[::]:7777'", "7777", 4, "node.listen"),
        ("'[::]:7777'", "'[::]:70000'", 4, "node.listen"),
        ("name: laptop", "cipher: rot13", 2, "node.cipher"),
        ("name: laptop", "cipher: [auto]", 2, "node.cipher"),
        ("name: laptop", "offload: maybe", 2, "node.offload"),
        ("name: laptop", "offload: 0", 2, "node.offload"),
        ("peers: []", "peers: [/ip4/1.2.3.4/tcp/1]", 5, "bootstrap_peers[0]"),
        ("peers: []", "peers: hello", 5, "bootstrap_peers"),
        ("peers: []", "peers: []\ndiscovery: {lan: maybe}", 6, "discovery.lan"),
        ("peers: []", "peers: []\ndiscovery: {wan: true}", 6, "discovery.wan"),
        ("peers: []", "peers: []\ndiscovery: {port_mapping: 1}", 6, "discovery.port_mapping"),
        ("peers: []", "peers: []\ndiscovery: {dht_bootstrap: [here]}", 6, "discovery.dht_bootstrap[0]"),
        (
            "peers: []",
            "peers: []\ndiscovery: {dht_bootstrap: ['a:1', 'b:0']}",
            6,
            "discovery.dht_bootstrap[1]",
        ),
        ("peers: []", "peers: []\ndiscovery: {dht_bootstrap: ['::1:6881']}", 6, "discovery.dht_bootstrap[0]"),
        ("/run/meshhold/control.sock", "control.sock", 7, "api.socket"),
        ("/run/meshhold/control.sock", &long, 7, "api.socket"),
        ("enabled: true", "enabled: maybe", 9, "meshlan.enabled"),
        ("mesh0", "averylonginterface", 10, "meshlan.interface"),
        ("mesh0", "me/sh", 10, "meshlan.interface"),
        ("mesh0", "lo", 10, "meshlan.interface"),
        ("198.18.0.0/15", "198.18.0.0", 11, "meshlan.ipv4_range"),
        ("198.18.0.0/15", "198.18.0.0/30", 11, "meshlan.ipv4_range"),
        ("1420", "1279", 12, "meshlan.mtu"),
        ("1420", "65536", 12, "meshlan.mtu"),
        ("loopback", "mesh", 13, "meshlan.source"),
        ("loopback", "other", 13, "meshlan.source"),
        ("dns_suffix: mesh", "dns_suffix: -mesh", 14, "meshlan.dns_suffix"),
        ("dns_suffix: mesh", "dns_upstream: 1.1.1.1", 14, "meshlan.dns_upstream"),
        ("dns_suffix: mesh", "forwards: {a: b}", 14, "meshlan.forwards"),
        ("dns_suffix: mesh", "forwards: [{name: x, target: there}]", 14, "meshlan.forwards[0].target"),
        (
            "dns_suffix: mesh",
            "forwards: [{name: x, target: 10.0.0.1, port: 1}]",
            14,
            "meshlan.forwards[0].port",
        ),
        ("dns_suffix: mesh", "forwards: [{name: x, target: 127.0.0.1}]", 14, "meshlan.forwards[0].target"),
        (
            "dns_suffix: mesh",
            "forwards: [{name: x, target: 10.0.0.1}, {name: X, target: 10.0.0.2}]",
            9,
            "meshlan",
        ),
        ("meshlan:", "relay: {enabled: maybe}\nmeshlan:", 8, "relay.enabled"),
        ("meshlan:", "relay: {rate_mbit: -1}\nmeshlan:", 8, "relay.rate_mbit"),
        ("meshlan:", "relay: {hops: 3}\nmeshlan:", 8, "relay.hops"),
        ("meshlan:", "relay: true\nmeshlan:", 8, "relay"),
        ("meshlan:", "meshlna:", 8, "meshlna"),
        ("meshlan:", "swarm_key: secretsecret\nmeshlan:", 8, "swarm_key"),
        ("meshlan:", "swarm_key_file: /nowhere/at/all\nmeshlan:", 8, "swarm_key_file"),
        ("meshlan:", "swarm_key_file: relative\nmeshlan:", 8, "swarm_key_file"),
    ];
    for (from, to, line, key) in cases {
        let error = parse(&GOOD.replacen(from, to, 1)).expect_err(to);
        let text = error.to_string();
        assert!(text.starts_with(&format!("/etc/x.yaml:{line}: key '{key}': ")), "{to}: {text}");
        assert!(text.contains("; "), "{to}: says what to do: {text}");
        assert!(!text.contains("secretsecret"), "{text}");
    }
}

#[test]
fn syntax_errors_name_the_line() {
    for (text, line) in
        [("a: [\n", 2), ("node:\n\tname: x\n", 2), ("node: {name: 'x\n", 2), ("- a\n", 1), ("x", 1)]
    {
        let error = parse(text).expect_err(text);
        assert!(error.line >= 1 && error.line <= line, "{text:?}: {error}");
    }
}

#[test]
fn hundreds_of_mutations_never_panic() {
    let (mut refused, mut accepted) = (0, 0);
    let mut check = |text: String| match parse(&text) {
        Ok(_) => accepted += 1,
        Err(error) => {
            refused += 1;
            let lines = text.lines().count() + 1;
            let message = error.to_string();
            assert!((1..=lines).contains(&error.line), "{message}\n{text}");
            assert!(message.starts_with("/etc/x.yaml:"), "{message}");
            assert!(message.contains("; "), "{message}");
        }
    };
    let lines: Vec<&str> = GOOD.lines().collect();
    let junk = [
        "",
        "~",
        "[]",
        "{}",
        "-1",
        "1e99",
        "'",
        "\"",
        "*x",
        "&a",
        "!t x",
        "\u{0}",
        "\u{202e}",
        "99999999999999999999",
        "|",
        "<<: x",
        "%",
    ];
    for (index, line) in lines.iter().enumerate() {
        let with = |replacement: String| {
            let mut changed: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            changed[index] = replacement;
            changed.join("\n")
        };
        let (key, _) = line.split_once(':').unwrap();
        junk.iter().for_each(|junk| check(with(format!("{key}: {junk}"))));
        check(with(format!("{key}x: 1")));
        check(with(format!("{line}\n{line}")));
        check(with(format!("   {line}")));
        check(with(line.replace(':', "")));
        check(with(line.to_uppercase()));
        check(with(line.chars().rev().collect()));
        check(with(line.chars().take(line.chars().count() / 2).collect()));
    }
    (0..GOOD.len()).for_each(|end| check(GOOD[..end].to_owned()));
    assert!(refused >= 200 && accepted > 0, "{refused} refused, {accepted} accepted");
}

#[test]
fn files_that_are_no_text_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, b"node:\n  name: \xff\n").unwrap();
    assert_eq!(Config::load(&path).unwrap_err().line, 2);
    std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    assert!(Config::load(&path).unwrap_err().to_string().contains("too large"));
    assert!(Config::load(folder.path()).is_err());
    let missing = Config::load(&folder.path().join("none.yaml")).unwrap_err().to_string();
    assert!(missing.contains("--config"), "{missing}");
}
