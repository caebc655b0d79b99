//! Hosts that run out of something: a full disk, a read-only one, too few files. Each is told in a sentence that helps.

use std::time::Duration;

use anyhow::{Result, ensure};
use meshhold_tests::{Node, Settings, run, scenario, wait};

const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than between two attempts to write the state.
const ATTEMPTS: Duration = Duration::from_secs(6);

fn path(node: &Node) -> String {
    node.data_dir().to_string_lossy().into_owned()
}

fn warned(node: &Node, word: &str) -> Result<bool> {
    Ok(node.status()?.warnings.iter().any(|text| text.contains(word)))
}

#[test]
fn a_full_disk_is_told_once_and_stands_in_the_status_while_it_lasts() -> Result<()> {
    run("disk-full", |lab| {
        let (mut a, mut b) = scenario::strangers(lab)?;
        a.host.run("mkdir", &["-p", "-m", "700", &path(&a)])?;
        a.host.run("mount", &["-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", &path(&a)])?;
        b.configure(Settings::knowing(&[&a])?)?;
        b.join(&a.mint(&[])?, &[])?;
        a.start_and_wait()?;
        let fill = format!("cat /dev/zero > {}/filler || true", path(&a));
        a.host.run("sh", &["-c", &fill])?;
        b.start_and_wait()?;
        b.wait_peer_up(&a)?;
        wait::until_true(PATIENCE, "the full disk is in the status", || {
            warned(&a, "free space on that disk")
        })?;
        let told = |node: &Node| Ok::<_, anyhow::Error>(node.log()?.matches("No space left").count());
        wait::never(ATTEMPTS, "the log repeats it", || Ok(told(&a)? != 1))?;
        a.host.run("rm", &[&format!("{}/filler", path(&a))])?;
        wait::until_true(PATIENCE, "the status is clean again", || Ok(!warned(&a, "free space")?))?;
        ensure!(a.log()?.matches("state.json is written again").count() == 1, "{}", a.log()?);
        Ok(())
    })
}

#[test]
fn a_read_only_data_folder_keeps_no_node_from_working() -> Result<()> {
    run("disk-read-only", |lab| {
        let (mut a, mut b) = scenario::strangers(lab)?;
        let bootstrap = Settings::knowing(&[&a])?;
        b.join(&a.mint(&[])?, &[])?;
        a.host.run("mount", &["--bind", &path(&a), &path(&a)])?;
        a.host.run("mount", &["-o", "remount,ro,bind", &path(&a)])?;
        a.start()?;
        wait::until_true(PATIENCE, "the log says what is missing", || {
            Ok(a.log()?.contains("no control socket, for"))
        })?;
        b.configure(bootstrap)?;
        b.start_and_wait()?;
        wait::until_true(PATIENCE, "they meet all the same", || Ok(b.network()?.peers.len() == 1))?;
        let peer = b.network()?.peers[0].ipv6.to_string();
        wait::until_true(PATIENCE, "they reach each other", || {
            b.host.succeeds("ping", &["-n", "-c1", "-W1", &peer])
        })?;
        a.kill()?;
        a.configure(Settings {
            api: Some("listen_addr: off, socket: /run/meshhold/control.sock"),
            ..Settings::default()
        })?;
        a.start_and_wait()?;
        wait::until_true(PATIENCE, "the status says so", || warned(&a, "mount it writable"))
    })
}

#[test]
fn too_few_files_are_named_with_the_limit_and_the_remedy() -> Result<()> {
    run("few-files", |lab| {
        let mut a = Node::new(lab.host("a")?, Settings::default())?;
        a.mint(&[])?;
        let limited = |files| Settings { wrapper: vec!["prlimit", files, "--"], ..Settings::default() };
        a.configure(limited("--nofile=20:20"))?;
        a.start()?;
        wait::until_true(PATIENCE, "it ends", || Ok(!a.is_alive()?))?;
        let log = a.log()?;
        let errors: Vec<&str> = log.lines().filter(|line| line.starts_with("error: ")).collect();
        let named = |line: &&str| line.contains("only 20 files open") && line.contains("LimitNOFILE=");
        ensure!(errors.len() == 1 && errors.iter().all(named) && !log.contains("free address"), "{log}");
        a.configure(limited("--nofile=128:128"))?;
        a.start_and_wait()?;
        ensure!(warned(&a, "only 128 files open")?, "{:?}", a.status()?.warnings);
        a.stop()?;
        a.configure(limited("--nofile=64:4096"))?;
        a.start_and_wait()?;
        ensure!(!warned(&a, "files open")?, "what the host permits is taken");
        Ok(())
    })
}
