//! What a program of this host gets when it asks for a name.
//!
//! Owns the asking, by the way that every program takes: the C library's, with all that `/etc/nsswitch.conf` loads. That is done
//! by a process of its own, so that none of those modules ends up in the daemon. Must not know what the answer should be.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

const PROGRAM: &str = "getent";
const PATIENCE: Duration = Duration::from_secs(5);

/// The addresses of `name`, which is asked for as it stands, without search domains. None where there are none, or no answer
/// within five seconds.
///
/// # Errors
/// There is no such program: nothing is known.
pub async fn ask(name: &str) -> std::io::Result<Vec<IpAddr>> {
    let mut command = Command::new(PROGRAM);
    command.args(["ahosts", &format!("{name}.")]);
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match timeout(PATIENCE, command.output()).await {
        Ok(output) => Ok(addresses(&String::from_utf8_lossy(&output?.stdout))),
        Err(_) => Ok(Vec::new()),
    }
}

/// `ADDRESS KIND NAME` a line, one for each kind of socket.
fn addresses(printed: &str) -> Vec<IpAddr> {
    let found = printed.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
    let mut found: Vec<IpAddr> = found.collect();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_counts_once() {
        let printed = "198.18.0.1      STREAM nas.mesh\n198.18.0.1      DGRAM\nfd12::1   STREAM\n";
        assert_eq!(addresses(printed), [IpAddr::from([198, 18, 0, 1]), "fd12::1".parse().unwrap()]);
        assert!(addresses("").is_empty());
    }
}
