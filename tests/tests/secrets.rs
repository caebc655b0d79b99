//! The network's secret is nowhere where others could read it.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use meshhold_tests::capture::{self, Capture};
use meshhold_tests::{Node, Settings, run};

/// Bytes at the end of a key's payload that are no secret: the owner's public key.
const PUBLIC_TAIL: usize = 32;
const SECRET_BYTES: usize = 32;

#[test]
fn the_secret_shows_up_nowhere() -> Result<()> {
    run("secret", |lab| {
        let traced = Settings { log: Some("trace"), ..Settings::default() };
        let mut a = Node::new(lab.host("a")?, traced.clone())?;
        let mut b = Node::new(lab.host("b")?, Settings { bootstrap: vec![a.multiaddr()?], ..traced })?;
        let wire = Capture::start(lab.lan(), lab.directory(), "wire")?;
        let key = a.mint(&["tcp:80"])?;
        a.start_and_wait()?;
        b.start_and_wait()?;
        // With the daemon running, so that the secret passes through its control socket.
        b.join(&key, &[])?;
        b.wait_peer_up(&a)?;
        let needles = needles(&key)?;
        ensure!(holds(&needles, key.as_bytes()), "the search finds what is there");
        for node in [&a, &b] {
            search(node, &needles)?;
            check_modes(&node.data_dir())?;
        }
        let packets = wire.finish()?;
        ensure!(packets.len() > 10);
        ensure!(!packets.iter().any(|packet| holds(&needles, packet)), "the secret went over the wire");
        Ok(())
    })
}

/// Command line, environment, logs, API replies, kernel maps.
fn search(node: &Node, needles: &[Vec<u8>]) -> Result<()> {
    let process = format!("/proc/{}", node.pid()?);
    let key_id = node.key_id(0)?;
    let log = node.log()?;
    ensure!(log.contains("TRACE") || log.contains("DEBUG"), "the log is not at trace level");
    let places = [
        ("argv", std::fs::read(format!("{process}/cmdline"))?),
        ("environment", std::fs::read(format!("{process}/environ"))?),
        ("log", log.into_bytes()),
        ("status", node.meshhold(&["meshlan", "status", "--json"])?.into_bytes()),
        ("list", node.meshhold(&["mgmt-keys", "list", "--json"])?.into_bytes()),
        ("show", node.meshhold(&["mgmt-keys", "show", &key_id, "--json"])?.into_bytes()),
        ("maps", dump_maps(node)?.into_bytes()),
    ];
    for (place, bytes) in places {
        ensure!(!bytes.is_empty(), "nothing to search in {place}");
        ensure!(!holds(needles, &bytes), "{place} of {} holds the secret", node.host.name);
    }
    Ok(())
}

/// Every pinned map, once as bpftool formats it and once as bytes.
fn dump_maps(node: &Node) -> Result<String> {
    let script = "find /sys/fs/bpf -type f ! -name '*.debug' | while read -r pin; do \
        bpftool map dump pinned \"$pin\"; bpftool --json map dump pinned \"$pin\"; done 2>/dev/null; true";
    node.host.run("sh", &["-c", script])
}

/// The key as text, and its secret as bytes, hexadecimal (plain and spaced) and as Rust prints a slice.
fn needles(key: &str) -> Result<Vec<Vec<u8>>> {
    let payload = decode(key)?;
    let end = payload.len().checked_sub(PUBLIC_TAIL).context("a key is longer than its public part")?;
    let secret = payload.get(end - SECRET_BYTES..end).context("a key holds a secret")?;
    let mut needles = vec![key.as_bytes()[30..60].to_vec()];
    for part in secret.chunks(SECRET_BYTES / 2) {
        let each = |format: fn(&u8) -> String, separator: &str| {
            part.iter().map(format).collect::<Vec<_>>().join(separator).into_bytes()
        };
        needles.push(part.to_vec());
        needles.push(each(|byte| format!("{byte:02x}"), ""));
        needles.push(each(|byte| format!("{byte:02X}"), ""));
        needles.push(each(|byte| format!("{byte:02x}"), " "));
        needles.push(each(|byte| format!("\"0x{byte:02x}\""), ","));
        needles.push(each(u8::to_string, ", "));
        needles.push(each(u8::to_string, ","));
    }
    Ok(needles)
}

fn holds(needles: &[Vec<u8>], bytes: &[u8]) -> bool {
    needles.iter().any(|needle| capture::has(bytes, needle))
}

/// The data part of a bech32m string (BIP 173), without its six checksum characters.
fn decode(key: &str) -> Result<Vec<u8>> {
    const ALPHABET: &str = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    let data = key.strip_prefix("meshkey1").context("not a key")?;
    let data = data.get(..data.len() - 6).context("a key has a checksum")?;
    let (mut bits, mut held, mut bytes) = (0_u32, 0, Vec::new());
    for character in data.chars() {
        let value = ALPHABET.find(character).context("not a bech32 character")?;
        bits = (bits << 5 | u32::try_from(value)?) & 0xfff;
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff)?);
        }
    }
    Ok(bytes)
}

/// Files and sockets 0600, folders 0700.
fn check_modes(folder: &Path) -> Result<()> {
    let mode = |path: &Path| Ok::<_, anyhow::Error>(std::fs::symlink_metadata(path)?.mode() & 0o777);
    ensure!(mode(folder)? == 0o700, "{} has mode {:o}", folder.display(), mode(folder)?);
    for entry in std::fs::read_dir(folder)? {
        let (path, kind) = {
            let entry = entry?;
            (entry.path(), entry.file_type()?)
        };
        if kind.is_dir() {
            check_modes(&path)?;
        } else {
            ensure!(kind.is_file() || kind.is_socket(), "{} is neither file nor socket", path.display());
            ensure!(mode(&path)? == 0o600, "{} has mode {:o}", path.display(), mode(&path)?);
        }
    }
    Ok(())
}
