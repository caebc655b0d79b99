//! The control socket under friendly, clumsy and hostile clients, and the command line through it.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use meshhold::config::Config;
use meshhold::config::keys;
use meshhold::config::store::KeyStore;
use meshhold::control::api::{Request, Response, Status};
use meshhold::control::client::{self, ClientError};
use meshhold::control::problem::Problem;
use meshhold::control::server::{Server, ServerError};
use meshhold::control::{Asked, Control, ControlConfig};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// The daemon's control side alone: the real server and the real store.
struct Daemon {
    folder: TempDir,
    replies: Arc<Mutex<String>>,
}

impl Daemon {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::write(
            folder.path().join("config.yaml"),
            format!("node:\n  data_dir: {}\napi: {{listen_addr: off}}\n", data.display()),
        )
        .unwrap();
        let replies = Arc::new(Mutex::new(String::new()));
        let said = Arc::clone(&replies);
        let config = Config::load(&folder.path().join("config.yaml")).unwrap();
        let (_, requests) = Control::start(ControlConfig::from(&config)).unwrap();
        let store = KeyStore::open(&data).unwrap();
        std::thread::spawn(move || runtime().block_on(answer(requests, store, said)));
        Self { folder, replies }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("data/control.sock")
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshhold"));
        command.args(line.split_whitespace()).env("MESHHOLD_CONFIG", self.folder.path().join("config.yaml"));
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    fn alive(&self) {
        let Response::Status(status) = client::call(&self.socket(), &Request::Status).unwrap() else {
            panic!("no status")
        };
        assert!(status.running);
    }

    /// What the server says to raw bytes, up to its closing the connection.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        // The server may close before it read everything: that's its right.
        let _ = stream.write_all(bytes);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        String::from_utf8(said).unwrap()
    }

    /// The same for a request with a body.
    fn post(&self, path: &str, kind: &str, body: &[u8]) -> String {
        let head = format!(
            "POST /api/v1/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.raw(&[head.as_bytes(), body].concat())
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn answer(mut asked: mpsc::Receiver<Asked>, mut store: KeyStore, replies: Arc<Mutex<String>>) {
    while let Some((request, reply)) = asked.recv().await {
        let response = match request {
            Request::Status => Response::Status(Box::new(Status { running: true, ..Status::default() })),
            Request::Reload => store
                .reload()
                .map_or_else(|e| Response::Error(Problem::failed(e.to_string())), |()| Response::Done),
            Request::Key(request) => keys::execute(&mut store, request).into(),
            Request::Forward(_) => Response::Forwards(Vec::new()),
            _ => Response::Error(Problem::invalid(String::new())),
        };
        replies.lock().unwrap().push_str(&format!("{response:?}"));
        let _ = reply.send(response);
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn key_commands_go_through_a_running_daemon_and_replies_hold_no_secret() {
    let daemon = Daemon::start();
    let minted = daemon.run("mgmt-keys add --name Home --never-expires --allow tcp:22");
    let key = String::from_utf8(minted.stdout).unwrap().trim_end().to_owned();
    assert!(key.starts_with("meshkey1"), "{}", String::from_utf8_lossy(&minted.stderr));
    let list: Value = serde_json::from_slice(&daemon.run("mgmt-keys list --json").stdout).unwrap();
    let id = list[0]["id"].as_str().unwrap();
    assert_eq!(list[0]["allow"], serde_json::json!(["tcp:22"]));
    for line in ["edit ID --deny-all", "show ID", "show ID --reveal", "share ID"] {
        assert!(daemon.run(&format!("mgmt-keys {}", line.replace("ID", id))).status.success(), "{line}");
    }
    let again = daemon.run(&format!("mgmt-keys add --name Again --never-expires --key {key}"));
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8(again.stderr).unwrap().contains(id));
    assert!(daemon.run(&format!("mgmt-keys rm {id}")).status.success());
    assert!(matches!(client::call(&daemon.socket(), &Request::Reload).unwrap(), Response::Done));

    let replies = daemon.replies.lock().unwrap();
    assert!(
        replies.contains(id) && !replies.contains("meshkey1") && !replies.contains("owner_secret"),
        "{replies}"
    );
}

#[test]
fn status_of_a_running_daemon_exits_with_0() {
    let daemon = Daemon::start();
    let output = daemon.run("meshlan status");
    assert!(output.status.success() && output.stdout.starts_with(b"running: yes\n"));
}

#[test]
fn malformed_requests_get_an_error_and_the_daemon_lives() {
    let daemon = Daemon::start();
    let long = vec![b'x'; 1 << 20];
    let headers = [b"GET / HTTP/1.1\r\n".to_vec(), b"X: y\r\n".repeat(10_000), b"\r\n".to_vec()].concat();
    let close = "Host: x\r\nConnection: close\r\n";
    let both = format!("POST /api/v1/reload HTTP/1.1\r\n{close}Content-Length: 5, 6\r\n\r\n12345");
    let cases: &[&[u8]] = &[
        b"\r\nnonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header\r\n\r\n",
        b"GET / HTTP/1.1\r\n X: folded\r\n\r\n",
        b"GET /\xff\xfe HTTP/9.1\r\n\r\n",
        both.as_bytes(),
        &long,
        &headers,
    ];
    for bytes in cases {
        let said = daemon.raw(bytes);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{shown}: {said}");
        daemon.alive();
    }
    for silent in [&b""[..], b"GET /api"] {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        stream.write_all(silent).unwrap();
        drop(stream);
        daemon.alive();
    }
}

#[test]
fn bodies_that_are_none_are_refused_and_not_repeated() {
    let daemon = Daemon::start();
    let nested = b"[".repeat(60_000);
    let long = [b"{\"name\":\"".to_vec(), vec![b'x'; 1 << 20], b"\"}".to_vec()].concat();
    let json = "application/json";
    let cases: &[(&str, &str, &[u8], u16)] = &[
        ("keys", json, b"", 400),
        ("keys", json, b"nonsense", 400),
        ("keys", json, b"\xff\xfe", 400),
        ("keys", json, b"null", 422),
        ("keys", json, b"{}", 422),
        ("keys", json, b"[\"x\", [], null, null, null]", 422),
        ("keys", json, &nested, 422),
        ("keys", json, &long, 413),
        ("keys", "text/plain", b"{\"name\":\"x\"}", 415),
        ("keys", json, b"{\"name\":\"x\",\"key\":\"meshkey1secret\"}", 422),
        ("keys", json, b"{\"name\":7,\"key\":\"meshkey1secret\"}", 422),
        ("keys", json, b"{\"name\":\"x\",\"allow\":[\"tcp:99999\"]}", 422),
        ("keys", json, b"{\"name\":\"x\",\"ipv4_range\":\"1.2.3.4/5\"}", 422),
        ("nowhere", json, b"{}", 404),
        ("status", json, b"{}", 405),
    ];
    for (path, kind, body, status) in cases {
        let said = daemon.post(path, kind, body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {shown}: {said}");
        let (head, problem) = said.split_once("\r\n\r\n").unwrap();
        let problem: Problem = serde_json::from_str(problem).unwrap();
        assert!(head.contains("application/problem+json") && problem.status == *status, "{shown}: {said}");
        assert!(!said.contains("meshkey1secret"), "{said}");
        daemon.alive();
    }
    let said = daemon.post("keys", json, b"{\"name\":\"x\",\"allow\":[\"tcp:22\"]}");
    assert!(said.starts_with("HTTP/1.1 201 ") && said.contains("etag: \""), "{said}");
}

#[test]
fn several_requests_may_follow_each_other() {
    let daemon = Daemon::start();
    let list = "GET /api/v1/keys HTTP/1.1\r\nHost: x\r\n";
    let said = daemon.raw(format!("{list}\r\n{list}Connection: close\r\n\r\n").as_bytes());
    assert_eq!(said.matches("HTTP/1.1 200 OK").count(), 2, "{said}");
    assert_eq!(said.matches("\r\n\r\n[]").count(), 2, "{said}");
}

#[test]
fn an_edit_meant_for_an_older_state_is_refused() {
    let daemon = Daemon::start();
    daemon.run("mgmt-keys add --name Home --never-expires --allow tcp:22");
    let list: Value = serde_json::from_slice(&daemon.run("mgmt-keys list --json").stdout).unwrap();
    let text = |key: &str| list[0][key].as_str().unwrap().to_owned();
    let (id, old) = (text("id"), text("revision"));
    assert!(daemon.run(&format!("mgmt-keys edit {id} --allow tcp:80")).status.success());
    let edit = |revision: &str| {
        let body = r#"{"allow":["tcp:443"]}"#;
        daemon.raw(
            format!("PATCH /api/v1/keys/{id} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nIf-Match: \"{revision}\"\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                .as_bytes(),
        )
    };
    let said = edit(&old);
    assert!(said.starts_with("HTTP/1.1 412 ") && said.contains("meanwhile"), "{said}");
    let list: Value = serde_json::from_slice(&daemon.run("mgmt-keys list --json").stdout).unwrap();
    assert_eq!(list[0]["allow"], serde_json::json!(["tcp:80"]), "nothing is lost");
    assert!(edit(list[0]["revision"].as_str().unwrap()).starts_with("HTTP/1.1 200 "));
}

#[test]
fn many_connections_wait_their_turn() {
    let daemon = Daemon::start();
    let silent: Vec<UnixStream> = (0..100).map(|_| UnixStream::connect(daemon.socket()).unwrap()).collect();
    drop(silent);
    daemon.alive();
}

#[test]
fn the_socket_is_closed_to_others_and_taken_over_only_when_dead() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    assert!(matches!(Server::bind(&socket), Err(ServerError::Taken(_))));
    daemon.alive();

    let stale = daemon.folder.path().join("run/stale.sock");
    std::fs::create_dir(stale.parent().unwrap()).unwrap();
    std::fs::set_permissions(stale.parent().unwrap(), std::fs::Permissions::from_mode(0o700)).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(matches!(client::call(&stale, &Request::Status), Err(ClientError::NotRunning(_))));
    let server = Server::bind(&stale).unwrap();
    drop(server);
    assert!(!stale.exists(), "removed with the server");

    std::fs::write(&stale, "precious").unwrap();
    assert!(matches!(Server::bind(&stale), Err(ServerError::InTheWay(_))));
    assert_eq!(std::fs::read(&stale).unwrap(), b"precious");
    std::fs::set_permissions(stale.parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(Server::bind(&stale), Err(ServerError::Folder(_))));
}

/// Needs root, to become somebody else.
#[test]
fn other_users_are_refused_even_when_the_modes_let_them_in() {
    use std::os::unix::fs::MetadataExt;
    let daemon = Daemon::start();
    if std::fs::metadata(daemon.folder.path()).unwrap().uid() != 0 {
        return;
    }
    let folders =
        [daemon.folder.path().to_owned(), daemon.socket().parent().unwrap().to_owned(), daemon.socket()];
    for path in folders {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let copy = daemon.folder.path().join("meshhold");
    // Not by std::fs::copy: a process that another test forks meanwhile would hold the copy open for writing (ETXTBSY).
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_meshhold")).arg(&copy).status().unwrap().success());
    // Often: a server that closes under the client's write shows a broken pipe instead of the reason, but not each time.
    for _ in 0..30 {
        let mut stranger = Command::new(&copy);
        stranger.args(["meshlan", "status"]).env("MESHHOLD_CONFIG", daemon.folder.path().join("config.yaml"));
        let output = stranger.uid(65534).gid(65534).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.contains("only root")), (Some(1), true), "{said}");
    }
    daemon.alive();
}
