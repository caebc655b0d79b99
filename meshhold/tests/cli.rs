//! The built program as users run it, without a daemon: answers, exit codes, modes, and where secrets go.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use serde_json::Value;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A node's folder and its configuration.
struct Node {
    folder: TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self { folder: tempfile::tempdir().unwrap() };
        let text = format!("node:\n  name: test\n  data_dir: {}\n", node.data().display());
        fs::write(node.config(), text).unwrap();
        node
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshhold"));
        command.args(line.split_whitespace()).env("MESHHOLD_CONFIG", self.config()).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// Runs it, expects exit code `code`, and returns stdout and stderr.
    fn expect(&self, line: &str, code: i32) -> (String, String) {
        let output = self.run(line);
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(code), "{line}\n{out}\n{err}");
        (out, err)
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.expect(&format!("{line} --json"), 0).0).unwrap()
    }

    fn mint(&self, name: &str) -> String {
        let (out, _) =
            self.expect(&format!("mgmt-keys add --name {name} --caps mesh-route --never-expires"), 0);
        out.trim_end().to_owned()
    }

    fn ids(&self) -> Vec<String> {
        let keys = self.json("mgmt-keys list");
        keys.as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn names(value: &Value) -> String {
    value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
}

fn mode(path: PathBuf) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn minting_prints_the_key_alone_and_stores_it_closed() {
    let node = Node::new();
    let line = "mgmt-keys add --name Home --caps mesh-route --never-expires --allow tcp:22 --allow tcp:8000-8100 --allow udp:5353";
    let (out, err) = node.expect(line, 0);
    assert!(out.starts_with("meshkey1") && out.lines().count() == 1, "{out}");
    assert!(err.contains("tcp:8000-8100") && !err.contains("meshkey1"), "{err}");
    assert_eq!((mode(node.data()), mode(node.data().join("keys.json"))), (0o700, 0o600));

    let list = node.json("mgmt-keys list");
    assert_eq!(names(&list[0]), "allow caps expires id name network revision");
    assert_eq!(list[0]["allow"], serde_json::json!(["tcp:22", "tcp:8000-8100", "udp:5353"]));
    assert_eq!((&list[0]["caps"][0], &list[0]["expires"]), (&Value::from("mesh-route"), &Value::Null));
}

#[test]
fn secrets_appear_only_where_asked_for() {
    let node = Node::new();
    let key = node.mint("Home");
    let id = node.ids().remove(0);
    let stored: Value = serde_json::from_slice(&fs::read(node.data().join("keys.json")).unwrap()).unwrap();
    let owner = stored["keys"][0]["owner_secret"].as_str().unwrap().to_owned();
    let quiet = [
        "mgmt-keys list".to_owned(),
        format!("mgmt-keys show {id}"),
        format!("mgmt-keys edit {id} --deny-all"),
        "meshlan status".to_owned(),
    ];
    for line in quiet.iter().flat_map(|line| [line.clone(), format!("{line} --json")]) {
        let output = node.run(&line);
        let all = text(output.stdout) + &text(output.stderr);
        assert!(!all.contains(&key) && !all.contains(&owner), "{line}: {all}");
    }
    assert_eq!(node.expect(&format!("mgmt-keys share {id}"), 0).0.trim_end(), key);
    assert_eq!(node.json(&format!("mgmt-keys share {id}"))["key"], *key);
    assert!(node.expect(&format!("mgmt-keys show {id} --reveal"), 0).0.contains(&key));
    assert_eq!(node.json(&format!("mgmt-keys show {id} --reveal"))["key"], *key);
}

#[test]
fn a_program_s_token_is_shown_once_and_kept_as_a_digest() {
    let node = Node::new();
    let (out, err) = node.expect("mgmt-keys add --name prometheus --caps view --expires-in 90d", 0);
    let token = out.trim_end();
    assert!(token.starts_with("meshtoken1") && err.contains("can't be shown again"), "{err}");
    assert_eq!(mode(node.data().join("tokens.json")), 0o600);
    assert!(!text(fs::read(node.data().join("tokens.json")).unwrap()).contains(token));
    let list = node.json("mgmt-keys list");
    assert_eq!(
        (&list[0]["name"], &list[0]["capability"]),
        (&Value::from("prometheus"), &Value::from("view"))
    );
    assert!(node.expect("mgmt-keys list", 0).0.contains("prometheus"));
    let id = list[0]["id"].as_str().unwrap();
    assert!(node.expect(&format!("mgmt-keys rm {id}"), 0).0.starts_with("removed"));
    assert_eq!(node.expect("mgmt-keys list", 0).0, "no keys\n");
}

#[test]
fn joining_works_by_file_stdin_and_argument() {
    let key = Node::new().mint("Home");
    let by_file = Node::new();
    let file = by_file.folder.path().join("home.key");
    fs::write(&file, format!("{key}\n")).unwrap();
    let (out, err) = by_file
        .expect(&format!("mgmt-keys add --name Home --never-expires --key-file {}", file.display()), 0);
    assert!(
        out.is_empty() && err.contains("joined") && !err.contains("warning") && !err.contains(&key),
        "{out}{err}"
    );

    let by_stdin = Node::new();
    let mut child = by_stdin
        .command("mgmt-keys add --name Home --never-expires --key - --json")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(key.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let joined: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(names(&joined), "allow caps expires id minted_here name network range revision");
    assert_eq!(joined["minted_here"], false);

    let by_argument = Node::new();
    let (out, err) = by_argument.expect(&format!("mgmt-keys add --name Home --never-expires --key {key}"), 0);
    assert!(out.is_empty() && err.contains("warning") && !err.contains(&key), "{err}");
    for node in [&by_file, &by_stdin, &by_argument] {
        let list = node.json("mgmt-keys list");
        assert_eq!(list[0]["network"], joined["network"]);
        assert_eq!(list[0]["allow"], serde_json::json!([]));
        assert!(!fs::read_to_string(node.data().join("keys.json")).unwrap().contains("\"owner_secret\": \""));
    }
}

#[test]
fn a_key_joins_once_and_damaged_ones_never() {
    let node = Node::new();
    let key = node.mint("Home");
    let id = node.ids().remove(0);
    let (out, err) = node.expect(&format!("mgmt-keys add --name Again --never-expires --key {key}"), 1);
    assert!(out.is_empty() && err.contains(&id) && err.contains("Home"), "{err}");

    let other = Node::new();
    let position = key.len() / 2;
    let typo = if key.as_bytes()[position] == b'q' { "p" } else { "q" };
    let mut mistyped = key.clone();
    mistyped.replace_range(position..=position, typo);
    let (_, err) = other.expect(&format!("mgmt-keys add --name Bad --never-expires --key {mistyped}"), 1);
    assert!(err.contains(&format!("character {} is wrong", position + 1)), "typo at {}: {err}", position + 1);
    for bad in ["meshkey1", "hello", &key[..key.len() - 1], &key[1..]] {
        let (_, err) = other.expect(&format!("mgmt-keys add --name Bad --never-expires --key {bad}"), 1);
        assert!(err.contains("error: ") && !err.contains(&key[12..40]), "{err}");
    }
    assert!(other.ids().is_empty());
}

#[test]
fn edit_replaces_the_scope_and_rm_forgets() {
    let node = Node::new();
    node.mint("Home");
    node.mint("Work");
    let ids = node.ids();
    let first = &ids[0];
    assert_eq!(
        node.json(&format!("mgmt-keys edit {first} --allow tcp:80 --name Den"))["allow"],
        serde_json::json!(["tcp:80"])
    );
    assert_eq!(
        node.json(&format!("mgmt-keys edit {first} --allow udp:53"))["allow"],
        serde_json::json!(["udp:53"])
    );
    assert_eq!(node.json(&format!("mgmt-keys edit {first} --deny-all"))["allow"], serde_json::json!([]));
    assert_eq!(node.json(&format!("mgmt-keys show {first}"))["name"], "Den");
    let (shared, _) =
        ids[0].split_at(ids[0].bytes().zip(ids[1].bytes()).take_while(|(a, b)| a == b).count() + 1);
    assert_eq!(node.json(&format!("mgmt-keys rm {shared}"))["id"], **first);
    assert_eq!(node.ids(), ids[1..]);
    assert!(node.expect(&format!("mgmt-keys show {first}"), 1).1.contains("no key"));
}

#[test]
fn networks_of_one_node_get_ranges_of_their_own() {
    let node = Node::new();
    let line = "mgmt-keys add --name X --never-expires";
    let ranges: Vec<Value> = (0..4).map(|_| node.json(line)["range"].clone()).collect();
    let distinct: std::collections::BTreeSet<String> = ranges.iter().map(ToString::to_string).collect();
    assert_eq!(distinct.len(), 4, "{ranges:?}");
    let own = node.json(&format!("{line} --ipv4-range 10.77.0.0/16"));
    assert_eq!(own["range"], "10.77.0.0/16");
    assert!(node.expect(&format!("{line} --ipv4-range 10.77.4.0/24"), 1).1.contains("overlaps"));
}

#[test]
fn expiry_is_kept() {
    let node = Node::new();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let expires = node.json("mgmt-keys add --name X --expires-in 30d")["expires"].as_u64().unwrap();
    assert!((now + 30 * 86_400..now + 30 * 86_400 + 60).contains(&expires));
}

#[test]
fn exit_codes_tell_usage_from_failure() {
    let node = Node::new();
    for line in [
        "",
        "nonsense",
        "mgmt-keys",
        "mgmt-keys add --name X",
        "mgmt-keys add --never-expires",
        "mgmt-keys edit ab",
        "mgmt-keys add --name X --never-expires --expires-in 3d",
        "mgmt-keys add --name X --expires-in 3",
        "mgmt-keys add --name X --never-expires --caps root",
        "mgmt-keys add --name X --never-expires --allow tcp:0x16",
        "mgmt-keys add --name X --never-expires --allow icmp:1",
        "mgmt-keys add --name X --never-expires --key a --key-file b",
        "mgmt-keys add --name X --never-expires --key a --ipv4-range 10.0.0.0/16",
        "mgmt-keys edit ab --deny-all --allow tcp:1",
        "mgmt-keys add --name X --never-expires --ipv4-range 10.0.0.0/4",
    ] {
        assert!(node.expect(line, 2).0.is_empty(), "{line}");
    }
    for line in [
        "mgmt-keys show ab",
        "mgmt-keys rm ab",
        "mgmt-keys share ab",
        "mgmt-keys edit ab --deny-all",
        "mgmt-keys list --config /nowhere.yaml",
        "mgmt-keys add --name X --never-expires --caps view --allow tcp:22",
        "mgmt-keys add --name X --never-expires --caps mesh-route,admin",
        "mgmt-keys add --name X --never-expires --key-file /nowhere",
    ] {
        let (out, err) = node.expect(line, 1);
        assert!(out.is_empty() && err.starts_with("error: "), "{line}: {err}");
    }
    assert!(node.expect("--help", 0).0.contains("mgmt-keys"));
}

#[test]
fn config_may_stand_anywhere_on_the_line() {
    let (node, other) = (Node::new(), Node::new());
    node.mint("Home");
    let path = node.config().display().to_string();
    for line in [
        format!("--config {path} mgmt-keys list --json"),
        format!("mgmt-keys --config {path} list --json"),
        format!("mgmt-keys list --json --config {path}"),
    ] {
        assert!(other.expect(&line, 0).0.contains("Home"), "{line}");
    }
    fs::write(node.config(), "node:\n  nam: x\n").unwrap();
    assert!(node.expect("mgmt-keys list", 1).1.contains(&format!("{path}:2: key 'node.nam'")));
}

#[test]
fn status_without_a_daemon_says_so() {
    let node = Node::new();
    assert_eq!(node.expect("meshlan status", 3).0, "running: no\n");
    let status: Value = serde_json::from_str(&node.expect("meshlan status --json", 3).0).unwrap();
    assert_eq!(
        names(&status),
        "counters datapath dns interface name networks node_id relay running warnings"
    );
    for other in ["netcheck", "meshlan status --paths", "netcheck --json"] {
        assert!(node.expect(other, 3).1.contains("no daemon is running"), "{other}");
    }
    assert_eq!((&status["running"], &status["interface"]), (&Value::Bool(false), &Value::from("mesh0")));
}

#[test]
fn identity_is_made_once_and_a_damaged_one_is_kept() {
    let node = Node::new();
    let id = node.json("id")["node_id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("12D3KooW"));
    assert_eq!(node.expect("id", 0).0.trim_end(), id);
    let path = node.data().join("identity");
    assert_eq!(mode(path.clone()), 0o600);
    let good = fs::read(&path).unwrap();
    for damage in
        [&good[..63], &good[..0], &[&good[..], b"x"].concat(), &[&[good[0] ^ 1], &good[1..]].concat()]
    {
        fs::write(&path, damage).unwrap();
        assert!(node.expect("id", 1).1.contains("damaged"));
        assert_eq!(fs::read(&path).unwrap(), damage);
    }
    fs::write(&path, good).unwrap();
    assert_eq!(node.expect("id", 0).0.trim_end(), id);
}

#[test]
fn a_damaged_store_is_reported_and_kept() {
    let node = Node::new();
    let key = node.mint("Home");
    let path = node.data().join("keys.json");
    let good = fs::read_to_string(&path).unwrap();
    let damages = [
        good[..good.len() / 2].to_owned(),
        String::new(),
        "[]".to_owned(),
        good.replace("\"version\": 1", "\"version\": 2"),
        good.replace(&key, &key[..40]),
        good.replace("\"key\"", "\"kex\""),
        good.replace("\"expires\": null", &format!("\"expires\": \"{key}\"")),
        good.replace("mesh-route", "root"),
        good.replace("\"allow\": []", "\"allow\": [\"tcp:\"]"),
    ];
    for damage in damages {
        assert_ne!(damage, good);
        fs::write(&path, &damage).unwrap();
        for line in ["mgmt-keys list", "mgmt-keys add --name X --never-expires"] {
            let (out, err) = node.expect(line, 1);
            assert!(
                out.is_empty() && err.contains("keys.json") && err.contains("damaged") && !err.contains(&key),
                "{err}"
            );
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), damage);
    }
}

#[test]
fn loose_modes_are_refused_with_the_repair() {
    let node = Node::new();
    node.mint("Home");
    for (path, loose, repair) in
        [(node.data(), 0o755, "chmod 700"), (node.data().join("keys.json"), 0o640, "chmod 600")]
    {
        let tight = mode(path.clone());
        fs::set_permissions(&path, fs::Permissions::from_mode(loose)).unwrap();
        let (_, err) = node.expect("mgmt-keys list", 1);
        assert!(err.contains(&format!("{repair} {}", path.display())), "{err}");
        fs::set_permissions(&path, fs::Permissions::from_mode(tight)).unwrap();
    }
    node.expect("mgmt-keys list", 0);
}

#[test]
fn leftovers_of_a_power_loss_do_no_harm() {
    let node = Node::new();
    node.mint("Home");
    fs::write(node.data().join("keys.tmp"), "{\"versi").unwrap();
    assert_eq!(node.ids().len(), 1);
    node.mint("Work");
    assert_eq!(node.ids().len(), 2);
    assert!(!node.data().join("keys.tmp").exists());
}

#[test]
fn killed_writers_leave_a_whole_store() {
    let node = Node::new();
    node.mint("Home");
    let id = node.ids().remove(0);
    for round in 0..60 {
        let line = format!("mgmt-keys edit {id} --name N{round}");
        let mut child = node.command(&line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        (0..round * 20_000).for_each(|spin| {
            std::hint::black_box(spin);
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(node.ids().first(), Some(&id), "round {round}");
    }
    node.expect(&format!("mgmt-keys edit {id} --name Whole"), 0);
    assert_eq!(node.json("mgmt-keys list")[0]["name"], "Whole");
}

#[test]
fn concurrent_writers_lose_nothing() {
    let node = Node::new();
    let line = |n: usize| format!("mgmt-keys add --name N{n} --never-expires --ipv4-range 10.{n}.0.0/16");
    let children: Vec<_> = (100..112)
        .map(|n| node.command(&line(n)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(node.ids().len(), 12);
}

#[test]
fn keygen_makes_keys_that_a_configuration_takes() {
    let node = Node::new();
    let key = node.expect("keygen", 0).0.trim_end().to_owned();
    assert!(key.starts_with("swarm1"));
    assert_ne!(node.json("keygen")["swarm_key"], *key);
    let config = |extra: String| {
        fs::write(node.config(), format!("node:\n  data_dir: {}\n{extra}", node.data().display())).unwrap()
    };
    config(format!("swarm_key: {key}\n"));
    node.expect("mgmt-keys list", 0);
    let file = node.folder.path().join("swarm.key");
    fs::write(&file, format!("{key}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    config(format!("swarm_key_file: {}\n", file.display()));
    node.expect("mgmt-keys list", 0);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(node.expect("mgmt-keys list", 1).1.contains("chmod 600"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    config(format!("swarm_key_file: {}\nswarm_key: {key}\n", file.display()));
    let (_, err) = node.expect("mgmt-keys list", 1);
    assert!(err.contains(":3: key 'swarm_key_file'") && !err.contains(&key), "{err}");
    config(format!("swarm_key: {}\n", key.replace("swarm1", "swarm1q")));
    assert!(!node.expect("mgmt-keys list", 1).1.contains(&key[6..]));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let node = Node::new();
    let mut child = node.command("--help").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!text(output.stderr).contains("panicked"));
    let mut child = node.command("keygen").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && !text(output.stderr).contains("error"));
}

#[test]
fn a_device_is_told_by_its_address_and_a_name_is_answered_with_the_way_to_it() {
    let (_, error) = Node::new().expect("meshlan forwards add Camera camera.lan", 2);
    assert!(error.contains("IP address in the LAN") && error.contains("getent hosts camera.lan"), "{error}");
}
