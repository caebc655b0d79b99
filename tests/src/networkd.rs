//! A real systemd-networkd on a host of the lab, without systemd.
//!
//! Owns what that needs. The package's files lie in the target folder (`cargo xtask setup` unpacks them there).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::{Host, labtool};
use crate::process::Process;
use crate::wait;

const PATIENCE: Duration = Duration::from_secs(10);
const PROGRAM: &str = "lib/systemd/systemd-networkd";

/// The running daemon; it ends with this.
#[derive(Debug)]
pub struct Networkd {
    process: Process,
}

impl Networkd {
    /// Starts it, with `eth0` in its care, and waits until it has looked at everything.
    pub fn start(host: &Host) -> Result<Self> {
        let root = unpacked()?;
        let unit =
            "[Match]\nName=eth0\n[Network]\nKeepConfiguration=yes\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n";
        let file = host.directory().join("eth0.network");
        std::fs::write(&file, unit)?;
        // With a read-only /sys it waits for no udev, as in a container.
        let user = "systemd-network:x:998:998::/:/usr/sbin/nologin";
        let script = format!(
            "mount -o remount,ro,bind /sys && mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases && \
             chown -R 998:998 /run/systemd/netif && cp {} /run/systemd/network/eth0.network && \
             if ! grep -q ^systemd-network: /etc/passwd; then cp /etc/passwd {1}/passwd && echo '{user}' >>{1}/passwd && \
             mount --bind {1}/passwd /etc/passwd; fi",
            file.display(),
            host.directory().display()
        );
        host.run("sh", &["-c", &script])?;
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let variables = format!("LD_LIBRARY_PATH={0}:{0}/systemd", libraries.display());
        let program = root.join(PROGRAM).to_string_lossy().into_owned();
        let words = [variables.as_str(), "SYSTEMD_LOG_LEVEL=debug", &program];
        let mut process = host.spawn("networkd", "env", &words)?;
        wait::until_true(PATIENCE, "networkd has configured eth0", || {
            ensure!(process.is_running()?, "networkd ended: {}", process.log()?);
            Ok(process.log()?.contains("-> configured"))
        })?;
        Ok(Self { process })
    }

    /// Ends it, as a restart of its unit does.
    pub fn stop(mut self) -> Result<()> {
        self.process.terminate(PATIENCE).map(drop)
    }
}

fn unpacked() -> Result<PathBuf> {
    let tool = labtool()?;
    let target = Path::new(&tool).ancestors().nth(2).context("no target folder")?;
    let root = target.join("debian/networkd");
    ensure!(root.join(PROGRAM).exists(), "run `cargo xtask setup`: {} is missing", root.display());
    Ok(root)
}
